"""Verifies what holds readings: every block and journal row, its octets and its row's facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from storage import blocks, journal, schema, watermark
from storage.journal import DamagedError
from storage.stored import is_arranged
from storage.verify_report import Difference, Snapshot, differing
from storage.watermark import Watermark

_ROWS_A_PAGE = 256
_OCTETS_A_PAGE = 16 << 20
_BEFORE_ALL = -(2**62)

Row = sa.Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Looked:
    """A row that was looked at: how many readings it holds, and what is wrong with it."""

    values: int
    differences: list[Difference]


def of_blocks(snapshot: Snapshot) -> Iterator[Looked]:
    """Look at every block, those too that come while we are at it."""
    for reached, row in _rows(snapshot, schema.blocks):
        yield _of_block(row, max(reached.sealed, reached.passing))


def _of_block(row: Row, newest: int) -> Looked:
    where = f"block {row.id}"
    try:
        stored = blocks.decode(row.body)
    except DamagedError as error:
        return Looked(0, [_damaged("blocks.body", where, error)])
    last_late = int(stored.late.max())
    pairs: dict[str, tuple[object, object]] = {
        "blocks.readings": (row.readings, len(stored)),
        "blocks.first_ms": (row.first_ms, int(stored.time.min())),
        "blocks.last_ms": (row.last_ms, int(stored.time.max())),
    }
    found = list(differing(where, pairs))
    shift = np.uint64(min(63, max(0, row.shift)))
    groups = np.unique(stored.meter.astype(np.uint64) >> shift).tolist()
    if not 0 <= row.shift <= 32:
        found.append(Difference("blocks.shift", where, str(row.shift), "0 to 32"))
    elif groups != [row.grp]:
        said = ", ".join(map(str, groups[:5]))
        found.append(Difference("blocks.grp", where, f"{row.grp} of shift {row.shift}", said))
    if not is_arranged(stored):
        found.append(Difference("blocks.body", where, "out of order", "sorted"))
    if last_late > newest:
        late = f"readings of the journal's row {last_late}"
        found.append(Difference("blocks.body", where, late, f"sealed up to row {newest}"))
    return Looked(len(stored), found)


def of_journal(snapshot: Snapshot) -> Iterator[Looked]:
    """Look at every row of the journal, those too that come while we are at it."""
    for reached, row in _rows(snapshot, schema.journal):
        yield _of_row(row, reached)


def _of_row(row: Row, reached: Watermark) -> Looked:
    where = f"journal row {row.id}"
    found = []
    if row.id <= reached.sealed:
        said = f"sealed up to row {reached.sealed}, which are deleted"
        found.append(Difference("journal.id", where, "a row", said))
    try:
        batch = journal.decode(row.body)
    except DamagedError as error:
        return Looked(0, [*found, _damaged("journal.body", where, error)])
    pairs: dict[str, tuple[object, object]] = {"journal.readings": (row.readings, len(batch))}
    if len(batch):
        pairs["journal.first_ms"] = row.first_ms, int(batch.time.min())
        pairs["journal.last_ms"] = row.last_ms, int(batch.time.max())
    found += differing(where, pairs)
    if not (batch.series[1:] >= batch.series[:-1]).all():
        found.append(Difference("journal.body", where, "out of order", "sorted"))
    return Looked(len(batch), found)


def _damaged(what: str, where: str, error: DamagedError) -> Difference:
    return Difference(what, where, f"damaged ({error})", "nothing, it cannot be read")


def _rows(snapshot: Snapshot, table: sa.Table) -> Iterator[tuple[Watermark, Row]]:
    """All rows of a table with bodies by id, page by page, with the watermark of their instant."""
    own, last = table.c, _BEFORE_ALL
    while True:
        with snapshot() as connection:
            sizes = connection.execute(
                sa.select(own.id, sa.func.length(own.body))
                .where(own.id > last)
                .order_by(own.id)
                .limit(_ROWS_A_PAGE)
            ).all()
            if not sizes:
                return
            fitting = int((np.cumsum([size for _, size in sizes]) <= _OCTETS_A_PAGE).sum())
            after, last = last, sizes[max(1, fitting) - 1][0]
            page = sa.select(table).where(own.id > after, own.id <= last).order_by(own.id)
            rows = connection.execute(page).all()
            reached = watermark.read(connection)
        for row in rows:
            yield reached, row
