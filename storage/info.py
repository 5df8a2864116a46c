"""Numbers of the collector's own, by key: the table ``info``."""

from __future__ import annotations

import sqlalchemy as sa

from storage import schema
from storage.prepared import many

_KEEP = (
    "INSERT INTO info (key, value) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


def keep(connection: sa.Connection, key: str, text: str) -> None:
    """Keep a text under a key."""
    many(connection, _KEEP, [(key, text)])


def keep_number(connection: sa.Connection, key: str, number: int) -> None:
    """Keep a number of the collector's own under a key."""
    keep(connection, key, str(number))


def kept_number(connection: sa.Connection, key: str) -> int:
    """The number kept under a key, 0 when there is none."""
    table = schema.info
    found = connection.execute(sa.select(table.c.value).where(table.c.key == key)).scalar()
    return int(found or 0)
