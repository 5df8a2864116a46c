"""Meters that were changed, and whose limit is still to be looked at: rows of ``info``.

Noted in the transaction of the change: no reading that comes later has to show it, and a writer
that stops before it has looked leaves it to the next one.
"""

from __future__ import annotations

import sqlalchemy as sa

from storage import schema
from storage.info import keep_number

_KEY = "recheck "
_INFO, _METERS = schema.info, schema.meters
_OURS = _INFO.c.key.startswith(_KEY)


def note(connection: sa.Connection, number: int) -> None:
    """A meter's settings are other ones from this transaction on."""
    keep_number(connection, f"{_KEY}{number}", number)


def noted(connection: sa.Connection) -> list[int]:
    """The meters noted, but those that were deleted since."""
    ours = sa.select(sa.cast(_INFO.c.value, sa.Integer)).where(_OURS)
    there = sa.select(_METERS.c.number).where(_METERS.c.number.in_(ours))
    return list(connection.execute(there.order_by(_METERS.c.number)).scalars())


def forget(connection: sa.Connection) -> None:
    """All of them were looked at."""
    connection.execute(_INFO.delete().where(_OURS))
