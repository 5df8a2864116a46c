"""What is stored, read back: one reader a process, over the journal in memory and the tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import sqlalchemy as sa

from storage import journal, meters, schema
from storage.engine import Database, database_path, identity, open_reader
from storage.meters import Meter
from storage.tail import Tail
from telemetry.intervals import Replacement
from telemetry.readings import Series
from telemetry.registers import Register

log = logging.getLogger("storage")

_BODIES_A_READ = 256
_NEW = (
    sa.select(schema.journal.c.id, schema.journal.c.body)
    .where(schema.journal.c.id > sa.bindparam("last"))
    .order_by(schema.journal.c.id)
    .limit(_BODIES_A_READ)
)
_ALERT_COLUMNS = [*schema.alerts.c, schema.meters.c.id.label("id"), schema.meters.c.time_zone]


class UnknownMeterError(LookupError):
    """No meter has this id."""


class Reader:
    """Reads one database. Everything is asked inside a ``snapshot``. Not thread-safe."""

    def __init__(self, database: Database) -> None:
        """Open the database; raises StorageError where there is none yet."""
        self._path = database_path(database.data)
        self._identity = identity(self._path)
        self._engine = open_reader(database)
        self._tail = Tail()
        self.damaged = 0  # rows of the journal that are left out
        self._last = 0
        self._current: sa.Connection | None = None

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @property
    def moved(self) -> bool:
        """Whether the database is no longer the one that was opened: open it again."""
        return identity(self._path) != self._identity

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See the database as it is now, all that is committed, until the end of the block."""
        with self._engine.connect() as connection, connection.begin():
            self._current = connection
            try:
                self._follow_journal()
                yield
            finally:
                self._current = None

    @property
    def _connection(self) -> sa.Connection:
        assert self._current is not None, "outside a snapshot"
        return self._current

    def _follow_journal(self) -> None:
        """Take in the journal's new rows."""
        while True:
            rows = self._connection.execute(_NEW, {"last": self._last}).all()
            for number, body in rows:
                try:
                    self._tail.add(journal.decode(body))
                except journal.DamagedError as error:
                    self._leave_out(number, error)
                self._last = number
            if len(rows) < _BODIES_A_READ:
                return

    def _leave_out(self, number: int, error: journal.DamagedError) -> None:
        """Answer without a row that is damaged: what is in all others is right."""
        self.damaged += 1
        log.error(
            "row %d of the journal is damaged (%s): its readings are left out of every answer. "
            "docs/care.md says how to get them back",
            number,
            error,
        )

    @property
    def octets(self) -> int:
        """The size of the database and its log on disk."""
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def readings(self) -> int:
        """Values stored, repeats among them."""
        return len(self._tail)

    def meter(self, name: str) -> Meter:
        """The meter of an id; UnknownMeterError, or ValueError for what is no id."""
        found = meters.find(self._connection, name)
        if found is None:
            raise UnknownMeterError(meters.unknown(name))
        return found

    def by_number(self, number: int) -> Meter:
        """The meter with this number."""
        return meters.by_number(self._connection, number)

    def meters(self, prefix: str, after: str, most: int) -> list[Meter]:
        """A page of meters by id."""
        return meters.page(self._connection, prefix, after, most)

    def meter_count(self) -> int:
        """How many meters there are."""
        return meters.count(self._connection)

    def series(self, meter: Meter, register: Register) -> Series:
        """A register's readings in the order of their acceptance."""
        return self._tail.series(meter.number, register.code)

    def replacements(self, meter: Meter) -> list[Replacement]:
        """The exchanges of a meter's device."""
        return meters.replacements(self._connection, meter.number)

    def latest(self, meter: Meter) -> list[tuple[int, int, int, int]]:
        """The newest reading of each register: code, time, raw value, status."""
        registers, found = self._tail.meter(meter.number)
        # By register, then time, then acceptance: the last of each register is its newest.
        order = np.lexsort((found.time, registers))
        ends = np.flatnonzero(np.diff(registers[order], append=-1))
        last = order[ends]
        columns = (registers[last], found.time[last], found.value[last], found.status[last])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def alerts(
        self, meter: Meter | None, before: int | None, most: int
    ) -> Sequence[sa.Row[tuple[object, ...]]]:
        """A page of alerts with the ids and zones of their meters, the last raised first."""
        query = sa.select(*_ALERT_COLUMNS).join(
            schema.meters, schema.meters.c.number == schema.alerts.c.meter
        )
        if meter is not None:
            query = query.where(schema.alerts.c.meter == meter.number)
        if before is not None:
            query = query.where(schema.alerts.c.number < before)
        query = query.order_by(schema.alerts.c.number.desc()).limit(most)
        return self._connection.execute(query).all()
