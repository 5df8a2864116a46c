"""Removes meters: from every question at once, their octets a little at a time between commits.

``delete`` takes the meter out of all tables of plain rows, in one transaction, and leaves a note in
``info``. ``Deletions`` then takes its readings out of the journal and the blocks, row by row, and
keeps in the note how far it has come. Notes stay for ever: other processes learn from them whose
readings they must forget. A number is never given again (``highest``).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from enum import StrEnum

import msgspec
import sqlalchemy as sa

from storage import blocks, journal, meters, schema, watermark
from storage.database import Begin
from storage.engine import REFUSALS, keep_number, kept_number, reason, truncate_log
from storage.prepared import Prepared

log = logging.getLogger("writer")

_INFO, _JOURNAL, _BLOCKS, _DAILY = schema.info, schema.journal, schema.blocks, schema.daily
_NOTE = "deletion "
_HIGHEST = "highest_meter"
_NOTES = Prepared(
    sa.select(_INFO.c.key, _INFO.c.value)
    .where(_INFO.c.key.startswith(_NOTE))
    .order_by(_INFO.c.key)
    .offset(sa.bindparam("known", type_=sa.Integer))
)
_PATIENCE = 1.0  # seconds between tries
# Every table that has plain rows of meters; ``daily`` is large and goes by day, and what a meter
# has in ``ledger`` the writer's Ledger adds to that of all deleted ones.
_PLAIN = [
    table
    for table in schema.metadata.tables.values()
    if "meter" in table.c and table not in (_DAILY, schema.ledger)
]


class Stage(StrEnum):
    """What of a meter is to be removed next."""

    JOURNAL = "journal"
    BLOCKS = "blocks"
    ROWS = "rows"  # what was made of its readings while they were removed
    FILES = "files"  # the log, in which what was overwritten still stands
    DONE = "done"


class Note(msgspec.Struct, array_like=True, frozen=True):
    """How far the deletion of a meter has come: ``after`` is the last row looked at."""

    meter: int
    stage: Stage = Stage.JOURNAL
    after: int = -1


def delete(connection: sa.Connection, number: int, highest: int) -> None:
    """Remove a meter from every question; ``highest`` is the highest number given so far."""
    keep_number(connection, _HIGHEST, highest)
    _delete_rows(connection, number)
    connection.execute(schema.meters.delete().where(schema.meters.c.number == number))
    count = sa.select(sa.func.count()).where(_INFO.c.key.startswith(_NOTE))
    sequence = connection.execute(count).scalar_one()
    note = msgspec.json.encode(Note(number)).decode()
    connection.execute(_INFO.insert().values(key=f"{_NOTE}{sequence:010d}", value=note))


def highest(connection: sa.Connection) -> int:
    """The highest number that was given when a meter was last deleted."""
    return kept_number(connection, _HIGHEST)


def notes(connection: sa.Connection, known: int = 0) -> dict[str, Note]:
    """The notes of all deletions but the first ``known`` ones, by their keys, in their order."""
    rows = _NOTES.rows(connection, known=known)
    return {key: msgspec.json.decode(value, type=Note) for key, value in rows}


def leaving(connection: sa.Connection) -> set[int]:
    """The numbers of deleted meters of which something may still be stored."""
    return {note.meter for note in notes(connection).values() if note.stage is not Stage.DONE}


class Deletions:
    """Belongs to the writer: removes between its commits what is left of deleted meters."""

    def __init__(self, begin: Begin, engine: sa.Engine) -> None:
        """``begin`` makes the writer's transactions; ``learn`` has to be called first."""
        self._begin, self._engine = begin, engine
        self._notes: dict[str, Note] = {}
        self._again = 0.0

    @property
    def waiting(self) -> bool:
        """Whether there is something to remove now."""
        return bool(self._notes) and time.monotonic() >= self._again

    @property
    def numbers(self) -> set[int]:
        """The deleted meters of which something may still be stored."""
        return {note.meter for note in self._notes.values()}

    @property
    def removing(self) -> bool:
        """Whether readings are still to be removed: nobody else may change rows with them."""
        return any(note.stage not in (Stage.FILES, Stage.DONE) for note in self._notes.values())

    def delete(self, id: str, highest: int) -> int | None:
        """Delete a meter (see the function ``delete``); its number, None if there is none."""
        with self._begin() as connection:
            meter = meters.find(connection, id)
            if meter is None:
                return None
            delete(connection, meter.number, highest)
            self.learn(connection)
        return meter.number

    def learn(self, connection: sa.Connection) -> None:
        """See what is to be removed; go on with what an earlier writer has not finished."""
        found = notes(connection).items()
        self._notes = {key: note for key, note in found if note.stage is not Stage.DONE}

    def work(self, seconds: float) -> bool:
        """Remove for about so many seconds, a row at least; after a failure not for a while.

        Answers whether it has just removed the last reading that was to be removed.
        """
        removing = self.removing
        deadline = time.monotonic() + seconds
        while self.waiting:
            key, note = next(iter(self._notes.items()))
            try:
                done = self._step(key, note)
            except REFUSALS as error:
                log.error("cannot remove a deleted meter's readings yet: %s", reason(error))
                done = False
            if not done:
                self._again = time.monotonic() + _PATIENCE
            if time.monotonic() >= deadline:
                break
        return removing and not self.removing

    def _step(self, key: str, note: Note) -> bool:
        """One transaction, about one row; False while somebody still reads what is to go."""
        if note.stage is Stage.FILES and not truncate_log(self._engine):
            return False
        with self._begin() as connection:
            note = _STEPS[note.stage](connection, note)
            update = _INFO.update().where(_INFO.c.key == key)
            connection.execute(update.values(value=msgspec.json.encode(note).decode()))
        self._notes[key] = note
        if note.stage is Stage.DONE:
            del self._notes[key]
        return True


