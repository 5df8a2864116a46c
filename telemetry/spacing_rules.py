"""Which readings of chatty senders are stored (docs/formats.md, "Chatty senders").

A series is a register of a meter. Of each, three readings are remembered; a batch is judged, all
its series at once, as if it stood behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry.readings import DEVICE_BITS, Int64s, Readings
from telemetry.registers import BY_CODE, Quantity

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]

_READING = np.dtype(
    [("time", "i8"), ("value", "i8"), ("epoch", "u4"), ("status", "u2"), ("stored", "?")],
    align=True,
)
# What opened the slot before, what opened the newest, and the newest reading, where another.
BEFORE, OPENED, NEWEST = range(3)
SERIES = np.dtype(
    [
        ("key_high", "u8"),
        ("key_low", "u8"),
        ("register", "u2"),
        ("past", _READING, 3),
        ("there", "?", 3),
        ("heard", "i8"),  # when the newest came, ms
        ("above_zero", "i8"),  # readings that are still to come until a fall is settled
        ("changes", "i8"),
    ],
    align=True,
)
_SETTLE = 3  # readings above zero, and changes of the value, settle what a fall was

# By a register's code: whose last reading is stored in the end, those of energies.
HOLDS: Bools = np.zeros(1 << 16, np.bool_)
HOLDS[[code for code, known in BY_CODE.items() if known.quantity is Quantity.ENERGY]] = True


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be done about n readings of k series.

    ``stored``, of shape (n,), says which are stored; ``series``, of shape (k,) and of dtype
    SERIES, is what to remember. ``released`` are series as they were, whose newest reading was
    held back and is now to be stored, before all others; ``came`` are the places among the k where
    something newer came.
    """

    stored: Bools
    series: Rows
    released: Rows
    came: Int64s


