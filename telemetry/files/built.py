"""A cumulative register built from energies of intervals, and at which level it is to stand.

A register's level is anybody's choice; only its differences are energy. The rules by which it is
chosen, so that a file read twice changes nothing and files fit together in any order, stand in
docs/import-export.md ("How a register is built").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from telemetry.files import FileError
from telemetry.readings import Int64s, Status, UInt16s

MICRO = 10**6  # energies are exact in millionths of a Wh
_HALF = MICRO // 2
_MOST_WH = 9 * 10**12  # of which the millionths are still 64-bit integers
_LEAST_ROOM, _MOST_ROOM = 10**9, 10**14  # Wh


@dataclass(frozen=True, slots=True)
class Intervals:
    """Energies of intervals [start, end), in millionths of a Wh (or varh); columns, shape (n,)."""

    start: Int64s
    end: Int64s
    energy: Int64s
    status: UInt16s

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class Points:
    """Readings of one register, ascending in time, one an instant; every column of shape (n,)."""

    time: Int64s
    value: Int64s
    status: UInt16s

    def __len__(self) -> int:
        return len(self.time)


def merge(parts: Sequence[Intervals], show: Callable[[int], str]) -> Intervals:
    """The intervals of all parts by time, each once.

    Raises FileError where one is given with two energies or two overlap; ``show`` writes instants.
    """
    start, end, energy, status = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("start", "end", "energy", "status")
    )
    order = np.lexsort((energy, end, start))
    start, end, energy, status = start[order], end[order], energy[order], status[order]
    twice = (start[1:] == start[:-1]) & (end[1:] == end[:-1])
    differ = np.flatnonzero(twice & (energy[1:] != energy[:-1]))
    if len(differ):
        at = int(differ[0])
        raise FileError(
            f"the interval from {show(int(start[at]))} has two energies, {energy[at] / MICRO:g} "
            f"and {energy[at + 1] / MICRO:g} Wh: leave out the file or the line that is not true"
        )
    first = np.flatnonzero(np.append(True, ~twice))[: len(start)]
    status = np.bitwise_or.reduceat(status, first) if len(first) else status
    start, end, energy = start[first], end[first], energy[first]
    over = np.flatnonzero(start[1:] < end[:-1])
    if len(over):
        raise FileError(
            f"intervals overlap at {show(int(start[over[0] + 1]))}: leave out the file or the "
            "line with the wrong ones"
        )
    if float(energy.astype(np.float64).sum()) > _MOST_WH * MICRO:
        raise FileError(f"the energies add up to more than {_MOST_WH:,} Wh: check the units")
    return Intervals(start, end, energy, status)


def place(intervals: Intervals, stored: Points, show: Callable[[int], str]) -> Points:
    """The readings at the ends of the intervals, and at the starts that are no ends.

    ``intervals`` are merged, ``stored`` is what the register showed by now. Raises FileError where
    no register can have shown both; ``show`` writes instants.
    """
    runs = _runs(intervals)
    levels, marks = _levels(runs, stored, _room(int(intervals.energy.sum())), show)
    placed = [run.at(level) for run, level in zip(runs, levels, strict=True)]
    for points in placed:
        _check(points, stored, show)
    for before, after in pairwise(placed):
        if after.value[0] < before.value[-1]:
            raise _disagreement(
                int(after.time[0]), int(before.value[-1]), int(after.value[0]), show
            )
    _mark_gaps(placed, stored)
    return _joined([*placed, *marks])


@dataclass(frozen=True, slots=True)
class _Run:
    """Intervals without a gap; ``total`` is the energy since the first instant, in millionths."""

    time: Int64s
    total: Int64s
    status: UInt16s

    def at(self, level: int) -> Points:
        """The run's readings if the register was at ``level`` (millionths) at its start."""
        whole, part = divmod(level, MICRO)
        value = whole + (self.total + (part + _HALF)) // MICRO
        return Points(self.time, value, self.status.copy())


def _runs(intervals: Intervals) -> list[_Run]:
    bounds = np.flatnonzero(intervals.start[1:] != intervals.end[:-1]) + 1
    runs = []
    for rows in np.split(np.arange(len(intervals)), bounds):
        if len(rows):
            runs.append(
                _Run(
                    np.append(intervals.start[rows[:1]], intervals.end[rows]),
                    np.append(0, intervals.energy[rows].cumsum()),
                    np.append(np.uint16(0), intervals.status[rows]),
                )
            )
    return runs


def _room(total: int) -> int:
    """The level to start at, in Wh, so that a thousand files of the kind fit before this one."""
    room = _LEAST_ROOM
    while room < _MOST_ROOM and room * MICRO < 1000 * total:
        room *= 10
    return room


