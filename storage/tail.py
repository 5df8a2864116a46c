"""The journal in memory, by series: sorted runs, small ones merged into larger as they come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storage.journal import Batch, series_key
from telemetry.readings import Int64s, Series, UInt16s, UInt32s, UInt64s

# A run is merged with the one before it once that is less than so many times its size: readings
# are merged log4(n) times, and a question looks into as many runs at most.
_TIER = 4


@dataclass(frozen=True, slots=True)
class _Run:
    """Readings sorted by series key; of one series in the order of their acceptance."""

    key: UInt64s
    time: Int64s
    value: Int64s
    epoch: UInt32s
    status: UInt16s

    def series(self, first: int, last: int) -> _Run:
        """The readings with first <= key < last."""
        start, end = np.searchsorted(self.key, np.array([first, last], np.uint64))
        return _Run(
            self.key[start:end],
            self.time[start:end],
            self.value[start:end],
            self.epoch[start:end],
            self.status[start:end],
        )

    def without(self, first: int, last: int) -> _Run:
        """The readings with keys below ``first`` or from ``last`` on."""
        start, end = np.searchsorted(self.key, np.array([first, last], np.uint64))
        if start == end:
            return self
        kept = np.ones(len(self.key), np.bool_)
        kept[start:end] = False
        return _Run(
            self.key[kept], self.time[kept], self.value[kept], self.epoch[kept], self.status[kept]
        )


def _concatenate(parts: list[_Run]) -> _Run:
    return _Run(
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.epoch for part in parts]),
        np.concatenate([part.status for part in parts]),
    )


class Tail:
    """Every batch added so far, ready to be asked by series. Not thread-safe."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.key) for run in self._runs)

    def add(self, batch: Batch) -> None:
        """Add a batch; it counts as accepted after all that were added before."""
        newest = _Run(batch.series, batch.time, batch.value, batch.epoch, batch.status)
        while self._runs and len(self._runs[-1].key) < _TIER * len(newest.key):
            both = _concatenate([self._runs.pop(), newest])
            # Stable, so the order of acceptance stays; two sorted halves merge in one pass.
            order = np.argsort(both.key, kind="stable")
            newest = _Run(
                both.key[order],
                both.time[order],
                both.value[order],
                both.epoch[order],
                both.status[order],
            )
        self._runs.append(newest)

    def forget(self, meter: int) -> None:
        """Drop all readings of a meter."""
        first, last = series_key(meter), series_key(meter + 1)
        self._runs = [run.without(first, last) for run in self._runs]

    def series(self, meter: int, register: int) -> Series:
        """The readings of one register of one meter, in the order of their acceptance."""
        first = series_key(meter, register)
        found = self._find(first, first + 1)
        return Series(found.time, found.value, found.epoch, found.status)

    def meter(self, meter: int) -> tuple[UInt16s, Series]:
        """All readings of a meter: the register of each, and the readings, by acceptance."""
        found = self._find(series_key(meter), series_key(meter + 1))
        registers = (found.key & np.uint64(0xFFFF)).astype(np.uint16)
        return registers, Series(found.time, found.value, found.epoch, found.status)

    def _find(self, first: int, last: int) -> _Run:
        found = [run.series(first, last) for run in self._runs]
        found = [run for run in found if len(run.key)]
        if len(found) == 1:
            return found[0]
        return _concatenate(found) if found else _NOTHING


_NOTHING = _Run(
    np.empty(0, np.uint64),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.uint32),
    np.empty(0, np.uint16),
)
