"""Windows and counts of all meters in memory, and how they come out of the tables.

The row of a meter in ``ledger`` holds all deliveries up to the one that it names; those after it
are in ``deliveries`` and are judged again, with the same verdicts.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from storage import deliveries, schema
from storage.columns import DamagedError
from storage.deliveries import COUNTS, Delivery
from storage.prepared import integers
from telemetry import windows
from telemetry.datagrams import Mark
from telemetry.readings import Bytes, Int64s
from telemetry.windows import Verdict, Windows

log = logging.getLogger("writer")

DELETED = 0  # under this number are the counts of all meters that were deleted
_LEDGER, _DELIVERIES = schema.ledger, schema.deliveries
_ROWS_A_READ = 20_000
_BODIES_A_READ = 16
_WINDOW = ("epoch", "highest", "counted_from", "bitmap")
_NUMBERED = np.uint8(Mark.NUMBERED)
_LATE = np.uint8(deliveries.LATE)


@dataclass(frozen=True, slots=True)
class Assessed:
    """What a delivery was: ``verdict`` of each datagram, of shape (n,), and of its k meters ...

    ``meter`` is their numbers, ascending, ``starts`` where each one's datagrams start, ``windows``
    what their windows are now, and ``counts``, of shape (k, 6), what is added to COUNTS.
    """

    verdict: Bytes
    meter: Int64s
    starts: npt.NDArray[np.intp]
    windows: Windows
    counts: Int64s
    sums: Int64s  # of the counts, of shape (6,)


class Accounts:
    """Windows and counts by meter number; grows."""

    def __init__(self) -> None:
        self.windows = Windows.empty(1)
        self.counts = np.zeros((1, len(COUNTS)), np.int64)
        self.changed = np.zeros(1, np.bool_)  # since the meter's row was written
        self.totals = np.zeros(len(COUNTS), np.int64)
        self.last = 0  # the newest delivery that is in them

    def __len__(self) -> int:
        return len(self.counts)

    def reach(self, count: int) -> None:
        """Have room for meters numbered below ``count``."""
        if count <= len(self):
            return
        more = max(count, len(self) * 3 // 2) - len(self)
        self.windows = Windows.concatenate([self.windows, Windows.empty(more)])
        self.counts = np.concatenate([self.counts, np.zeros((more, len(COUNTS)), np.int64)])
        self.changed = np.concatenate([self.changed, np.zeros(more, np.bool_)])

    def assess(self, delivery: Delivery) -> Assessed:
        """Judge a delivery by the windows as they are; changes nothing."""
        self.reach(int(delivery.meter[-1]) + 1 if len(delivery) else 0)
        return assess(self.windows, delivery)

    def apply(self, assessed: Assessed, id: int) -> None:
        """Take in what a delivery was found to be."""
        self.windows.put(assessed.meter, assessed.windows)
        for column in np.flatnonzero(assessed.counts.any(axis=0)).tolist():
            self.counts[assessed.meter, column] += assessed.counts[:, column]
        self.changed[assessed.meter] = True
        self.totals += assessed.sums
        self.last = id

    def delete(self, number: int) -> None:
        """A meter was deleted: its window goes, its counts are those of DELETED from now on."""
        self.reach(number + 1)
        self.windows.put(np.array([number]), Windows.empty(1))
        self.counts[DELETED] += self.counts[number]
        self.counts[number] = 0
        self.changed[[DELETED, number]] = True

    def of(self, number: int) -> Int64s:
        """COUNTS of a meter, of shape (6,)."""
        return self.counts[number] if number < len(self) else np.zeros(len(COUNTS), np.int64)

    def worst(self, most: int, skip: int) -> tuple[list[int], bool]:
        """The meters that lost most, the worst first; whether there are more of them."""
        lost = self.counts[:, COUNTS.index("lost")].copy()
        lost[DELETED] = 0
        wanted = min(skip + most + 1, len(lost))
        least = max(1, int(np.partition(lost, len(lost) - wanted)[len(lost) - wanted]))
        more_lost = np.flatnonzero(lost > least)
        as_many = np.flatnonzero(lost == least)[: wanted - len(more_lost)]
        found = np.concatenate([more_lost, as_many])
        found = found[np.lexsort((found, -lost[found]))][skip:]
        return found[:most].tolist(), len(found) > most

    def rows(self, numbers: Int64s) -> list[tuple[int, ...]]:
        """Meters as rows of the ledger."""
        own = self.windows.take(numbers)
        numbered = [column.astype(np.int64) for column in (own.epoch, own.highest, own.first)]
        table = np.column_stack([numbers, *numbered, own.bitmap.view(np.int64)])
        last = np.full((len(numbers), 1), self.last)
        return [*map(tuple, np.hstack([table, self.counts[numbers], last]).tolist())]


def assess(all_windows: Windows, delivery: Delivery) -> Assessed:
    """Judge a delivery by windows whose rows are the meters' numbers."""
    meter = delivery.meter
    change = meter[1:] != meter[:-1]
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(meter)), np.bool_), change]))
    numbers = meter[starts].astype(np.int64)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(meter)))
    own = all_windows.take(numbers)
    numbered = delivery.marks & _NUMBERED != 0
    if numbered.all():
        judged = windows.judge(own, group, delivery.epoch, delivery.sequence)
        verdict, after = judged.verdict, judged.windows
        out_of_order, lost = judged.out_of_order, judged.lost
    else:
        # What carries no number is unique, and leaves the window alone.
        verdict = np.zeros(len(meter), np.uint8)
        out_of_order, lost = np.zeros(len(meter), np.bool_), np.zeros(len(meter), np.int64)
        concerned, of = np.unique(group[numbered], return_inverse=True)
        judged = windows.judge(
            own.take(concerned), of, delivery.epoch[numbered], delivery.sequence[numbered]
        )
        verdict[numbered], lost[numbered] = judged.verdict, judged.lost
        out_of_order[numbered] = judged.out_of_order
        after = own
        after.put(concerned, judged.windows)
    unique = verdict == Verdict.UNIQUE
    late = unique & (delivery.marks & _LATE != 0)
    each = (
        unique,
        verdict == Verdict.DUPLICATE,
        verdict == Verdict.STALE,
        out_of_order,
        late,
        lost,
    )
    counts = np.zeros((len(numbers), len(COUNTS)), np.int64, "F")  # mostly of one column
    alone = len(starts) == len(meter)  # each meter once, as is usual of many
    for column, values in enumerate(each):
        if values.any():
            counts[:, column] = values if alone else np.add.reduceat(values, starts, dtype=np.int64)
    return Assessed(verdict, numbers, starts, after, counts, counts.sum(axis=0))


