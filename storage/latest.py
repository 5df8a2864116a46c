"""The newest sealed reading of each register: the table ``latest``, and what comes late by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from storage import schema
from storage.prepared import integers, together
from storage.stored import Stored, later
from telemetry.readings import Int64s, UInt16s, UInt32s, UInt64s
from telemetry.registers import ENERGY_IMPORT

_LATEST = schema.latest.c
_COLUMNS = ("register", "meter", "time_ms", "value", "status", "settled")
_BETWEEN = sa.select(*(_LATEST[name] for name in _COLUMNS)).where(
    _LATEST.meter.between(sa.bindparam("low"), sa.bindparam("high"))
)
_OF_ENERGY = _BETWEEN.where(_LATEST.register == ENERGY_IMPORT)
_TIP = sa.select(_LATEST.time_ms, _LATEST.settled).where(
    _LATEST.meter == sa.bindparam("meter"), _LATEST.register == ENERGY_IMPORT
)
_KEEP = (
    "INSERT INTO latest (meter, register, time_ms, value, status, settled)"
    " VALUES {rows} ON CONFLICT (meter, register) DO UPDATE SET time_ms = excluded.time_ms,"
    " value = excluded.value, status = excluded.status, settled = excluded.settled"
)
_KEPT = "(?, ?, ?, ?, ?, ? <> 0)"  # a boolean by comparison: a number in every driver
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
    """The newest sealed readings of some series, by series key (see ``Stored.series``)."""

    series: UInt64s
    meter: UInt32s
    time: Int64s
    value: Int64s
    status: UInt16s
    settled: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, connection: sa.Connection, part: Stored) -> Newest:
        """Those of the meters that the part, not empty, reaches over."""
        return cls._found(connection, _BETWEEN, int(part.meter.min()), int(part.meter.max()))

    @classmethod
    def of_energy(cls, connection: sa.Connection, energy: Stored) -> Newest:
        """Those of the energy register; the part, not empty, is by meter."""
        return cls._found(connection, _OF_ENERGY, int(energy.meter[0]), int(energy.meter[-1]))

    @classmethod
    def _found(
        cls, connection: sa.Connection, query: sa.Select[Any], low: int, high: int
    ) -> Newest:
        columns = integers(connection, query, low=low, high=high).T
        order = np.lexsort((columns[1], columns[0]))
        register, meter, time, value, status, settled = columns[:, order]
        return cls(
            (register.astype(np.uint64) << np.uint64(32)) | meter.astype(np.uint64),
            meter.astype(np.uint32),
            time,
            value,
            status.astype(np.uint16),
            settled.astype(np.bool_),
        )

    @classmethod
    def last_of(cls, energy: Stored, unsettled: Collection[int]) -> Newest:
        """The newest of arranged readings of the energy register; of some meters not settled."""
        last = energy.take(np.flatnonzero(np.append(energy.meter[1:] != energy.meter[:-1], True)))
        settled = ~np.isin(last.meter, list(unsettled))
        return cls(last.series, last.meter, last.time, last.value, last.status, settled)

    def or_else(self, other: Newest) -> Newest:
        """These, and of series that are not among them those of another."""
        both = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in Newest.__slots__
        }
        _, first = np.unique(both["series"], return_index=True)
        return Newest(**{name: column[first] for name, column in both.items()})

    def energy(self, meters: UInt32s) -> Newest:
        """Those of the energy register of meters that ascend, not none, as far as there are any."""
        series = (np.uint64(ENERGY_IMPORT) << np.uint64(32)) | meters.astype(np.uint64)
        at = series.searchsorted(self.series).clip(0, len(series) - 1)
        there = series[at] == self.series
        return Newest(*(getattr(self, name)[there] for name in Newest.__slots__))

    def before(self, series: UInt64s) -> Int64s:
        """The newest instant of each series, shape (n,); far in the past where there is none."""
        if not len(self.series):
            return np.full(len(series), _NEVER)
        at = self.series.searchsorted(series).clip(0, len(self.series) - 1)
        return np.where(self.series[at] == series, self.time[at], _NEVER)


def mark_late(part: Stored, newest: Newest) -> Stored:
    """Readings that are all marked late, by series and acceptance: only those still that were."""
    time, bounds = part.time, part.bounds
    starts, counts = bounds[:-1], np.diff(bounds)
    before = newest.before(part.take(starts).series)
    ascending = later(time, starts).all()
    if ascending and (time[starts] > before).all():
        return dataclasses.replace(part, late=np.zeros(len(part), np.int64))
    late = time <= np.repeat(before, counts)
    if not ascending:
        # The highest time so far of each series, all series one above the other.
        low = int(time.min())
        span = int(time.max()) - low + 1
        line = time - low + np.repeat(np.arange(len(starts)) * span, counts)
        lower = line[1:] <= np.maximum.accumulate(line)[:-1]
        lower[starts[1:] - 1] = False
        late[1:] |= lower
    marked = np.zeros(len(part), np.int64)
    marked[late] = part.late[late]
    return dataclasses.replace(part, late=marked)


def keep(
    connection: sa.Connection, arranged: list[Stored], newest: Newest, unsettled: list[int]
) -> None:
    """Keep the newest reading of each series; of ``unsettled`` meters the energy is not settled."""
    last = Stored.concatenate([_last(part, newest) for part in arranged])
    last = last.take(np.lexsort((last.register, last.meter)))  # as the table's rows lie
    settled = (last.register == ENERGY_IMPORT) & ~np.isin(last.meter, unsettled)
    columns = (last.meter, last.register, last.time, last.value, last.status, settled)
    rows = np.stack([column.astype(np.int64, copy=False) for column in columns], axis=1)
    together(connection, _KEEP, _KEPT, rows)


def _last(part: Stored, newest: Newest) -> Stored:
    """The newest readings of a part's series, where none is newer already."""
    last = part.take(part.bounds[1:] - 1)
    return last.take(last.time >= newest.before(last.series))


def keep_settled(connection: sa.Connection, meter: int, settled: bool) -> None:
    """Keep whether a meter's newest energy reading surely counts."""
    table = schema.latest
    own = (_LATEST.meter == meter) & (_LATEST.register == ENERGY_IMPORT)
    connection.execute(table.update().where(own).values(settled=settled))
