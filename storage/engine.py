"""Opens databases, SQLite or PostgreSQL: durable commits, one writer, read-only readers."""

from __future__ import annotations

import time
from datetime import date

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from storage import postgresql, schema, sqlite
from storage.database import (
    REFUSALS,
    AnotherWriterError,
    Database,
    StorageError,
    UnavailableError,
    reason,
)
from storage.info import keep_number, kept_number
from storage.migrate import Report, found, migrate, refuse_newer
from storage.sqlite import database_path, identity
from storage.trouble import plain

__all__ = [
    "REFUSALS",
    "Database",
    "StorageError",
    "UnavailableError",
    "begin_snapshot",
    "close_writer",
    "database_path",
    "end_snapshot",
    "give_back",
    "identity",
    "keep_number",
    "kept_number",
    "look",
    "octets",
    "open_reader",
    "open_writer",
    "pending",
    "place",
    "prepare",
    "reason",
    "truncate_log",
]

# How long a new writer waits for the lock of one that has just ended.
_LOCK_WITHIN = 3.0


def place(database: Database) -> str:
    """Where the data stand, for people; never with a password."""
    return postgresql.place(database.url) if database.url else str(database.data)


def open_writer(
    database: Database, report: Report | None = None, *, connect: bool = True
) -> Engine:
    """The engine of the one process that writes; makes the directory and the tables if need be.

    A database of an older schema is migrated, which ``report`` is told. Raises StorageError;
    UnavailableError where a server does not let us in. With ``connect`` false the server is left
    alone: ``prepare`` what it holds once it can be reached.
    """
    engine = None
    try:
        engine = postgresql.writer(database.url) if database.url else sqlite.writer(database.data)
        if connect:
            _prepare_soon(engine, report)
    except (OSError, sa.exc.DBAPIError, StorageError) as error:
        if engine is not None:
            engine.dispose()
        raise _explained(error, database) from error
    return engine


def _prepare_soon(engine: Engine, report: Report | None) -> None:
    deadline = time.monotonic() + _LOCK_WITHIN
    while True:
        try:
            prepare(engine, report)
            return
        except AnotherWriterError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def prepare(engine: Engine, report: Report | None = None) -> None:
    """Make the tables, or migrate them, if need be. Raises StorageError for a newer Wattbus's."""
    migrate(engine, date.today(), report)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            postgresql.prepare(connection)


def close_writer(engine: Engine) -> None:
    """Leave the database tidy, as far as readers let it, and close."""
    if engine.dialect.name == "sqlite":
        sqlite.close_writer(engine)
    else:
        engine.dispose()


def open_reader(database: Database, *, older: bool = False, connect: bool = True) -> Engine:
    """An engine that only reads; of an ``older`` schema only if asked for.

    Raises StorageError where there is no database yet. With ``connect`` false a server is left
    alone until the engine is used.
    """
    engine = None
    try:
        engine = postgresql.reader(database.url) if database.url else sqlite.reader(database.data)
        if connect:
            with engine.connect() as connection:
                if older:
                    found(connection)
                else:
                    _check_version(connection)
    except (sa.exc.DBAPIError, StorageError) as error:
        if engine is not None:
            engine.dispose()
        if database.url and isinstance(error, sa.exc.ProgrammingError):
            raise StorageError(
                f"there are no tables in {place(database)} yet: start the writer first"
            ) from None
        raise _explained(error, database) from error
    return engine


def truncate_log(engine: Engine) -> bool:
    """Have what was overwritten leave the log; False while a reader still needs it: try later."""
    return engine.dialect.name != "sqlite" or sqlite.truncate_log(engine)


def begin_snapshot(connection: sa.Connection) -> int | None:
    """Begin a reader's transaction, which sees the database as it is now until its end.

    Answers a number that differs from that of the connection's last snapshot if anything was
    committed since; None where nobody knows.
    """
    if connection.dialect.name == "sqlite":
        return sqlite.begin_snapshot(connection)
    connection.begin()
    return None


def end_snapshot(connection: sa.Connection) -> bool:
    """End it; whether the connection is good for the next one, else it is closed."""
    if connection.dialect.name == "sqlite":
        sqlite.end_snapshot(connection)
        return True
    connection.close()  # the pool looks before each use whether the server has cut it off
    return False


def octets(database: Database, connection: sa.Connection) -> int:
    """The size of the database on disk."""
    return postgresql.octets(connection) if database.url else sqlite.octets(database.data)


def look(database: Database) -> int:
    """The schema of a database, 0 for one without tables.

    Raises StorageError where there is none, or one that cannot be used.
    """
    engine = open_reader(database, older=True)
    try:
        with engine.connect() as connection:
            return found(connection)
    finally:
        engine.dispose()


def pending(database: Database) -> bool:
    """Whether opening the database to write will migrate it, which may take its time."""
    try:
        return 0 < look(database) < schema.VERSION
    except StorageError:
        return False  # whoever opens it to write says what is wrong


def give_back(connection: sa.Connection, *, quiet: bool) -> bool:
    """Give some of the room of what was deleted back to the disk; whether there may be more.

    Unless it is quiet, what new readings will need again is left.
    """
    return connection.dialect.name == "sqlite" and sqlite.give_back(connection, quiet=quiet)


def _check_version(connection: sa.Connection) -> None:
    number = kept_number(connection, "schema")
    refuse_newer(number)
    if number < schema.VERSION:
        raise StorageError(
            f"the database has schema {number}, this Wattbus uses {schema.VERSION}: start the "
            "writer, or run `wattbus migrate`, and ask again when the database is migrated"
        )


def _explained(error: Exception, database: Database) -> StorageError:
    if isinstance(error, StorageError):
        return error
    if database.url is None:
        return StorageError(
            f"cannot open the database in {database.data}: {plain(error)}. "
            "Is the directory yours and writable?"
        )
    said = postgresql.without_password(reason(error), database.url)
    said = f"cannot open the database {place(database)}: {said}."
    if isinstance(error, REFUSALS):
        return UnavailableError(
            f"{said} Is the server running, and are the URL and password right?"
        )
    return StorageError(f"{said} May the user make tables there (GRANT CREATE ON SCHEMA public)?")
