"""Schema 3: windows and counts of what meters send; which batches of a receiver are committed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add empty tables: counting begins now."""
    op.create_table(
        "ledger",
        sa.Column("meter", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("highest", sa.BigInteger, nullable=False),
        sa.Column("counted_from", sa.BigInteger, nullable=False),
        sa.Column("bitmap", sa.BigInteger, nullable=False),
        sa.Column("uniques", sa.BigInteger, nullable=False),
        sa.Column("duplicates", sa.BigInteger, nullable=False),
        sa.Column("stale", sa.BigInteger, nullable=False),
        sa.Column("out_of_order", sa.BigInteger, nullable=False),
        sa.Column("late", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.BigInteger, nullable=False),
        sa.Column("delivery", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", _LONG, primary_key=True, autoincrement=False),
        sa.Column("committed_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "receivers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "listeners",
        sa.Column("listener", sa.String(128), primary_key=True),
        sa.Column("accepted", sa.BigInteger, nullable=False),
        sa.Column("kernel_drops", sa.BigInteger, nullable=False),
        sa.Column("back_pressure_drops", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "refusals",
        sa.Column("listener", sa.String(128), primary_key=True),
        sa.Column("reason", sa.String(32), primary_key=True),
        sa.Column("datagrams", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "rejections",
        sa.Column("meter", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("reason", sa.String(32), primary_key=True),
        sa.Column("datagrams", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "sockets",
        sa.Column("socket", sa.String(128), primary_key=True),
        sa.Column("drops", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
    )
