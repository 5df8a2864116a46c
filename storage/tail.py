"""The journal in memory, by series: sorted runs, small ones merged into larger as they come."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from storage.blocks import Stored
from storage.journal import Batch, series_key
from storage.watermark import Watermark
from telemetry.readings import UInt64s

# So many runs of one tier are merged into one of the next: readings are merged log4(n) times, and
# a question looks into three times as many runs at most.
_TIER = 4
_LARGEST = 1 << 20  # values of a run: to merge more would keep a question waiting


@dataclass(frozen=True, slots=True)
class _Run:
    """Readings sorted by series key; of one series in the order of their acceptance."""

    key: UInt64s
    stored: Stored  # late is the journal row that each came in
    last: int  # the newest of these rows
    tier: int = 0

    def take(self, rows: npt.NDArray[np.intp] | slice) -> _Run:
        return _Run(self.key[rows], self.stored.take(rows), self.last, self.tier)


class Tail:
    """Every journal row that is not sealed, ready to be asked by series. Not thread-safe."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._watermark = Watermark()
        # What was found last, which questions ask for again and again; None after any change.
        self._found: _Found | None = None
        self._swept = 0  # no row up to this one is in the runs

    def __len__(self) -> int:
        if self._watermark.passing <= self._watermark.sealed:
            return sum(len(run.key) for run in self._runs)
        return sum(int(self._counts(run.stored).sum()) for run in self._runs)

    def _counts(self, stored: Stored) -> npt.NDArray[np.bool_]:
        """Which readings are not in blocks yet; amid a pass those of some meters are."""
        of_low = stored.meter.astype(np.int64) < self._watermark.below
        counts: npt.NDArray[np.bool_] = stored.late > np.where(
            of_low, self._watermark.passing, self._watermark.sealed
        )
        return counts

    def add(self, revision: int, batch: Batch) -> None:
        """Add a row of the journal; rows come in the order of their revisions."""
        self._found = None
        self._runs.append(_Run(batch.series, Stored.of(batch, revision), revision))
        while len(self._runs) >= _TIER and self._runs[-_TIER].tier == self._runs[-1].tier:
            if sum(len(run.key) for run in self._runs[-_TIER:]) > _LARGEST:
                break
            self._runs[-_TIER:] = [_merge(self._runs[-_TIER:])]

    def forget(self, meter: int) -> None:
        """Drop all readings of a meter."""
        self._found = None
        kept = [run.take(np.flatnonzero(run.stored.meter != meter)) for run in self._runs]
        self._runs = [run for run in kept if len(run.key)]

    def seal(self, watermark: Watermark) -> None:
        """Forget what is in blocks now."""
        self._found = None
        # Rows of a pass that is cleared away count no more, and go all at once when the last has.
        cleared = watermark.passing <= watermark.sealed
        if watermark.sealed > self._swept and (
            cleared or self._watermark.passing != watermark.passing
        ):
            self._swept = watermark.sealed
            kept = [
                run.take(np.flatnonzero(run.stored.late > watermark.sealed)) for run in self._runs
            ]
            self._runs = [run for run in kept if len(run.key)]
        self._watermark = watermark

    def came(self, meter: int, since: int) -> bool:
        """Whether a meter has readings in rows of the journal behind ``since``."""
        bounds = np.array([series_key(meter), series_key(meter + 1)], np.uint64)
        for run in reversed(self._runs):
            if run.last <= since:
                break
            start, end = run.key.searchsorted(bounds).tolist()
            if start < end and int(run.stored.late[start:end].max()) > since:
                return True
        return False

    def series(self, meter: int, register: int) -> Stored:
        """The readings of one register of one meter, in the order of their acceptance."""
        first = series_key(meter, register)
        return self._find(meter, first, first + 1).stored

    def span(self, meter: int, register: int) -> tuple[int, int] | None:
        """The first and the last instant of these readings, None where there are none."""
        first = series_key(meter, register)
        return self._find(meter, first, first + 1).span

    def meter(self, meter: int) -> Stored:
        """All readings of a meter, those of each register by acceptance."""
        return self._find(meter, series_key(meter), series_key(meter + 1)).stored

    def of_register(self, register: int, since: int = 0) -> Stored:
        """One register's readings of all meters in rows behind one, by meter, then acceptance."""
        parts = []
        for run in self._runs:
            if run.last <= since:
                continue
            own = (run.stored.register == register) & (run.stored.late > since)
            rows = np.flatnonzero(own & self._counts(run.stored))
            parts.append(run.stored.take(rows))
        both = Stored.concatenate(parts)
        return both.take(np.argsort(both.meter, kind="stable"))

    def _find(self, meter: int, first: int, last: int) -> _Found:
        if self._found is None or self._found.keys != (first, last):
            self._found = _Found((first, last), self._look_up(meter, first, last))
        return self._found

    def _look_up(self, meter: int, first: int, last: int) -> Stored:
        bounds = np.array([first, last], np.uint64)
        parts = []
        for run in self._runs:
            start, end = run.key.searchsorted(bounds).tolist()
            if start < end:
                parts.append(run.stored.take(slice(start, end)))
        found = Stored.concatenate(parts)
        after = self._watermark.up_to(meter)
        return found.take(found.late > after) if after > self._swept else found


class _Found:
    """The readings from one key to before another."""

    def __init__(self, keys: tuple[int, int], stored: Stored) -> None:
        self.keys, self.stored = keys, stored

    @cached_property
    def span(self) -> tuple[int, int] | None:
        time = self.stored.time
        return (int(time.min()), int(time.max())) if len(time) else None


def _merge(runs: list[_Run]) -> _Run:
    """One run of the next tier, of runs in the order of their acceptance."""
    all_ = _Run(
        np.concatenate([run.key for run in runs]),
        Stored.concatenate([run.stored for run in runs]),
        runs[-1].last,
        runs[-1].tier + 1,
    )
    # Stable, so the order of acceptance stays; sorted parts merge in a pass for each doubling.
    return all_.take(np.argsort(all_.key, kind="stable"))
