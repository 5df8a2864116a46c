"""Watches every meter's billing period for the crossing of its limit.

``observe`` looks at a whole batch at once and only picks the meters that may have crossed; ``work``
then settles each of them exactly, from what is stored. So an alert depends on the readings alone:
not on their order, nor on restarts.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from storage import rechecks, schema
from storage.database import StorageError, UnavailableError
from storage.defaults import Defaults
from storage.energy import REGISTER, energy_curve
from storage.info import keep_number, kept_number
from storage.journal import Batch, DamagedError, decode
from storage.meters import Meter
from storage.prepared import Prepared
from storage.queries import Reader
from telemetry.alerts import limit_crossing
from telemetry.calendar import Period
from telemetry.intervals import Curve, Flag
from telemetry.readings import Int64s
from telemetry.registers import ALERT_LIMIT, ENERGY_IMPORT

log = logging.getLogger("writer")

_SETTLED = "settled"  # the row of the journal up to which all was looked at
_NEVER = np.iinfo(np.int64).max
_RAISED = Prepared(
    sa.select(schema.alerts.c.period_start_ms).where(schema.alerts.c.meter == sa.bindparam("meter"))
)
_LOSSES = Flag.RESET | Flag.ROLLOVER | Flag.REPLACED | Flag.ZERO | Flag.QUARANTINED


@dataclass(frozen=True, slots=True)
class LimitAlert:
    """A limit was crossed; ``late`` when newer readings had been accepted before the crossing's."""

    meter: Meter
    period: Period
    time_ms: int
    energy_wh: int
    limit_wh: int
    late: bool


@dataclass(slots=True)
class _Watched:
    """What ``observe`` knows of each meter, by its number; shape (room,) each."""

    start: Int64s  # what is earlier may change the energy of the newest reading's period
    end: Int64s  # the end of that period; 0: not known yet
    threshold: Int64s  # the register beyond which the limit may be crossed
    newest: Int64s  # the newest reading's instant and register
    register: Int64s

    @classmethod
    def of(cls, room: int) -> _Watched:
        return cls(*(np.zeros(room, np.int64) for _ in range(5)))

    def grown(self, room: int) -> _Watched:
        larger = _Watched.of(room)
        for name in self.__slots__:
            getattr(larger, name)[: len(self.start)] = getattr(self, name)
        return larger


class _Suspect(NamedTuple):
    """The instants to look between, and the first row of the journal that says so."""

    earliest: int
    latest: int
    row: int


