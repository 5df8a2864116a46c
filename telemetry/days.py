"""Energy of many meters at once, divided among the local days of their zone."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from telemetry import calendar, intervals
from telemetry.calendar import DAY_MS
from telemetry.intervals import Curve, Flag
from telemetry.readings import Int64s, UInt16s

_NO_TIMES, _NO_FLAGS = np.empty(0, np.int64), np.empty(0, np.uint16)


@dataclass(frozen=True, slots=True)
class Days:
    """What readings say of local days; every column has shape (n,).

    ``day`` is the number that the date's digits make, ``wh`` the energy between the readings that
    falls into the day, ``covered_ms`` how much of the day lies between them, ``flags`` those of
    the day's slot without PARTIAL, which ``covered_ms`` tells better.
    """

    meter: Int64s
    day: Int64s
    wh: Int64s
    covered_ms: Int64s
    flags: Int64s

    def __len__(self) -> int:
        return len(self.day)

    def take(self, rows: npt.NDArray[np.bool_]) -> Days:
        """The rows that are true."""
        return Days(*(getattr(self, name)[rows] for name in Days.__slots__))

    @classmethod
    def concatenate(cls, parts: list[Days]) -> Days:
        """All parts' rows, in their order."""
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts] or [_NO_TIMES])
                for name in cls.__slots__
            )
        )

    def summed(self) -> Days:
        """One row for each meter and day, by meter, then day."""
        if not len(self):
            return self
        order = np.lexsort((self.day, self.meter))
        meter, day = self.meter[order], self.day[order]
        other = (meter[1:] != meter[:-1]) | (day[1:] != day[:-1])
        starts = np.flatnonzero(np.append(True, other))
        return Days(
            meter[starts],
            day[starts],
            np.add.reduceat(self.wh[order], starts),
            np.add.reduceat(self.covered_ms[order], starts),
            np.bitwise_or.reduceat(self.flags[order], starts),
        )


def divide(meter: Int64s, time: Int64s, energy: Int64s, flags: UInt16s, zone: ZoneInfo) -> Days:
    """The days of many meters in one zone.

    ``meter`` ascends; a meter's times ascend strictly, its energy in Wh does not fall. ``flags``
    belong to the interval that ends at the reading; a meter's first says nothing.
    """
    starts = np.flatnonzero(np.append(True, meter[1:] != meter[:-1]))
    ends = np.append(starts[1:], len(meter)) - 1
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return Days.concatenate([])
    first, last = time[starts], time[ends]
    edges, dates = calendar.days(zone, int(first.min()), int(last.max()))
    # Each meter's points: its first reading, the midnights between, its last reading.
    low = edges.searchsorted(first, side="right")
    points = edges.searchsorted(last) - low + 2
    owner = np.repeat(np.arange(len(starts)), points)
    place = np.arange(len(owner)) - np.repeat(points.cumsum() - points, points)
    inner = edges[np.minimum(low[owner] + place - 1, len(edges) - 1)]
    closing = place == points[owner] - 1
    instants = np.where(place == 0, first[owner], np.where(closing, last[owner], inner))
    # All meters on one line of time, one after the other, whole days apart: so that quarter hours
    # stay where they are and every meter's slots are divided at once.
    stride = (int(last.max() - first.min()) // DAY_MS + 2) * DAY_MS
    rank = np.zeros(len(meter), np.int64)
    rank[1:] = (meter[1:] != meter[:-1]).cumsum()
    line = Curve(time + rank * stride, energy, flags, _NO_TIMES, _NO_FLAGS)
    slots = intervals.slots(line, instants + rank[starts][owner] * stride)
    kept = ~closing[:-1]
    return Days(
        meter=meter[starts][owner][:-1][kept],
        day=dates[(low[owner] + place - 1)[:-1][kept]],
        wh=slots.energy[kept],
        covered_ms=np.diff(instants)[kept],
        flags=(slots.flags[kept] & ~np.uint16(Flag.PARTIAL)).astype(np.int64),
    )
