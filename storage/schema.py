"""The tables: their only definition. Their numbers are chosen by the writer, never by SQL.

Times are milliseconds of Unix time, UTC; energies are Wh; money is decimal text.
"""

from __future__ import annotations

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

VERSION = 1

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
    Column("id", String(64), nullable=False, unique=True),
    Column("name", String(200)),
    Column("time_zone", String(64)),
    Column("limit_wh", BigInteger),  # set by an operator; rules over the meter's own
    Column("reported_limit_wh", BigInteger),  # the meter's register 0-0:17.0.0
    Column("price", String(32)),
    Column("modulus_wh", BigInteger),  # where the register rolls over
    Column("max_power_w", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
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
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("committed_ms", BigInteger, nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("readings", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

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
