"""What is stored, read back: one reader a process, over blocks, the journal and the tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import sqlalchemy as sa

from storage import (
    alert_rows,
    damaged_rows,
    deletion,
    history,
    journal,
    meters,
    newest,
    schema,
    standing,
    watermark,
)
from storage.blocks import Stored
from storage.engine import (
    Database,
    begin_snapshot,
    database_path,
    end_snapshot,
    identity,
    octets,
    open_reader,
)
from storage.meters import Meter
from storage.newest import Tip
from storage.once import MOST, Made, once
from storage.prepared import Prepared
from storage.standing import Standing
from storage.tail import Tail
from telemetry.intervals import Replacement
from telemetry.readings import Series
from telemetry.registers import Register

log = logging.getLogger("storage")

_BODIES_A_READ = 256
_NEW = Prepared(
    sa.select(schema.journal.c.id, schema.journal.c.body)
    .where(schema.journal.c.id > sa.bindparam("last"))
    .order_by(schema.journal.c.id)
    .limit(_BODIES_A_READ)
)


class UnknownMeterError(LookupError):
    """No meter has this id."""


class Reader:
    """Reads one database. Everything is asked inside a ``snapshot``. Not thread-safe."""

    def __init__(self, database: Database, *, connect: bool = True) -> None:
        """Open the database; raises StorageError where there is none yet.

        With ``connect`` false a server is left alone until the first ``snapshot``.
        """
        self._database = database
        self._file = None if database.url else database_path(database.data)
        self._identity = self._file and identity(self._file)
        self._engine = open_reader(database, connect=connect)
        self._tail = Tail()
        self._watermark = watermark.Watermark()
        self._oldest: dict[tuple[int, int], int | None] = {}  # sealed, by meter and register
        self._damaged: set[int] = set()  # rows of the journal, not sealed, that are left out
        self._last = 0
        self._deletions = self._made_again = 0  # of meters and of their days, that are known
        self._version: int | None = None  # of the database, in the last snapshot
        self.news = 0  # grows with each snapshot that may see more than the one before it
        self._meters: dict[str, Meter] = {}  # asked for since the last news
        self._remembered: dict[Hashable, Any] = {}  # since then too
        self._lasting: dict[Hashable, Any] = {}  # as long as only rows of the journal come
        self._idle: sa.Connection | None = None
        self._current: sa.Connection | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._idle is not None:
            self._idle.close()
        self._engine.dispose()

    @property
    def moved(self) -> bool:
        """Whether the database is no longer the one that was opened: open it again."""
        return self._file is not None and identity(self._file) != self._identity

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See the database as it is now, all that is committed, until the end of the block.

        Raises StorageError on damage.
        """
        if self._idle is None:
            self._version = None  # each connection counts for itself
        connection = self._idle or self._engine.connect()
        self._idle, self._current = None, connection
        try:
            self._follow(begin_snapshot(connection))
            yield
        finally:
            self._current = None
            if end_snapshot(connection):
                self._idle = connection

    @property
    def connection(self) -> sa.Connection:
        """The snapshot's connection, for questions that have a module of their own."""
        assert self._current is not None, "outside a snapshot"
        return self._current

    def _follow(self, version: int | None) -> None:
        """Learn what was committed since the last snapshot."""
        if version is not None and version == self._version:
            return
        self._version = None
        self.news += 1
        self._meters.clear()
        self._remembered.clear()
        self._follow_journal()
        for note in deletion.notes(self.connection, self._deletions).values():
            self._tail.forget(note.meter)
            self._deletions += 1
            self._lasting.clear()
        self._version = version

    def _follow_journal(self) -> None:
        """Take in the journal's new rows, and leave what is in blocks by now to the blocks."""
        reached = watermark.read(self.connection)
        made_again = standing.made_again(self.connection)
        if (reached, made_again) != (self._watermark, self._made_again):
            self._lasting.clear()
        self._made_again = made_again
        if reached != self._watermark or len(self._oldest) > MOST:
            self._oldest.clear()
        self._watermark = reached
        self._last = max(self._last, self._watermark.sealed)
        while True:
            rows = _NEW.rows(self.connection, last=self._last)
            for number, body in rows:
                try:
                    self._tail.add(number, journal.decode(body))
                except journal.DamagedError as error:
                    self._leave_out(number, error)
                self._last = number
            if len(rows) < _BODIES_A_READ:
                break
        self._tail.seal(self._watermark)

    def _leave_out(self, number: int, error: journal.DamagedError) -> None:
        """Answer without a row that is damaged: what is in all others is right."""
        self._damaged.add(number)
        log.error(
            "row %d of the journal is damaged (%s): its readings are left out of every answer. "
            "docs/care.md says how to get them back",
            number,
            error,
        )

    @property
    def damaged(self) -> int:
        """How many rows of the journal are damaged, and left out."""
        reached = self._watermark.sealed
        self._damaged = {row for row in self._damaged if row > reached}
        return len(self._damaged) + damaged_rows.count(self.connection, reached)

    @property
    def octets(self) -> int:
        """The size of the database on disk."""
        return octets(self._database, self.connection)

    def readings(self) -> int:
        """Values stored, repeats among them."""
        return self._watermark.values + len(self._tail)

    def meter(self, name: str) -> Meter:
        """The meter of an id; UnknownMeterError, or ValueError for what is no id."""
        found = self._meters.get(name) or meters.find(self.connection, name)
        if found is None:
            raise UnknownMeterError(meters.unknown(name))
        self._meters[name] = found
        return found

    def standing(self, name: str) -> Standing:
        """What the answers about a meter hang on; errors as in ``meter``."""
        return Standing(self.meter(name), self._watermark, self._made_again, self._last)

    def stands(self, name: str, known: Standing) -> bool:
        """Whether an answer about a meter is still what it was."""
        with suppress(UnknownMeterError):
            now = self.standing(name)
            return now[:3] == known[:3] and not self._tail.came(now.meter.number, known.row)
        return False

    def by_number(self, number: int) -> Meter:
        """The meter with this number."""
        return meters.by_number(self.connection, number)

    def meters(self, prefix: str, after: str, most: int) -> list[Meter]:
        """A page of meters by id."""
        return meters.page(self.connection, prefix, after, most)

    def meter_count(self) -> int:
        """How many meters there are."""
        return meters.count(self.connection)

    def series(
        self,
        meter: Meter,
        register: Register,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> Series:
        """A register's readings from ``start_ms`` to ``end_ms``, both included.

        Mostly by time; those of one instant always in the order of their acceptance.
        """
        parts = self._sealed(meter, register, start_ms, end_ms)
        unsealed = self._tail.series(meter.number, register.code)
        if len(unsealed):
            parts.append(unsealed.take(history.inside(unsealed.time, start_ms, end_ms)))
        return history.together(parts)

    def _sealed(
        self, meter: Meter, register: Register, start_ms: int | None, end_ms: int | None
    ) -> list[Stored]:
        return history.parts(
            self.connection, self._watermark, meter.number, register.code, start_ms, end_ms
        )

    @property
    def unsealed(self) -> tuple[Tail, int]:
        """What is only in the journal, as the snapshot sees it, and its newest row."""
        return self._tail, self._last

    def unsealed_span(self, meter: Meter, register: Register) -> tuple[int, int] | None:
        """The first and the last instant of the register that are only in the journal."""
        return self._tail.span(meter.number, register.code)

    def remembered(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What is made once, until something is committed, or there is too much of it."""
        return once(self._remembered, name, make)

    def lasting(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What is made once, and kept up by who made it, while only rows of the journal come."""
        return once(self._lasting, name, make)

    def newest(self, meter: Meter, register: Register) -> int | None:
        """The instant of a register's newest reading; None where there is none."""
        tip = self.tip(meter, register)
        return _utmost(max, tip and tip.time_ms, self.unsealed_span(meter, register))

    def tip(self, meter: Meter, register: Register) -> Tip | None:
        """A register's newest sealed reading; None where none is sealed."""
        return self.remembered(
            ("tip", meter.number, register.code),
            lambda: newest.tip(self.connection, meter.number, register.code),
        )

    def oldest(self, meter: Meter, register: Register) -> int | None:
        """The instant of a register's oldest reading; None where there is none."""
        key = meter.number, register.code
        if key not in self._oldest:
            self._oldest[key] = history.oldest(self.connection, self._watermark, *key)
        return _utmost(min, self._oldest[key], self.unsealed_span(meter, register))

    def begins(self, meter: Meter, register: Register) -> int | None:
        """An instant before which the register has no reading; None where it has none at all.

        Told at once, where ``oldest`` has to look into blocks.
        """
        if (meter.number, register.code) in self._oldest:
            return self.oldest(meter, register)
        sealed = history.begins(self.connection, self._watermark, meter.number)
        return _utmost(min, sealed, self.unsealed_span(meter, register))

    def came_late(self, meter: Meter, register: Register, instant: int) -> bool:
        """Whether newer readings had been accepted before the first one of an instant was."""
        sealed_there = self._sealed(meter, register, instant, instant)
        if sealed_there:
            return bool(sealed_there[0].late[0])
        tail = self._tail.series(meter.number, register.code).time
        before = tail[: int(np.flatnonzero(tail == instant)[0])]
        tip = self.tip(meter, register)
        return bool((before > instant).any()) or (tip is not None and tip.time_ms > instant)

    def replacements(self, meter: Meter) -> list[Replacement]:
        """The exchanges of a meter's device."""
        return self.remembered(
            ("replacements", meter.number),
            lambda: meters.replacements(self.connection, meter.number),
        )

    def latest(self, meter: Meter) -> list[tuple[int, int, int, int]]:
        """The newest reading of each register: code, time, raw value, status."""
        return newest.of_registers(self.connection, meter.number, self._tail.meter(meter.number))

    def alerts(
        self, meter: Meter | None, before: int | None, most: int
    ) -> Sequence[sa.Row[tuple[object, ...]]]:
        """A page of alerts with the ids and zones of their meters, the last raised first."""
        return alert_rows.page(self.connection, meter, before, most)


def _utmost(
    most: Callable[[Iterable[int]], int], sealed: int | None, span: tuple[int, int] | None
) -> int | None:
    """The least or the greatest of instants, of which there may be none."""
    found = [*([] if sealed is None else [sealed]), *(span or ())]
    return most(found) if found else None
