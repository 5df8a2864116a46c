"""From receiver to writer (docs/handover.md): the frames, and the receiver's half."""

from __future__ import annotations

import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zmq

from storage import batch_body
from telemetry import counts
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes
from telemetry.formats.ack import ACK
from telemetry.readings import Readings

BATCH, REPORT, CHANGE, STATUS, LOSS = b"batch", b"report", b"change", b"status", b"loss"
COMMITTED, RESEND, ANSWER = b"committed", b"resend", b"answer"
NUMBER = struct.Struct("<Q")
_RECEIVER, _DRAWN = b"r", 15  # how a receiver's routing id begins, and its random octets

# A batch leaves when it is this large or this old, whichever comes first.
_LARGE = 16_384  # readings, or datagrams
_OLD = 0.01  # seconds
# What may wait in the receiver's memory for a writer that is away, readings and datagrams: 20
# octets a reading, 27 a datagram.
MOST_WAITING = 3_000_000
_COUNTS_EVERY = 1.0  # seconds at most until what was counted leaves, without readings if need be
_SILENCE = 1.0  # seconds without progress before the oldest batch is sent again
_REPORT_EVERY = 1.0
_CLOSE_WITHIN = 15.0


def is_receiver(routing_id: bytes) -> bool:
    """Whether a ZeroMQ routing id is one that a receiver has drawn."""
    return len(routing_id) == len(_RECEIVER) + _DRAWN and routing_id.startswith(_RECEIVER)


def dealer(endpoint: str, *, receiver: bool = False) -> zmq.Socket[bytes]:
    """A socket to the writer; that of a ``receiver`` has an id by which its batches are known."""
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    if receiver:
        sock.setsockopt(zmq.ROUTING_ID, _RECEIVER + secrets.token_bytes(_DRAWN))
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, 0)  # bounded by MOST_WAITING instead
    sock.setsockopt(zmq.RECONNECT_IVL, 50)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    sock.connect(endpoint)
    return sock


@dataclass
class Waiting:
    """Batches that are not known to be durable, by number; pure, the time is an argument."""

    bodies: OrderedDict[int, tuple[int, int, bytes]] = field(default_factory=OrderedDict)
    readings: int = 0
    datagrams: int = 0
    last: int = 0
    progress: float = 0.0
    probe: int = 0  # the number sent again after a silence, until it is answered

    @property
    def oldest(self) -> int:
        """The oldest number that is not known to be durable, or the next one."""
        return next(iter(self.bodies), self.last + 1)

    def add(self, readings: int, datagrams: int, body: bytes, now: float) -> int:
        """Keep a batch; its number."""
        if not self.bodies:
            self.progress = now
        self.last += 1
        self.bodies[self.last] = readings, datagrams, body
        self.readings += readings
        self.datagrams += datagrams
        return self.last

    def committed(self, number: int, now: float) -> int | None:
        """Forget what is durable; the number to send again from, where a silence ended."""
        while self.bodies and self.oldest <= number:
            _, (readings, datagrams, _body) = self.bodies.popitem(last=False)
            self.readings -= readings
            self.datagrams -= datagrams
            self.progress = now
        if not self.probe or self.oldest <= self.probe:
            return None
        self.probe = 0
        return self.oldest if self.bodies else None

    def overdue(self, now: float) -> int | None:
        """The number to send again, if nothing has been heard for too long."""
        if not self.bodies or now - self.progress < _SILENCE:
            return None
        self.progress = now
        self.probe = self.oldest
        return self.oldest


