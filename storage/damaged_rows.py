"""Rows of the journal that are damaged: out of sealing's way, taken in again once they are whole.

A row with an id up to the watermark that is still in the journal was damaged when its turn to be
sealed came: it is in no block, and readers, who begin behind the watermark, do not look at it.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa

from storage import journal, schema, watermark

log = logging.getLogger("writer")

_TABLE = schema.journal
_ROWS = sa.select(_TABLE.c.id, _TABLE.c.body).order_by(_TABLE.c.id)


def count(connection: sa.Connection, sealed: int) -> int:
    """How many damaged rows sealing has left behind."""
    left = sa.select(sa.func.count()).select_from(_TABLE).where(_TABLE.c.id <= sealed)
    return connection.execute(left).scalar_one()


def put_right(connection: sa.Connection) -> None:
    """Give rows a new number, so that they count as accepted now; before anything else is written.

    Those that sealing left behind and that are whole again, put back from a backup, are then read
    and sealed. Those that were damaged amid a pass that has to be begun again would be sealed in
    part; now they wait, as a whole, behind it.
    """
    reached = watermark.read(connection)
    newest = connection.execute(sa.select(sa.func.max(_TABLE.c.id))).scalar() or 0
    following = 1 + max(newest, reached.sealed, reached.passing)
    begun = _TABLE.c.id <= max(reached.sealed, reached.passing)
    for number, body in connection.execute(_ROWS.where(begun)).all():
        if _whole(body) == (number <= reached.sealed):
            connection.execute(_TABLE.update().where(_TABLE.c.id == number).values(id=following))
            log.warning("row %d of the journal was damaged: it is row %d now", number, following)
            following += 1


def _whole(body: bytes) -> bool:
    try:
        journal.decode(body)
    except journal.DamagedError:
        return False
    return True
