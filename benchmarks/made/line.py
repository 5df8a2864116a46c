"""Line protocol as scripts send it, a line a datagram, and as Telegraf does, many."""

from __future__ import annotations

_START = 1_795_428_900
_LINES = 20


def made(meter: int, turn: int) -> bytes:
    """The datagram of meter number ``meter`` at its ``turn``-th second."""
    return _line(meter, turn)


def made_20(meter: int, turn: int) -> bytes:
    """Twenty lines of twenty meters, the ``meter``-th twenty, at their ``turn``-th second."""
    first = _LINES * meter
    return b"\n".join(_line(number, turn) for number in range(first, first + _LINES))


def _line(meter: int, turn: int) -> bytes:
    watts = 200 + (37 * meter + 11 * turn) % 4000
    return (
        f"meters,host=gateway,meter=line-{meter:08d},site=home "
        f"energy_import={1000 * meter + turn}i,power={watts}.5,voltage=230.{turn % 10} "
        f"{_START + turn}000000000"
    ).encode()
