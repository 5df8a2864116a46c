"""A pass of sealing: rows of the journal in memory, handed out by meter in slices of some size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from storage import journal, schema
from storage.block_store import by_meter, finest
from storage.blocks import Stored
from storage.watermark import Watermark

_MOST_VALUES = 1_048_576  # of one pass
_MOST_ROWS = 8192
_PART = 16_384  # values: smaller rows are put together first
_LEAST = 4096  # readings (values of one register) of a group's block, if there are as many
_COARSEST = 31


class Pass:
    """The oldest rows of the journal, up to the row ``last``, by groups of meters."""

    def __init__(self, last: int, rows: list[Stored], below: int) -> None:
        """``rows`` by revision; of meters numbered below ``below`` they are sealed already."""
        self.last = last
        self.below = below
        self._parts = [by_meter(part) for part in _joined(rows) if len(part)]
        if not self._parts:  # of meters that were deleted
            self._before = np.zeros(1, np.int64)
            self.shift, self.below = 0, 1
            return
        top = max(int(part.meter[-1]) for part in self._parts) + 1
        counts = np.zeros(top + 1, np.int64)
        for part in self._parts:
            counts[1:] += np.bincount(part.meter, minlength=top)
        numbers = np.flatnonzero(counts[1:]).astype(np.uint32)
        registers = len({code for part in rows for code in np.unique(part.register[:64]).tolist()})
        self.shift = finest(numbers, int(counts.sum()) // registers, _COARSEST, _LEAST)
        self._before = counts.cumsum()  # values of the meters numbered below each number

    @classmethod
    def begin(cls, connection: sa.Connection, reached: Watermark) -> Pass | int:
        """Read a pass from a journal that is not empty, up to the first damaged row.

        Where there is nothing before that, its number.
        """
        table = schema.journal
        sizes = connection.execute(
            sa.select(table.c.id, table.c.readings)
            .where(table.c.id > reached.sealed)
            .order_by(table.c.id)
            .limit(_MOST_ROWS)
        ).all()
        values = np.cumsum([row.readings for row in sizes])
        fitting = max(1, int(values.searchsorted(_MOST_VALUES, side="right")))
        # What the last writer did not finish goes on up to where it was to go.
        last = reached.passing or sizes[fitting - 1].id
        bodies = connection.execute(
            sa.select(table.c.id, table.c.body)
            .where(table.c.id > reached.sealed, table.c.id <= last)
            .order_by(table.c.id)
        )
        rows = []
        for number, body in bodies:
            try:
                rows.append((number, Stored.of(journal.decode(body), number)))
            except journal.DamagedError:
                if rows and not reached.passing:
                    break
                found: int = number
                return found
        return cls(rows[-1][0], [row for _, row in rows], reached.below)

    @property
    def ended(self) -> bool:
        """Whether there is no meter left."""
        return self.below >= len(self._before)

    def take(self, values: int) -> Stored:
        """About so many values of the next groups, by meter and acceptance; moves ``below`` on."""
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
        return by_meter(Stored.concatenate(found))


def _joined(rows: Sequence[Stored]) -> list[Stored]:
    """Neighbouring rows put together until they are worth a look of their own."""
    parts: list[list[Stored]] = [[]]
    size = 0
    for row in rows:
        if size >= _PART:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += len(row)
    return [Stored.concatenate(part) for part in parts]
