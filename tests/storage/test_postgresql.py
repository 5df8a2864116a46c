"""PostgreSQL's own ways: durable or not at all, one writer, snapshots, servers that restart."""

from __future__ import annotations

import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import schema
from storage.database import AnotherWriterError
from storage.engine import (
    Database,
    StorageError,
    UnavailableError,
    close_writer,
    keep_number,
    kept_number,
    octets,
    open_reader,
    open_writer,
    place,
)
from storage.queries import Reader
from tests.postgresql import PostgresServer
from tests.storage.conftest import MakeDatabase
from tests.storage.test_writer import NOW, Running, readings


@pytest.fixture
def database(make_postgresql: MakeDatabase) -> Database:
    return make_postgresql()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def setting(engine: sa.Engine, name: str) -> str:
    with engine.connect() as connection:
        value: str = connection.exec_driver_sql(f"SHOW {name}").scalar_one()
        return value


# Durable, or not at all


@pytest.mark.parametrize(
    ("preset", "used"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
def test_a_commit_is_durable_whatever_the_servers_default(
    database: Database, postgresql: PostgresServer, preset: str, used: str
) -> None:
    assert database.url is not None
    name = sa.make_url(database.url).database
    postgresql.execute(f"ALTER DATABASE {name} SET synchronous_commit = {preset}")
    engine = open_writer(database)
    assert setting(engine, "synchronous_commit") == used
    assert setting(engine, "statement_timeout") == "1min"
    engine.dispose()


def test_a_server_that_does_not_sync_is_refused(own_server: PostgresServer) -> None:
    own_server.execute("ALTER SYSTEM SET fsync = off")
    own_server.execute("SELECT pg_reload_conf()")
    database = Database(own_server.directory / "x", own_server.url())
    deadline = time.monotonic() + 60
    while own_server.execute("SHOW fsync") != [("off",)]:
        assert time.monotonic() < deadline
    with pytest.raises(StorageError, match=r"fsync = off, .* might be lost: set fsync = on"):
        open_writer(database)


# One writer


def test_a_second_writer_is_refused(database: Database) -> None:
    first = open_writer(database)
    with pytest.raises(AnotherWriterError, match="another wattbus writes to this database already"):
        open_writer(database)
    close_writer(first)
    close_writer(open_writer(database))


def test_a_writer_waits_for_one_that_is_ending(database: Database) -> None:
    first = open_writer(database)
    ending = threading.Timer(0.7, close_writer, [first])
    ending.start()
    close_writer(open_writer(database))
    ending.join()


# Readers


def test_a_snapshot_is_one_instant(database: Database) -> None:
    writer = open_writer(database)
    reader = open_reader(database)
    with reader.connect() as looking, looking.begin():
        assert kept_number(looking, "x") == 0
        with writer.begin() as connection:
            keep_number(connection, "x", 5)
        assert kept_number(looking, "x") == 0
        assert looking.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
        assert looking.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
    with reader.connect() as looking:
        assert kept_number(looking, "x") == 5
    reader.dispose()
    writer.dispose()


def test_the_size_grows_with_what_is_stored(database: Database) -> None:
    writer, reader = open_writer(database), open_reader(database)
    with reader.connect() as connection:
        before = octets(database, connection)
    assert before > 0
    row = {"id": 1, "committed_ms": 1, "first_ms": 1, "last_ms": 1, "readings": 0}
    body = secrets.token_bytes(2**20)
    with writer.begin() as connection:
        connection.execute(schema.journal.insert().values(**row, body=body))
    with reader.connect() as connection:
        assert before + 2**20 < octets(database, connection) < before + 2**21
        assert connection.scalar(sa.select(schema.journal.c.body)) == body
    reader.dispose()
    writer.dispose()


def test_ids_sort_by_code_point_whatever_the_servers_language(
    database: Database, postgresql: PostgresServer
) -> None:
    open_writer(database).dispose()
    assert database.url is not None
    found = postgresql.execute(
        "SELECT collation_name FROM information_schema.columns "
        "WHERE table_name = 'meters' AND column_name = 'id'",
        sa.make_url(database.url).database or "",
    )
    assert found == [("C",)]


# Servers that come and go


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_connections_heal_after_a_restart(own_server: PostgresServer, how: int) -> None:
    database = Database(own_server.directory / "x", own_server.url())
    writer, reader = open_writer(database), Reader(database)
    with reader.snapshot():
        assert reader.meter_count() == 0
    own_server.stop(how)
    with pytest.raises(sa.exc.OperationalError), reader.snapshot():
        pass
    own_server.start()
    with reader.snapshot():
        assert reader.meter_count() == 0
    with writer.begin() as connection:
        keep_number(connection, "x", 7)
    with pytest.raises(AnotherWriterError):  # the lock came back with the connection
        open_writer(database)
    assert setting(writer, "synchronous_commit") == "on"
    writer.dispose()
    reader.close()


def test_the_writer_goes_on_after_its_session_was_ended(
    database: Database, postgresql: PostgresServer
) -> None:
    running = Running(database)
    try:
        running.send(readings([("a", NOW, 1)]))
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{sa.make_url(database.url or '').database}'"
        )
        running.send(readings([("a", NOW + 1, 2), ("b", NOW, 3)]))
        assert running.stored("a") == [(NOW, 1), (NOW + 1, 2)]
        assert running.stored("b") == [(NOW, 3)]
    finally:
        running.close()


# What is said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "nonsense",
            r"this is no database URL: it looks like postgresql\+psycopg://user@host/data",
        ),
        ("mysql://u:secret@h/d", r"starts with postgresql\+psycopg://, not mysql://"),
        ("postgresql+asyncpg://h/d", r"not postgresql\+asyncpg://"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:port/d", "this is no database URL"),
    ],
)
def test_a_bad_url(url: str, said: str, database: Database) -> None:
    for opening in (open_writer, open_reader):
        with pytest.raises(StorageError, match=said) as error:
            opening(Database(database.data, url))
        assert "secret" not in str(error.value)


