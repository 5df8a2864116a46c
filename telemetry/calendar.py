"""Local periods as UTC instants: quarters, hours, days, months and billing periods of a zone.

Every instant is an int in milliseconds of Unix time, UTC. A day is [local midnight, next local
midnight). A midnight that comes twice is the first of the two; where the clock skips midnight the
day starts at its first instant, and a date that the clock skips whole is no day at all.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from telemetry.readings import Int64s
from telemetry.spans import DAY_MS as DAY_MS
from telemetry.spans import HOUR_MS as HOUR_MS
from telemetry.spans import QUARTER_MS as QUARTER_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Step(StrEnum):
    """How finely an answer is divided; RAW is the readings themselves, without slots."""

    RAW = "raw"
    QUARTER = "15m"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Period:
    """The instants from ``start_ms`` (included) to ``end_ms`` (not included)."""

    start_ms: int
    end_ms: int


def edges(step: Step, zone: ZoneInfo, start_ms: int, end_ms: int) -> Int64s:
    """Strictly ascending boundaries of the slots that cover [start_ms, end_ms).

    The first edge is at or before the start, the last at or after the end; n slots have n + 1
    edges. Quarters and hours begin where the local clock shows them; a change of the clock by
    less than a step (Lord Howe's half hour) makes one short slot right after the change. Edges
    of a coarser step are edges of every finer one.

    Raises ValueError if the period is empty or the step is RAW, OverflowError outside the years
    1 to 9999.
    """
    if start_ms >= end_ms:
        raise ValueError("the end must come after the start")
    # The second of two midnights shows the old date again, hence the margin; it is cut off below.
    first, last = _local(start_ms, zone).date(), _local(end_ms, zone).date() + timedelta(days=2)
    match step:
        case Step.MONTH:
            found = _months(zone, first, last)
        case Step.DAY:
            found = _days(zone, first, last)
        case Step.HOUR:
            found = _divided(zone, first.year, last.year, HOUR_MS)
        case Step.QUARTER:
            found = _divided(zone, first.year, last.year, QUARTER_MS)
        case Step.RAW:
            raise ValueError("raw readings have no slots")
    begin = found.searchsorted(start_ms, side="right") - 1
    return found[begin : found.searchsorted(end_ms) + 1]


def days(zone: ZoneInfo, start_ms: int, end_ms: int) -> tuple[Int64s, Int64s]:
    """The edges of the local days that cover [start_ms, end_ms], and each day's date.

    Shapes (n + 1,) and (n,); a date is the number that its digits make: 20260131. Raises
    OverflowError outside the years 2 to 9998.
    """
    first, last = (_local(instant, zone).year for instant in (start_ms, end_ms))
    found, dates = _years(zone, first - 1, last + 1)
    begin = int(found.searchsorted(start_ms, side="right")) - 1
    end = int(found.searchsorted(end_ms, side="right"))
    return found[begin : end + 1], dates[begin:end]


@lru_cache(maxsize=1024)
def _year(zone: ZoneInfo, year: int) -> tuple[Int64s, Int64s]:
    """The starts of a year's days, and their dates as numbers."""
    if not MINYEAR <= year < MAXYEAR:
        raise OverflowError(f"the year {year} is out of range")
    starts: dict[int, int] = {}
    for ordinal in range(date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal()):
        day = date.fromordinal(ordinal)
        # A date that the clock skips starts with the next one, which it belongs to.
        starts[day_start(zone, day)] = _number(day)
    return np.array(list(starts), np.int64), np.array(list(starts.values()), np.int64)


@lru_cache(maxsize=256)
def _years(zone: ZoneInfo, first: int, last: int) -> tuple[Int64s, Int64s]:
    """The days of all years from one to another, as ``_year`` has them."""
    years = [_year(zone, year) for year in range(first, last + 1)]
    found = np.concatenate([starts for starts, _ in years])
    dates = np.concatenate([dates for _, dates in years])
    found.flags.writeable = dates.flags.writeable = False  # parts of them are handed out
    return found, dates


def _number(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def day_start(zone: ZoneInfo, day: date) -> int:
    """The instant at which the local date ``day`` begins."""
    midnight = datetime.combine(day, time(), zone)
    start, skipped = _instant(midnight), _instant(midnight.replace(fold=1))
    return start if start <= skipped else _change(zone, skipped, start)


def month_start(zone: ZoneInfo, year: int, month: int) -> int:
    """The instant at which a local month begins."""
    return day_start(zone, date(year, month, 1))


def billing_period(zone: ZoneInfo, billing_day: int, instant_ms: int) -> Period:
    """The billing period that contains an instant.

    Periods begin on ``billing_day`` (1 to 31) of each month, or on the last day of a month that
    is shorter. Raises ValueError if there is no such day.
    """
    if not 1 <= billing_day <= 31:
        raise ValueError(f"a billing day is 1 to 31, not {billing_day}")
    local = _local(instant_ms, zone)
    month = local.year * 12 + local.month - 1
    starts = [_billing_start(zone, billing_day, month + shift) for shift in (-1, 0, 1, 2)]
    begin = max(index for index, start in enumerate(starts) if start <= instant_ms)
    return Period(starts[begin], starts[begin + 1])


def local_date(ms: int, zone: ZoneInfo) -> date:
    """The date that the local clock shows at an instant."""
    return _local(ms, zone).date()


def parse_instant(text: str, zone: ZoneInfo) -> int:
    """The instant that a text in ISO 8601 names, finer fractions than milliseconds cut off.

    A text without an offset is local time of ``zone``, a plain date the start of that day there.
    Of a time that comes twice the first is meant; a time that the clock skips is read with the
    offset before the change (PEP 495, fold=0). Raises ValueError.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"not a date or time in ISO 8601: {text!r}") from None
    if not MINYEAR < moment.year < MAXYEAR:
        raise ValueError(f"the year is out of range: {text!r}")
    if moment.tzinfo is not None:
        return _instant(moment)
    if _is_date(text):
        return day_start(zone, moment.date())
    return _instant(moment.replace(tzinfo=zone))


def format_instant(ms: int, zone: ZoneInfo) -> str:
    """An instant as local time with its offset, in ISO 8601; milliseconds only if there are any."""
    return _local(ms, zone).isoformat(timespec="milliseconds" if ms % 1000 else "seconds")


def _local(ms: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone)


def _instant(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _offset(ms: int, zone: ZoneInfo) -> int:
    """Local time minus UTC at an instant, in milliseconds."""
    return (_local(ms, zone).replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND - ms


def _change(zone: ZoneInfo, before_ms: int, after_ms: int) -> int:
    """The first instant of the offset in force at ``after_ms``, which is not that before it."""
    offset = _offset(after_ms, zone)
    while after_ms - before_ms > 1:
        middle = (before_ms + after_ms) // 2
        if _offset(middle, zone) == offset:
            after_ms = middle
        else:
            before_ms = middle
    return after_ms


@lru_cache(maxsize=4096)
def _billing_start(zone: ZoneInfo, billing_day: int, month: int) -> int:
    """The start of the period that begins in a month, counted from January of the year 0."""
    year, month = month // 12, month % 12 + 1
    return day_start(zone, date(year, month, min(billing_day, monthrange(year, month)[1])))


def _months(zone: ZoneInfo, first: date, last: date) -> Int64s:
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month + 1)
    return np.array([month_start(zone, month // 12, month % 12 + 1) for month in months], np.int64)


def _days(zone: ZoneInfo, first: date, last: date) -> Int64s:
    years = [_year(zone, year) for year in range(first.year, last.year + 1)]
    starts = np.concatenate([starts for starts, _ in years])
    dates = np.concatenate([dates for _, dates in years])
    begin = int(dates.searchsorted(_number(first)))
    return starts[begin : int(dates.searchsorted(_number(last))) + 1]


def _divided(zone: ZoneInfo, first: int, last: int, step_ms: int) -> Int64s:
    """The edges of the steps in all years from one to another."""
    years = [_divided_year(zone, year, step_ms) for year in range(first, last + 1)]
    return years[0] if len(years) == 1 else np.concatenate(years)


@lru_cache(maxsize=64)  # 70 kB each of hours, 280 of quarters
def _divided_year(zone: ZoneInfo, year: int, step_ms: int) -> Int64s:
    """Where the steps of a year's days begin."""
    starts, _ = _year(zone, year)
    found = _divide(zone, np.append(starts, day_start(zone, date(year + 1, 1, 1))), step_ms)[:-1]
    found.flags.writeable = False  # parts of it are handed out
    return found


def _divide(zone: ZoneInfo, days: Int64s, step_ms: int) -> Int64s:
    """The days' edges and those of the steps inside them."""
    anchors = [days]
    for index in np.flatnonzero(np.diff(days) != DAY_MS):
        start, end = int(days[index]), int(days[index + 1])
        starts = [start]
        if _offset(start, zone) != _offset(end, zone):
            starts.append(_change(zone, start, end))
        aligned = [min(at + -(at + _offset(at, zone)) % step_ms, end) for at in starts]
        anchors.append(np.array(starts + aligned, np.int64))
    pieces = np.unique(np.concatenate(anchors))
    counts = -(-np.diff(pieces) // step_ms)
    firsts = np.cumsum(counts) - counts
    inside = np.arange(counts.sum()) - np.repeat(firsts, counts)
    return np.append(np.repeat(pieces[:-1], counts) + inside * step_ms, pieces[-1])
