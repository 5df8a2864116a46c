"""One meter's readings out of a block, without unpacking those of the others."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from storage.block_columns import Register, unpack_rows, unpack_small
from storage.block_values import Part, Small, small, steps
from storage.blocks import MOST_READINGS, READINGS, Stored, open_body, who
from telemetry.readings import Int64s, UInt32s

_OPENED = 512  # blocks of which the contents are remembered, some 20 kB each
_FIRST = np.zeros(1, np.int64)


class _Contents(NamedTuple):
    """A block's registers, the place of one of them, and what that says of its meters."""

    registers: list[Register]
    place: int
    meters: UInt32s
    counts: Int64s
    firsts: Int64s
    starts: Int64s
    smalls: dict[int, Small]  # of the register, and of its guide


@lru_cache(maxsize=_OPENED)
def _register_of(body: bytes, code: int) -> _Contents | None:
    """What a block has of a register, but the readings; many meters of a block are asked for."""
    registers = open_body(body)
    codes = [register.code for register in registers]
    if code not in codes:
        return None
    place = codes.index(code)
    meters, counts, firsts = who(registers, place, MOST_READINGS)
    starts = unpack_small(registers, place, "starts", len(meters))
    places = (place, *registers[place].guide[:1])
    smalls = {at: small(registers, at, len(meters)) for at in places}
    return _Contents(registers, place, meters, counts, firsts, starts, smalls)


def series(body: bytes, meter: int, code: int) -> Stored | None:
    """The readings of one series in a block, None where it has none; raises DamagedError."""
    found = _register_of(body, code)
    if found is None:
        return None
    registers, place, meters, counts, firsts, starts, smalls = found
    at = int(meters.searchsorted(meter))
    if at == len(meters) or meters[at] != meter:
        return None
    rows = slice(int(firsts[at]), int(firsts[at] + counts[at]))
    total = int(firsts[-1] + counts[-1])
    time, epoch, status, late = (
        unpack_rows(registers, place, name, total, rows) for name in READINGS
    )
    time = starts[at] + time.cumsum()
    part = Part(slice(at, at + 1), _FIRST, time)
    values: list[Int64s] = []
    for told in (*registers[place].guide[:1], place):
        packed = unpack_rows(registers, told, "value", total, rows)
        guide = values[0] if values else None
        values.append(steps(registers[told], smalls[told], packed, guide, part))
    value = values[-1]
    return Stored(
        np.full(len(time), meter, np.uint32),
        np.full(len(time), code, np.uint16),
        status,
        epoch,
        time,
        value.cumsum() if registers[place].cumulative else value,
        late,
    )
