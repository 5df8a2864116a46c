"""Energy, power and voltage as a script or a microcontroller sends them."""

from __future__ import annotations

_START = 1_795_428_900


def made(meter: int, turn: int) -> bytes:
    """The datagram of meter number ``meter`` at its ``turn``-th second."""
    watts = 200 + (37 * meter + 11 * turn) % 4000
    return (
        f'{{"meter": "json-{meter:08d}", "time": {_START + turn}, "registers": '
        f'{{"energy_import": {1000 * meter + turn}, "power_import": {watts}.5, '
        f'"voltage_l1": 230.{turn % 10}}}}}'
    ).encode()
