"""Energy of each meter and local day, kept as plain rows with the readings that are sealed.

Most readings go on from the newest sealed one of their meter: of all such meters the days grow at
once. Where anything else happens (late readings, a register that fell, an exchanged device) a
meter's days are computed again from all of its readings around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from storage import meters, retention_marks, schema
from storage.blocks import Stored, changes
from storage.defaults import Defaults
from storage.energy import Load, curve_of, part_of
from storage.latest import Newest
from storage.meters import Meter
from storage.prepared import many, together
from telemetry import anchors, calendar, days, intervals
from telemetry.calendar import HOUR_MS
from telemetry.days import Days
from telemetry.flags import of_status
from telemetry.intervals import Flag, Settled
from telemetry.readings import Int64s, UInt32s

_DAILY = schema.daily.c
_NO_DAY = 2**31 - 1
_SETTINGS = sa.select(
    schema.meters.c.number, schema.meters.c.time_zone, schema.meters.c.max_power_w
).where(
    schema.meters.c.number.between(sa.bindparam("low"), sa.bindparam("high")),
    schema.meters.c.time_zone.is_not(None) | schema.meters.c.max_power_w.is_not(None),
)
_SWAPS = sa.select(schema.replacements.c.meter, schema.replacements.c.time_ms).where(
    schema.replacements.c.meter.between(sa.bindparam("low"), sa.bindparam("high"))
)
_INSERT = "INSERT INTO daily (meter, day, wh, covered_ms, flags) VALUES {rows}"
_ROW = "(?, ?, ?, ?, ?)"
_ADD = (
    f"{_INSERT} ON CONFLICT (day, meter) DO UPDATE SET wh = daily.wh + excluded.wh,"
    " covered_ms = daily.covered_ms + excluded.covered_ms, flags = daily.flags | excluded.flags"
)
_NO_ZONE = sa.select(schema.meters.c.number, schema.meters.c.time_zone).where(
    schema.meters.c.number.between(sa.bindparam("low"), sa.bindparam("high")),
    schema.meters.c.daily_zone.is_(None),
)
_ZONE = "UPDATE meters SET daily_zone = ? WHERE number = ?"
_ZONES = (
    schema.meters.update()
    .where(schema.meters.c.number == sa.bindparam("meter"))
    .values(daily_zone=sa.bindparam("zone"))
)


@dataclass(frozen=True, slots=True)
class Grown:
    """What readings add to the days."""

    added: Days
    again: list[int]  # numbers of the meters whose days are to be computed again


@dataclass(frozen=True, slots=True)
class Around:
    """All that there is of a meter's days between two dates, both included."""

    days: Days
    first: int
    last: int
    settled: bool  # whether the newest reading surely counts


def grow(connection: sa.Connection, energy: Stored, newest: Newest, defaults: Defaults) -> Grown:
    """What energy readings, arranged and not in any sealed row yet, add to the days.

    There is at least one; ``newest`` has the newest sealed ones of their meters.
    """
    bounds = {"low": int(energy.meter[0]), "high": int(energy.meter[-1])}
    settings = connection.execute(_SETTINGS, bounds).all()
    swaps = connection.execute(_SWAPS, bounds).all()
    firsts = changes(energy.meter)[:-1]
    own = energy.meter[firsts]
    tips = newest.energy(own)
    # Each tip before the first reading of its meter.
    places = firsts[own.searchsorted(tips.meter)] + np.arange(len(tips.meter))
    rest = np.ones(len(energy) + len(places), np.bool_)
    rest[places] = False
    meter, time, value, status = (
        _mixed(getattr(energy, name), rest, getattr(tips, name), places)
        for name in ("meter", "time", "value", "status")
    )
    apart = meter[1:] != meter[:-1]
    place = np.zeros(len(meter), np.int64)
    np.cumsum(apart, out=place[1:])

    again = np.zeros(len(own), np.bool_)
    again[own.searchsorted(tips.meter[~tips.settled])] = True
    began = time[np.flatnonzero(np.append(True, apart))]
    for number, instant in swaps:
        at = int(own.searchsorted(number))
        if at < len(own) and own[at] == number and instant > began[at]:
            again[at] = True
    powers = {number: power for number, _, power in settings if power is not None}
    odd = _odd(meter, time, value, powers)
    odd &= ~apart
    again[place[1:][odd]] = True

    flags = of_status(status)
    flags[1:] |= flags[:-1].copy()
    zones = {number: zone for number, zone, _ in settings if zone}
    added = []
    for name, members in _by_zone(own, zones, defaults).items():
        rows = (~again & members)[place]
        number = meter.astype(np.int64)
        zone = ZoneInfo(name)
        if rows.all():
            added.append(days.divide(number, time, value, flags, zone))
        else:
            found = days.divide(number[rows], time[rows], value[rows], flags[rows], zone)
            added.append(found)
    return Grown(Days.concatenate(added), own[again].tolist())