def _anchored(run: _Run, stored: Points, show: Callable[[int], str]) -> int | None:
    """The level at which the run shows what is stored at the instants of both; None without any."""
    _, ours, theirs = np.intersect1d(run.time, stored.time, assume_unique=True, return_indices=True)
    if not len(ours):
        return None
    # Counted from the first of them, so that 64 bits hold the millionths.
    base, value = int(stored.value[theirs[0]]), stored.value[theirs]
    far = np.abs(value - base) > _MOST_WH
    wanted = (np.where(far, 0, value) - base * ~far) * MICRO - run.total[ours]
    # Rounded half up the level shows each stored value: at least low, and below high.
    low, high = int(wanted.max()) - _HALF, int(wanted.min()) + _HALF
    if low >= high or far.any():
        shown = base + (run.total[ours] - run.total[ours[0]] + _HALF) // MICRO
        # The value that is the farthest from the rest of the file, or the first that is.
        at = int(np.flatnonzero(shown != value)[0]) if (shown != value).any() else len(ours) - 1
        raise _disagreement(int(run.time[ours[at]]), int(shown[at]), int(value[at]), show)
    whole = -(-low // MICRO) * MICRO
    return base * MICRO + (whole if whole < high else low)


def _levels(
    runs: list[_Run], stored: Points, room: int, show: Callable[[int], str]
) -> tuple[list[int], list[Points]]:
    """The level of each run, in millionths, and marks of stored readings that end a gap.

    A run that shares no instant with what is stored goes on from what is before it; if nothing is,
    it ends at what comes next; if nothing does, it starts at ``room``.
    """
    marks: list[Points] = []
    levels = [_anchored(run, stored, show) for run in runs]

    def fill_forward() -> None:
        for index, run in enumerate(runs):
            if levels[index] is None:
                levels[index] = _on_from(run, runs[index - 1], levels[index - 1], stored, index)

    fill_forward()
    if runs and levels[-1] is None and stored.time.searchsorted(runs[-1].time[-1]) == len(stored):
        levels[0] = room * MICRO
        fill_forward()
    following: Points | None = None
    for index in range(len(runs) - 1, -1, -1):
        run, level = runs[index], levels[index]
        if level is None:
            after = int(stored.time.searchsorted(run.time[-1]))
            if after < len(stored) and (
                following is None or stored.time[after] < following.time[0]
            ):
                doubted = np.array([Status.SUSPECT], np.uint16)
                there = slice(after, after + 1)
                following = Points(stored.time[there], stored.value[there], doubted)
                marks.append(following)
            assert following is not None  # else the runs were filled from the first on
            level = int(following.value[0]) * MICRO - int(run.total[-1])
            levels[index] = level
        following = run.at(level)
    return [level for level in levels if level is not None], marks


def _on_from(run: _Run, before: _Run, level: int | None, stored: Points, index: int) -> int | None:
    """The level at which a run goes on from the run or the stored reading before it, if any."""
    at = int(stored.time.searchsorted(run.time[0])) - 1
    if index and level is not None and (at < 0 or before.time[-1] >= stored.time[at]):
        return int(before.at(level).value[-1]) * MICRO
    return int(stored.value[at]) * MICRO if at >= 0 else None


def _check(points: Points, stored: Points, show: Callable[[int], str]) -> None:
    """Raise FileError where what is stored lies outside what the placed run shows around it."""
    if points.value[0] < 0:
        raise FileError(
            f"the register would stand below 0 at {show(int(points.time[0]))}, for it shows only "
            f"{int(points.value[-1]):,} at {show(int(points.time[-1]))} and more than that was "
            "used: import this file under another meter's id (--id)"
        )
    first = int(stored.time.searchsorted(points.time[0]))
    last = int(stored.time.searchsorted(points.time[-1], side="right"))
    shares_start = first < len(stored) and stored.time[first] == points.time[0]
    if first and not shares_start and stored.value[first - 1] > points.value[0]:
        shown, there = int(points.value[0]), int(stored.value[first - 1])
        raise _disagreement(int(stored.time[first - 1]), shown, there, show)
    time, value = stored.time[first:last], stored.value[first:last]
    lower = points.value[points.time.searchsorted(time, side="right") - 1]
    upper = points.value[points.time.searchsorted(time)]
    wrong = np.flatnonzero((value < lower) | (value > upper))
    if len(wrong):
        at = int(wrong[0])
        raise _disagreement(int(time[at]), int(lower[at]), int(value[at]), show)
    if last < len(stored) and stored.value[last] < points.value[-1]:
        raise _disagreement(
            int(stored.time[last]), int(points.value[-1]), int(stored.value[last]), show
        )


def _mark_gaps(placed: list[Points], stored: Points) -> None:
    """Doubt the reading that ends a gap: what was used in the gap is not known."""
    for index, points in enumerate(placed):
        at = int(stored.time.searchsorted(points.time[0]))
        there = at < len(stored) and stored.time[at] == points.time[0]
        if not there and (index or at):
            points.status[0] |= np.uint16(Status.SUSPECT)


def _joined(parts: list[Points]) -> Points:
    time, value, status = (
        np.concatenate([getattr(part, name) for part in parts] or [np.empty(0, np.int64)])
        for name in ("time", "value", "status")
    )
    order = np.argsort(time, kind="stable")
    return Points(time[order], value[order], status[order].astype(np.uint16))


def _disagreement(time: int, shown: int, stored: int, show: Callable[[int], str]) -> FileError:
    return FileError(
        f"the register would show {shown:,} at {show(time)}, but {stored:,} is stored there: "
        "the file and the stored readings cannot both be true. Leave out the days that are "
        "stored already, or import the file under another meter's id (--id)"
    )


def same(wanted: Points, stored: Points) -> npt.NDArray[np.bool_]:
    """Which of the wanted readings are stored already, with all their status bits; shape (n,)."""
    if not len(stored):
        return np.zeros(len(wanted), np.bool_)
    at = np.minimum(stored.time.searchsorted(wanted.time), len(stored) - 1)
    answer: npt.NDArray[np.bool_] = (
        (stored.time[at] == wanted.time)
        & (stored.value[at] == wanted.value)
        & ((wanted.status & ~stored.status[at]) == 0)
    )
    return answer
