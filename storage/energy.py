"""A meter's energy: its import register's readings, settled and booked by the meter's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from storage.meters import Meter
from storage.queries import Reader
from telemetry import anchors, intervals
from telemetry.calendar import DAY_MS
from telemetry.intervals import Curve, Replacement, Settled
from telemetry.readings import Series
from telemetry.registers import BY_CODE, ENERGY_IMPORT

REGISTER = BY_CODE[ENERGY_IMPORT]
assert REGISTER.scaler == 0  # the settings in Wh are raw integers of this register

# How far around a range its readings are looked for, until they settle it; at last everywhere.
_MARGINS = (DAY_MS, 8 * DAY_MS, 64 * DAY_MS, None)

Load = Callable[[int | None, int | None], Series]


def energy_curve(
    reader: Reader, meter: Meter, start_ms: int | None = None, end_ms: int | None = None
) -> Curve:
    """The curve of the energy that the meter has taken from the grid.

    With a range it may begin anywhere before the start and end anywhere after the end; in between
    it tells the same differences, flags and gaps as the whole curve.
    """
    newest = reader.newest(meter, REGISTER)
    if end_ms is not None and (newest is None or newest <= end_ms):
        end_ms = None
    begins = None if start_ms is None else reader.begins(meter, REGISTER)
    if start_ms is not None and (begins is None or begins >= start_ms):
        start_ms = None
    return curve_of(
        lambda start, end: reader.series(meter, REGISTER, start, end),
        meter,
        reader.replacements(meter),
        start_ms,
        end_ms,
    )


def curve_of(
    load: Load,
    meter: Meter,
    replacements: Sequence[Replacement],
    start_ms: int | None,
    end_ms: int | None,
) -> Curve:
    """The curve from what ``load`` finds between two instants (None: to the end of the data)."""
    return intervals.curve(
        part_of(load, meter, replacements, start_ms, end_ms),
        modulus=meter.modulus_wh,
        max_power_w=meter.max_power_w,
        replacements=replacements,
    )


def part_of(
    load: Load,
    meter: Meter,
    replacements: Sequence[Replacement],
    start_ms: int | None,
    end_ms: int | None,
) -> Settled:
    """The settled readings that decide what is booked between two instants."""
    below, above = 0, 0
    while True:
        low = _moved(start_ms, below, -1)
        high = _moved(end_ms, above, +1)
        settled = intervals.settle(load(low, high))
        limits = meter.max_power_w, replacements
        first: int | None = 0
        if start_ms is not None and low is not None:
            first = anchors.before(settled, start_ms, *limits)
        last: int | None = len(settled)
        if end_ms is not None and high is not None:
            last = anchors.after(settled, end_ms, *limits)
        if first is not None and last is not None:
            return settled.part(slice(first, last))
        below += first is None
        above += last is None


def _moved(instant: int | None, step: int, direction: int) -> int | None:
    margin = _MARGINS[step]
    return None if instant is None or margin is None else instant + direction * margin
