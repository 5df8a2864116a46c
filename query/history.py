"""Energy slot by slot: from the days that are kept where they tell it, else from the readings."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import numpy as np

from query import messages as m
from query.asking import Answers, find_meter, flag_names, instant_range, page_size
from query.transport import BusError
from storage import kept_days
from storage.energy import REGISTER, energy_curve
from storage.meters import Meter
from telemetry import calendar, intervals
from telemetry.calendar import DAY_MS, HOUR_MS, QUARTER_MS, Step
from telemetry.intervals import Curve, Flag, Slots
from telemetry.readings import Int64s, UInt16s

_MISSING = int(Flag.MISSING)

# No slot is longer; a day may gain hours by a change of the clock, or a whole one of the date.
_LONGEST = {
    Step.QUARTER: QUARTER_MS,
    Step.HOUR: HOUR_MS,
    Step.DAY: 2 * DAY_MS,
    Step.MONTH: 33 * DAY_MS,
}


def get_history(request: m.GetHistory, source: Answers) -> m.History:
    """Answers GetHistory; raises BusError."""
    most = page_size(request.most)
    try:
        step = Step(request.step)
    except ValueError:
        steps = ", ".join(Step)
        raise BusError("bad_request", f"step is one of {steps}, not {request.step!r}") from None
    meter = find_meter(source, request.id)
    start, end = instant_range(source, meter, request.start_ms, request.end_ms)
    if step is Step.RAW:
        curve, bounds, flags = _between_readings(source, meter, start, end, most)
        booked = curve.at(bounds)
        wh = booked[1:] - booked[:-1]
    else:
        bounds, slots = _slots(request, source, meter, step, start, end)
        wh, flags = slots.energy, slots.flags
    starts, ends = bounds[:-1], bounds[1:]
    missing = (flags & _MISSING) != 0
    if missing.any():
        starts, ends, wh, flags = (column[~missing] for column in (starts, ends, wh, flags))
    more = int(starts[most]) if len(starts) > most else None
    return m.History(
        id=meter.id,
        time_zone=source.defaults.zone(meter).key,
        step=step,
        start_ms=starts[:most].tolist(),
        end_ms=ends[:most].tolist(),
        wh=wh[:most].tolist(),
        flags=flag_names(flags[:most]),
        next=more,
    )


def _slots(
    request: m.GetHistory, source: Answers, meter: Meter, step: Step, start: int, end: int
) -> tuple[Int64s, Slots]:
    """The bounds of the slots of one page and what is in them."""
    kept = _from_days(request, source, meter, start, end) if step is Step.DAY else None
    if kept is not None:
        return kept
    most = request.most
    curve = _for_page(source, meter, step, start, end, most)
    if not len(curve.time) or start < curve.time[0]:
        if end <= start + _reach(step, most):  # all that there is of it was found
            start = int(curve.time[0]) if len(curve.time) else start
        else:  # there may be more, but later
            start = max(start, source.reader.oldest(meter, REGISTER) or start)
            curve = _for_page(source, meter, step, start, max(end, start + 1), most)
        end = max(end, start + 1)
    edges = _edges(curve, step, source.defaults.zone(meter), start, end, most)
    bounds = _within(edges, request.start_ms, request.end_ms)
    return bounds, intervals.slots(curve, bounds)


def _from_days(
    request: m.GetHistory, source: Answers, meter: Meter, start: int, end: int
) -> tuple[Int64s, Slots] | None:
    """The slots of days, the whole ones from what is kept of them, the others from readings.

    None where nothing kept is surely what the readings say.
    """
    reader, zone = source.reader, source.defaults.zone(meter)
    oldest, newest = reader.oldest(meter, REGISTER), reader.newest(meter, REGISTER)
    upto = kept_days.certain_before(reader, meter, zone)
    if oldest is None or newest is None or upto is None:
        return None
    start = max(start, oldest)
    end = min(end, newest, start + _reach(Step.DAY, request.most))
    if start >= min(end, upto):
        return None
    edges, dates = calendar.days(zone, start, end - 1)
    edges, dates = edges[: request.most + 2], dates[: request.most + 1]
    bounds = _within(edges, request.start_ms, request.end_ms)
    if len(bounds) != len(edges):
        return None
    # A day may begin late, or today, as long as there is no reading before that.
    first = int(bounds[0] != edges[0] and bounds[0] > oldest)
    last = int(bounds.searchsorted(min(upto, int(edges[-1])), side="right")) - 1
    last -= int(last == len(edges) - 1 and bounds[-1] != edges[-1])
    if first >= last:
        return None
    middle = kept_days.slots(reader, meter, bounds[first : last + 1], dates[first:last])
    parts = [middle]
    for rows, place in ((bounds[: first + 1], 0), (bounds[last:], 2)):
        if len(rows) > 1:
            curve = energy_curve(reader, meter, int(rows[0]), int(rows[-1]))
            parts.insert(place, intervals.slots(curve, rows))
    if len(parts) == 1:
        return bounds, middle
    return bounds, Slots(
        np.concatenate([part.energy for part in parts]),
        np.concatenate([part.flags for part in parts]),
    )


def _between_readings(
    source: Answers, meter: Meter, start: int, end: int, most: int
) -> tuple[Curve, Int64s, UInt16s]:
    """The bounds and flags of the intervals between readings in [start, end], for one page."""
    for reach in reaches(start, end):
        curve = energy_curve(source.reader, meter, start, reach)
        first = int(curve.time.searchsorted(start))
        last = min(int(curve.time.searchsorted(reach, side="right")), first + most + 2)
        if last - first == most + 2:
            break
    return curve, curve.time[first:last], curve.flags[first + 1 : last]


def _for_page(source: Answers, meter: Meter, step: Step, start: int, end: int, most: int) -> Curve:
    """The curve of as many slots from the start on as a page may need."""
    return energy_curve(source.reader, meter, start, min(end, start + _reach(step, most)))


def _reach(step: Step, most: int) -> int:
    """How far the slots of a page may reach, ms."""
    return (most + 2) * _LONGEST[step]


def reaches(start: int, end: int) -> Iterator[int]:
    """Ever later instants up to the end: who looks for a page need not look at years."""
    reach = 2 * DAY_MS
    while start + reach < end:
        yield start + reach
        reach *= 8
    yield end


def _edges(curve: Curve, step: Step, zone: ZoneInfo, start: int, end: int, most: int) -> Int64s:
    """The edges of the slots that touch [start, end) and the data, enough for one page."""
    if len(curve.time) < 2 or end <= curve.time[0] or start >= curve.time[-1]:
        return np.array([start], np.int64)
    # No calendar of centuries without data, nor of pages to come. Slots inside the data are never
    # missing, so a page and one more are enough.
    end = min(end, int(curve.time[-1]), start + _reach(step, most))
    return calendar.edges(step, zone, start, end)[: most + 2]


def _within(edges: Int64s, start: int | None, end: int | None) -> Int64s:
    """The edges cut off at what was asked for."""
    first = 0 if start is None else max(int(edges.searchsorted(start, side="right")) - 1, 0)
    after = len(edges) if end is None else int(edges.searchsorted(end)) + 1
    inside = edges[first : max(after, first + 1)].copy()
    if start is not None:
        inside[0] = max(inside[0], start)
    if end is not None:
        inside[-1] = min(inside[-1], end)
    return inside
