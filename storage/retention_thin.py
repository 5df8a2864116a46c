"""What is kept of one meter's sealed readings in a window, register by register."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np

from storage import blocks, energy
from storage.blocks import Stored
from storage.energy import Load
from storage.ladder import Keep
from storage.meters import Meter
from storage.retention_plan import Job, zone_of
from telemetry import calendar, intervals
from telemetry.calendar import Step
from telemetry.intervals import Replacement
from telemetry.readings import Int64s, Series
from telemetry.registers import BY_CODE, ENERGY_IMPORT, Quantity
from telemetry.thinning import Book, thin_energy, thin_instants

_STEPS = {Keep.QUARTER: Step.QUARTER, Keep.DAY: Step.DAY}


def reduced(
    loads: Callable[[int], Load],
    before: Stored,
    meter: Meter,
    swaps: Sequence[Replacement],
    job: Job,
    zone: ZoneInfo,
) -> Stored:
    """What is to be stored in the place of ``before``: all of the meter's readings in the window.

    ``before`` is arranged and not empty, ``loads`` gives for a register's code what loads its
    readings. To delete, ``before`` is all before the window's end; what decides about the readings
    that remain is kept.
    """
    parts = []
    bounds = blocks.changes(before.register)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        own = before.take(slice(start, end))
        code = int(own.register[0])
        register = BY_CODE.get(code)
        if register is None or register.quantity is not Quantity.ENERGY:
            parts.append(_instants(own, job, zone))
        elif code == ENERGY_IMPORT:
            parts.append(_energy(loads(code), own, meter, swaps, job, zone))
        else:  # the settings are those of the import register
            plain = dataclasses.replace(meter, modulus_wh=None, max_power_w=None)
            parts.append(_energy(loads(code), own, plain, (), job, zone))
    return Stored.concatenate(parts)


def _instants(own: Stored, job: Job, zone: ZoneInfo) -> Stored:
    if job.keep is Keep.NONE:
        return own.take(slice(0, 0))
    series = Series(own.time, own.value, own.epoch, own.status)
    return _stored(own, thin_instants(series, job.window, _edges(job, zone)))


def _energy(
    load: Load,
    own: Stored,
    meter: Meter,
    swaps: Sequence[Replacement],
    job: Job,
    zone: ZoneInfo,
) -> Stored:
    window = job.window
    book: Book = partial(
        intervals.curve,
        modulus=meter.modulus_wh,
        max_power_w=meter.max_power_w,
        replacements=swaps,
    )
    if job.keep is Keep.NONE:
        # The last reading that counts stays: with it all that follow count as they did.
        curve = book(energy.part_of(load, meter, swaps, window.end_ms, window.end_ms))
        last = int(curve.time.searchsorted(window.end_ms, side="right")) - 1
        return own if last < 0 else own.take(own.time >= curve.time[last])
    part = energy.part_of(load, meter, swaps, window.start_ms, window.end_ms)
    series = load(int(part.time[0]), int(part.time[-1]))
    return _stored(own, thin_energy(series, window, _edges(job, zone), book))


def _edges(job: Job, zone: ZoneInfo) -> Int64s:
    window, step = job.window, _STEPS[job.keep]
    return calendar.edges(step, zone_of(job.keep, zone), window.start_ms, window.end_ms)


def _stored(own: Stored, kept: Series) -> Stored:
    """Thinned readings of one series, with what is stored of those that were sent."""
    # Of one instant there are as many as before, or the first of equal ones.
    rank = np.arange(len(kept)) - kept.time.searchsorted(kept.time)
    at = (own.time.searchsorted(kept.time) + rank).clip(0, len(own) - 1)
    sent = own.time[at] == kept.time
    late = np.zeros(len(kept), np.int64)
    late[sent] = own.late[at[sent]]
    return Stored(
        np.full(len(kept), own.meter[0], np.uint32),
        np.full(len(kept), own.register[0], np.uint16),
        kept.status,
        kept.epoch,
        kept.time,
        kept.value,
        late,
    )
