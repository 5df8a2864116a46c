"""What an SMA Energy Meter with the frequency (608 octets) sends each second."""

from __future__ import annotations

import struct
from functools import cache

SUSY_ID = 349
FIRST_SERIAL = 1_900_000_000
_PHASES = (0, 20, 40, 60)
_PAIRS = (1, 2, 3, 4, 9, 10)
_VERSION = bytes.fromhex("90000000 02030452")


@cache
def _entries() -> list[tuple[int, int]]:
    """Index and type of each, in the device's order."""
    found = []
    for phase in _PHASES:
        found += [(phase + index, type_) for index in _PAIRS for type_ in (4, 8)]
        found += [(phase + index, 4) for index in ((11, 12, 13) if phase else (13, 14))]
    return found


def _value(index: int, type_: int, meter: int, turn: int) -> int:
    kind = index % 20
    if type_ == 8:  # Ws: 300 W and more, by meter and register
        return 3_600_000 * index + turn * (300 + meter % 700 + index)
    fixed = {13: 987, 14: 49_990 + turn % 20, 11: 1300 + turn % 50, 12: 229_000 + turn % 900}
    return fixed.get(kind, 3000 + (turn * 7 + meter) % 900)


def made(meter: int, turn: int) -> bytes:
    """A datagram of meter number ``meter`` at its ``turn``-th second."""
    entries = b"".join(
        struct.pack(">BBBB", 0, index, type_, 0) + _value(index, type_, meter, turn).to_bytes(type_)
        for index, type_ in _entries()
    )
    ticker = (1000 * turn + 37 * meter) % 2**32
    head = struct.pack(">HHII", 0x6069, SUSY_ID, FIRST_SERIAL + meter, ticker)
    body = head + entries + _VERSION
    group = bytes.fromhex("534d4100 0004 02a0 00000001")
    return group + struct.pack(">HH", len(body), 0x0010) + body + bytes(4)
