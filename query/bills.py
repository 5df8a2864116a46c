"""The bill of a period: from the days that are kept where they tell it, else from the readings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from query import billing
from query import messages as m
from query.asking import Answers, find_meter, instant
from query.transport import BusError
from storage import kept_days
from storage.energy import REGISTER, energy_curve
from storage.meters import Meter
from telemetry import calendar, intervals
from telemetry.calendar import QUARTER_MS, Period
from telemetry.intervals import Curve, Flag


class _Used(NamedTuple):
    """The energy of a period, Wh, and what is to be known of it."""

    wh: int
    estimated_wh: int
    flags: int


def get_bill(request: m.GetBill, source: Answers) -> m.Bill:
    """Answers GetBill; raises BusError."""
    meter, defaults, reader = find_meter(source, request.id), source.defaults, source.reader
    zone, price = defaults.zone(meter), defaults.price_of(meter)
    upto = kept_days.certain_before(reader, meter, zone)
    at, recent = instant("at_ms", request.at_ms), None
    if at is None:
        newest = reader.newest(meter, REGISTER)
        if newest is None:
            raise BusError("no_readings", f"meter {meter.id!r} has no energy readings to bill yet")
        recent = energy_curve(reader, meter, newest if upto is None else upto)
        # A reading at midnight of the first closes the period before; what is newer is held back.
        at = int(recent.time[-1]) - 1
    period = defaults.period(meter, at)
    used = None if upto is None else _from_days(source, meter, period, upto, recent)
    if used is None:
        used = _from_readings(source, meter, period)
    return m.Bill(
        id=meter.id,
        time_zone=zone.key,
        start_ms=period.start_ms,
        end_ms=period.end_ms,
        wh=used.wh,
        estimated_wh=used.estimated_wh,
        complete=not used.flags & (Flag.PARTIAL | Flag.MISSING),
        price=price,
        currency=defaults.currency,
        amount=billing.amount(used.wh, price),
        flags=intervals.names(used.flags),
    )


def _from_days(
    source: Answers, meter: Meter, period: Period, upto: int, recent: Curve | None
) -> _Used | None:
    """From the days kept before the midnight ``upto``, and from the readings since.

    ``recent`` is the curve from ``upto`` on, if it is known. None where days do not tell it: of
    one that is divided within a long interval they do not say how much is estimated.
    """
    reader, end = source.reader, period.end_ms
    oldest = reader.oldest(meter, REGISTER)
    start, whole = max(period.start_ms, oldest or 0), min(upto, end)
    if oldest is None or start >= whole:
        return None
    edges, dates = calendar.days(source.defaults.zone(meter), start, whole - 1)
    days = kept_days.slots(reader, meter, edges, dates)
    wh, flags = int(days.energy.sum()), set(days.flags.tolist())
    if whole < end:
        if recent is None:
            recent = energy_curve(reader, meter, whole, end)
        rest = intervals.slots(recent, np.array([whole, end], np.int64))
        wh += int(rest.energy[0])
        flags.add(int(rest.flags[0]))
    if edges[0] > period.start_ms:
        flags.add(int(Flag.MISSING))
    found = int(np.bitwise_or.reduce(list(flags)))
    if found & Flag.ESTIMATED:
        return None
    if found & Flag.MISSING and not all(own & Flag.MISSING for own in flags):
        found = found & ~Flag.MISSING | Flag.PARTIAL
    return _Used(wh, 0, found)


def _from_readings(source: Answers, meter: Meter, period: Period) -> _Used:
    start, end = period.start_ms, period.end_ms
    curve = energy_curve(source.reader, meter, start, end)
    slots = intervals.slots(curve, np.array([start, end], np.int64))
    return _Used(int(slots.energy[0]), _estimated(curve, start, end), int(slots.flags[0]))


def _estimated(curve: Curve, start: int, end: int) -> int:
    """The energy of [start, end) that comes from long intervals reaching over its ends, Wh."""
    spans = set()  # one interval may reach over both ends
    for edge in (start, end):
        after = int(curve.time.searchsorted(edge))
        if 0 < after < len(curve.time):
            low, high = int(curve.time[after - 1]), int(curve.time[after])
            if edge < high and high - low > QUARTER_MS:
                spans.add((max(start, low), min(end, high)))
    return sum(int(np.diff(curve.at(np.array(span, np.int64)))[0]) for span in spans)
