"""Energy by day of readings that are only in the journal: what sealing will add to the days."""

from __future__ import annotations

import numpy as np

from storage import blocks, daily, latest
from storage.blocks import Stored
from storage.defaults import Defaults
from storage.energy import REGISTER
from storage.queries import Reader
from telemetry.days import Days


def additions(reader: Reader, defaults: Defaults) -> Days:
    """What is to be added to the daily table, and flags to be set in it, as of the snapshot."""
    return reader.remembered("additions", lambda: _additions(reader, defaults))


def _additions(reader: Reader, defaults: Defaults) -> Days:
    energy = blocks.arrange(reader.unsealed(REGISTER)) if reader.any_unsealed else blocks.NOTHING
    if not len(energy):
        return Days.concatenate([])
    newest = latest.Newest.of_energy(reader.connection, energy)
    grown = daily.grow(reader.connection, energy, newest, defaults)
    parts = [grown.added]
    for number in grown.again:
        start, end = energy.meter.searchsorted([number, number + 1])
        parts.append(_difference(reader, energy.take(slice(int(start), int(end))), defaults))
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
