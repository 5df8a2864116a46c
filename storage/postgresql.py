"""PostgreSQL: set up so that a commit is durable; one session writes, readers see one instant."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

from storage import schema
from storage.database import AnotherWriterError, StorageError

_EXAMPLE = "postgresql+psycopg://user@host/database"
_DRIVERS = ("postgresql", "postgresql+psycopg")

# libpq's: seconds and milliseconds. A network that swallows packets ends a connection within
# 15 s or so, on either side.
_CONNECT = {
    "connect_timeout": 3,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "application_name": "wattbus",
}
# So that the server gives up the session, and the writer's lock, of a machine that is gone.
_KEEPALIVE = (
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 3",
    "SET tcp_keepalives_count = 3",
)
_WRITER = (
    *_KEEPALIVE,
    "SET statement_timeout = '60s'",
    "SET lock_timeout = '5s'",
    "SET idle_in_transaction_session_timeout = '120s'",
)
_READER = (
    *_KEEPALIVE,
    "SET statement_timeout = '60s'",
    "SET lock_timeout = '5s'",
    "SET idle_in_transaction_session_timeout = '600s'",
)
# Settings under which a commit that has returned survives a crash of the server.
_DURABLE = {"synchronous_commit": ("on", "remote_apply"), "fsync": ("on",)}
_WRITERS_LOCK = int.from_bytes(b"wattbus\0", "big")


def parse(url: str) -> URL:
    """The URL of a database; StorageError, which never shows a password, for what is none."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StorageError(f"this is no database URL: it looks like {_EXAMPLE}") from None
    if parsed.drivername not in _DRIVERS:
        raise StorageError(
            f"a database URL starts with postgresql+psycopg://, not {parsed.drivername}://: "
            f"it looks like {_EXAMPLE}"
        )
    if not parsed.database:
        raise StorageError(f"the database URL names no database: it looks like {_EXAMPLE}")
    return parsed.set(drivername="postgresql+psycopg")


def place(url: str) -> str:
    """The URL for people: without its password, wherever in it that stands."""
    parsed = parse(url)
    host = parsed.query.get("host")
    shown = parsed.set(query={"host": host} if host else {})
    return shown._replace(password=None).render_as_string()


def without_password(text: str, url: str) -> str:
    """A message about the URL's database, in which the driver may have named the password."""
    parsed = parse(url)
    said = (parsed.password, parsed.query.get("password"))
    for secret in (str(one) for one in said if one):
        text = text.replace(secret, "***")
    return text


def writer(url: str) -> Engine:
    """The engine of the one process that writes.

    Connecting raises AnotherWriterError where there is one, StorageError where a commit would not
    be durable.
    """
    engine = _engine(url, pool_size=1, max_overflow=0)
    event.listen(engine, "connect", _closing_if_it_fails(_set_up_writer))
    return engine


def reader(url: str) -> Engine:
    """An engine that only reads; each transaction sees the database at one instant."""
    engine = _engine(url, pool_size=1, max_overflow=4)
    event.listen(engine, "connect", _closing_if_it_fails(_set_up_reader))
    return engine


def prepare(connection: sa.Connection) -> None:
    """Have bodies stored as they are: the server's compression takes 10 times as long as the rest.

    To be called once the tables are made.
    """
    found = connection.execute(sa.text(_COMPRESSED), {"tables": list(schema.metadata.tables)})
    for table, column in found.all():
        connection.exec_driver_sql(f"ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL")


_COMPRESSED = """
    SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relname = ANY(:tables) AND pg_table_is_visible(c.oid)
    AND a.attname = 'body' AND a.attstorage <> 'e'
"""


def can_be_used(url: str) -> bool:
    """Whether the server lets us in, and is one that can be written to."""
    engine = _engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            return not connection.scalar(sa.select(sa.func.pg_is_in_recovery()))
    except sa.exc.DBAPIError:
        return False
    finally:
        engine.dispose()


def octets(connection: sa.Connection) -> int:
    """The size of the tables with all that belongs to them."""
    sizes = [
        sa.func.pg_total_relation_size(sa.func.to_regclass(name)) for name in schema.metadata.tables
    ]
    return sum(size or 0 for size in connection.execute(sa.select(*sizes)).one())


def _engine(url: str, **pool: int) -> Engine:
    try:
        # Looking before each use heals what a restarted server cut off.
        return sa.create_engine(parse(url), connect_args=_CONNECT, pool_pre_ping=True, **pool)
    except ModuleNotFoundError:
        raise StorageError(
            "PostgreSQL needs the driver psycopg: pip install 'wattbus[postgresql]'"
        ) from None


def _closing_if_it_fails(set_up: Any) -> Any:
    def run(connection: Any, _record: Any) -> None:
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                set_up(connection, cursor)
            connection.autocommit = False
            connection.cursor_factory = _binary_cursor()
        except BaseException:
            connection.close()
            raise

    return run


@cache
def _binary_cursor() -> type[Any]:
    """Cursors that are answered in binary: a body as text takes 5 times as long."""
    from psycopg import Cursor
    from psycopg.pq import Format

    class BinaryCursor(Cursor[Any]):
        def __init__(self, connection: Any, **options: Any) -> None:
            super().__init__(connection, **options)
            self.format = Format.BINARY

    return BinaryCursor


def _set_up_writer(_connection: Any, cursor: Any) -> None:
    for statement in _WRITER:
        cursor.execute(statement)
    if _setting(cursor, "synchronous_commit") not in _DURABLE["synchronous_commit"]:
        cursor.execute("SET synchronous_commit = on")
    for name, durable in _DURABLE.items():
        if (value := _setting(cursor, name)) not in durable:
            raise StorageError(
                f"the PostgreSQL server has {name} = {value}, so what is committed might be lost: "
                f"set {name} = on in its postgresql.conf"
            )
    cursor.execute("SELECT pg_try_advisory_lock(%s)", (_WRITERS_LOCK,))
    if not cursor.fetchone()[0]:
        raise AnotherWriterError(
            "another wattbus writes to this database already: stop it, or choose another --database"
        )


def _set_up_reader(connection: Any, cursor: Any) -> None:
    from psycopg import IsolationLevel

    for statement in _READER:
        cursor.execute(statement)
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True


def _setting(cursor: Any, name: str) -> str:
    value: str = cursor.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]
    return value
