"""Opens databases: SQLite set up so that a commit is durable, one writer, read-only readers."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

from storage import schema
from storage.trouble import plain

# On every connection that writes. FULL: the WAL is synced at each commit, before it returns.
_WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA cache_size = -16384",
    # The log is folded in every 1,000 pages, and cut to this when it begins anew (storage/wal.py).
    "PRAGMA journal_size_limit = 16777216",
)
_READER_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA busy_timeout = 5000")


class StorageError(Exception):
    """The database cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where the data stand: in a directory, with the SQLite database in it."""

    data: Path


def database_path(data: Path) -> Path:
    """Where the database stands in the data directory."""
    return data / "wattbus.sqlite3"


def identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another that took its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_writer(database: Database) -> Engine:
    """The engine of the one process that writes; makes the directory and the tables if need be.

    Raises StorageError.
    """
    data = database.data
    try:
        data.mkdir(parents=True, exist_ok=True)
        engine = _engine(f"file:{_quoted(database_path(data))}?mode=rwc", _WRITER_PRAGMAS)
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
            _check_version(connection)
            keep_number(connection, "schema", schema.VERSION)
    except (OSError, sa.exc.DBAPIError) as error:
        raise StorageError(_plain(error, data)) from error
    return engine


def close_writer(engine: Engine) -> None:
    """Fold the log into the database, as far as readers let it, and close."""
    connection = engine.raw_connection()
    connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    connection.close()
    engine.dispose()


def open_reader(database: Database) -> Engine:
    """An engine that only reads. Raises StorageError where there is no database yet."""
    path = database_path(database.data)
    if not path.exists():
        raise StorageError(f"there is no database at {path} yet: start the writer first")
    engine = _engine(f"file:{_quoted(path)}?mode=ro", _READER_PRAGMAS)
    try:
        with engine.connect() as connection:
            _check_version(connection)
    except sa.exc.DBAPIError as error:
        raise StorageError(_plain(error, database.data)) from error
    return engine


def _engine(uri: str, pragmas: tuple[str, ...]) -> Engine:
    writes = pragmas is _WRITER_PRAGMAS
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False
        ),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0 if writes else 4,
    )

    event.listen(engine, "begin", _begin_immediate if writes else _begin)

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        for pragma in pragmas:
            connection.execute(pragma)

    return engine


def _begin_immediate(connection: sa.Connection) -> None:
    # The driver is in autocommit mode; the write lock is taken at once, never half way through.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def keep_number(connection: sa.Connection, key: str, number: int) -> None:
    """Keep a number of the collector's own under a key."""
    table = schema.info
    if not connection.execute(
        table.update().where(table.c.key == key).values(value=str(number))
    ).rowcount:
        connection.execute(table.insert().values(key=key, value=str(number)))


def kept_number(connection: sa.Connection, key: str) -> int:
    """The number kept under a key, 0 when there is none."""
    table = schema.info
    found = connection.execute(sa.select(table.c.value).where(table.c.key == key)).scalar()
    return int(found or 0)


def _check_version(connection: sa.Connection) -> None:
    found = kept_number(connection, "schema")
    if found > schema.VERSION:
        raise StorageError(
            f"the database has schema {found}, newer than this Wattbus knows "
            f"({schema.VERSION}): install the newer Wattbus again, or restore a backup"
        )


def _quoted(path: Path) -> str:
    return quote(str(path.absolute()))


def _plain(error: Exception, data: Path) -> str:
    return f"cannot open the database in {data}: {plain(error)}. Is it yours and writable?"
