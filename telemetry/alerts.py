"""Alerts that follow from a meter's energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from telemetry.intervals import Curve


@dataclass(frozen=True, slots=True)
class Crossing:
    """The reading at which a period's energy exceeded a limit, and the period's energy by then."""

    time_ms: int
    energy_wh: int


def limit_crossing(
    curve: Curve, period_start_ms: int, period_end_ms: int, limit_wh: int
) -> Crossing | None:
    """The first reading at which the energy since the period's start exceeds ``limit_wh``.

    Energy up to the period's start is the curve's, interpolated if no reading is there. A reading
    at the very end of the period closes it and still counts. The answer depends on the readings
    alone, not on the order in which they came. ``limit_wh`` is not negative.
    """
    before = int(curve.at(np.array([period_start_ms], np.int64))[0])
    index = int(curve.energy.searchsorted(before + limit_wh, side="right"))
    if index == len(curve.time) or curve.time[index] > period_end_ms:
        return None
    return Crossing(int(curve.time[index]), int(curve.energy[index]) - before)
