"""Brings a database to the newest schema, one transaction a step (docs/upgrading.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from storage import files, schema
from storage.database import StorageError
from storage.info import keep_number, kept_number

log = logging.getLogger("migrate")

# Alembic's own; it follows info.schema, which is what people are told.
STAMP = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """Where to tell how it goes: sentences, and how much of the backup is made (done, of)."""

    say: Callable[[str], None] = log.info
    copied: files.Copied = files.quietly


def found(connection: sa.Connection) -> int:
    """The schema of the database, 0 for one without tables.

    Raises StorageError for a newer one, and for tables that are not Wattbus's.
    """
    names = set(sa.inspect(connection).get_table_names())
    if not names & set(schema.metadata.tables):
        return 0
    number = kept_number(connection, "schema") if schema.info.name in names else 0
    if number < 1:
        raise StorageError(
            "the database has tables, but says no schema: it is not Wattbus's, or was damaged; "
            "restore a backup, or choose another place for the data"
        )
    refuse_newer(number)
    return number


def refuse_newer(number: int) -> None:
    """Raise StorageError for a schema that this Wattbus does not know."""
    if number > schema.VERSION:
        raise StorageError(
            f"the database has schema {number}, newer than this Wattbus knows "
            f"({schema.VERSION}): install the newer Wattbus again, or restore a backup"
        )


def migrate(engine: Engine, today: date, report: Report | None = None) -> int:
    """Bring the database to the newest schema; the one it had, 0 if it was empty.

    ``today`` names the backup. A step that fails, or is killed, leaves the schema before it whole.
    Raises StorageError, and sqlalchemy.exc.DBAPIError where the database cannot be read.
    """
    report = report or Report()
    with _transaction(engine) as connection:
        number = found(connection)
        if number == 0:
            schema.metadata.create_all(connection)
            stamp(connection, schema.VERSION)
    if 0 < number < schema.VERSION:
        began = time.monotonic()
        report.say(f"the database has schema {number}, this Wattbus uses {schema.VERSION}")
        _prepare(engine, number, today, report)
        for step in range(number + 1, schema.VERSION + 1):
            report.say(f"migrating to schema {step}")
            _step(engine, step)
        make_shrinkable(engine, report)
        report.say(
            f"the database has schema {schema.VERSION} now, "
            f"after {time.monotonic() - began:.1f} s; all readings are kept"
        )
    return number


def make_shrinkable(engine: Engine, report: Report) -> bool:
    """Have SQLite give back what is deleted, in a file that was made without; whether it was done.

    The whole file is written anew once; where there is no room for that, it says so.
    """
    if engine.dialect.name != "sqlite":
        return False
    with _driver(engine) as connection:
        if files.shrinks(connection):
            return False
        lacking = files.lacking_room(connection)
        if not lacking:
            report.say("writing the file anew once, so that it can shrink when history is thinned")
            lacking = files.rewrite(connection)
    if lacking:
        report.say(
            f"the file cannot be written anew ({lacking}): it works as it is, but does not shrink; "
            "when there is room, stop Wattbus and run `wattbus migrate`"
        )
    return not lacking


def stamp(connection: sa.Connection, number: int) -> None:
    """Keep which schema the database has, for people and for Alembic."""
    keep_number(connection, "schema", number)
    STAMP.create(connection, checkfirst=True)
    connection.execute(STAMP.delete())
    connection.execute(STAMP.insert().values(version_num=f"{number:04}"))


def upgrade(connection: sa.Connection, number: int) -> None:
    """Make a schema out of the one before it, in the transaction that is open; Alembic's part."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it names its internals
    # Slow to import, and seldom needed.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "storage:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, f"{number:04}")


def _step(engine: Engine, number: int) -> None:
    try:
        with _transaction(engine) as connection:
            if found(connection) != number - 1:
                return  # another process was quicker
            stamp(connection, number - 1)  # schema 1 came without Alembic's table
            upgrade(connection, number)
            stamp(connection, number)
    except sa.exc.DBAPIError as error:
        raise StorageError(
            f"the database still has schema {number - 1}, whole: "
            f"migrating it to {number} failed: {error.orig}"
        ) from error


def _prepare(engine: Engine, number: int, today: date, report: Report) -> None:
    """See to it that there is a way back."""
    if engine.dialect.name != "sqlite":
        report.say(
            "Wattbus makes no backup of a PostgreSQL database: have one of your own (pg_dump); "
            "each step is one transaction"
        )
        return
    with _driver(engine) as connection:
        place = files.place_of(connection)
        backup = place.with_name(f"{place.stem}-schema{number}-{today:%Y%m%d}{place.suffix}")
        report.say(f"making a backup first: {backup}")
        try:
            files.back_up(connection, backup, report.copied)
        except (OSError, files.DatabaseError) as error:
            raise StorageError(
                f"the database still has schema {number}, nothing is changed: "
                f"cannot make the backup {backup}: {error}. Make room there, then start again"
            ) from error
    report.say(
        f"the backup is made; to go back: stop Wattbus, install the version you had, delete "
        f"{place.name}-wal and {place.name}-shm, and rename {backup.name} to {place.name}; "
        "what is received from now on is not in it"
    )


@contextmanager
def _transaction(engine: Engine) -> Iterator[sa.Connection]:
    """A transaction that may take its time; on SQLite it holds the write lock from the start."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield connection


@contextmanager
def _driver(engine: Engine) -> Iterator[files.Connection]:
    """The driver's own connection, outside of transactions."""
    pooled = engine.raw_connection()
    try:
        driver = pooled.driver_connection
        assert isinstance(driver, files.Connection)
        yield driver
    finally:
        pooled.close()
