"""Looks through a database file that nobody writes: is it ours, is it whole, what is in it?"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from storage import blocks, deliveries, journal, schema
from storage.engine import StorageError
from storage.own_files import MAGIC

# What checks a body; raises ValueError.
_DECODERS: dict[str, Callable[[bytes], object]] = {
    "journal": journal.decode,
    "blocks": blocks.decode,
    "deliveries": deliveries.decode,
}


@dataclass(frozen=True, slots=True)
class Damage:
    """A row whose body is not what was written."""

    table: str
    id: int
    reason: str

    def __str__(self) -> str:
        return f"row {self.id} of the {self.table}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is in a file."""

    version: int
    rows: dict[str, int]  # by table
    damaged: list[Damage]


def recognize(file: Path) -> int:
    """The schema version of a Wattbus database file; StorageError for anything else."""
    try:
        with file.open("rb") as opened:
            head = opened.read(len(MAGIC))
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from None
    if head != MAGIC:
        raise StorageError(f"{file} is no SQLite database, so no backup of Wattbus")
    log = file.with_name(file.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise StorageError(
            f"{file} is in use or was not closed ({log.name} lies beside it): "
            "make a backup of it with `wattbus backup`, and give that"
        )
    try:
        with closing(_open(file)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            found = None
            if {"info", "meters", "journal"} <= tables:
                query = "SELECT value FROM info WHERE key = 'schema'"
                found = connection.execute(query).fetchone()
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{file} is damaged: {error}. Take another backup") from None
    if found is None:
        raise StorageError(f"{file} is a SQLite database, but none of Wattbus")
    version = int(found[0])
    if version > schema.VERSION:
        raise StorageError(
            f"{file} has schema {version}, newer than this Wattbus knows ({schema.VERSION}): "
            "install the newer Wattbus"
        )
    return version


def inspect(file: Path, look: Callable[[], None] = lambda: None) -> Findings:
    """Check a file from end to end; StorageError where it is not a whole database of ours.

    ``look`` is called now and then; what it raises ends the work.
    """
    version = recognize(file)
    try:
        with closing(_open(file)) as connection:
            connection.set_progress_handler(look, 100_000)
            said = [line for (line,) in connection.execute("PRAGMA quick_check(3)")]
            if said != ["ok"]:
                raise StorageError(f"{file} is damaged: {'; '.join(said)}. Take another backup")
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall()
            rows = {
                name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
                for (name,) in names
            }
            damaged = [
                damage
                for table in _DECODERS
                if table in rows
                for damage in _damaged(connection, table, look)
            ]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None  # Ctrl-C reaches only ``look``, amid a long check
        raise StorageError(f"{file} is damaged: {error}. Take another backup") from None
    return Findings(version, rows, damaged)


def engine(file: Path) -> Engine:
    """An engine that reads a file that nobody writes."""
    return sa.create_engine("sqlite://", creator=lambda: _open(file))


def body(file: Path, table: str, id: int) -> bytes | None:
    """The body of a row as the file has it."""
    with closing(_open(file)) as connection:
        query = f'SELECT body FROM "{table}" WHERE id = ?'
        found = connection.execute(query, (id,)).fetchone()
    return None if found is None else bytes(found[0])


def _damaged(connection: sqlite3.Connection, table: str, look: Callable[[], None]) -> list[Damage]:
    decode, found = _DECODERS[table], []
    for number, octets in connection.execute(f'SELECT id, body FROM "{table}" ORDER BY id'):
        try:
            decode(octets)
        except ValueError as error:
            found.append(Damage(table, number, str(error)))
        look()
    return found


def _open(file: Path) -> sqlite3.Connection:
    # Immutable: nobody writes it, and no log is looked for or left beside it.
    uri = f"file:{quote(str(file.absolute()))}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True)