class LimitWatch:
    """Belongs to the writer's thread; ``reader`` must see a batch before ``work`` is called."""

    def __init__(self, reader: Reader, defaults: Defaults) -> None:
        self._reader = reader
        self._defaults = defaults
        self._watched = _Watched.of(1024)
        self._suspects: dict[int, _Suspect] = {}  # by number, the one of the oldest row first
        self._row = 0  # of the journal, the newest that was observed
        self._settled: list[int] = []  # in a transaction that is still open
        self._unreadable: set[int] = set()
        self._noted = False  # some meters are, by their changes (storage/rechecks.py)

    def observe_again(self, connection: sa.Connection, first_new: int) -> None:
        """``observe`` what was committed but not settled when the last writer ended."""
        self._suspects.clear()  # the rows and the notes tell all of them
        self._row = kept_number(connection, _SETTLED)
        table = schema.journal
        rows = sa.select(table.c.id, table.c.body).where(table.c.id > self._row)
        for row, body in connection.execute(rows.order_by(table.c.id)):
            with suppress(DamagedError):  # the reader says so
                batch = decode(body)
                self.observe(batch, first_new, row)
                for number in np.unique(batch.meter[batch.register == ALERT_LIMIT]).tolist():
                    self.recheck(number)
        for number in rechecks.noted(connection):
            self.recheck(number)

    @property
    def settled(self) -> int:
        """Nothing is left to be looked at in the journal's rows up to this one."""
        return next((suspect.row - 1 for suspect in self._suspects.values()), self._row)

    def keep_settled(self, connection: sa.Connection) -> None:
        """Keep for the next writer how far all was looked at."""
        keep_number(connection, _SETTLED, self.settled)
        if self._noted and not self._suspects:
            rechecks.forget(connection)
            self._noted = False

    def observe(self, batch: Batch, first_new: int, row: int) -> None:
        """Pick the meters of which a row of the journal may hold a crossing, or a new period.

        Meters numbered from ``first_new`` on have their first readings in this batch.
        """
        self._row = row
        rows = np.flatnonzero(batch.register == ENERGY_IMPORT)
        if not len(rows):
            return
        number, instant, value = batch.meter[rows], batch.time[rows], batch.value[rows]
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        meter = number[starts].astype(np.int64)
        self._make_room(int(meter[-1]) + 1)
        watched = self._watched
        # A register that falls as time goes on was reset, or rolled over, or lies.
        last, newest = watched.register[meter], watched.newest[meter]
        if len(starts) == len(rows):  # each meter once, as is usual of many
            earliest = latest = instant
            lowest = highest = value
            fell = (instant >= newest) & (value < last)
        else:
            earliest = np.minimum.reduceat(instant, starts)
            latest = np.maximum.reduceat(instant, starts)
            lowest = np.minimum.reduceat(value, starts)
            highest = np.maximum.reduceat(value, starts)
            each = np.diff(starts, append=len(rows))
            falling = (instant >= np.repeat(newest, each)) & (value < np.repeat(last, each))
            same = number[1:] == number[:-1]
            falling[1:] |= same & (instant[1:] > instant[:-1]) & (value[1:] < value[:-1])
            fell = np.bitwise_or.reduceat(falling, starts)
        before = earliest < watched.start[meter]
        self._welcome(meter, first_new, earliest, latest, lowest)
        suspect = (
            fell | before | (latest >= watched.end[meter]) | (highest > watched.threshold[meter])
        )
        ahead = latest >= watched.newest[meter]
        watched.newest[meter[ahead]] = latest[ahead]
        watched.register[meter[ahead]] = highest[ahead]
        for chosen in np.flatnonzero(suspect).tolist():
            self.suspect(int(meter[chosen]), int(earliest[chosen]), int(latest[chosen]))

    def _welcome(
        self, meter: Int64s, first_new: int, earliest: Int64s, latest: Int64s, lowest: Int64s
    ) -> None:
        """New meters in the period of the day need no settling: nothing came before."""
        period = self._defaults.default_period(int(latest.max()))
        new = (meter >= first_new) & (earliest > period.start_ms) & (latest < period.end_ms)
        self._watched.start[meter[new]] = earliest[new] + 1
        self._watched.end[meter[new]] = period.end_ms
        self._watched.threshold[meter[new]] = lowest[new] + self._defaults.limit_wh

    def suspect(self, number: int, earliest: int, latest: int) -> None:
        """Have a meter settled between two instants."""
        known = self._suspects.get(number)
        if known is not None:
            earliest, latest = min(known.earliest, earliest), max(known.latest, latest)
        row = self._row if known is None else known.row
        self._suspects[number] = _Suspect(earliest, latest, row)

    def recheck(self, number: int) -> None:
        """Have a meter's newest period settled again because its settings changed."""
        self.suspect(number, _NEVER, _NEVER)
        self._noted = True

    def forget(self, number: int) -> None:
        """Leave a meter alone that was deleted."""
        self._suspects.pop(number, None)

    def work(self, connection: sa.Connection, seconds: float) -> list[LimitAlert]:
        """Settle suspects for about so many seconds; the alerts that are new, now stored."""
        alerts: list[LimitAlert] = []
        deadline = time.monotonic() + seconds
        for number, suspect in self._suspects.items():
            try:
                alerts += self._settle(connection, number, suspect.earliest, suspect.latest)
            except UnavailableError:
                raise
            except StorageError as error:  # its next reading has it looked at again
                self._leave_out(number, error)
            self._settled.append(number)
            if time.monotonic() >= deadline:
                break
        return alerts

    def _leave_out(self, number: int, error: StorageError) -> None:
        """Go on without a meter of which something is damaged, and say so once."""
        if number not in self._unreadable:
            self._unreadable.add(number)
            log.error("cannot look for a crossed limit of meter number %d: %s", number, error)

    def worked(self) -> None:
        """What ``work`` stored is durable: its suspects are settled."""
        for number in self._settled:
            del self._suspects[number]
        self._settled.clear()

    def failed(self) -> None:
        """What ``work`` stored is not durable: its suspects remain."""
        self._settled.clear()

    @property
    def waiting(self) -> int:
        """How many meters are to be settled."""
        return len(self._suspects)

    def _make_room(self, room: int) -> None:
        if room > len(self._watched.start):
            self._watched = self._watched.grown(max(room, 2 * len(self._watched.start)))

    def _settle(
        self, connection: sa.Connection, number: int, earliest: int, latest: int
    ) -> list[LimitAlert]:
        meter = self._reader.by_number(number)
        newest = self._reader.newest(meter, REGISTER)  # what _NEVER stands for
        if newest is None:
            return []
        earliest, latest = min(earliest, newest), min(latest, newest)
        # A reading at the very start of a period closes the one before.
        period = self._defaults.period(meter, earliest - 1)
        curve = energy_curve(self._reader, meter, period.start_ms)
        current = self._defaults.period(meter, int(curve.time[-1]))
        if current.start_ms < period.start_ms:  # what is newer is held back
            curve = energy_curve(self._reader, meter, current.start_ms)
        limit = self._defaults.limit(meter)
        raised = _raised(connection, number)
        alerts = []
        # A late reading may also move energy over the end of its period: up to the next reading.
        after = int(curve.time[min(len(curve.time) - 1, int(curve.time.searchsorted(latest)) + 1)])
        while period.start_ms <= after:
            crossing = limit_crossing(curve, period.start_ms, period.end_ms, limit)
            if crossing is not None and period.start_ms not in raised:
                late = self._reader.came_late(meter, REGISTER, crossing.time_ms)
                alert = LimitAlert(meter, period, crossing.time_ms, crossing.energy_wh, limit, late)
                _store(connection, alert)
                raised.add(period.start_ms)
                alerts.append(alert)
            period = self._defaults.period(meter, period.end_ms)
        self._watch_on(meter, curve, limit, newest, raised)
        return alerts

    def _watch_on(
        self, meter: Meter, curve: Curve, limit: int, newest: int, raised: set[int]
    ) -> None:
        """Keep what ``observe`` needs to leave the meter alone until something may happen."""
        self._make_room(meter.number + 1)
        watched, period = self._watched, self._defaults.period(meter, int(curve.time[-1]))
        used = curve.energy[-1] - curve.at(np.array([period.start_ms], np.int64))[0]
        register = int(self._reader.series(meter, REGISTER, newest, newest).value[0])
        watched.newest[meter.number] = newest
        watched.register[meter.number] = register
        done = period.start_ms in raised
        # Up to its first reading the register moves at the period's start; where the register was
        # lost, what it had come to.
        first = int(curve.time.searchsorted(period.start_ms))
        lost = np.flatnonzero(curve.flags[first:] & _LOSSES)
        settled = first + (int(lost[-1]) if len(lost) else 0)
        watched.start[meter.number] = curve.time[settled] + 1
        watched.end[meter.number] = period.end_ms
        watched.threshold[meter.number] = _NEVER if done else register + limit - int(used)


def _raised(connection: sa.Connection, number: int) -> set[int]:
    return {start_ms for (start_ms,) in _RAISED.rows(connection, meter=number)}


def _store(connection: sa.Connection, alert: LimitAlert) -> None:
    table = schema.alerts
    newest = connection.execute(sa.select(sa.func.max(table.c.number))).scalar() or 0
    connection.execute(
        table.insert().values(
            number=newest + 1,
            meter=alert.meter.number,
            kind="limit",
            period_start_ms=alert.period.start_ms,
            time_ms=alert.time_ms,
            energy_wh=alert.energy_wh,
            limit_wh=alert.limit_wh,
            late=alert.late,
            raised_ms=int(time.time() * 1000),
        )
    )