def test_a_server_that_refuses(database: Database, postgresql: PostgresServer) -> None:
    nobody_listens = "postgresql+psycopg://u:secret@127.0.0.1:1/d"
    for url, said in (
        (nobody_listens, "Connection refused.*Is the server running"),
        (postgresql.url(password="wrong-secret"), "password authentication failed.*right?"),
        (postgresql.url("nowhere"), 'database "nowhere" does not exist'),
    ):
        for opening in (open_writer, open_reader):
            with pytest.raises(UnavailableError, match=said) as error:
                opening(Database(database.data, url))
            assert "secret" not in str(error.value)
            assert "\n" not in str(error.value)


def test_a_user_who_may_not_make_tables(database: Database, postgresql: PostgresServer) -> None:
    postgresql.execute("CREATE ROLE poor LOGIN PASSWORD 'poor-secret'")
    url = sa.make_url(database.url or "").set(username="poor", password="poor-secret")
    poor = Database(database.data, url.render_as_string(hide_password=False))
    with pytest.raises(StorageError, match=r"permission denied.*GRANT CREATE ON SCHEMA public"):
        open_writer(poor)


def test_the_password_is_never_shown() -> None:
    hidden = Database(
        Path("/d"),
        "postgresql://u:secret@h:1234/d?password=secret&sslmode=require",
    )
    assert place(hidden) == "postgresql+psycopg://u@h:1234/d"
    assert place(Database(Path("/d"))) == "/d"
    assert "secret" not in repr(hidden)
    on_a_socket = Database(Path("/d"), "postgresql://u:secret@/d?host=/run/pg")
    assert place(on_a_socket) == "postgresql+psycopg://u@/d?host=%2Frun%2Fpg"


def test_without_the_driver(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install 'wattbus\[postgresql\]'"):
        open_writer(database)