def judge(series: Rows, group: Int64s, readings: Readings, interval: int) -> Judged:
    """Judge readings in the order of arrival, each of the series at its place in ``series``.

    Each series must have one reading at least; ``interval`` is in ms.
    """
    past = np.flatnonzero(series["there"])
    new = np.zeros(len(group), _READING)
    for name in ("time", "value", "epoch", "status"):
        new[name] = getattr(readings, name)
    groups = np.concatenate([past // 3, group])
    order = np.argsort(groups, kind="stable")  # in each series what is remembered comes first
    rows = np.concatenate([series["past"].ravel()[past], new])[order]
    held = ~rows["stored"] & (order < len(past))
    lines = _Lines(rows, groups[order], order >= len(past), series, interval)
    released = series[lines.group[held & rows["stored"]]]
    stored = np.empty(len(order), np.bool_)
    stored[order] = rows["stored"]
    return Judged(stored[len(past) :], lines.remembered(), released, lines.came)


class _Lines:
    """Readings line by line, sorted by ``group``, in each the order of arrival.

    Those that are not ``new`` are remembered ones, which ascend. Judging sets ``stored`` of
    ``rows``. What is newer than all before it in its group is judged by that before it; ``at`` are
    the lines of these, and ``opens``, ``first`` and the like are of them only.
    """

    def __init__(self, rows: Rows, group: Int64s, new: Bools, series: Rows, interval: int) -> None:
        self.rows, self.group, self._new, self._series = rows, group, new, series
        self._slot = rows["time"] // interval
        self._energy = HOLDS[series["register"]][group]
        self._marked = (rows["status"] & np.uint16(DEVICE_BITS)) != 0
        self._newer = self._find_newer()
        self._at = np.flatnonzero(self._newer)
        group_at = group[self._at]
        self._first = np.diff(group_at, prepend=-1) > 0
        self.came = np.unique(group_at[new[self._at]])
        opens = self._first | _changes(self._slot[self._at])
        self._judge_newer(opens)
        # Of each the place of what opened its slot.
        self._opened = np.maximum.accumulate(np.where(opens, np.arange(len(opens)), 0))
        if not self._newer.all():
            self._judge_late()

    def _find_newer(self) -> Bools:
        time = self.rows["time"]
        first = np.diff(self.group, prepend=-1) > 0
        newer = first | (np.diff(time, prepend=time[:1]) > 0)
        if not newer.all():
            _, rank = np.unique(time, return_inverse=True)
            highest = np.maximum.accumulate(self.group * len(time) + rank)
            newer = first | (np.diff(highest, prepend=-1) > 0)
        return newer

    def _judge_newer(self, opens: Bools) -> None:
        rows, group, first = self.rows[self._at], self.group[self._at], self._first
        new, energy, marked = self._new[self._at], self._energy[self._at], self._marked[self._at]
        value = rows["value"]
        follows = new & energy & ~first
        falls = follows & ((np.diff(value, prepend=value[:1]) < 0) | _changes(rows["epoch"]))
        above_zero, changes = new & (value > 0), follows & _changes(value)
        begins = first | falls
        left = np.where(falls, _SETTLE, self._series["above_zero"][group]) - above_zero
        self._above_zero = _left(begins, above_zero, left)
        left = np.where(falls, _SETTLE, self._series["changes"][group])
        self._changed = _left(begins, changes, left)
        settles = (above_zero & (self._above_zero >= 0)) | (changes & (self._changed >= 0))
        stored = rows["stored"] | (new & (opens | marked)) | falls | (energy & settles)
        stored[np.flatnonzero(falls | (follows & marked)) - 1] = True
        self.rows["stored"][self._at] = stored

    def _judge_late(self) -> None:
        late = np.flatnonzero(~self._newer)
        last = self._newer.cumsum()[late] - 1
        newest, opened, before = self._remembered(last)
        rows, energy = self.rows[late], self._energy[late]
        time, value = rows["time"], rows["value"]
        inner = self._slot[late] == self._slot[opened]
        outer = ~inner & (self._slot[late] == self._slot[before])
        lower, upper = np.where(inner, opened, before), np.where(inner, newest, opened)
        known = (self.rows["value"][lower] <= value) & (value <= self.rows["value"][upper])
        known &= self.rows["epoch"][lower] == rows["epoch"]
        against = [
            (self.rows["time"][one] == time) & (self.rows["value"][one] != value)
            for one in (newest, opened, before)
        ]
        left_out = (inner | outer) & (known | ~energy) & ~self._marked[late]
        self.rows["stored"][late] = ~left_out | np.any(against, axis=0)
        self.rows["stored"][newest[against[0] & energy]] = True

    def _remembered(self, last: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """The lines to remember behind each place of ``last``; some of them may be the same."""
        opened = self._opened[last]
        before = np.where(self._first[opened], opened, self._opened[opened - 1])
        return self._at[last], self._at[opened], self._at[before]

    def remembered(self) -> Rows:
        """The series, with what is now to be remembered of them."""
        group = self.group[self._at]
        last = np.flatnonzero(np.diff(group, append=group[-1:] + 1))
        newest, opened, before = self._remembered(last)
        series = self._series.copy()
        for place, lines in ((BEFORE, before), (OPENED, opened), (NEWEST, newest)):
            series["past"][:, place] = self.rows[lines]
            series["there"][:, place] = (lines != opened) | (place == OPENED)
        series["above_zero"] = np.maximum(self._above_zero[last], 0)
        series["changes"] = np.maximum(self._changed[last], 0)
        return series


def _changes(column: npt.NDArray[Any]) -> Bools:
    """Where a column has another value than in the row before; not in the first."""
    changed = np.zeros(len(column), np.bool_)
    np.not_equal(column[1:], column[:-1], out=changed[1:])
    return changed


def _left(begins: Bools, events: Bools, left: Int64s) -> Int64s:
    """How many events are missing, below 0 too many, if ``left`` do behind each row that begins."""
    total = events.cumsum()
    row = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    missing: Int64s = left[row] - (total - total[row])
    return missing
