"""The table of blocks: new ones in, small ones merged into larger ones of fewer meters."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa

from storage import blocks, history, order, schema
from storage.blocks import BRIEF, LASTING, Stored
from storage.journal import DamagedError
from storage.prepared import many
from storage.watermark import Watermark
from telemetry.calendar import DAY_MS
from telemetry.readings import Int64s, UInt32s

_MERGE = 8  # blocks of one group that are merged
_MOST_MERGED = 90_000  # values that are merged at once, if two blocks have not more
_LEAST = 4096  # readings of a merged block, if there are as many
_LARGE = 10_000  # readings of a block that is divided by time
_LONG, _MANY = 7 * DAY_MS, 512  # a block so long, with so many readings a meter, is left alone

Group = tuple[int, int]  # shift and group

_TABLE = schema.blocks
_INSERT = (
    "INSERT INTO blocks (id, shift, grp, first_ms, last_ms, readings, lasting, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_TO_MERGE = (
    sa.select(_TABLE.c.id, _TABLE.c.shift, _TABLE.c.grp, _TABLE.c.readings)
    .where(sa.not_(_TABLE.c.lasting))
    .order_by(_TABLE.c.id)
)


@dataclass(frozen=True, slots=True)
class _Small:
    """A block that is still to be merged: its id, and its values."""

    id: int
    values: int


class BlockStore:
    """Adds and merges blocks in transactions of its owner, who says with ``accept`` that they hold.

    After a transaction that failed it must be made anew.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._next = 1 + (connection.execute(sa.select(sa.func.max(_TABLE.c.id))).scalar() or 0)
        self._small: dict[Group, list[_Small]] = defaultdict(list)
        self._ripe: set[Group] = set()
        self._pending: list[tuple[Group, _Small]] = []
        self.shifts = 0
        for number, shift, group, values in connection.execute(_TO_MERGE):
            self._note((shift, group), _Small(number, values))

    def _note(self, group: Group, block: _Small) -> None:
        self._small[group].append(block)
        self._judge(group)

    def _judge(self, group: Group) -> None:
        if len(self._small[group]) >= _MERGE:
            self._ripe.add(group)
        else:
            self._ripe.discard(group)

    def ripe(self) -> Group | None:
        """A group whose blocks are to be merged."""
        return next(iter(self._ripe), None)

    def accept(self) -> None:
        """The transaction is done: plan with its blocks."""
        for group, block in self._pending:
            self._note(group, block)
        self._pending.clear()

    def add(
        self,
        connection: sa.Connection,
        groups: list[Stored],
        shift: int,
        reached: Watermark,
        effort: int = BRIEF,
    ) -> Watermark:
        """Store arranged readings, each of one group, as blocks; the watermark with them."""
        rows: list[tuple[Any, ...]] = []
        values = 0
        for own in groups:
            group = int(own.meter[0]) >> shift
            parts = _divided(own)
            for part in parts:
                lasting = effort == LASTING and len(parts) > 1
                lasting = lasting or _lasting(part, shift, effort)
                body = blocks.encode(part, LASTING if lasting else effort)
                first_ms, last_ms = int(part.time.min()), int(part.time.max())
                rows.append((self._next, shift, group, first_ms, last_ms, len(part), lasting, body))
                if not lasting:
                    self._pending.append(((shift, group), _Small(self._next, len(part))))
                self._next += 1
                values += len(part)
        many(connection, _INSERT, rows)
        self.shifts = reached.shifts | 1 << shift
        return dataclasses.replace(reached, shifts=self.shifts, values=reached.values + values)

    def merge(self, connection: sa.Connection, group: Group, reached: Watermark) -> Watermark:
        """Merge the oldest of a group's small blocks into blocks of fewer meters."""
        small = self._small[group]
        fits = int((np.cumsum([block.values for block in small[:_MERGE]]) <= _MOST_MERGED).sum())
        numbers = [block.id for block in small[: max(2, fits)]]
        rows = connection.execute(
            sa.select(_TABLE.c.id, _TABLE.c.body).where(_TABLE.c.id.in_(numbers))
        )
        parts = []
        for number, body in rows:
            try:
                parts.append(blocks.decode(body))
            except DamagedError as error:
                raise history.damaged(number, error) from None
        merged = Stored.concatenate(parts)
        low = merged.meter.min()
        meters = np.flatnonzero(np.bincount(merged.meter - low)).astype(np.uint32) + low
        registers = int(np.count_nonzero(np.bincount(merged.register)))
        shift = finest(meters, len(merged) // registers, group[0], _LEAST)
        connection.execute(_TABLE.delete().where(_TABLE.c.id.in_(numbers)))
        groups = by_group(merged.take(order.by_group(merged.meter, merged.register, shift)), shift)
        arranged = [self._arranged(connection, own, group, reached) for own in groups]
        before = sum(len(part) for part in parts)
        reached = dataclasses.replace(reached, values=reached.values - before)
        reached = self.add(connection, arranged, shift, reached, LASTING)
        # Where merging fell behind there are as many left again.
        del small[: len(numbers)]
        self._judge(group)
        return reached

    @staticmethod
    def _arranged(
        connection: sa.Connection, own: Stored, group: Group, reached: Watermark
    ) -> Stored:
        """Readings of a group's merged blocks, which are deleted by now, arranged."""
        arranged = blocks.arrange(own)
        if len(arranged) == len(own):
            return arranged
        shift, number = group
        first, last = number << shift, (number + 1 << shift) - 1
        theirs = (
            (_TABLE.c.shift == other) & _TABLE.c.grp.between(first >> other, last >> other)
            for other in reached.shift_list
        )
        others = sa.select(_TABLE.c.id).where(
            sa.or_(*theirs),
            _TABLE.c.first_ms <= int(own.time.max()),
            _TABLE.c.last_ms >= int(own.time.min()),
        )
        alone = connection.execute(others.limit(1)).first() is None
        return arranged if alone else blocks.arrange(own, alone=False)


def finest(numbers: UInt32s, readings: int, coarsest: int, least: int) -> int:
    """The finest shift, not above ``coarsest``, that leaves ``least`` readings a group or more.

    ``numbers`` are those of the meters, ascending; a reading is the values of all registers.
    """
    enough = max(1, readings // least)
    shift = 0
    while shift < coarsest and len(blocks.changes(numbers >> np.uint32(shift))) - 1 > enough:
        shift += 1
    return shift


def by_meter(stored: Stored) -> Stored:
    """The readings by meter, those of a meter in the order in which they were."""
    if (stored.meter[1:] >= stored.meter[:-1]).all():
        return stored
    return stored.take(np.argsort(blocks.near(stored.meter), kind="stable"))


def by_group(stored: Stored, shift: int) -> list[Stored]:
    """Readings that come by group, as one part for each."""
    bounds = blocks.changes(stored.meter >> np.uint32(shift)).tolist()
    return [stored.take(slice(start, end)) for start, end in pairwise(bounds)]


def _lasting(part: Stored, shift: int, effort: int) -> bool:
    """Whether a block is left alone from now on."""
    readings = int(np.diff(blocks.changes(part.register)).max())
    if shift == 0 and readings >= _LEAST // 2:
        return True
    if effort != LASTING or int(part.time.max() - part.time.min()) < _LONG:
        return False
    meters = np.bincount(part.meter - part.meter.min())
    return readings >= _MANY * int(np.count_nonzero(meters))


def _divided(own: Stored) -> list[Stored]:
    """Parts of a group's readings, one after the other in time, none very large."""
    most = int(np.diff(blocks.changes(own.register)).max())
    count = -(-most // _LARGE)
    if count == 1:
        return [own]
    ordered = np.sort(own.time)
    edges: Int64s = np.unique(ordered[np.arange(1, count) * len(ordered) // count])
    place = edges.searchsorted(own.time, side="right")
    parts = (own.take(place == number) for number in range(len(edges) + 1))
    return [part for part in parts if len(part)]