def _in_journal(connection: sa.Connection, note: Note) -> Note:
    """Take the readings out of the next row; one without readings stays, for its id."""
    query = sa.select(_JOURNAL.c.id, _JOURNAL.c.body).where(_JOURNAL.c.id > note.after)
    row = connection.execute(query.order_by(_JOURNAL.c.id).limit(1)).one_or_none()
    if row is None:
        return Note(note.meter, Stage.BLOCKS)
    with _damage_of("row", row.id):
        batch = journal.decode(row.body)
        kept = batch.without(note.meter)
        if len(kept) < len(batch):
            update = _JOURNAL.update().where(_JOURNAL.c.id == row.id)
            update = update.values(readings=len(kept), body=journal.encode(kept))
            if len(kept):
                first_ms, last_ms = int(kept.time.min()), int(kept.time.max())
                update = update.values(first_ms=first_ms, last_ms=last_ms)
            connection.execute(update)
    return Note(note.meter, Stage.JOURNAL, row.id)


def _in_blocks(connection: sa.Connection, note: Note) -> Note:
    """Take the readings out of the next block of the meter's groups."""
    reached = watermark.read(connection)
    groups = [
        (_BLOCKS.c.shift == shift) & (_BLOCKS.c.grp == note.meter >> shift)
        for shift in reached.shift_list
    ]
    query = sa.select(_BLOCKS.c.id, _BLOCKS.c.body).where(sa.or_(sa.false(), *groups))
    query = query.where(_BLOCKS.c.id > note.after).order_by(_BLOCKS.c.id).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return Note(note.meter, Stage.ROWS)
    with _damage_of("block", row.id):
        stored = blocks.decode(row.body)
        kept = stored.take(stored.meter != note.meter)
        this = _BLOCKS.c.id == row.id
        if not len(kept):
            connection.execute(_BLOCKS.delete().where(this))
        elif len(kept) < len(stored):
            body = blocks.encode(kept)
            first_ms, last_ms = int(kept.time.min()), int(kept.time.max())
            update = _BLOCKS.update().where(this)
            connection.execute(
                update.values(readings=len(kept), first_ms=first_ms, last_ms=last_ms, body=body)
            )
        values = reached.values - (len(stored) - len(kept))
        watermark.write(connection, dataclasses.replace(reached, values=values))
    return Note(note.meter, Stage.BLOCKS, row.id)


@contextmanager
def _damage_of(what: str, number: int) -> Iterator[None]:
    """Leave alone what cannot be read; `wattbus verify` finds it."""
    try:
        yield
    except journal.DamagedError as error:
        log.error("cannot remove a deleted meter from %s %d: %s", what, number, error)


def _in_rows(connection: sa.Connection, note: Note) -> Note:
    _delete_rows(connection, note.meter)
    return Note(note.meter, Stage.FILES)


def _in_files(_connection: sa.Connection, note: Note) -> Note:
    return Note(note.meter, Stage.DONE)


_STEPS = {
    Stage.JOURNAL: _in_journal,
    Stage.BLOCKS: _in_blocks,
    Stage.ROWS: _in_rows,
    Stage.FILES: _in_files,
}


def _delete_rows(connection: sa.Connection, number: int) -> None:
    for table in _PLAIN:
        connection.execute(table.delete().where(table.c.meter == number))
    days = [{"of_day": day, "of_meter": number} for day in _days(connection)]
    if days:
        connection.execute(_DELETE_DAY, days)


_DELETE_DAY = _DAILY.delete().where(
    _DAILY.c.day == sa.bindparam("of_day"), _DAILY.c.meter == sa.bindparam("of_meter")
)


def _days(connection: sa.Connection) -> Iterator[int]:
    """All days that the table may have: by each of them its row of a meter is found at once."""
    query = sa.select(sa.func.min(_DAILY.c.day), sa.func.max(_DAILY.c.day))
    first, last = connection.execute(query).one()
    if first is None:
        return
    day, end = (date(each // 10_000, each // 100 % 100, each % 100) for each in (first, last))
    for ordinal in range(day.toordinal(), end.toordinal() + 1):
        day = date.fromordinal(ordinal)
        yield day.year * 10_000 + day.month * 100 + day.day