def _mixed(
    energy: npt.NDArray[Any],
    rest: npt.NDArray[np.bool_],
    tips: npt.NDArray[Any],
    at: npt.NDArray[np.intp],
) -> npt.NDArray[Any]:
    """A column with the tips ``at`` their places, and the readings at all others."""
    column = np.empty(len(rest), energy.dtype)
    column[at], column[rest] = tips, energy
    return column


def _odd(
    meter: UInt32s, time: Int64s, value: Int64s, powers: dict[int, int]
) -> npt.NDArray[np.bool_]:
    """Which readings but the first do not plainly go on from the one before, were it theirs."""
    elapsed, steps = time[1:] - time[:-1], value[1:] - value[:-1]
    odd = (elapsed <= 0) | (steps < 0)
    if powers:
        limited = np.array(sorted(powers), np.int64)
        most = np.array([powers[number] for number in limited.tolist()], np.float64)
        at = limited.searchsorted(meter[1:]).clip(0, len(limited) - 1)
        is_limited = limited[at] == meter[1:]
        odd |= is_limited & (steps > elapsed * (most[at] / HOUR_MS) * (1 - 1e-9))
    return odd


def _by_zone(
    own: UInt32s, zones: dict[int, str], defaults: Defaults
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which of the meters are in each zone; ``zones`` has those with one of their own."""
    members: dict[str, list[int]] = {}
    for number, name in zones.items():
        members.setdefault(name, []).append(number)
    found = {name: np.isin(own, numbers) for name, numbers in sorted(members.items())}
    rest = ~np.isin(own, list(zones))
    rest |= found.get(defaults.time_zone, False)
    return found | {defaults.time_zone: rest}


def add(connection: sa.Connection, added: Days, defaults: Defaults) -> None:
    """Add to the rows of the days."""
    if len(added):
        together(connection, _ADD, _ROW, _rows(added))
        _note_zones(connection, added.meter, defaults)


def _rows(found: Days) -> Int64s:
    return np.stack([getattr(found, name) for name in Days.__slots__], axis=1)


def _note_zones(connection: sa.Connection, own: Int64s, defaults: Defaults) -> None:
    """Keep of those meters that have none yet in which zone their days are."""
    bounds = {"low": int(own.min()), "high": int(own.max())}
    new = connection.execute(_NO_ZONE, bounds).cursor.fetchall()
    if new:
        chosen = set(own.tolist())
        rows = [(zone or defaults.time_zone, number) for number, zone in new if number in chosen]
        many(connection, _ZONE, rows)


def again(
    connection: sa.Connection,
    meter: Meter,
    load: Load,
    defaults: Defaults,
    earliest: int | None,
    latest: int | None,
) -> bool:
    """Compute days again from what ``load`` finds; whether the newest reading surely counts.

    Readings between the two instants are new, or count in another way than before; None reaches
    to the end of the data.
    """
    found = around(connection, meter, load, defaults, earliest, latest)
    table = schema.daily
    connection.execute(
        table.delete().where(
            _DAILY.meter == meter.number, _DAILY.day.between(found.first, found.last)
        )
    )
    if len(found.days):
        together(connection, _INSERT, _ROW, _rows(found.days))
        connection.execute(_ZONES, {"meter": meter.number, "zone": defaults.zone(meter).key})
    return found.settled


def rebuild(connection: sa.Connection, meter: Meter, load: Load, defaults: Defaults) -> bool:
    """Compute all days of a meter again, as ``again`` does."""
    floor = retention_marks.deleted_before(connection, meter.number)
    own = _DAILY.meter == meter.number
    if floor != retention_marks.LONG_AGO:
        own &= _DAILY.day >= int(calendar.days(defaults.zone(meter), floor, floor)[1][0])
    connection.execute(schema.daily.delete().where(own))
    connection.execute(_ZONES, {"meter": meter.number, "zone": defaults.zone(meter).key})
    return again(connection, meter, load, defaults, None, None)


def in_another_zone(connection: sa.Connection, defaults: Defaults) -> int | None:
    """The number of a meter whose days are those of a zone that is not in force any more."""
    table = schema.meters.c
    query = sa.select(table.number).where(
        table.daily_zone != sa.func.coalesce(table.time_zone, defaults.time_zone)
    )
    found: int | None = connection.execute(query.limit(1)).scalar()
    return found


def around(
    connection: sa.Connection,
    meter: Meter,
    load: Load,
    defaults: Defaults,
    earliest: int | None,
    latest: int | None,
) -> Around:
    """The days that readings between two instants can change, as they are by all readings."""
    swaps = meters.replacements(connection, meter.number)
    # A reading changes the interval that ends with it too: what settles it comes before.
    part = part_of(load, meter, swaps, None if earliest is None else earliest - 1, latest)
    if len(part) < 2:
        return Around(Days.concatenate([]), 0, 0, settled=_ends_plainly(load, part))
    sure = anchors.anchored(part.time, part.value, meter.max_power_w, swaps)
    settled = len(sure) > 0 and int(sure.end[-1]) == len(part) - 1 and _ends_plainly(load, part)
    zone = defaults.zone(meter)
    edges, dates = calendar.days(zone, int(part.time[0]), int(part.time[-1]))
    low = None if earliest is None else int(edges[0])
    high = None if latest is None else int(edges[-1])
    curve = curve_of(load, meter, swaps, low, high)
    slots = intervals.slots(curve, edges)
    covered = np.minimum(edges[1:], curve.time[-1]) - np.maximum(edges[:-1], curve.time[0])
    kept = edges[:-1] >= retention_marks.deleted_before(connection, meter.number)
    there = (covered > 0) & kept
    found = Days(
        meter=np.full(int(there.sum()), meter.number, np.int64),
        day=dates[there],
        wh=slots.energy[there],
        covered_ms=covered[there],
        flags=(slots.flags[there] & ~np.uint16(Flag.PARTIAL)).astype(np.int64),
    )
    first = int(dates[kept][0]) if kept.any() else _NO_DAY
    return Around(found, first, int(dates[-1]), settled)


def _ends_plainly(load: Load, part: Settled) -> bool:
    """Whether the last instant has one reading: others' doubts go on to what comes next."""
    last = int(part.time[-1]) if len(part) else 0
    return not len(part) or len(load(last, last)) == 1


def stored_days(connection: sa.Connection, meter: int, first: int, last: int) -> Days:
    """The rows of a meter from one date to another, by date."""
    query = (
        sa.select(_DAILY.meter, _DAILY.day, _DAILY.wh, _DAILY.covered_ms, _DAILY.flags)
        .where(_DAILY.meter == meter, _DAILY.day.between(first, last))
        .order_by(_DAILY.day)
    )
    rows = np.array([tuple(row) for row in connection.execute(query)], np.int64).reshape(-1, 5)
    columns: list[Int64s] = list(rows.T)
    return Days(*columns)
