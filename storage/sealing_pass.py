"""A pass of sealing: rows of the journal in memory, handed out by meter in slices of some size."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from storage import journal, order, schema
from storage.block_store import by_meter, finest
from storage.blocks import Stored
from storage.watermark import Watermark

_MOST_ROWS = 8192  # of one pass
_PART = 65_536  # values that are read at a time
_LEAST = 4096  # readings (values of one register) of a group's block, if there are as many
_COARSEST = 31


class Rows:
    """The oldest rows of the journal on their way into memory, some at a time."""

    @classmethod
    def oldest(
        cls, connection: sa.Connection, reached: Watermark, values: int, upto: int
    ) -> Rows | None:
        """Up to so many values, and at least one row, up to the row ``upto``; None without any."""
        table = schema.journal
        sizes = connection.execute(
            sa.select(table.c.id, table.c.readings)
            .where(table.c.id > reached.sealed, table.c.id <= max(upto, reached.passing))
            .order_by(table.c.id)
            .limit(_MOST_ROWS)
        )
        found = [(int(number), int(count)) for number, count in sizes]
        return cls(reached, found, values) if found else None

    def __init__(self, reached: Watermark, sizes: list[tuple[int, int]], values: int) -> None:
        """``sizes``: number and values of each row that may be taken, one at least."""
        numbers = [number for number, _ in sizes]
        before = np.cumsum([count for _, count in sizes])
        fitting = max(1, int(before.searchsorted(values, side="right")))
        # What the last writer did not finish goes on up to where it was to go.
        last = reached.passing or numbers[fitting - 1]
        inner = np.flatnonzero(np.diff(before // _PART)).tolist()
        self._ends = [*(numbers[at] for at in inner if numbers[at] < last), last]
        self._reached, self._at = reached, reached.sealed
        self._parts: list[Stored] = []
        self._last = 0  # the last row that is whole
        self._damaged = 0  # the row after it, if it is not

    def read(self, connection: sa.Connection) -> Pass | int | None:
        """Read some; the pass when that was all, which ends before the first damaged row.

        Where there is nothing before that, its number.
        """
        table = schema.journal
        after, self._at = self._at, self._ends.pop(0)
        bodies = connection.execute(
            sa.select(table.c.id, table.c.body)
            .where(table.c.id > after, table.c.id <= self._at)
            .order_by(table.c.id)
        )
        rows = []
        for number, body in bodies:
            try:
                rows.append(Stored.of(journal.decode(body), number))
            except journal.DamagedError:
                self._damaged = number
                break
            self._last = number
        if any(map(len, rows)):
            self._parts.append(by_meter(Stored.concatenate(rows)))
        if self._damaged and (not self._last or self._reached.passing):
            return self._damaged
        if self._ends and not self._damaged:
            return None
        return Pass(self._last, self._parts, self._reached.below)


class Pass:
    """The oldest rows of the journal, up to the row ``last``, by groups of meters."""

    def __init__(self, last: int, parts: list[Stored], below: int) -> None:
        """``parts`` by meter, one after the other; those of meters below ``below`` are sealed."""
        self.last = last
        self.below = below
        self._parts = parts
        if not parts:  # of meters that were deleted
            self._before = np.zeros(1, np.int64)
            self.shift, self.below = 0, 1
            return
        top = max(int(part.meter[-1]) for part in parts) + 1
        counts = np.zeros(top + 1, np.int64)
        for part in parts:
            counts[1:] += np.bincount(part.meter, minlength=top)
        numbers = np.flatnonzero(counts[1:]).astype(np.uint32)
        codes = {code for part in parts for code in np.flatnonzero(np.bincount(part.register))}
        self.shift = finest(numbers, int(counts.sum()) // len(codes), _COARSEST, _LEAST)
        self._before = counts.cumsum()  # values of the meters numbered below each number

    @property
    def ended(self) -> bool:
        """Whether there is no meter left."""
        return self.below >= len(self._before)

    def take(self, values: int) -> Stored:
        """About so many values of the next groups; moves ``below`` on.

        They come by group, in it by register, then meter, then in the order of acceptance.
        """
        low = min(self.below, len(self._before) - 1)
        end = int(self._before.searchsorted(self._before[low] + values))
        group = (min(end, len(self._before)) >> self.shift) + 1
        self.below = group << self.shift
        bounds = np.array([low, min(self.below, 2**32 - 1)], np.uint32)
        found = []
        for part in self._parts:
            start, stop = part.meter.searchsorted(bounds).tolist()
            if start < stop:
                found.append(part.take(slice(start, stop)))
        taken = Stored.concatenate(found)
        return (
            taken.take(order.by_group(taken.meter, taken.register, self.shift)) if found else taken
        )
