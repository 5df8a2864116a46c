"""Energy by day of readings that are only in the journal: what sealing will add to the days."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from storage import blocks, daily, latest
from storage.blocks import Stored
from storage.defaults import Defaults
from storage.energy import REGISTER
from storage.latest import Newest
from storage.queries import Reader
from telemetry.days import Days


def additions(reader: Reader, defaults: Defaults) -> Days:
    """What is to be added to the daily table, and flags to be set in it, as of the snapshot."""
    return reader.remembered("additions", lambda: _additions(reader, defaults))


@dataclass(slots=True)
class _Sums:
    """What the rows of the journal up to one add, as a pass of sealing that ended there would."""

    row: int = 0
    added: Days = field(default_factory=lambda: Days.concatenate([]))
    tips: Newest | None = None  # of the meters that had readings
    again: set[int] = field(default_factory=set)  # whose days do not plainly grow

    def grow(self, reader: Reader, defaults: Defaults) -> None:
        """Go on with the rows that have come since."""
        tail, row = reader.unsealed
        energy = blocks.arrange(tail.of_register(REGISTER.code, self.row))
        self.row = row
        if not len(energy):
            return
        newest = Newest.of_energy(reader.connection, energy)
        if self.tips is not None:
            newest = self.tips.or_else(newest)
        grown = daily.grow(reader.connection, energy, newest, defaults)
        self.again.update(grown.again)
        tips = Newest.last_of(energy, self.again)
        self.tips = tips if self.tips is None else tips.or_else(self.tips)
        self.added = Days.concatenate([self.added, grown.added]).summed()


def _additions(reader: Reader, defaults: Defaults) -> Days:
    sums = reader.lasting("additions", _Sums)
    sums.grow(reader, defaults)
    if not sums.again:
        return sums.added
    plain = ~np.isin(sums.added.meter, list(sums.again))
    parts = [sums.added.take(plain)]
    tail, _ = reader.unsealed
    for number in sorted(sums.again):
        own = blocks.arrange(tail.series(number, REGISTER.code))
        parts.append(_difference(reader, own, defaults))
    return Days.concatenate(parts)


def _difference(reader: Reader, own: Stored, defaults: Defaults) -> Days:
    """The days of one meter by all of its readings, less the rows that it has."""
    meter = reader.by_number(int(own.meter[0]))
    tip = latest.energy_tip(reader.connection, meter.number)
    earliest, newest = int(own.time[0]), int(own.time[-1])
    behind = tip is not None and tip.settled and newest < tip.time_ms
    found = daily.around(
        reader.connection,
        meter,
        lambda start, end: reader.series(meter, REGISTER, start, end),
        defaults,
        earliest if tip is None else min(earliest, tip.time_ms),
        newest if behind else None,
    )
    known = daily.stored_days(reader.connection, meter.number, found.first, found.last)
    dates, place = np.unique(np.concatenate([found.days.day, known.day]), return_inverse=True)
    now, before = place[: len(found.days)], place[len(found.days) :]
    wh, covered, flags = (np.zeros(len(dates), np.int64) for _ in range(3))
    wh[now], covered[now], flags[now] = found.days.wh, found.days.covered_ms, found.days.flags
    wh[before] -= known.wh
    covered[before] -= known.covered_ms
    return Days(np.full(len(dates), meter.number), dates, wh, covered, flags)
