"""Meters that want their readings acknowledged, many in one thread (docs/delivery.md).

They follow the meter's rules with one liberty: the outbox is in memory, for nobody kills them. A
datagram has one reading; reading n of a meter is of its n-th second and worth ``value(meter, n)``.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from telemetry import meter_id
from telemetry.formats import ack, native
from telemetry.registers import ENERGY_IMPORT

START_MS = 1_760_000_000_000
EPOCH = 1
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_SHORTENED = 1 / 3
_TICK = 0.004
_SOCKETS = 8
_BUFFER = 4 << 20


def name(meter: int) -> str:
    """The id of a meter."""
    return f"acked-{meter:05d}"


def value(meter: int, number: int) -> int:
    """The raw energy of a meter's reading."""
    return 1000 * number + meter


@dataclass(slots=True)
class Waiting:
    """A datagram that is not acknowledged: its octets, when it was sent, when it is due again."""

    octets: bytes
    first: float
    sent: float
    wait: float
    due: float = 0.0


@dataclass(slots=True)
class Meter:
    """One meter: what it has made, what it has sent, and what of it is acknowledged."""

    number: int
    octets: bytes
    sock: socket.socket
    made: int = 0
    sent: int = 0  # numbers sent at least once
    waiting: dict[int, Waiting] = field(default_factory=dict)  # by number, ascending
    acknowledged: bytearray = field(default_factory=bytearray)  # by number
    heard: float = 0.0
    usual: float = 0.0  # seconds that acknowledgements take
    silent: bool = False

    @property
    def oldest(self) -> int:
        """The lowest number that is not acknowledged."""
        return next(iter(self.waiting), self.sent)


class Meters:
    """All of them, in a thread of their own from ``start`` to ``finish``."""

    def __init__(self, to: tuple[str, int], meters: int, rate: float, seed: int) -> None:
        self._rate = rate
        self._random = random.Random(seed)
        self._sockets = [_connected(to) for _ in range(min(_SOCKETS, meters))]
        self.meters = [
            Meter(number, meter_id.to_octets(name(number)), self._sockets[number % _SOCKETS])
            for number in range(meters)
        ]
        self._by_octets = {meter.octets: meter for meter in self.meters}
        self._due: list[tuple[float, int, int]] = []  # when, meter, number
        self._made = 0
        self._making = True
        self._ended = threading.Event()
        self._since = float("inf")
        self._back: float | None = None
        self.transmissions = 0
        self.took: list[float] = []  # seconds to the acknowledgement of each reading
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to make and send readings."""
        self._thread.start()

    def watch(self) -> None:
        """From now on look for the first acknowledgement of a reading that is sent after this."""
        self._back = None
        self._since = time.monotonic()

    def back(self, within: float) -> float | None:
        """Seconds from ``watch`` to that acknowledgement; None if there is none in time."""
        while self._back is None:
            if time.monotonic() - self._since > within or not self._thread.is_alive():
                return None
            time.sleep(0.002)
        return self._back - self._since

    def finish(self, within: float) -> bool:
        """Make no more, and wait until all is acknowledged; whether it was, in time."""
        self._making = False
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and any(
            meter.waiting or meter.sent < meter.made for meter in self.meters
        ):
            time.sleep(0.05)
        done = time.monotonic() < deadline
        self._ended.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()
        return done

    @property
    def readings(self) -> int:
        """How many were sent at least once."""
        return sum(meter.sent for meter in self.meters)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ended.is_set():
            if self._making:
                self._make(int((time.monotonic() - began) * self._rate))
            self._repeat(time.monotonic())
            select.select(self._sockets, [], [], _TICK)
            for sock in self._sockets:
                self._hear(sock)

    def _make(self, due: int) -> None:
        now = time.monotonic()
        for count in range(self._made, due):
            meter = self.meters[count % len(self.meters)]
            meter.made += 1
            self._send_new(meter, now)
        self._made = due

    def _send_new(self, meter: Meter, now: float) -> None:
        """Send what the window lets through."""
        while not meter.silent and meter.sent < min(meter.made, meter.oldest + ack.WINDOW):
            number, wait = meter.sent, max(_FIRST_WAIT, 2 * meter.usual)
            record = native.Record(
                ENERGY_IMPORT, START_MS + 1000 * number, value(meter.number, number)
            )
            octets = native.encode(meter.octets, EPOCH, number, [record], acknowledge=True)
            meter.waiting[number] = Waiting(octets, now, now, wait)
            meter.acknowledged.append(0)
            meter.sent += 1
            self._send(meter, number, now)

    def _send(self, meter: Meter, number: int, now: float) -> None:
        waiting = meter.waiting[number]
        waiting.sent = now
        waiting.due = now + waiting.wait * (1 - _SHORTENED * self._random.random())
        heapq.heappush(self._due, (waiting.due, meter.number, number))
        self.transmissions += 1
        # Where nobody listens now, or the buffer is full: lost like any other.
        with suppress(ConnectionRefusedError, BlockingIOError):
            meter.sock.send(waiting.octets)

    def _repeat(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            due, index, number = heapq.heappop(self._due)
            meter = self.meters[index]
            waiting = meter.waiting.get(number)
            if waiting is None or waiting.due != due:
                continue
            meter.silent = meter.silent or meter.heard <= waiting.sent
            if not meter.silent or number == meter.oldest:
                self._again(meter, number, now)

    def _again(self, meter: Meter, number: int, now: float) -> None:
        waiting = meter.waiting[number]
        waiting.wait = min(_LONGEST_WAIT, 2 * waiting.wait)
        self._send(meter, number, now)

    def _hear(self, sock: socket.socket) -> None:
        while True:
            try:
                datagram = sock.recv(2048)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue
            said = ack.decode(datagram)
            meter = self._by_octets.get(said.octets) if said else None
            if said and meter and said.epoch == EPOCH and said.next <= meter.sent:
                self._take(meter, said, time.monotonic())

    def _take(self, meter: Meter, said: ack.Ack, now: float) -> None:
        meter.heard = now
        while meter.waiting and meter.oldest < said.next:
            self._durable(meter, meter.oldest, now)
        bitmap, number = said.bitmap, said.next
        while bitmap:
            number += 1
            if bitmap & 1 and number in meter.waiting:
                self._durable(meter, number, now)
            bitmap >>= 1
        if meter.silent:
            meter.silent = False
            for number in [n for n, waiting in meter.waiting.items() if waiting.due <= now]:
                self._again(meter, number, now)
        self._send_new(meter, now)

    def _durable(self, meter: Meter, number: int, now: float) -> None:
        waiting = meter.waiting.pop(number)
        meter.acknowledged[number] = 1
        self.took.append(now - waiting.first)
        if waiting.sent == waiting.first:  # of a repeat nobody knows which one was answered
            meter.usual += (now - waiting.first - meter.usual) / 8
        if self._back is None and waiting.first > self._since:
            self._back = now


def _connected(to: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.connect(to)
    sock.setblocking(False)
    return sock
