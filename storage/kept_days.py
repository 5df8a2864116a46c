"""The days that are kept of one meter, where they surely say what its readings say."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy as sa

from storage import schema
from storage.energy import REGISTER
from storage.meters import Meter
from storage.prepared import Prepared
from storage.queries import Reader
from telemetry import calendar
from telemetry.flags import Flag, mark
from telemetry.intervals import Slots
from telemetry.readings import Int64s

_DAILY = schema.daily.c
_DATES = 32  # of a question's dates the number is rounded up to a multiple


@lru_cache(maxsize=64)
def _rows(count: int) -> Prepared:
    """So many days of a meter; found one by one, as their key begins with the date."""
    dates: list[sa.BindParameter[int]] = [sa.bindparam(f"day{number}") for number in range(count)]
    return Prepared(
        sa.select(_DAILY.day, _DAILY.wh, _DAILY.covered_ms, _DAILY.flags).where(
            _DAILY.day.in_(dates), _DAILY.meter == sa.bindparam("meter")
        )
    )


def certain_before(reader: Reader, meter: Meter, zone: ZoneInfo) -> int | None:
    """The local midnight before which nothing that is not in the days yet can change them.

    None where that cannot be told: the newest sealed reading may not count, readings in the
    journal are not all newer, or the days are those of another zone.
    """
    tip = reader.tip(meter, REGISTER)
    if tip is None or not tip.settled or meter.daily_zone != zone.key:
        return None
    unsealed = reader.unsealed_span(meter, REGISTER)
    if unsealed and unsealed[0] <= tip.time_ms:
        return None
    return int(calendar.days(zone, tip.time_ms, tip.time_ms)[0][0])


def slots(reader: Reader, meter: Meter, edges: Int64s, dates: Int64s) -> Slots:
    """Energy and flags of local days; ``edges`` has shape (n + 1,), ``dates`` shape (n,).

    The days are whole; but the first edge may be any instant up to the first reading.
    """
    count = -(-len(dates) // _DATES) * _DATES
    wanted = dates.tolist() + [0] * (count - len(dates))  # no day is 0
    named = {f"day{number}": date for number, date in enumerate(wanted)}
    rows = sorted(_rows(count).rows(reader.connection, meter=meter.number, **named))
    columns = np.fromiter(chain.from_iterable(rows), np.int64, 4 * len(rows))
    day, wh, covered, flags = columns.reshape(-1, 4).T
    place = dates.searchsorted(day)
    energy = np.zeros(len(dates), np.int64)
    energy[place] = wh
    marks = np.full(len(dates), Flag.MISSING, np.uint16)
    partial = mark(covered < (edges[1:] - edges[:-1])[place], Flag.PARTIAL)
    marks[place] = flags.astype(np.uint16) | partial
    return Slots(energy, marks)
