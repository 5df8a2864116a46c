"""From receiver to writer (docs/handover.md): the frames, and the receiver's half."""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zmq

from telemetry.counts import Counts
from telemetry.datagrams import Envelopes
from telemetry.formats.ack import ACK
from telemetry.readings import COLUMNS, Readings

BATCH, REPORT, CHANGE, STATUS, LOSS = b"batch", b"report", b"change", b"status", b"loss"
COMMITTED, RESEND, ANSWER = b"committed", b"resend", b"answer"
NUMBER = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_WIDTH = sum(np.dtype(dtype).itemsize for dtype in COLUMNS.values())

# A batch leaves when it is this large or this old, whichever comes first.
_LARGE = 16_384  # readings
_OLD = 0.01  # seconds
# What may wait in the receiver's memory for a writer that is away: 40 octets a reading.
MOST_WAITING = 2_000_000
_SILENCE = 1.0  # seconds without progress before the oldest batch is sent again
_REPORT_EVERY = 1.0
_CLOSE_WITHIN = 15.0


def pack(readings: Readings) -> bytes:
    """A batch's body."""
    columns = [getattr(readings, name).astype(dtype).tobytes() for name, dtype in COLUMNS.items()]
    return b"".join([_COUNT.pack(len(readings)), *columns])


def unpack(body: bytes) -> Readings:
    """The readings of a batch's body, as views of it; ValueError where its length is wrong."""
    count = int.from_bytes(body[: _COUNT.size], "little")
    if len(body) != _COUNT.size + count * _WIDTH:
        raise ValueError(f"a batch of {count} readings has {len(body)} octets")
    columns, offset = {}, _COUNT.size
    for name, dtype in COLUMNS.items():
        columns[name] = np.frombuffer(body, dtype, count, offset)
        offset += columns[name].nbytes
    return Readings(**columns)


def dealer(endpoint: str) -> zmq.Socket[bytes]:
    """A socket to the writer."""
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, 0)  # bounded by MOST_WAITING instead
    sock.setsockopt(zmq.RECONNECT_IVL, 50)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    sock.connect(endpoint)
    return sock


@dataclass
class Waiting:
    """Batches that are not known to be durable, by number; pure, the time is an argument."""

    bodies: OrderedDict[int, tuple[int, bytes]] = field(default_factory=OrderedDict)
    readings: int = 0
    last: int = 0
    progress: float = 0.0
    probe: int = 0  # the number sent again after a silence, until it is answered

    @property
    def oldest(self) -> int:
        """The oldest number that is not known to be durable, or the next one."""
        return next(iter(self.bodies), self.last + 1)

    def add(self, count: int, body: bytes, now: float) -> int:
        """Keep a batch; its number."""
        if not self.bodies:
            self.progress = now
        self.last += 1
        self.bodies[self.last] = count, body
        self.readings += count
        return self.last

    def committed(self, number: int, now: float) -> int | None:
        """Forget what is durable; the number to send again from, where a silence ended."""
        while self.bodies and self.oldest <= number:
            _, (count, _body) = self.bodies.popitem(last=False)
            self.readings -= count
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
    """The receiver's half: a ``telemetry.receiver.Sink`` that keeps readings until durable.

    ``report`` makes the octets of a report, given how many readings wait; without it none is sent,
    for the status shows receivers only. Belongs to the receiver's thread.
    """

    def __init__(self, endpoint: str, report: Callable[[int], bytes] | None) -> None:
        self._socket = dealer(endpoint)
        self._report = report
        self._waiting = Waiting()
        self._parts: list[Readings] = []
        self._gathered = 0
        self._since = 0.0
        self._reported = 0.0

    def full(self) -> bool:
        """Whether as many readings wait for the writer as may."""
        return self.undelivered >= MOST_WAITING

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        """Gather what datagrams brought into the next batch."""
        if not self._parts:
            self._since = time.monotonic()
        self._parts.append(readings)
        self._gathered += len(readings)
        if self._gathered >= _LARGE:
            self._send(time.monotonic())

    def count(self, counts: Counts) -> None:
        """Send what was counted with the next batch."""

    def acknowledgements(self) -> npt.NDArray[np.void]:
        """What became durable since the last call and is to be told meters; of dtype ACK."""
        return np.empty(0, ACK)

    def tick(self) -> float:
        """Send what is due, take in what the writer said, report once a second.

        Answers for how many seconds it may be left alone.
        """
        now = time.monotonic()
        if self._parts and now - self._since >= _OLD:
            self._send(now)
        self._hear(now)
        overdue = self._waiting.overdue(now)
        if overdue is not None:
            self._send_from(overdue, most=1)
        if self._report is not None and now - self._reported >= _REPORT_EVERY:
            self._reported = now
            self._socket.send_multipart([REPORT, self._report(self.undelivered)])
        return max(0.0, self._since + _OLD - now) if self._parts else _REPORT_EVERY

    def close(self, within: float | None = None) -> None:
        """Hand everything over and wait until it is durable, at most 15 s; then close."""
        deadline = time.monotonic() + (_CLOSE_WITHIN if within is None else within)
        if self._parts:
            self._send(time.monotonic())
        while self._waiting.bodies and (now := time.monotonic()) < deadline:
            self._socket.poll(50)
            self._hear(now)
            overdue = self._waiting.overdue(now)
            if overdue is not None:
                self._send_from(overdue, most=1)
        self._socket.close()

    @property
    def undelivered(self) -> int:
        """Readings that are not known to be durable."""
        return self._waiting.readings + self._gathered

    def _send(self, now: float) -> None:
        readings = Readings.concatenate(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts, self._gathered = [], 0
        number = self._waiting.add(len(readings), pack(readings), now)
        self._send_from(number, most=1)

    def _send_from(self, number: int, most: int | None = None) -> None:
        oldest = NUMBER.pack(self._waiting.oldest)
        numbers = [n for n in self._waiting.bodies if n >= number][:most]
        for n in numbers:
            _, body = self._waiting.bodies[n]
            self._socket.send_multipart([BATCH, NUMBER.pack(n), oldest, body], copy=False)

    def _hear(self, now: float) -> None:
        while True:
            try:
                kind, octets = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            (number,) = NUMBER.unpack(octets)
            if kind == COMMITTED:
                again = self._waiting.committed(number, now)
                if again is not None:
                    self._send_from(again)
            elif kind == RESEND:
                self._waiting.progress = now
                self._send_from(number)
