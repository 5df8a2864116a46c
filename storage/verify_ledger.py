"""Verifies the ledger: its rows against each other, against the sums, against the deliveries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa

from storage import accounts, deletion, deliveries, schema
from storage.accounts import DELETED
from storage.columns import DamagedError
from storage.deliveries import COUNTS
from storage.verify_report import Difference, Snapshot, differing
from telemetry.formats.ack import WINDOW

_LEDGER, _METERS, _DELIVERIES = schema.ledger.c, schema.meters.c, schema.deliveries.c
_U32 = 2**32


def of_ledger(snapshot: Snapshot) -> Iterator[list[Difference]]:
    """Look at everything, in one snapshot: the rows are written a slice at a time."""
    with snapshot() as connection:
        leaving = {note.meter for note in deletion.notes(connection).values()}
        yield list(_strangers(connection, leaving))
        for row in connection.execute(sa.select(schema.ledger).order_by(_LEDGER.meter)):
            if found := list(_of_row(row)):
                yield found
        yield list(_of_deliveries(connection))


def _strangers(connection: sa.Connection, leaving: set[int]) -> Iterator[Difference]:
    for table in (schema.ledger, schema.rejections):
        strange = sa.select(table.c.meter).distinct()
        strange = strange.where(table.c.meter.not_in(sa.select(_METERS.number)))
        for number in connection.execute(strange).scalars():
            if number != DELETED and number not in leaving:
                where = f"meter number {number}"
                yield Difference(f"{table.name}.meter", where, "a row", "no such meter")


def _of_row(row: sa.Row[tuple[object, ...]]) -> Iterator[Difference]:
    """What no datagrams can have left behind."""
    where = f"meter number {row.meter}"
    for name in COUNTS:
        if (value := getattr(row, name)) < 0:
            yield Difference(f"ledger.{name}", where, str(value), "0 or more")
    for name in ("out_of_order", "late"):
        if (value := getattr(row, name)) > row.uniques:
            yield Difference(f"ledger.{name}", where, str(value), f"of {row.uniques} uniques")
    for name in ("epoch", "highest", "counted_from"):
        if not 0 <= (value := getattr(row, name)) < _U32:
            yield Difference(f"ledger.{name}", where, str(value), "32 bits")
    bitmap = row.bitmap % 2**64
    if not bitmap:
        return
    depth = min(WINDOW, row.highest + 1)
    if not bitmap & 1 or bitmap >> depth:
        said = f"bit 0 and no more than {depth} bits"
        yield Difference("ledger.bitmap", where, f"{bitmap:#x}", said)
    numbered = bitmap.bit_count()
    if numbered > row.uniques:
        yield Difference("ledger.uniques", where, str(row.uniques), f"{numbered} or more")
    missing = sum(
        row.highest - bit >= row.counted_from and not bitmap >> bit & 1 for bit in range(depth)
    )
    if missing > row.lost:
        yield Difference("ledger.lost", where, str(row.lost), f"{missing} or more")


def _of_deliveries(connection: sa.Connection) -> Iterator[Difference]:
    """The sums that each commit left behind, against all rows and what is not in them yet."""
    query = sa.select(_DELIVERIES.id, _DELIVERIES.body).order_by(_DELIVERIES.id)
    totals, before = np.zeros(len(COUNTS), np.int64), None
    for number, body in connection.execute(query):
        where = f"delivery {number}"
        if before is not None and number != before + 1:
            yield Difference("deliveries.id", where, f"after {before}", "none is left out")
        before = number
        try:
            _, totals = deliveries.decode(body)
        except DamagedError as error:
            said = "nothing, it cannot be read"
            yield Difference("deliveries.body", where, f"damaged ({error})", said)
    newest = connection.execute(sa.select(sa.func.max(_LEDGER.delivery))).scalar() or 0
    if newest > (before or 0):
        said = f"no later than {before or 0}"
        yield Difference("ledger.delivery", "all meters", str(newest), said)
    computed = accounts.load(connection).totals
    yield from differing(
        "all meters, as of the newest delivery",
        {f"ledger.{name}": (int(computed[at]), int(totals[at])) for at, name in enumerate(COUNTS)},
    )
