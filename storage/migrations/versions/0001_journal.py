"""Schema 1: the registry, the journal of committed batches, and alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables of an empty database."""
    op.create_table(
        "info",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
    )
    op.create_table(
        "meters",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("octets", sa.LargeBinary(16), nullable=False, unique=True),
        sa.Column("id", _ID, nullable=False, unique=True),
        sa.Column("name", sa.String(200)),
        sa.Column("time_zone", sa.String(64)),
        sa.Column("limit_wh", sa.BigInteger),
        sa.Column("reported_limit_wh", sa.BigInteger),
        sa.Column("price", sa.String(32)),
        sa.Column("modulus_wh", sa.BigInteger),
        sa.Column("max_power_w", sa.BigInteger),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "replacements",
        sa.Column("meter", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("final_wh", sa.BigInteger, nullable=False),
        sa.Column("initial_wh", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "journal",
        sa.Column("id", _LONG, primary_key=True, autoincrement=False),
        sa.Column("committed_ms", sa.BigInteger, nullable=False),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.Column("readings", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("meter", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("period_start_ms", sa.BigInteger, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("energy_wh", sa.BigInteger, nullable=False),
        sa.Column("limit_wh", sa.BigInteger, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("raised_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("meter", "kind", "period_start_ms"),
    )
    op.create_index("alerts_by_time", "alerts", ["time_ms"])
