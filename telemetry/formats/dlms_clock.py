"""COSEM's date-time (IEC 62056-6-2, 12 octets) and which instant it means."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from telemetry.clock import plausible

_UNSPECIFIED = 0xFF
_NO_DEVIATION = -0x8000
_DAYLIGHT, _INVALID = 0x80, 0x01
_NEAR = 900_000  # ms: a push tells of now
_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(NamedTuple):
    """What a meter's clock shows: local time, the deviation in minutes (None: unknown), a status.

    ``hundredths`` is None where unknown; ``status`` is COSEM's, 0xFF where unknown.
    """

    local: datetime
    hundredths: int | None
    deviation: int | None
    status: int


def clock(octets: bytes) -> Clock | None:
    """A date-time; None for one that names no second, which then tells nothing."""
    if len(octets) != 12:
        return None
    year, month, day = int.from_bytes(octets[:2]), octets[2], octets[3]
    hour, minute, second, hundredths = octets[5:9]
    deviation = int.from_bytes(octets[9:11], signed=True)
    second = 0 if second == _UNSPECIFIED else second
    if not 2000 <= year < 2200:
        return None
    try:
        local = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    return Clock(
        local,
        hundredths if hundredths < 100 else None,
        deviation if -720 <= deviation <= 840 else None,
        octets[11],
    )


def instant(shown: Clock, zone: ZoneInfo, arrival: int) -> int | None:
    """Ms of Unix time that the clock means; None where it cannot be believed.

    By the standard UTC is local time plus deviation. Some meters tell it with the other sign, some
    leave out daylight saving, some tell 0 and mean a zone, some with daylight saving in force show
    standard time. A push tells of now: so of the instants that it may mean (``_meanings``) it is
    the first that is within a quarter of an hour of the arrival; without any the first of all.
    """
    if shown.status != _UNSPECIFIED and shown.status & _INVALID:
        return None
    found = list(_meanings(shown, zone))
    near = (each for each in found if abs(each - arrival) <= _NEAR)
    first = next(near, found[0])
    return first if plausible(first, arrival) else None


def _meanings(shown: Clock, zone: ZoneInfo) -> Iterator[int]:
    local = shown.local.replace(microsecond=10_000 * (shown.hundredths or 0))
    daylight = shown.status != _UNSPECIFIED and bool(shown.status & _DAYLIGHT)
    if shown.deviation is not None:
        deviation = timedelta(minutes=shown.deviation)
        yield _ms(local + deviation)
        if daylight:
            yield _ms(local + deviation - _HOUR)
        yield _ms(local - deviation)
    # In the hour that occurs twice the status says which it is, if it says anything.
    for fold in (0, 1) if daylight else (1, 0):
        yield _in_zone(local.replace(fold=fold), zone)
    there = local.replace(tzinfo=zone)
    saving = there.dst() or timedelta()
    yield _in_zone(local, zone) + round(saving / timedelta(milliseconds=1))


def _in_zone(local: datetime, zone: ZoneInfo) -> int:
    offset = local.replace(tzinfo=zone).utcoffset() or timedelta()
    return _ms(local - offset)


def _ms(utc: datetime) -> int:
    return (utc.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
