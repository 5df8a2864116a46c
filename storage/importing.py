"""What an import needs of the collector: the writer, and what is stored already."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import zmq

from storage.group import envelope_starts
from storage.handover import STATUS, Handover, dealer
from storage.queries import Reader, UnknownMeterError
from telemetry import intervals, meter_id
from telemetry.datagrams import Envelopes, Mark
from telemetry.files.built import Points, same
from telemetry.readings import Readings
from telemetry.registers import BY_CODE

_ANSWERS_WITHIN = 3.0  # seconds
_SILENT = 30.0  # seconds in which nothing was confirmed
_NAP = 0.005
_MOST_WAITING = 131_072  # readings in memory that are not confirmed
_MOST_CACHED = 2_000_000  # readings
_LARGEST_PUT = 16_384
_Key = tuple[int, int, int]  # the halves of the meter's octets, the register's code


class WriterAwayError(Exception):
    """No writer answers, or it has gone; the text says so."""


def require_writer(endpoint: str) -> None:
    """Raise WriterAwayError unless a writer answers there."""
    sock = dealer(endpoint)
    try:
        sock.setsockopt(zmq.RCVTIMEO, int(_ANSWERS_WITHIN * 1000))
        sock.send_multipart([STATUS, b"import"])
        sock.recv_multipart()
    except zmq.Again:
        raise WriterAwayError("no writer answers") from None
    finally:
        sock.close()


class Delivery:
    """Hands readings to the writer and waits until they are durable."""

    def __init__(self, endpoint: str) -> None:
        self._handover = Handover(endpoint, None)
        self._given = 0
        self._confirmed, self._since = 0, time.monotonic()

    @property
    def stored(self) -> int:
        """How many of the readings are known to be durable."""
        return self._given - self._handover.undelivered

    @property
    def given(self) -> int:
        """How many readings were handed over."""
        return self._given

    def put(self, readings: Readings) -> None:
        """Hand readings over, after waiting for room. Raises WriterAwayError."""
        for first in range(0, len(readings), _LARGEST_PUT):
            rows = np.arange(first, min(first + _LARGEST_PUT, len(readings)))
            while self._handover.undelivered > _MOST_WAITING:
                self._wait()
            part = readings.take(rows)
            starts = envelope_starts(part)
            self._handover.put(Envelopes.unnumbered(part, starts, Mark.UNCOUNTED), part)
            self._given += len(rows)
            self._handover.tick()

    def finish(self) -> Iterable[int]:
        """Wait until all is durable, telling how much is. Raises WriterAwayError."""
        while self._handover.undelivered:
            self._wait()
            yield self.stored

    def close(self, within: float = 1.0) -> None:
        """Wait a moment for what is still on its way, and close."""
        self._handover.close(within)

    def _wait(self) -> None:
        self._handover.tick()
        time.sleep(_NAP)
        now = time.monotonic()
        if self.stored > self._confirmed:
            self._confirmed, self._since = self.stored, now
        elif now - self._since > _SILENT:
            raise WriterAwayError(f"the writer has confirmed nothing for {_SILENT:g} s")


class Stored:
    """What a database holds of the series asked for, settled; ``reader`` None: nothing."""

    def __init__(self, reader: Reader | None) -> None:
        self._reader = reader
        self._cache: OrderedDict[_Key, Points] = OrderedDict()
        self._cached = 0

    def points(self, high: int, low: int, register: int) -> Points:
        """The settled readings of a register, one an instant."""
        key = (high, low, register)
        if key not in self._cache:
            found = self._load(key)
            self._cached += len(found) + 1
            self._cache[key] = found
            while self._cached > _MOST_CACHED and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached -= len(oldest) + 1
        return self._cache[key]

    def _load(self, key: _Key) -> Points:
        none = np.empty(0, np.int64)
        if self._reader is None:
            return Points(none, none, none.astype(np.uint16))
        with self._reader.snapshot():
            try:
                meter = self._reader.meter(meter_id.to_name(meter_id.from_halves(*key[:2])))
            except UnknownMeterError:
                return Points(none, none, none.astype(np.uint16))
            settled = intervals.settle(self._reader.series(meter, BY_CODE[key[2]]))
        return Points(settled.time, settled.value, settled.status)

    def has(self, readings: Readings) -> npt.NDArray[np.bool_]:
        """Which readings are stored already, with all their status bits; shape (n,)."""
        answer = np.zeros(len(readings), np.bool_)
        order = np.lexsort((readings.register, readings.key_low, readings.key_high))
        sorted_ = readings.take(order)
        new = np.zeros(len(readings), np.bool_)
        for name in ("key_high", "key_low", "register"):
            column = getattr(sorted_, name)
            new[1:] |= column[1:] != column[:-1]
        for rows in np.split(order, np.flatnonzero(new)):
            if len(rows):
                first = int(rows[0])
                stored = self.points(
                    int(readings.key_high[first]),
                    int(readings.key_low[first]),
                    int(readings.register[first]),
                )
                part = readings.take(rows)
                answer[rows] = same(Points(part.time, part.value, part.status), stored)
        return answer
