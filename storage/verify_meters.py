"""Verifies what is kept of each meter beside its readings: the newest of them, and its days.

Meters are taken by windows of numbers, each in one snapshot of blocks and rows, so large that
their readings fit well into memory. A meter that alone has more is gone through by time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy as sa

from storage import daily, deletion, retention_marks, schema, verify_days, verify_window
from storage.defaults import Defaults
from storage.energy import curve_of
from storage.meters import Meter
from storage.sealing import sealed_load
from storage.verify_days import Computed, place
from storage.verify_report import Difference, Snapshot, differing
from storage.verify_window import HIGHEST, LOWEST, Latest, Reading, Window
from telemetry import calendar
from telemetry.days import Days
from telemetry.readings import Int64s
from telemetry.registers import ENERGY_IMPORT

_METERS_A_WINDOW = 1024
_VALUES_A_WINDOW = 1_000_000
_DAYS_A_WINDOW = 200_000

_METERS, _BLOCKS = schema.meters.c, schema.blocks.c
_NO_DAYS = Days.concatenate([])


@dataclass(frozen=True, slots=True)
class Looked:
    """Some meters that were looked at: how many, with how many rows of days, and what is wrong."""

    meters: int
    days: int
    differences: list[Difference]


def of_meters(snapshot: Snapshot, defaults: Defaults) -> Iterator[Looked]:
    """Look at every meter, window by window; ``defaults`` are the collector's."""
    with snapshot() as connection:
        days = verify_window.day_count(connection)
    most = max(1, min(_METERS_A_WINDOW, _DAYS_A_WINDOW // max(1, days)))
    room, after = most, LOWEST - 1
    while after < HIGHEST:
        with snapshot() as connection:
            numbers, end, large = _next(connection, after, room)
            window = verify_window.load(connection, after + 1, end, numbers, large=large)
            window.since.update(_since(connection, window, defaults))
            leaving = deletion.leaving(connection)
            by_time = _computed_by_time(connection, window, defaults) if large else None
        # What is left to do needs no snapshot any more.
        found = list(_strangers(window, leaving))
        for number, meter in window.meters.items():
            if window.readable(number):
                found += _compare(window, meter, defaults, by_time)
        yield Looked(len(numbers), sum(map(len, window.days.values())), found)
        room, after = min(most, 2 * max(1, len(numbers))), end


def _next(connection: sa.Connection, after: int, room: int) -> tuple[list[int], int, bool]:
    """The next meters' numbers, where their window ends, and whether it is a single large one."""
    query = sa.select(_METERS.number).where(_METERS.number > after).order_by(_METERS.number)
    numbers = list(connection.execute(query.limit(room + 1)).scalars())
    end = HIGHEST
    if len(numbers) > room:
        numbers.pop()
        end = numbers[-1]
    while numbers and verify_window.values(connection, numbers) > _VALUES_A_WINDOW:
        if len(numbers) == 1:
            return numbers, end, True
        del numbers[len(numbers) // 2 :]
        end = numbers[-1]
    return numbers, end, False


def _since(connection: sa.Connection, window: Window, defaults: Defaults) -> dict[int, int]:
    """The dates from which on there are readings, where older ones were deleted for their age."""
    found = {}
    for number, upto_ms in retention_marks.deleted(connection, list(window.meters)):
        zone = _zone(window, window.meters[number], defaults)
        found[number] = int(calendar.days(zone, upto_ms, upto_ms)[1][0])
    return found


def _strangers(window: Window, leaving: set[int]) -> Iterator[Difference]:
    """Rows of meters that are not registered, nor being deleted."""
    for table, rows in (
        ("daily", window.days),
        ("latest", window.latest),
        ("replacements", window.swaps),
    ):
        for number in sorted(rows.keys() - window.meters.keys() - leaving):
            said = f"{len(rows[number])} rows"
            yield Difference(table, f"meter number {number}", said, "no such meter")


def _compare(
    window: Window, meter: Meter, defaults: Defaults, by_time: Computed | None
) -> Iterator[Difference]:
    number = meter.number
    stored = window.days.get(number, _NO_DAYS)
    zone = _zone(window, meter, defaults)
    if stored is not _NO_DAYS and window.zones[number] != defaults.zone(meter).key:
        said = str(window.zones[number])
        yield Difference("meters.daily_zone", place(meter), said, defaults.zone(meter).key)
    if by_time is not None:
        computed = by_time
    else:
        start, end = window.energy.meter.searchsorted([number, number + 1]).tolist()
        energy = window.energy.take(slice(start, end))
        computed = Computed(_NO_DAYS, set(), newest_counts=False)
        if len(energy):
            computed = verify_days.compute(energy, meter, window.swaps.get(number, ()), zone)
    yield from verify_days.compare(meter, stored, computed, window.since.get(number, 0))
    kept, newest = window.latest.get(number, {}), window.newest.get(number, {})
    for code in sorted(kept.keys() | newest.keys()):
        where = f"{place(meter)}, register {code}"
        yield from _latest(where, kept.get(code), newest.get(code))
        counts = code == ENERGY_IMPORT and computed.newest_counts
        if code in kept and kept[code][3] and not counts:
            yield Difference("latest.settled", where, "true", "false, the reading does not count")


def _zone(window: Window, meter: Meter, defaults: Defaults) -> ZoneInfo:
    """Whose days a meter's rows are."""
    try:
        return ZoneInfo(window.zones[meter.number] or defaults.zone(meter).key)
    except (ValueError, OSError, KeyError):
        return defaults.zone(meter)


def _latest(where: str, kept: Latest | None, newest: Reading | None) -> Iterator[Difference]:
    if kept is None or newest is None:
        texts = (
            "no row" if row is None else f"time_ms={row[0]} value={row[1]} status={row[2]}"
            for row in (kept, newest)
        )
        yield Difference("latest", where, *texts)
        return
    names = ("latest.time_ms", "latest.value", "latest.status")
    pairs = zip(kept[:3], newest, strict=True)
    yield from differing(where, dict(zip(names, pairs, strict=True)))


def _computed_by_time(
    connection: sa.Connection, window: Window, defaults: Defaults
) -> Computed | None:
    """The days of the one meter of a window, from parts of its readings, each with those around."""
    ((number, meter),) = window.meters.items()
    newest = window.newest.get(number, {}).get(ENERGY_IMPORT)
    if not window.readable(number) or newest is None:
        return None
    zone = _zone(window, meter, defaults)
    own = dataclasses.replace(meter, time_zone=zone.key)
    reading = sealed_load(connection, verify_window.everything(connection), number)
    cuts = _cuts(connection, number)
    days, last = [], 0
    for start, end in zip([None, *cuts], [*cuts, None], strict=True):
        found = daily.around(connection, own, reading, defaults, start, end).days
        # Each part tells of whole days, so the day that is cut is told twice.
        rows = found.day > last
        days.append(Days(*(getattr(found, name)[rows] for name in Days.__slots__)))
        last = int(found.day.max(initial=last))
    swaps = window.swaps.get(number, [])
    ending = curve_of(reading, own, swaps, cuts[-1] if cuts else None, None)
    counts = len(ending.time) > 0 and int(ending.time[-1]) == newest[0]
    thinned = verify_days.thinned_dates(window.energy.time, zone)
    return Computed(Days.concatenate(days), thinned, counts)


def _cuts(connection: sa.Connection, number: int) -> list[int]:
    """Instants between which a meter has about as many readings as a window may have."""
    bounds: list[tuple[int, int]] = []
    for shift in verify_window.shifts(connection):
        query = sa.select(_BLOCKS.last_ms, _BLOCKS.readings).where(
            _BLOCKS.shift == shift, _BLOCKS.grp == number >> shift
        )
        bounds += ((row[0], row[1]) for row in connection.execute(query))
    bounds.sort()
    ends: Int64s = np.array([end for end, _ in bounds], np.int64)
    part = np.cumsum([readings for _, readings in bounds]) // _VALUES_A_WINDOW
    cuts: list[int] = np.unique(ends[:-1][part[1:] > part[:-1]]).tolist()
    return cuts