class Handover:
    """The receiver's half: a ``telemetry.sink.Sink`` that keeps readings until durable.

    ``report`` makes the octets of a report, given how many readings wait; without it none is sent,
    for the status shows receivers only. Belongs to the receiver's thread.
    """

    def __init__(self, endpoint: str, report: Callable[[int], bytes] | None) -> None:
        self._socket = dealer(endpoint, receiver=True)
        self._report = report
        self._waiting = Waiting()
        self._parts: list[tuple[Envelopes, Readings]] = []
        self._readings = self._datagrams = 0  # in the parts
        self._since = self._ticked = 0.0
        self._counts: list[Counts] = []
        self._counted = 0.0
        self._acknowledgements: list[bytes] = []
        self._reported = 0.0

    def full(self) -> bool:
        """Whether as much waits for the writer as may."""
        return self.undelivered + self._waiting.datagrams + self._datagrams >= MOST_WAITING

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        """Gather what datagrams brought into the next batch."""
        if not self._parts:
            self._since = time.monotonic()
        self._parts.append((envelopes, readings))
        self._readings += len(readings)
        self._datagrams += len(envelopes)
        if max(self._readings, self._datagrams) >= _LARGE:
            self._send(time.monotonic())

    def count(self, counts_: Counts) -> None:
        """Send what was counted with the next batch, which leaves within a second.

        While batches wait for the writer none is made for counts alone: they are added up.
        """
        if not self._counts:
            self._counted = time.monotonic()
        self._counts = [counts.joined([*self._counts, counts_])]

    def acknowledgements(self) -> npt.NDArray[np.void]:
        """What became durable since the last call and is to be told meters; of dtype ACK."""
        octets, self._acknowledgements = b"".join(self._acknowledgements), []
        return np.frombuffer(octets, ACK)

    def tick(self) -> float:
        """Send what is due, take in what the writer said, report once a second.

        Answers for how many seconds it may be left alone.
        """
        now = time.monotonic()
        # The next turn will be as far off as the last one was: readings due by then leave now.
        early = now - self._ticked if self._parts else 0.0
        self._ticked = now
        if self._due(now) <= early:
            self._send(now)
        self._hear(now)
        self._send_overdue(now)
        if self._report is not None and now - self._reported >= _REPORT_EVERY:
            self._reported = now
            self._socket.send_multipart([REPORT, self._report(self.undelivered)])
        return max(0.0, self._due(now))

    def _due(self, now: float) -> float:
        """In how many seconds the next batch is to leave."""
        if self._parts:
            return self._since + _OLD - now
        if self._counts and not self._waiting.bodies:
            return self._counted + _COUNTS_EVERY - now
        return _REPORT_EVERY

    def close(self, within: float | None = None) -> None:
        """Hand everything over and wait until it is durable, at most 15 s; then close."""
        deadline = time.monotonic() + (_CLOSE_WITHIN if within is None else within)
        if self._parts or self._counts:
            self._send(time.monotonic())
        while self._waiting.bodies and (now := time.monotonic()) < deadline:
            self._socket.poll(50)
            self._hear(now)
            self._send_overdue(now)
        self._socket.close()

    @property
    def undelivered(self) -> int:
        """Readings that are not known to be durable."""
        return self._waiting.readings + self._readings

    def _send(self, now: float) -> None:
        body = batch_body.pack(self._parts, self._counts[0] if self._counts else None)
        number = self._waiting.add(self._readings, self._datagrams, body, now)
        self._parts, self._counts, self._readings, self._datagrams = [], [], 0, 0
        self._send_from(number, most=1)

    def _send_overdue(self, now: float) -> None:
        overdue = self._waiting.overdue(now)
        if overdue is not None:
            self._send_from(overdue, most=1)

    def _send_from(self, number: int, most: int | None = None) -> None:
        oldest = NUMBER.pack(self._waiting.oldest)
        numbers = [n for n in self._waiting.bodies if n >= number][:most]
        for n in numbers:
            *_, body = self._waiting.bodies[n]
            self._socket.send_multipart([BATCH, NUMBER.pack(n), oldest, body], copy=False)

    def _hear(self, now: float) -> None:
        while True:
            try:
                kind, octets, *more = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            (number,) = NUMBER.unpack(octets)
            if kind == COMMITTED:
                self._acknowledgements += more
                again = self._waiting.committed(number, now)
                if again is not None:
                    self._send_from(again)
            elif kind == RESEND:
                self._waiting.progress = now
                self._send_from(number)
