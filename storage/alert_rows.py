"""The table of alerts, read in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from storage import schema
from storage.meters import Meter

_ALERTS, _METERS = schema.alerts.c, schema.meters.c
_ALL = sa.select(*_ALERTS, _METERS.id.label("id"), _METERS.time_zone).join(
    schema.meters, _METERS.number == _ALERTS.meter
)


def page(
    connection: sa.Connection, meter: Meter | None, before: int | None, most: int
) -> Sequence[sa.Row[tuple[object, ...]]]:
    """At most so many alerts numbered below ``before``, the last raised first; see the reader."""
    query: sa.Select[Any] = _ALL
    if meter is not None:
        query = query.where(_ALERTS.meter == meter.number)
    if before is not None:
        query = query.where(_ALERTS.number < before)
    return connection.execute(query.order_by(_ALERTS.number.desc()).limit(most)).all()
