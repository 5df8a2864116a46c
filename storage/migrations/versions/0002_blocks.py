"""Schema 2: history sealed into blocks; newest readings and daily energies as plain rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what sealing fills; the journal stays as it is."""
    op.create_table(
        "blocks",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("shift", sa.Integer, nullable=False),
        sa.Column("grp", sa.Integer, nullable=False),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.Column("readings", sa.Integer, nullable=False),
        sa.Column("lasting", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("blocks_by_group", "blocks", ["shift", "grp", "first_ms", "last_ms"])
    op.create_index(
        "blocks_to_merge",
        "blocks",
        ["id"],
        sqlite_where=sa.text("lasting = 0"),
        postgresql_where=sa.text("NOT lasting"),
    )
    op.create_table(
        "latest",
        sa.Column("meter", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("register", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "daily",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("meter", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("wh", sa.BigInteger, nullable=False),
        sa.Column("covered_ms", sa.Integer, nullable=False),
        sa.Column("flags", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "thinned",
        sa.Column("meter", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tier", sa.String(16), primary_key=True),
        sa.Column("upto_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.add_column("meters", sa.Column("daily_zone", sa.String(64)))
