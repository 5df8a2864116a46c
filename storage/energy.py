"""A meter's energy: its import register's readings, settled and booked by the meter's settings."""

from __future__ import annotations

from storage.meters import Meter
from storage.queries import Reader
from telemetry import intervals
from telemetry.intervals import Curve
from telemetry.registers import BY_CODE, ENERGY_IMPORT

_REGISTER = BY_CODE[ENERGY_IMPORT]
assert _REGISTER.scaler == 0  # the settings in Wh are raw integers of this register


def energy_curve(reader: Reader, meter: Meter) -> Curve:
    """The curve of all the energy that the meter has taken from the grid."""
    return intervals.curve(
        intervals.settle(reader.series(meter, _REGISTER)),
        modulus=meter.modulus_wh,
        max_power_w=meter.max_power_w,
        replacements=reader.replacements(meter),
    )