def load(connection: sa.Connection) -> Accounts:
    """All accounts as of the newest delivery; who was deleted is among them, as it was."""
    accounts = Accounts()
    accounts.reach((connection.execute(sa.select(sa.func.max(_LEDGER.c.meter))).scalar() or 0) + 1)
    included = np.zeros(len(accounts), np.int64)
    for table in _tables(connection):
        meter, included_in = table[:, 0], table[:, -1]
        accounts.windows.put(meter, window_of(table))
        accounts.counts[meter] = table[:, 1 + len(_WINDOW) : -1]
        included[meter] = included_in
    accounts.totals = accounts.counts.sum(axis=0)
    for number, delivery in unread(connection):
        accounts.reach(int(delivery.meter[-1]) + 1 if len(delivery) else 0)
        included.resize(len(accounts), refcheck=False)
        news = delivery.take(included[delivery.meter] < number)
        accounts.apply(accounts.assess(news), number)
    return accounts


def of_meter(connection: sa.Connection, number: int) -> Int64s:
    """COUNTS of one meter as of the newest delivery, of shape (6,)."""
    accounts, included = Accounts(), 0
    accounts.reach(2)
    row = connection.execute(sa.select(_LEDGER).where(_LEDGER.c.meter == number)).one_or_none()
    if row is not None:
        table = np.array([tuple(row)], np.int64)
        accounts.windows.put(np.array([1]), window_of(table))
        accounts.counts[1] = table[0, 1 + len(_WINDOW) : -1]
        included = row.delivery
    for at, delivery in unread(connection):
        own = delivery.take((delivery.meter == number) & (at > included))
        alone = dataclasses.replace(own, meter=np.ones(len(own), np.uint32))
        accounts.apply(accounts.assess(alone), at)
    return accounts.of(1)


def window_of(table: Int64s) -> Windows:
    """The windows in rows of the ledger, of shape (k, 12)."""
    epoch, highest, first, bitmap = (table[:, 1 + at] for at in range(len(_WINDOW)))
    return Windows(
        epoch.astype(np.uint32),
        highest.astype(np.uint32),
        first.astype(np.uint32),
        bitmap.astype(np.int64).view(np.uint64),
    )


def _tables(connection: sa.Connection) -> Iterator[Int64s]:
    """The rows by meter, as the driver gives them: a million must not take long."""
    after = -1
    page = sa.select(_LEDGER).where(_LEDGER.c.meter > sa.bindparam("after"))
    page = page.order_by(_LEDGER.c.meter).limit(_ROWS_A_READ)
    while True:
        rows = integers(connection, page, after=after)
        if len(rows):
            yield rows
            after = int(rows[-1, 0])
        if len(rows) < _ROWS_A_READ:
            return


def unread(connection: sa.Connection) -> Iterator[tuple[int, Delivery]]:
    """All deliveries that are kept, in their order, with their ids; damaged ones are left out."""
    after = -1
    query = sa.select(_DELIVERIES.c.id, _DELIVERIES.c.body).order_by(_DELIVERIES.c.id)
    while True:
        found = connection.execute(
            query.where(_DELIVERIES.c.id > after).limit(_BODIES_A_READ)
        ).all()
        for after, body in found:
            try:
                yield after, deliveries.decode(body)[0]
            except DamagedError as error:
                log.error("delivery %d is damaged (%s): it is in no count", after, error)
        if len(found) < _BODIES_A_READ:
            return
