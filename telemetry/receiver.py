"""The receiver: owns the UDP sockets, takes datagrams in bulk, hands readings on, acknowledges."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from telemetry.admission import Allowed, Gate
from telemetry.bulk_udp import (
    SMALL_DATAGRAM,
    BulkReceiver,
    ask_for_buffer,
    kernel_drops,
    name_of,
)
from telemetry.counts import Counts, ListenerCounts
from telemetry.datagrams import Envelopes, Tally
from telemetry.formats import Format, native
from telemetry.keys import KeyRing
from telemetry.readings import Readings
from telemetry.rejects import Reason
from telemetry.replies import Replies

ASKED_BUFFER = 32 * 1024 * 1024
MOST_A_CALL = 4096
# A nap after the first datagram lets hundreds gather for one call; it never lasts longer than a
# quarter of what the socket buffer holds at the rate last seen.
SHORTEST_NAP = 0.001
LONGEST_NAP = 0.008
IDLE = 0.05  # seconds between looks at the stop flag and the sink when nothing arrives


class Sink(Protocol):
    """Where decoded readings go; all methods are called from the receiver's own thread."""

    def full(self) -> bool:
        """Whether it cannot take more now; the receiver then leaves datagrams to the kernel."""

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        """Take what datagrams brought; it is no longer the receiver's."""

    def count(self, counts: Counts) -> None:
        """Hand over what was counted since the last call, with the next batch."""

    def acknowledgements(self) -> npt.NDArray[np.void]:
        """What became durable since the last call and is to be told meters; of dtype ACK."""

    def tick(self) -> float:
        """Send what is due, take in answers; for how many seconds it may then be left alone."""

    def close(self) -> None:
        """Hand over all that was put, and wait, for a bounded time, until it is durable."""


@dataclass
class Listener:
    """One UDP socket bound to one format, what it takes, and what it has counted since it started.

    ``back_pressure`` are those of the ``dropped`` that fell while the sink was full.
    """

    sock: socket.socket
    format: Format
    allowed: Allowed
    portable: bool = False
    tally: Tally = field(default_factory=Tally)
    dropped: int = 0
    back_pressure: int = 0
    buffer: int = 0
    busiest: float = 0.0  # datagrams a second, the highest rate over one second
    _drops: int | None = None
    _second: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        self.buffer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.sock.setblocking(False)
        room = self.format.longest + 1  # a full row is longer than any datagram of the format
        self._bulk = BulkReceiver(self.sock, MOST_A_CALL, -room % 64 + room, portable=self.portable)
        self.gate = Gate(self.allowed, KeyRing.empty())
        self.place = _place(self.sock)
        self._name = name_of(self.sock)
        self._drops = None if kernel_drops(self.sock) is None else 0
        self._told = ListenerCounts(self.place, socket=self._name, drops=self._drops)

    @property
    def holds(self) -> int:
        """How many small datagrams the socket buffer holds."""
        return self.buffer // SMALL_DATAGRAM

    @property
    def received(self) -> int:
        """Datagrams taken from the socket."""
        return self.tally.accepted + self.tally.refused.total()

    def take(self, sink: Sink, replies: Replies, arrival: int) -> int:
        """Decode what is waiting, one call's worth, into the sink; how many datagrams it was."""
        datagrams = self._bulk.receive()
        if len(datagrams):
            decoded = self.format.decode(datagrams, arrival, self.gate)
            self.tally.add(decoded.tally)
            if len(decoded.envelopes):
                came = self._bulk.addresses[decoded.rows]
                key_id = native.key_ids(datagrams.octets[decoded.rows])
                replies.remember(self.sock, decoded.envelopes, key_id, came)
                sink.put(decoded.envelopes, decoded.readings)
        return len(datagrams)

    def measure(self, now: float, *, held: bool = False) -> None:
        """Read the kernel's count of drops and, once a second, the rate.

        ``held``: nothing has been taken since the last time because the sink was full.
        """
        drops = kernel_drops(self.sock)
        if drops is not None:
            new = (drops - (self._drops or 0)) % 2**32
            self.dropped += new
            self.back_pressure += new if held else 0
            self._drops = drops
        since, before = self._second
        if now - since >= 1.0:
            if since:
                self.busiest = max(self.busiest, (self.received - before) / (now - since))
            self._second = now, self.received

    def counts(self) -> ListenerCounts | None:
        """What was counted since the last call; None: nothing."""
        so_far = ListenerCounts(
            self.place,
            self.tally.accepted,
            {reason.value: count for reason, count in self.tally.refused.items()},
            self._name,
            self._drops,
            self.back_pressure,
        )
        told, self._told = self._told, so_far
        if so_far == told:
            return None
        return ListenerCounts(
            self.place,
            so_far.accepted - told.accepted,
            {
                reason: new
                for reason, count in so_far.refused.items()
                if (new := count - told.refused.get(reason, 0))
            },
            self._name,
            self._drops,
            so_far.back_pressure - told.back_pressure,
        )


