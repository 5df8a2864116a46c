"""The table of blocks: new ones in, small ones merged into larger ones of fewer meters."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from storage import blocks, history, schema
from storage.blocks import BRIEF, LASTING, Stored
from storage.journal import DamagedError
from storage.watermark import Watermark
from telemetry.calendar import DAY_MS
from telemetry.readings import Int64s

_MERGE = 8  # blocks of one group that are merged
_MOST_MERGED = 200_000  # values that are merged at once, if two blocks have not more
_LEAST = 4096  # readings of a merged block, if there are as many
_LARGE = 10_000  # readings of a block that is divided by time
_LONG, _MANY = 7 * DAY_MS, 512  # a block so long, with so many readings a meter, is left alone

Group = tuple[int, int]  # shift and group

_TABLE = schema.blocks
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
        if len(self._small[group]) >= _MERGE:
            self._ripe.add(group)

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
        arranged: Stored,
        shift: int,
        reached: Watermark,
        effort: int = BRIEF,
    ) -> Watermark:
        """Store arranged readings as blocks of groups; the watermark with them."""
        rows: list[dict[str, object]] = []
        order = np.argsort(arranged.meter >> np.uint32(shift), kind="stable")
        groups = (arranged.meter >> np.uint32(shift))[order]
        bounds = blocks.changes(groups)
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            parts = _divided(arranged.take(order[start:end]))
            for part in parts:
                number, group = self._next, int(groups[start])
                self._next += 1
                full = len(parts) > 1 and effort == LASTING
                lasting = full or _lasting(part, shift, effort)
                first_ms, last_ms = int(part.time.min()), int(part.time.max())
                rows.append(
                    {
                        "id": number,
                        "shift": shift,
                        "grp": group,
                        "first_ms": first_ms,
                        "last_ms": last_ms,
                        "readings": len(part),
                        "lasting": lasting,
                        "body": blocks.encode(part, LASTING if lasting else effort),
                    }
                )
                if not lasting:
                    self._pending.append(((shift, group), _Small(number, len(part))))
        connection.execute(_TABLE.insert(), rows)
        self.shifts = reached.shifts | 1 << shift
        return dataclasses.replace(
            reached, shifts=self.shifts, values=reached.values + len(arranged)
        )

    def merge(self, connection: sa.Connection, group: Group, reached: Watermark) -> Watermark:
        """Merge the oldest of a group's small blocks into blocks of fewer meters."""
        small = self._small[group]
        fits = int((np.cumsum([block.values for block in small]) <= _MOST_MERGED).sum())
        chosen, rest = small[: max(2, fits)], small[max(2, fits) :]
        numbers = [block.id for block in chosen]
        rows = connection.execute(
            sa.select(_TABLE.c.id, _TABLE.c.body).where(_TABLE.c.id.in_(numbers))
        )
        parts = []
        for number, body in rows:
            try:
                parts.append(blocks.decode(body))
            except DamagedError as error:
                raise history.damaged(number, error) from None
        arranged = blocks.arrange(Stored.concatenate(parts))
        connection.execute(_TABLE.delete().where(_TABLE.c.id.in_(numbers)))
        before = sum(len(part) for part in parts)
        reached = dataclasses.replace(reached, values=reached.values - before)
        shift = _finest(arranged, group[0])
        reached = self.add(connection, arranged, shift, reached, LASTING)
        self._small[group] = rest
        self._ripe.discard(group)
        return reached


def _finest(arranged: Stored, coarsest: int) -> int:
    """The finest shift, not above ``coarsest``, that leaves enough readings a block."""
    numbers = np.unique(arranged.meter)
    enough = max(1, len(arranged) // len(np.unique(arranged.register)) // _LEAST)
    shift = 0
    while shift < coarsest and len(np.unique(numbers >> np.uint32(shift))) > enough:
        shift += 1
    return shift


def _lasting(part: Stored, shift: int, effort: int) -> bool:
    """Whether a block is left alone from now on."""
    counts = np.unique(part.register, return_counts=True)[1]
    meters = len(np.unique(part.meter))
    readings = int(counts.max())
    if shift == 0 and readings >= _LEAST // 2:
        return True
    long = int(part.time.max() - part.time.min()) >= _LONG
    return effort == LASTING and long and readings >= _MANY * meters


def _divided(own: Stored) -> list[Stored]:
    """Parts of a group's readings, one after the other in time, none very large."""
    most = int(np.unique(own.register, return_counts=True)[1].max())
    count = -(-most // _LARGE)
    if count == 1:
        return [own]
    ordered = np.sort(own.time)
    edges: Int64s = np.unique(ordered[np.arange(1, count) * len(ordered) // count])
    place = edges.searchsorted(own.time, side="right")
    parts = (own.take(place == number) for number in range(len(edges) + 1))
    return [part for part in parts if len(part)]
