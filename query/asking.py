"""What every answer is made from, and the checks of what several requests ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from query import messages as m
from query.transport import BusError
from storage.defaults import Defaults
from storage.energy import REGISTER
from storage.ladder import Policy
from storage.meters import Meter
from storage.queries import Reader, UnknownMeterError
from telemetry import calendar, intervals
from telemetry.readings import Int64s, UInt16s

# Instants outside the years 1900 to 2200 are slips of the pen.
_EARLIEST, _LATEST = -2_208_988_800_000, 7_258_118_400_000


@dataclass(slots=True)
class Answers:
    """What an answer is made from."""

    reader: Reader
    defaults: Defaults
    policy: Policy
    version: str
    clock: Callable[[], int]  # ms
    timeless: bool = True  # whether the same answer is right as long as the snapshot is

    @property
    def now_ms(self) -> int:
        """The service's clock; an answer that looks at it is true only now."""
        self.timeless = False
        return self.clock()


def find_meter(source: Answers, name: str) -> Meter:
    """The meter of an id; BusError where there is none."""
    try:
        return source.reader.meter(name)
    except UnknownMeterError as error:
        raise BusError("unknown_meter", str(error)) from None
    except ValueError as error:
        raise BusError("bad_request", str(error)) from None


def page_size(most: int, largest: int = m.MOST_ROWS) -> int:
    """How many rows were asked for; BusError for none and for too many."""
    if not 1 <= most <= largest:
        raise BusError("bad_request", f"most is 1 to {largest}, not {most}")
    return most


def flag_names(flags: UInt16s | Int64s) -> list[list[str]]:
    """The names of each row's flags."""
    if not flags.any():
        return [[]] * len(flags)
    listed = flags.tolist()
    names = {flag: intervals.names(flag) for flag in set(listed)}
    return [names[flag] for flag in listed]


def day_range(first: str | None, last: str | None, source: Answers) -> tuple[date, date]:
    """The days asked for, both included; what is left out follows the collector's current month."""
    if last is None:  # only then, or no answer could be remembered
        end = _month_end(calendar.local_date(source.now_ms, source.defaults.own_zone))
    else:
        end = _day("last", last)
    begin = end.replace(day=1) if first is None else _day("first", first)
    if begin > end:
        raise BusError("bad_request", f"the range ends on {end}, before it starts on {begin}")
    return begin, end


def _month_end(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def _day(field: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.max
    if not 1900 <= day.year < 2200:
        raise BusError("bad_request", f"{field} is a day such as 2026-01-31, not {text!r}")
    return day


def instant(field: str, said: int | None) -> int | None:
    """An instant that a request may leave out; BusError where it makes no sense."""
    if said is not None and not _EARLIEST <= said <= _LATEST:
        raise BusError("bad_request", f"{field} is ms of Unix time, 1900 to 2200, not {said}")
    return said


def instant_range(
    source: Answers, meter: Meter, start_ms: int | None, end_ms: int | None
) -> tuple[int, int]:
    """The range asked for, where nothing was asked the data's; never empty."""
    start, end = instant("start_ms", start_ms), instant("end_ms", end_ms)
    if start is not None and end is not None and end <= start:
        raise BusError("bad_request", "the range ends before it starts")
    if start is None:
        first = source.reader.oldest(meter, REGISTER) or 0
        start = first if end is None else min(first, end - 1)
    if end is None:
        end = max(source.reader.newest(meter, REGISTER) or 0, start + 1)
    return start, end
