"""How far retention has come with each meter: the table ``thinned``, read and written."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy as sa

from storage import schema, watermark
from storage.blocks import Stored
from storage.defaults import Defaults
from storage.ladder import Keep, Policy
from storage.prepared import Prepared
from storage.retention_plan import Held, Job, Outlook, outlook
from storage.watermark import Watermark
from telemetry.calendar import DAY_MS

_PAGE = 4096
LONG_AGO = -(2**62)

_BLOCKS, _THINNED, _METERS = schema.blocks.c, schema.thinned.c, schema.meters.c
_NEWEST = Prepared(sa.select(sa.func.max(_THINNED.upto_ms)))


def mark(connection: sa.Connection, numbers: list[int], job: Job) -> None:
    """Keep that a job is done for some meters."""
    tier = _THINNED.tier == job.keep.value
    connection.execute(schema.thinned.delete().where(tier, _THINNED.meter.in_(numbers)))
    rows = [
        {"meter": number, "tier": job.keep.value, "upto_ms": job.window.end_ms}
        for number in numbers
    ]
    connection.execute(schema.thinned.insert(), rows)


def came_late(connection: sa.Connection, sealed: Stored) -> None:
    """Move the marks back of meters that have readings before them among those just sealed."""
    if not len(sealed):
        return
    newest: int | None = _NEWEST.row(connection)[0]
    if newest is None or int(sealed.time.min()) >= newest:
        return
    old = sealed.take(sealed.time < newest)
    for number in np.unique(old.meter).tolist():
        earliest = int(old.time[old.meter == number].min())
        # With the day before: the interval that the reading divides may begin there.
        back = earliest - earliest % DAY_MS - DAY_MS
        own = (_THINNED.meter == number) & (_THINNED.upto_ms > earliest)
        connection.execute(schema.thinned.update().where(own).values(upto_ms=back))


def deleted(connection: sa.Connection, numbers: list[int]) -> list[tuple[int, int]]:
    """Of which of these meters retention deleted readings, and before what instant."""
    if not numbers:
        return []
    query = sa.select(_THINNED.meter, _THINNED.upto_ms).where(
        _THINNED.meter.between(min(numbers), max(numbers)), _THINNED.tier == Keep.NONE.value
    )
    known = set(numbers)
    return [(number, upto) for number, upto in connection.execute(query) if number in known]


def deleted_before(connection: sa.Connection, number: int) -> int:
    """The instant before which readings were deleted for their age: those days stay as they are."""
    deleted = sa.select(_THINNED.upto_ms).where(
        _THINNED.meter == number, _THINNED.tier == Keep.NONE.value
    )
    found: int | None = connection.execute(deleted).scalar()
    return LONG_AGO if found is None else found


def held(
    connection: sa.Connection, defaults: Defaults, reached: Watermark, after: int, most: int
) -> list[tuple[int, Held | None]]:
    """A page of the meters numbered above ``after``; None for one that has nothing sealed.

    The first instant of a meter is that of the blocks that it may be in.
    """
    rows = connection.execute(
        sa.select(_METERS.number, _METERS.id, _METERS.time_zone)
        .where(_METERS.number > after)
        .order_by(_METERS.number)
        .limit(most)
    ).all()
    if not rows:
        return []
    marks: dict[int, dict[Keep, int]] = {}
    of_page = _THINNED.meter.between(rows[0].number, rows[-1].number)
    for number, tier, upto_ms in connection.execute(sa.select(schema.thinned).where(of_page)):
        marks.setdefault(number, {})[Keep(tier)] = upto_ms
    firsts: dict[tuple[int, int], int] = {}
    for shift in reached.shift_list:
        groups = _BLOCKS.grp.between(rows[0].number >> shift, rows[-1].number >> shift)
        query = (
            sa.select(_BLOCKS.grp, sa.func.min(_BLOCKS.first_ms))
            .where(_BLOCKS.shift == shift, groups)
            .group_by(_BLOCKS.grp)
        )
        firsts |= {(shift, group): first_ms for group, first_ms in connection.execute(query)}
    found: list[tuple[int, Held | None]] = []
    for number, name, zone in rows:
        known = [firsts.get((shift, number >> shift)) for shift in reached.shift_list]
        first_ms = min((first for first in known if first is not None), default=None)
        own = ZoneInfo(zone or defaults.time_zone)
        of_meter = None
        if first_ms is not None:
            of_meter = Held(name, own, first_ms, marks.get(number, {}))
        found.append((number, of_meter))
    return found


def coming(
    connection: sa.Connection, policy: Policy, defaults: Defaults, now_ms: int
) -> list[Outlook]:
    """What retention will do next: a row for each tier that some sealed meter is under."""
    return outlook(policy, _all(connection, defaults), now_ms) if not policy.keeps_all else []


def _all(connection: sa.Connection, defaults: Defaults) -> Iterator[Held]:
    reached, after = watermark.read(connection), -1
    while page := held(connection, defaults, reached, after, _PAGE):
        yield from (meter for _, meter in page if meter is not None)
        after = page[-1][0]
