"""The tables: their only definition. Their numbers are chosen by the writer, never by SQL.

Times are milliseconds of Unix time, UTC; energies are Wh; money is decimal text.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

VERSION = 3  # each has its step in storage/migrations/versions

# SQLite counts rows in 64 bits under the name INTEGER; only so is the key the row's own number.
_LONG = BigInteger().with_variant(Integer, "sqlite")
# Ids sort by code point everywhere: pages and prefixes rest on it.
_ID = String(64).with_variant(String(64, collation="C"), "postgresql")

metadata = MetaData()

info = Table(
    "info",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("value", String(255), nullable=False),
)

meters = Table(
    "meters",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("octets", LargeBinary(16), nullable=False, unique=True),
    Column("id", _ID, nullable=False, unique=True),
    Column("name", String(200)),
    Column("time_zone", String(64)),
    Column("limit_wh", BigInteger),  # set by an operator; rules over the meter's own
    Column("reported_limit_wh", BigInteger),  # the meter's register 0-0:17.0.0
    Column("price", String(32)),
    Column("modulus_wh", BigInteger),  # where the register rolls over
    Column("max_power_w", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
    Column("daily_zone", String(64)),  # whose days the rows in ``daily`` are
)

replacements = Table(
    "replacements",
    metadata,
    Column("meter", Integer, primary_key=True, autoincrement=False),
    Column("time_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("final_wh", BigInteger, nullable=False),
    Column("initial_wh", BigInteger, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column("id", _LONG, primary_key=True, autoincrement=False),
    Column("committed_ms", BigInteger, nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("readings", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

blocks = Table(
    "blocks",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("shift", Integer, nullable=False),  # the group is the meters with number >> shift = grp
    Column("grp", Integer, nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("readings", Integer, nullable=False),
    Column("lasting", Boolean, nullable=False),  # not to be merged with others any more
    Column("body", LargeBinary, nullable=False),
    Index("blocks_by_group", "shift", "grp", "first_ms", "last_ms"),
    Index("blocks_to_merge", "id", sqlite_where=sa.text("lasting = 0")).ddl_if(dialect="sqlite"),
)


@sa.event.listens_for(blocks, "after_create")
def _index_to_merge(_: Table, connection: sa.Connection, **_options: object) -> None:
    # ``postgresql_where`` would import all of SQLAlchemy's PostgreSQL, which is slow, into
    # processes that use SQLite.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("CREATE INDEX blocks_to_merge ON blocks (id) WHERE NOT lasting")


latest = Table(
    "latest",
    metadata,
    Column("meter", Integer, primary_key=True, autoincrement=False),
    Column("register", Integer, primary_key=True, autoincrement=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("status", Integer, nullable=False),
    Column("settled", Boolean, nullable=False),  # energy: nothing to come makes it not count
    sqlite_with_rowid=False,
)

daily = Table(
    "daily",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),  # 20260131, in the meter's zone
    Column("meter", Integer, primary_key=True, autoincrement=False),
    Column("wh", BigInteger, nullable=False),
    Column("covered_ms", Integer, nullable=False),  # how much of the day the readings reach over
    Column("flags", Integer, nullable=False),  # telemetry.intervals.Flag
    sqlite_with_rowid=False,
)

# How far retention has come: the meter's sealed readings before the instant are as the tier says.
thinned = Table(
    "thinned",
    metadata,
    Column("meter", Integer, primary_key=True, autoincrement=False),
    Column("tier", String(16), primary_key=True),  # storage.ladder.Keep
    Column("upto_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Which batches are committed of each receiver, by its routing id in hexadecimal.
alerts = Table(
    "alerts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("meter", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("period_start_ms", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),  # the reading at which it was crossed
    Column("energy_wh", BigInteger, nullable=False),
    Column("limit_wh", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("raised_ms", BigInteger, nullable=False),
    UniqueConstraint("meter", "kind", "period_start_ms"),
    Index("alerts_by_time", "time_ms"),
)

# Windows and counts by meter (docs/delivery.md), and what deleted meters had under meter 0.
ledger = Table(
    "ledger",
    metadata,
    Column("meter", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("highest", BigInteger, nullable=False),
    Column("counted_from", BigInteger, nullable=False),
    Column("bitmap", BigInteger, nullable=False),  # 64 bits, the uppermost as the sign
    Column("uniques", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("stale", BigInteger, nullable=False),
    Column("out_of_order", BigInteger, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("delivery", BigInteger, nullable=False),  # the last of ``deliveries`` that is in it
)

# What datagrams each commit had; goes once ``ledger`` has it, but for the newest.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _LONG, primary_key=True, autoincrement=False),
    Column("committed_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

# The batches that are committed, by the receiver that numbered them.
receivers = Table(
    "receivers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)

listeners = Table(
    "listeners",
    metadata,
    Column("listener", String(128), primary_key=True),
    Column("accepted", BigInteger, nullable=False),
    Column("kernel_drops", BigInteger, nullable=False),  # without those of back-pressure
    Column("back_pressure_drops", BigInteger, nullable=False),
)

refusals = Table(
    "refusals",
    metadata,
    Column("listener", String(128), primary_key=True),
    Column("reason", String(32), primary_key=True),
    Column("datagrams", BigInteger, nullable=False),
)

# Those of the refused datagrams that named a meter with a key.
rejections = Table(
    "rejections",
    metadata,
    Column("meter", Integer, primary_key=True, autoincrement=False),
    Column("reason", String(32), primary_key=True),
    Column("datagrams", BigInteger, nullable=False),
)

# How far each socket's own count of drops has come, modulo 2**32.
sockets = Table(
    "sockets",
    metadata,
    Column("socket", String(128), primary_key=True),
    Column("drops", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)
