"""The newest sealed reading of each register: the table ``latest``, and what comes late by it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from storage import schema
from storage.blocks import Stored
from storage.prepared import many
from telemetry.readings import Int64s, UInt64s
from telemetry.registers import ENERGY_IMPORT

_LATEST = schema.latest.c
_BETWEEN = sa.select(_LATEST.register, _LATEST.meter, _LATEST.time_ms).where(
    _LATEST.meter.between(sa.bindparam("low"), sa.bindparam("high"))
)
_TIP = sa.select(_LATEST.time_ms, _LATEST.settled).where(
    _LATEST.meter == sa.bindparam("meter"), _LATEST.register == ENERGY_IMPORT
)
_KEEP = (
    "INSERT INTO latest (meter, register, time_ms, value, status, settled)"
    " VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (meter, register) DO UPDATE SET time_ms = excluded.time_ms,"
    " value = excluded.value, status = excluded.status, settled = excluded.settled"
)
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Tip:
    """A meter's newest sealed energy reading; ``settled`` as in the table."""

    time_ms: int
    settled: bool


def energy_tip(connection: sa.Connection, meter: int) -> Tip | None:
    """The newest sealed energy reading of a meter."""
    row = connection.execute(_TIP, {"meter": meter}).one_or_none()
    return None if row is None else Tip(row[0], bool(row[1]))


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest sealed instants of some series, by series key (see ``Stored.series``)."""

    series: UInt64s
    time: Int64s

    @classmethod
    def of(cls, connection: sa.Connection, part: Stored) -> Newest:
        """Those of the meters that the part, not empty, reaches over."""
        bounds = {"low": int(part.meter.min()), "high": int(part.meter.max())}
        rows = [tuple(row) for row in connection.execute(_BETWEEN, bounds)]
        columns = np.array(rows, np.int64).reshape(-1, 3)
        key = (columns[:, 0].astype(np.uint64) << np.uint64(32)) | columns[:, 1].astype(np.uint64)
        order = key.argsort()
        return cls(key[order], columns[order, 2])

    def before(self, series: UInt64s) -> Int64s:
        """The newest instant of each series, shape (n,); far in the past where there is none."""
        if not len(self.series):
            return np.full(len(series), _NEVER)
        at = self.series.searchsorted(series).clip(0, len(self.series) - 1)
        return np.where(self.series[at] == series, self.time[at], _NEVER)


def mark_late(part: Stored, newest: Newest) -> Stored:
    """Readings that are all marked late, by series and acceptance: only those still that were."""
    series, time = part.series, part.time
    same = series[1:] == series[:-1]
    late = time <= newest.before(series)
    if (same & (time[1:] <= time[:-1])).any():
        # The highest time so far of each series, all series one above the other.
        rank = np.append(0, (~same).cumsum())
        low = int(time.min())
        line = time - low + rank * (int(time.max()) - low + 1)
        late[1:] |= same & (line[1:] <= np.maximum.accumulate(line)[:-1])
    marked = np.zeros(len(part), np.int64)
    marked[late] = part.late[late]
    return dataclasses.replace(part, late=marked)


def keep(
    connection: sa.Connection, arranged: list[Stored], newest: Newest, settled: dict[int, bool]
) -> None:
    """Keep the newest reading of each series, and of each meter whether its energy is settled."""
    rows: list[tuple[int, int, int, int, int, bool]] = []
    for part in arranged:
        series = part.series
        last = np.flatnonzero(np.append(series[1:] != series[:-1], True))
        last = last[part.time[last] >= newest.before(series[last])]
        columns = (part.meter, part.register, part.time, part.value, part.status)
        for row in zip(*(column[last].tolist() for column in columns), strict=True):
            rows.append((*row, row[1] == ENERGY_IMPORT and settled[row[0]]))
    many(connection, _KEEP, rows)


def keep_settled(connection: sa.Connection, meter: int, settled: bool) -> None:
    """Keep whether a meter's newest energy reading surely counts."""
    table = schema.latest
    own = (_LATEST.meter == meter) & (_LATEST.register == ENERGY_IMPORT)
    connection.execute(table.update().where(own).values(settled=settled))
