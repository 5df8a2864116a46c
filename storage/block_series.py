"""One meter's readings out of a block, without unpacking those of the others."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from storage.block_columns import Register, unpack_rows
from storage.blocks import MOST_READINGS, READINGS, Stored, open_body, values_of, who
from telemetry.readings import Int64s, UInt32s

_OPENED = 512  # blocks of which the contents are remembered, some 20 kB each


class _Contents(NamedTuple):
    """A block's registers, the place of one of them, and whose readings that has."""

    registers: list[Register]
    place: int
    meters: UInt32s
    counts: Int64s
    starts: Int64s


@lru_cache(maxsize=_OPENED)
def _register_of(body: bytes, code: int) -> _Contents | None:
    """What a block has of a register, but the readings; many meters of a block are asked for."""
    registers = open_body(body)
    codes = [register.code for register in registers]
    if code not in codes:
        return None
    place = codes.index(code)
    return _Contents(registers, place, *who(registers, place, MOST_READINGS))


def series(body: bytes, meter: int, code: int) -> Stored | None:
    """The readings of one series in a block, None where it has none; raises DamagedError."""
    found = _register_of(body, code)
    if found is None:
        return None
    registers, place, meters, counts, starts = found
    at = int(meters.searchsorted(meter))
    if at == len(meters) or meters[at] != meter:
        return None
    rows = slice(int(starts[at]), int(starts[at] + counts[at]))
    total = int(starts[-1] + counts[-1])
    time, epoch, status, late = (
        unpack_rows(registers, place, name, total, rows) for name in READINGS
    )
    value = values_of(registers, place, total, starts)[rows]
    return Stored(
        np.full(len(time), meter, np.uint32),
        np.full(len(time), code, np.uint16),
        status,
        epoch,
        time.cumsum(),
        value.cumsum() if registers[place].cumulative else value,
        late,
    )