def bind(address: str, port: int) -> socket.socket:
    """A UDP socket bound to the address, with a large buffer; OSError when it cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        # Only of a new one: asking again without privileges could make a handed-over one smaller.
        ask_for_buffer(sock, ASKED_BUFFER)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _place(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"udp [{host}]:{port}" if ":" in host else f"udp {host}:{port}"


def describe(listener: Listener) -> str:
    """One line for the log: where it listens, for what, from whom, and what its buffer holds."""
    allowed = listener.allowed
    networks = " and ".join(allowed.networks) or "nowhere"
    meters = "" if "*" in allowed.meters else f" of {' and '.join(allowed.meters) or 'no meter'}"
    return (
        f"listening on {listener.place} for {listener.format.name} datagrams, "
        f"unsigned ones{meters} only from {networks}; the socket buffer of "
        f"{listener.buffer // 1024} KiB holds {listener.holds} small datagrams: "
        f"{listener.holds / 100_000:.2f} s at 100,000 a second"
    )


def receive(
    listeners: list[Listener],
    sink: Sink,
    stop: threading.Event,
    keys: Callable[[], KeyRing],
    clock: Callable[[], float] = time.time,
) -> None:
    """Take datagrams until ``stop`` is set, then what is still waiting, then close the sink.

    ``keys`` is asked for the meters' keys at the start and once a second; it answers the same ring
    as long as nothing changed.
    """
    part = _Part(listeners, sink, keys, clock)
    poll = select.poll()
    by_fd = {listener.sock.fileno(): listener for listener in listeners}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    nap, wait, held = SHORTEST_NAP, IDLE, False
    while not stop.is_set():
        if sink.full():
            held = True
            time.sleep(LONGEST_NAP)
        else:
            if held:  # what was dropped up to here was so because of the sink
                part.measure(held=True)
            held = False
            ready = [by_fd[fd] for fd, _ in poll.poll(wait * 1000)]
            if ready:
                time.sleep(nap)
                # The one whose buffer fills first sets the pace.
                nap = min(_next_nap(nap, part.drain(one), one.holds) for one in ready)
        part.measure(held=held)
        wait = min(IDLE, part.keep_house())
    for listener in listeners:
        part.drain(listener)
    part.measure(held=False)
    part.hand_counts()
    part.keep_house()
    sink.close()
    part.acknowledge()


class _Part:
    """What the loop does, beside waiting."""

    def __init__(
        self,
        listeners: list[Listener],
        sink: Sink,
        keys: Callable[[], KeyRing],
        clock: Callable[[], float],
    ) -> None:
        self._listeners, self._sink, self._keys, self._clock = listeners, sink, keys, clock
        self._replies = Replies({one.sock: one.portable for one in listeners})
        self._due = 0.0
        self._ring = KeyRing.empty()
        self._once_a_second()

    def drain(self, listener: Listener) -> int:
        """Take what waits, unless the sink is full, but not what goes on arriving; how many."""
        total = 0
        while not self._sink.full() and total <= 2 * listener.holds:  # no more than was waiting
            taken = listener.take(self._sink, self._replies, int(self._clock() * 1000))
            total += taken
            if taken < MOST_A_CALL:
                break
        return total

    def measure(self, *, held: bool) -> None:
        """Read the kernel's counts."""
        now = time.monotonic()
        for listener in self._listeners:
            listener.measure(now, held=held)

    def keep_house(self) -> float:
        """The sink's turn, acknowledgements, and once a second counts and keys.

        Answers for how many seconds the sink may be left alone.
        """
        if time.monotonic() >= self._due:
            self._once_a_second()
        wait = self._sink.tick()
        self.acknowledge()
        return wait

    def acknowledge(self) -> None:
        """Tell meters what has become durable."""
        self._replies.send(self._sink.acknowledgements(), self._ring)

    def hand_counts(self) -> None:
        """Give the sink what was counted since the last time, if anything was."""
        found = [counts for one in self._listeners if (counts := one.counts())]
        meters: Counter[tuple[int, int, Reason]] = Counter()
        for listener in self._listeners:
            meters.update(listener.tally.meters)
            listener.tally.meters.clear()
        if found:
            of_meters = [(high, low, why.value, n) for (high, low, why), n in meters.items()]
            self._sink.count(Counts(found, of_meters))

    def _once_a_second(self) -> None:
        self._due = time.monotonic() + 1.0
        self.hand_counts()
        ring = self._keys()
        if ring is not self._ring:
            self._ring = ring
            for listener in self._listeners:
                listener.gate.ring = ring


def _next_nap(nap: float, taken: int, holds: int) -> float:
    if taken > holds // 4:
        return max(SHORTEST_NAP, nap / 2)
    return min(LONGEST_NAP, nap * 1.25)
