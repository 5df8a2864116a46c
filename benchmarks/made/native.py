"""Energy and power of a household, as ``wattbus meter`` sends them without asking for anything."""

from __future__ import annotations

from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT

_START_MS = 1_795_428_900_000


def made(meter: int, turn: int) -> bytes:
    """The datagram of meter number ``meter`` at its ``turn``-th second."""
    time_ms = _START_MS + 1000 * turn
    watts = 200 + (37 * meter + 11 * turn) % 4000
    records = [
        native.Record(ENERGY_IMPORT, time_ms, 1000 * meter + turn),
        native.Record(POWER_IMPORT, time_ms, 10 * watts),
    ]
    return native.encode(meter_id.to_octets(f"native-{meter:08d}"), 1, turn, records)
