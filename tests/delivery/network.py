"""A bad network between meters and a collector: seeded loss, repeats and delays, real sockets."""

from __future__ import annotations

import heapq
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from telemetry.udp_socket import ask_for_buffer

_BUFFER = 8 << 20
_LARGEST = 65_535
_IDLE = 0.05
_AT_ONCE = 256

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to datagrams on their way in one direction.

    ``loss`` is the part that never arrives, ``repeats`` the part of the others that arrives twice;
    each arrival is late by up to ``jitter`` seconds, so datagrams closer than that change places.
    """

    loss: float = 0.0
    repeats: float = 0.0
    jitter: float = 0.0

    def arrivals(self, chance: random.Random) -> list[float]:
        """After how many seconds a datagram arrives, once for each time that it does."""
        if chance.random() < self.loss:
            return []
        copies = 2 if chance.random() < self.repeats else 1
        return [chance.random() * self.jitter for _ in range(copies)]


@dataclass(slots=True)
class Traffic:
    """Datagrams of one direction: taken from a sender, lost on the way, and handed on."""

    taken: int = 0
    lost: int = 0
    handed_on: int = 0


@dataclass
class Network:
    """Takes datagrams at ``address`` for ``collector``, and answers back to who sent them.

    Every sender has a socket of its own towards the collector, which so sees as many addresses as
    there are. ``heard`` is told each datagram as it is taken: from a meter (True) or to one.
    """

    collector: Address
    up: Weather
    down: Weather
    seed: int
    heard: Callable[[bool, bytes], None] = lambda _up, _datagram: None
    sent: Traffic = field(default_factory=Traffic)
    answered: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._front = _socket()
        self._front.bind(("127.0.0.1", 0))
        self.address: Address = self._front.getsockname()
        self._poll = select.poll()
        self._poll.register(self._front, select.POLLIN)
        self._towards: dict[Address, socket.socket] = {}
        self._back: dict[int, tuple[socket.socket, Address]] = {}
        self._under_way: list[tuple[float, int, Callable[[], object], Traffic]] = []
        self._number = 0  # what is due at the same time leaves in the order of arrival
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for sock in (self._front, *self._towards.values()):
            sock.close()

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def _run(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            wait = self._under_way[0][0] - now if self._under_way else _IDLE
            for fd, _ in self._poll.poll(min(_IDLE, max(0.0, wait)) * 1000):
                if fd == self._front.fileno():
                    self._from_meters()
                else:
                    self._from_collector(*self._back[fd])
            self._hand_on(time.monotonic())

    def _from_meters(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                datagram, sender = self._front.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # a meter that is gone
            sock = self._towards.get(sender) or self._open(sender)
            self.heard(True, datagram)
            self._take(self.up, self.sent, partial(sock.send, datagram))

    def _open(self, sender: Address) -> socket.socket:
        sock = self._towards[sender] = _socket()
        sock.connect(self.collector)
        self._back[sock.fileno()] = sock, sender
        self._poll.register(sock, select.POLLIN)
        return sock

    def _from_collector(self, sock: socket.socket, meter: Address) -> None:
        for _ in range(_AT_ONCE):
            try:
                datagram = sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # the collector is away for now
            self.heard(False, datagram)
            self._take(self.down, self.answered, partial(self._front.sendto, datagram, meter))

    def _take(self, weather: Weather, traffic: Traffic, hand_on: Callable[[], object]) -> None:
        traffic.taken += 1
        arrivals, now = weather.arrivals(self._chance), time.monotonic()
        traffic.lost += not arrivals
        for late in arrivals:
            self._number += 1
            heapq.heappush(self._under_way, (now + late, self._number, hand_on, traffic))

    def _hand_on(self, now: float) -> None:
        while self._under_way and self._under_way[0][0] <= now:
            _, _, hand_on, traffic = heapq.heappop(self._under_way)
            try:
                hand_on()
            except (ConnectionError, BlockingIOError):
                continue  # nobody there, or its buffer is full: lost, as on any network
            traffic.handed_on += 1


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ask_for_buffer(sock, _BUFFER)
    sock.setblocking(False)
    return sock
