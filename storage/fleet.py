"""Energy of many meters at once: the daily table by SQL, and what of it is not sealed yet."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date

import numpy as np
import sqlalchemy as sa

from storage import meters, schema
from storage.prepared import integers
from storage.queries import Reader
from telemetry.days import Days
from telemetry.readings import Int64s

_DAILY = schema.daily
_METER_BITS = 32


@dataclass(frozen=True, slots=True)
class Period:
    """What many meters have consumed together in a period: 20260131 is a day, 202601 a month."""

    key: int
    wh: int
    meters: int
    flags: int


@dataclass(frozen=True, slots=True)
class Range:
    """Days as numbers, ``last`` included, of the meters whose ids start with ``prefix``."""

    first: int
    last: int
    prefix: str = ""

    @property
    def where(self) -> sa.ColumnElement[bool]:
        """The daily table's rows in the range."""
        inside = _DAILY.c.day.between(self.first, self.last)
        if not self.prefix:
            return inside
        return inside & _DAILY.c.meter.in_(meters.numbers(self.prefix))

    def of(self, reader: Reader, rows: Days) -> Days:
        """The rows in the range."""
        rows = rows.take((rows.day >= self.first) & (rows.day <= self.last))
        if not self.prefix or not len(rows):
            return rows
        known = reader.connection.execute(meters.numbers(self.prefix)).scalars().all()
        return rows.take(np.isin(rows.meter, np.array(known, np.int64)))


def number(day: date) -> int:
    """A day as the table has it: 20260131."""
    return day.year * 10_000 + day.month * 100 + day.day


def periods(reader: Reader, additions: Days, within: Range, *, months: bool) -> list[Period]:
    """The energy of each day or month with data, by time."""
    key = _DAILY.c.day // 100 if months else _DAILY.c.day
    energy = sa.select(key, _DAILY.c.flags, sa.func.sum(_DAILY.c.wh), sa.func.count())
    wh: dict[int, int] = defaultdict(int)
    flags: dict[int, int] = defaultdict(int)
    counted: dict[int, int] = defaultdict(int)
    grouped = energy.where(within.where).group_by(key, _DAILY.c.flags)
    for period, bits, total, rows in reader.connection.execute(grouped):
        wh[period] += int(total)
        flags[period] |= bits
        counted[period] += rows
    if months:
        distinct = sa.select(key, sa.func.count(_DAILY.c.meter.distinct()))
        found = reader.connection.execute(distinct.where(within.where).group_by(key))
        counted.update((period, count) for period, count in found)
    added = within.of(reader, additions)
    keys = added.day // 100 if months else added.day
    for period in np.unique(keys).tolist():
        rows = keys == period
        wh[period] += int(added.wh[rows].sum())
        flags[period] |= int(np.bitwise_or.reduce(added.flags[rows]))
    for period, more in _newcomers(reader, keys, added.meter, within, months).items():
        counted[period] += more
    return [Period(key, wh[key], counted[key], flags[key]) for key in sorted(counted)]


def _newcomers(
    reader: Reader, keys: Int64s, added: Int64s, within: Range, months: bool
) -> dict[int, int]:
    """How many meters have energy in a period only by the additions."""
    if not len(keys):
        return {}
    first, last = int(keys.min()), int(keys.max())
    if months:
        first, last = max(within.first, first * 100), min(within.last, last * 100 + 99)
    key = _DAILY.c.day // 100 if months else _DAILY.c.day
    known = sa.select(key, _DAILY.c.meter).distinct()
    known = known.where(Range(first, last, within.prefix).where)
    there = integers(reader.connection, known)
    new = np.setdiff1d(_pairs(keys, added), _pairs(there[:, 0], there[:, 1]))
    periods, counts = np.unique(new >> _METER_BITS, return_counts=True)
    return dict(zip(periods.tolist(), counts.tolist(), strict=True))


def _pairs(keys: Int64s, meters_: Int64s) -> Int64s:
    """Periods and meters, a number for both."""
    return (keys << _METER_BITS) | meters_


def ranking(reader: Reader, additions: Days, within: Range) -> tuple[Int64s, Int64s]:
    """Numbers and energy of the meters with data, the one with the most energy first."""
    energy = sa.select(_DAILY.c.meter, sa.func.sum(_DAILY.c.wh)).where(within.where)
    rows = reader.connection.execute(energy.group_by(_DAILY.c.meter)).all()
    added = within.of(reader, additions)
    number = np.array([row[0] for row in rows] + added.meter.tolist(), np.int64)
    wh = np.array([int(row[1]) for row in rows] + added.wh.tolist(), np.int64)
    found, place = np.unique(number, return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, place, wh)
    order = np.lexsort((found, -total))
    return found[order], total[order]


def next_day(reader: Reader, additions: Days, first: int) -> int | None:
    """The first day from ``first`` on of which anything is known."""
    query = sa.select(sa.func.min(_DAILY.c.day)).where(_DAILY.c.day >= first)
    stored = reader.connection.execute(query).scalar()
    later = additions.day[additions.day >= first]
    known = ([] if stored is None else [int(stored)]) + ([int(later.min())] if len(later) else [])
    return min(known, default=None)


@dataclass(frozen=True, slots=True)
class Extent:
    """What a table of readings holds; the instants are those of the oldest and newest reading."""

    rows: int
    values: int
    first_ms: int
    last_ms: int


def extent(connection: sa.Connection) -> tuple[Extent, Extent]:
    """What the journal holds, and the blocks."""
    return _extent(connection, schema.journal), _extent(connection, schema.blocks)


def _extent(connection: sa.Connection, table: sa.Table) -> Extent:
    aggregates = (
        sa.func.count(),
        sa.func.sum(table.c.readings),
        sa.func.min(table.c.first_ms),
        sa.func.max(table.c.last_ms),
    )
    query = sa.select(*aggregates).where(table.c.readings > 0)
    rows, values, first, last = connection.execute(query).one()
    return Extent(rows, int(values or 0), first or 0, last or 0)
