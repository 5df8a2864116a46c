"""Numbers of the collector's own, by key: the table ``info``."""

from __future__ import annotations

import sqlalchemy as sa

from storage import schema


def keep_number(connection: sa.Connection, key: str, number: int) -> None:
    """Keep a number of the collector's own under a key."""
    table = schema.info
    if not connection.execute(
        table.update().where(table.c.key == key).values(value=str(number))
    ).rowcount:
        connection.execute(table.insert().values(key=key, value=str(number)))


def kept_number(connection: sa.Connection, key: str) -> int:
    """The number kept under a key, 0 when there is none."""
    table = schema.info
    found = connection.execute(sa.select(table.c.value).where(table.c.key == key)).scalar()
    return int(found or 0)
