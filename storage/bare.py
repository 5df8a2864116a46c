"""Readings column by column with their meters' octets: on the live channel, in spools of old."""

from __future__ import annotations

import struct

import numpy as np

from telemetry.readings import COLUMNS, Readings

_COUNT = struct.Struct("<I")
_WIDTH = sum(np.dtype(dtype).itemsize for dtype in COLUMNS.values())


def pack(readings: Readings) -> bytes:
    """The number of readings (u32), then each of their columns."""
    columns = [getattr(readings, name).astype(dtype).tobytes() for name, dtype in COLUMNS.items()]
    return b"".join([_COUNT.pack(len(readings)), *columns])


def unpack(octets: bytes) -> Readings:
    """The readings, as views of the octets; ValueError where the length is wrong."""
    count = int.from_bytes(octets[: _COUNT.size], "little")
    if len(octets) != _COUNT.size + count * _WIDTH:
        raise ValueError(f"{count} bare readings have {len(octets)} octets")
    columns, offset = {}, _COUNT.size
    for name, dtype in COLUMNS.items():
        columns[name] = np.frombuffer(octets, dtype, count, offset)
        offset += columns[name].nbytes
    return Readings(**columns)
