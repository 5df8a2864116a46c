"""A reader's snapshots: each sees one state of the database, and the newest there is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import meters, schema
from storage.changes import ChangeMeter
from storage.engine import Database, begin_snapshot, close_writer, database_path, open_writer
from storage.queries import Reader, UnknownMeterError

OCTETS = [b"one\0\0\0\0\0\0\0\0\0\0\0\0\0", b"two\0\0\0\0\0\0\0\0\0\0\0\0\0"]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_writer(Database(tmp_path))
    with engine.begin() as connection:
        meters.add_all(connection, 0, OCTETS[:1], 1)
    yield engine
    close_writer(engine)


@pytest.fixture
def reader(tmp_path: Path, writer: sa.Engine) -> Iterator[Reader]:
    opened = Reader(Database(tmp_path))
    yield opened
    opened.close()


def rename(writer: sa.Engine, name: str) -> None:
    with writer.begin() as connection:
        meters.change(connection, ChangeMeter(id="one", name=name), 0, 1)


def test_it_does_not_see_what_is_committed_after_it_began(
    reader: Reader, writer: sa.Engine
) -> None:
    for first in (True, False):  # with news, and without
        with reader.snapshot():
            rename(writer, f"later {first}")
            with writer.begin() as connection:
                meters.add_all(connection, 1, OCTETS[1:], 1)
            assert reader.meter_count() == 1
            assert reader.meter("one").name != f"later {first}"
            with pytest.raises(UnknownMeterError):
                reader.meter("two")
        with reader.snapshot():
            assert reader.meter_count() == 2
            assert reader.meter("one").name == f"later {first}"
            assert reader.meter("two").number == 1
        with writer.begin() as connection:
            connection.execute(schema.meters.delete().where(schema.meters.c.number == 1))
        with reader.snapshot():
            pass


def test_a_meter_is_looked_up_once_until_something_was_committed(
    reader: Reader, writer: sa.Engine
) -> None:
    asked: list[str] = []
    with reader.snapshot():
        driver = reader.connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    reader._version = None
    driver.set_trace_callback(asked.append)
    for _ in range(3):
        with reader.snapshot():
            assert reader.meter("one").name is None
    assert sum("FROM meters" in " ".join(statement.split()) for statement in asked) == 1
    assert sum("FROM journal" in " ".join(statement.split()) for statement in asked) == 1
    rename(writer, "new")
    asked.clear()
    with reader.snapshot():
        assert reader.meter("one").name == "new"
    assert sum("FROM journal" in " ".join(statement.split()) for statement in asked) == 1


def test_a_snapshot_ends_whatever_happens_in_it(
    tmp_path: Path, reader: Reader, writer: sa.Engine
) -> None:
    asks: list[Callable[[], int]] = [lambda: 1, reader.meter_count]
    for ask in asks:
        with pytest.raises(ZeroDivisionError), reader.snapshot():
            assert ask() / 0
        rename(writer, "x")
        with writer.connect() as connection:
            connection.rollback()
        raw = writer.raw_connection()
        busy, *_ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() or (1,)
        raw.close()
        assert busy == 0
    assert database_path(tmp_path).with_name("wattbus.sqlite3-wal").stat().st_size == 0


def test_what_the_driver_refuses_is_an_error_of_the_usual_kind(reader: Reader) -> None:
    with reader._engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.close()
        with pytest.raises(sa.exc.OperationalError, match="closed"):
            begin_snapshot(connection)
        connection.invalidate()
