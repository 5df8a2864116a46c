"""The receiver: owns the UDP sockets, takes datagrams in bulk, decodes, hands readings on."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from telemetry.bulk_udp import SMALL_DATAGRAM, BulkReceiver, ask_for_buffer, kernel_drops
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes, Tally
from telemetry.formats import Format
from telemetry.readings import Readings

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
    """One UDP socket bound to one format, and what it has counted since it started."""

    sock: socket.socket
    format: Format
    portable: bool = False
    tally: Tally = field(default_factory=Tally)
    dropped: int = 0
    buffer: int = 0
    busiest: float = 0.0  # datagrams a second, the highest rate over one second
    _drops: int = 0
    _second: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        self.buffer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.sock.setblocking(False)
        room = self.format.longest + 1  # a full row is longer than any datagram of the format
        self._bulk = BulkReceiver(self.sock, MOST_A_CALL, -room % 64 + room, portable=self.portable)

    @property
    def holds(self) -> int:
        """How many small datagrams the socket buffer holds."""
        return self.buffer // SMALL_DATAGRAM

    @property
    def received(self) -> int:
        """Datagrams taken from the socket."""
        return self.tally.accepted + self.tally.refused.total()

    def take(self, sink: Sink, arrival: int) -> int:
        """Decode what is waiting, one call's worth, into the sink; how many datagrams it was."""
        datagrams = self._bulk.receive()
        if len(datagrams):
            decoded = self.format.decode(datagrams, arrival)
            self.tally.add(decoded.tally)
            if len(decoded.envelopes):
                sink.put(decoded.envelopes, decoded.readings)
        return len(datagrams)

    def measure(self, now: float) -> None:
        """Read the kernel's count of drops and, once a second, the rate."""
        drops = kernel_drops(self.sock)
        if drops is not None:
            self.dropped += (drops - self._drops) % 2**32
            self._drops = drops
        since, before = self._second
        if now - since >= 1.0:
            if since:
                self.busiest = max(self.busiest, (self.received - before) / (now - since))
            self._second = now, self.received


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


def describe(listener: Listener) -> str:
    """One line for the log: where it listens, for what, and how much traffic its buffer holds."""
    host, port = listener.sock.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return (
        f"listening on udp {host}:{port} for {listener.format.name} datagrams; the socket buffer "
        f"of {listener.buffer // 1024} KiB holds {listener.holds} small datagrams: "
        f"{listener.holds / 100_000:.2f} s at 100,000 a second"
    )


def receive(
    listeners: list[Listener],
    sink: Sink,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
) -> None:
    """Take datagrams until ``stop`` is set, then what is still waiting, then close the sink."""
    poll = select.poll()
    by_fd = {listener.sock.fileno(): listener for listener in listeners}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    nap, wait = SHORTEST_NAP, IDLE
    while not stop.is_set():
        if sink.full():
            time.sleep(LONGEST_NAP)
        else:
            ready = [by_fd[fd] for fd, _ in poll.poll(wait * 1000)]
            if ready:
                time.sleep(nap)
                # The one whose buffer fills first sets the pace.
                nap = min(_next_nap(nap, _drain(one, sink, clock), one.holds) for one in ready)
        wait = min(IDLE, _housekeeping(listeners, sink))
    for listener in listeners:
        _drain(listener, sink, clock)
    _housekeeping(listeners, sink)
    sink.close()


def _drain(listener: Listener, sink: Sink, clock: Callable[[], float]) -> int:
    """Take what is waiting, unless the sink is full, but not what goes on arriving; how many."""
    total = 0
    while not sink.full() and total <= 2 * listener.holds:  # no more than that was waiting
        taken = listener.take(sink, int(clock() * 1000))
        total += taken
        if taken < MOST_A_CALL:
            break
    return total


def _next_nap(nap: float, taken: int, holds: int) -> float:
    if taken > holds // 4:
        return max(SHORTEST_NAP, nap / 2)
    return min(LONGEST_NAP, nap * 1.25)


def _housekeeping(listeners: list[Listener], sink: Sink) -> float:
    now = time.monotonic()
    for listener in listeners:
        listener.measure(now)
    return sink.tick()
