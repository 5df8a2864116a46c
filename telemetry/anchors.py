"""Where a curve may be cut: readings of which nothing before or after changes that they count.

Whether a reading counts may hang on readings long before it and on some after it
(``telemetry.intervals``). But five that rise one after the other, each step possible, settle it:
whatever came before, of the first three one is booked at the latest (it is possible after what
was booked last, or the two behind it confirm it), and what follows by possible steps is booked
without being judged. So a part of a series that begins at the fifth of such five, and ends with
the fifth of such five, books what the whole series books in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from telemetry.calendar import HOUR_MS
from telemetry.intervals import Replacement
from telemetry.readings import Int64s

_RISES = 4  # five readings


def possible(steps: Int64s, elapsed: Int64s, max_power_w: int | None) -> npt.NDArray[np.bool_]:
    """Which steps in Wh over so many ms need no judging; shape (n,)."""
    good = steps >= 0
    if max_power_w is not None:
        good &= steps <= elapsed * (max_power_w / HOUR_MS * (1 - 1e-9))
    return good


def anchored(
    time: Int64s, value: Int64s, max_power_w: int | None, replacements: Sequence[Replacement]
) -> Int64s:
    """The indices of the readings that are the fifth of five; of settled readings in Wh."""
    steps = np.diff(value)
    rises = (steps > 0) & (value[:-1] > 0) & possible(steps, np.diff(time), max_power_w)
    swaps = time.searchsorted(np.array([swap.time_ms for swap in replacements], np.int64))
    rises[swaps[(swaps > 0) & (swaps < len(time))] - 1] = False
    runs = rises.cumsum()
    runs[_RISES:] -= runs[:-_RISES].copy()
    return np.flatnonzero(runs[_RISES - 1 :] == _RISES) + _RISES


def cut(anchors: Int64s, time: Int64s, start: int | None, end: int | None) -> slice | None:
    """The rows that settle [start, end]; None where they do not hold enough to settle it.

    A side that is None needs no anchor: there is no other reading beyond it.
    """
    low, high = 0, len(time)
    if start is not None:
        before = int(time[anchors].searchsorted(start, side="right"))
        if not before:
            return None
        low = int(anchors[before - 1])
    if end is not None:
        after = int(time[anchors - _RISES].searchsorted(end))
        if after == len(anchors):
            return None
        high = int(anchors[after]) + 1
    return slice(low, high)
