"""Where a curve may be cut: readings of which nothing before or after changes that they count.

Whether a reading counts may hang on readings long before it and on some after it
(``telemetry.intervals``). A run of readings above zero that never fall, each step possible, settles
it. Let V be what was booked last before the run. A reading of the run not below V is booked: it is
possible, or the two behind it confirm it. One below V is held back only if the next other value, or
the second reading behind it, is not below V. So at the run's third reading or its first change,
whichever is later, one is booked at the latest, if two more follow; and what comes after it by
possible steps is booked without being judged. A part of a series that begins at the end of such a
run, and ends with the end of such a run, books what the whole series books in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telemetry.calendar import HOUR_MS
from telemetry.intervals import Replacement, Settled
from telemetry.readings import Int64s

_BEHIND = 2  # readings that must follow the one that is surely booked
_LEAST = 4  # steps of a run
_FEW = 12  # readings, more than the least run


@dataclass(frozen=True, slots=True)
class Anchors:
    """Runs that settle what counts, by the indices of their last and first readings; shape (n,).

    Each ``begin`` is the latest from which the run to its ``end`` settles anything.
    """

    end: Int64s
    begin: Int64s

    def __len__(self) -> int:
        return len(self.end)


def possible(steps: Int64s, elapsed: Int64s, max_power_w: int | None) -> npt.NDArray[np.bool_]:
    """Which steps in Wh over so many ms need no judging; shape (n,)."""
    good = steps >= 0
    if max_power_w is not None:
        good &= steps <= elapsed * (max_power_w / HOUR_MS * (1 - 1e-9))
    return good


def anchored(
    time: Int64s, value: Int64s, max_power_w: int | None, replacements: Sequence[Replacement]
) -> Anchors:
    """The anchors of settled readings in Wh."""
    steps = value[1:] - value[:-1]
    plain = (value[:-1] > 0) & possible(steps, time[1:] - time[:-1], max_power_w)
    for swap in replacements:
        behind = int(time.searchsorted(swap.time_ms))
        if 0 < behind < len(time):
            plain[behind - 1] = False
    index = np.arange(len(time))
    # Of each reading the start of its run, and the reading before the last change up to it.
    first, before = np.zeros((2, len(time)), np.int64)
    first[1:] = np.maximum.accumulate(np.where(plain, 0, index[1:]))
    before[1:] = np.maximum.accumulate(np.where(steps != 0, index[:-1], -1))
    before[:1] = -1
    end = index[_LEAST:]
    begin = np.minimum(end - _LEAST, before[_LEAST - _BEHIND : len(time) - _BEHIND])
    good = begin >= first[_LEAST:]
    return Anchors(end[good], begin[good])


def cut(anchors: Anchors, time: Int64s, start: int | None, end: int | None) -> slice | None:
    """The rows that settle [start, end]; None where they do not hold enough to settle it.

    A side that is None needs no anchor: there is no other reading beyond it.
    """
    low, high = 0, len(time)
    if start is not None:
        before = int(time[anchors.end].searchsorted(start, side="right"))
        if not before:
            return None
        low = int(anchors.end[before - 1])
    if end is not None:
        after = int(time[anchors.begin].searchsorted(end))
        if after == len(anchors):
            return None
        high = int(anchors.end[after]) + 1
    return slice(low, high)


def _ends_in_anchor(value: Int64s) -> bool:
    """Whether the last reading surely ends a run, told by a few where no step is impossible.

    False says nothing. Nearly always it is true, and takes a sixth of finding all anchors.
    """
    last = value[-_FEW:]
    rises = len(last) == _FEW and last[0] > 0 and last[0] < last[-1 - _BEHIND]
    return bool(rises and (last[1:] >= last[:-1]).all())


def _plain_run(value: Int64s) -> int | None:
    """How many readings the first run that settles has, if it begins with these few.

    It is told where no step is impossible; None says nothing.
    """
    if len(value) < _FEW or value[0] <= 0 or (value[1:] < value[:-1]).any():
        return None
    change = int(value.searchsorted(value[0], side="right"))
    length = max(_LEAST, change + _BEHIND) + 1
    return length if length <= _FEW else None


def before(
    settled: Settled, start: int, max_power_w: int | None, replacements: Sequence[Replacement]
) -> int | None:
    """The row from which on readings settle what is booked from ``start`` on; see ``cut``.

    An anchor is told by what comes before its end: what comes after ``start`` is not looked at.
    """
    rows = slice(0, int(settled.time.searchsorted(start, side="right")))
    if max_power_w is None and not replacements and _ends_in_anchor(settled.value[rows]):
        return rows.stop - 1
    time = settled.time[rows]
    found = cut(anchored(time, settled.value[rows], max_power_w, replacements), time, start, None)
    return None if found is None else int(found.start)


def after(
    settled: Settled, end: int, max_power_w: int | None, replacements: Sequence[Replacement]
) -> int | None:
    """The row before which readings settle what is booked up to ``end``; see ``cut``.

    What comes before ``end`` is not looked at: a run that begins there settles what it does anew.
    """
    first = int(settled.time.searchsorted(end))
    if max_power_w is None and not replacements:
        length = _plain_run(settled.value[first : first + _FEW])
        if length is not None:
            return first + length
    time = settled.time[first:]
    found = cut(anchored(time, settled.value[first:], max_power_w, replacements), time, None, end)
    return None if found is None else first + int(found.stop)
