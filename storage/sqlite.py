"""SQLite: set up so that a commit is durable; one connection writes, readers only read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

from storage.database import StorageError
from storage.own_files import DATABASE

# On every connection that writes. FULL: the WAL is synced at each commit, before it returns.
# That a file can shrink is settled before anything is written to it, the WAL's mark included.
_WRITER_PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA cache_size = -16384",
    # What is deleted is overwritten where that costs no page more (storage/deletion.py).
    "PRAGMA secure_delete = FAST",
    # The log is folded in every 1,000 pages, and cut to this when it begins anew (storage/wal.py).
    "PRAGMA journal_size_limit = 16777216",
)
_READER_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA busy_timeout = 5000")


def database_path(data: Path) -> Path:
    """Where the database stands in the data directory."""
    return data / DATABASE


def identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another that took its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def writer(data: Path) -> Engine:
    """An engine that writes; makes the directory. Raises OSError."""
    data.mkdir(parents=True, exist_ok=True)
    return _engine(f"file:{_quoted(database_path(data))}?mode=rwc", _WRITER_PRAGMAS)


def reader(data: Path) -> Engine:
    """An engine that only reads. Raises StorageError where there is no database yet."""
    path = database_path(data)
    if not path.exists():
        raise StorageError(f"there is no database at {path} yet: start the writer first")
    return _engine(f"file:{_quoted(path)}?mode=ro", _READER_PRAGMAS)


def close_writer(engine: Engine) -> None:
    """Fold the log into the database, as far as readers let it, and close."""
    connection = engine.raw_connection()
    connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    connection.close()
    engine.dispose()


def truncate_log(engine: Engine) -> bool:
    """Give the empty pages back, fold the log into the database and cut it off.

    False where pages are left, or a reader still needs the log: to be called again.
    """
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        driver: Any = connection.driver_connection
        driver.executescript(f"PRAGMA incremental_vacuum({_PAGES_TO_EMPTY})")
        (empty,) = cursor.execute("PRAGMA freelist_count").fetchone()
        (shrinks,) = cursor.execute("PRAGMA auto_vacuum").fetchone()
        if empty and shrinks:
            return False
        cursor.execute("PRAGMA busy_timeout = 0")  # commits do not wait for readers
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (busy, *_), *_ = cursor.fetchall()
        cursor.execute("PRAGMA busy_timeout = 5000")
        cursor.close()
    finally:
        connection.close()
    return not busy


def begin_snapshot(connection: sa.Connection) -> int:
    """Begin a reader's transaction; what differs from the last if others have committed since.

    SQLAlchemy joins it only when something is asked: without news it costs some microseconds.
    """
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute("BEGIN")
        (version,) = driver.execute("PRAGMA data_version").fetchone()  # looks, and so fixes it
    except sqlite3.Error as error:
        raise sa.exc.OperationalError("BEGIN", (), error) from None
    return int(version)


def end_snapshot(connection: sa.Connection) -> None:
    """End what ``begin_snapshot`` began, whether SQLAlchemy knows of it or not."""
    driver: Any = connection.connection.driver_connection
    if connection.in_transaction():
        connection.rollback()
    driver.rollback()


def octets(data: Path) -> int:
    """The size of the database and its log on disk."""
    path = database_path(data)
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


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
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:  # ``begin_snapshot`` has begun it
        connection.exec_driver_sql("BEGIN")


def _quoted(path: Path) -> str:
    return quote(str(path.absolute()))


# New readings soon fill what is deleted: a part of the file may be empty, and what a pass of
# sealing leaves in any case. Where none come, a smaller part.
_EMPTY_PART, _EMPTY_IN_QUIET = 32, 512
_PAGES_OF_A_PASS = 2048
_PAGES_TO_EMPTY = 2048  # some 20 ms
_PAGES_AT_ONCE = 256


def give_back(connection: sa.Connection, *, quiet: bool) -> bool:
    """Shorten the file by some of its empty pages; whether that is worth going on with."""
    empty = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    enough = pages / _EMPTY_IN_QUIET if quiet else max(pages / _EMPTY_PART, _PAGES_OF_A_PASS)
    if empty <= enough:
        return False
    # It frees a page a step, and only a script is stepped to its end, outside of a transaction.
    driver: Any = connection.connection.driver_connection
    driver.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
    return bool(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one() < empty)
