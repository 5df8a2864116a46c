"""The journal: committed batches, sorted by series, one row each (docs/journal-format.md)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from storage.columns import DamagedError as DamagedError  # part of what this module says
from storage.columns import pack, unpack
from storage.order import by_meter
from telemetry.readings import Int64s, Readings, UInt16s, UInt32s, UInt64s

_HEAD = struct.Struct("<4sII")
_MAGIC = b"WBJ2"
_COLUMNS: dict[str, type[np.generic]] = {
    "meter": np.uint32,
    "register": np.uint16,
    "status": np.uint16,
    "epoch": np.uint32,
    "time": np.int64,
    "value": np.int64,
}
_WIDTH = sum(np.dtype(dtype).itemsize for dtype in _COLUMNS.values())

MOST_READINGS = 1 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings of numbered meters, sorted by (meter, register), each series in order of arrival."""

    meter: UInt32s
    register: UInt16s
    status: UInt16s
    epoch: UInt32s
    time: Int64s
    value: Int64s

    def __len__(self) -> int:
        return len(self.time)

    def without(self, meter: int) -> Batch:
        """The readings of all other meters."""
        others = self.meter != meter
        return Batch(*(getattr(self, name)[others] for name in _COLUMNS))

    @property
    def series(self) -> UInt64s:
        """The sort key: meter and register in one number (see ``series_key``)."""
        return (self.meter.astype(np.uint64) << np.uint64(16)) | self.register


def series_key(meter: int, register: int = 0) -> int:
    """The number by which a register of a meter is sorted; a meter's are contiguous."""
    return meter << 16 | register


def sort(meter: UInt32s, readings: Readings) -> Batch:
    """The batch of readings whose meters' numbers are ``meter``, shape (n,); n <= MOST_READINGS."""
    assert len(meter) <= MOST_READINGS
    order = by_meter(meter, readings.register)
    return Batch(
        meter=meter[order],
        register=readings.register[order],
        status=readings.status[order],
        epoch=readings.epoch[order],
        time=readings.time[order],
        value=readings.value[order],
    )


def encode(batch: Batch) -> bytes:
    """The body of the batch's row: each column as what is above its least value, kept short."""
    columns = pack(getattr(batch, name) for name in _COLUMNS)
    return _HEAD.pack(_MAGIC, len(batch), zlib.crc32(columns)) + columns


def decode(body: bytes) -> Batch:
    """The batch of a row's body, of any version; DamagedError where it is not whole."""
    if len(body) < _HEAD.size:
        raise DamagedError(f"a body of {len(body)} octets is too short for a header")
    magic, count, checksum = _HEAD.unpack_from(body)
    read = _VERSIONS.get(magic)
    if read is None:
        raise DamagedError(f"the body starts with {magic!r}, not {_MAGIC!r}")
    batch = read(body, count)
    if zlib.crc32(memoryview(body)[_HEAD.size :]) != checksum:
        raise DamagedError("the body's checksum does not match its octets")
    return batch


def _decode_1(body: bytes, count: int) -> Batch:
    if len(body) != _HEAD.size + count * _WIDTH:
        raise DamagedError(f"the body of {count} readings has {len(body)} octets")
    columns, offset = {}, _HEAD.size
    for name, dtype in _COLUMNS.items():
        columns[name] = np.frombuffer(body, dtype, count, offset)
        offset += columns[name].nbytes
    return Batch(**columns)


def _decode_2(body: bytes, count: int) -> Batch:
    if count > MOST_READINGS:
        raise DamagedError(f"the body says that it has {count} readings")
    columns = unpack(body, _HEAD.size, count, list(_COLUMNS.values()))
    return Batch(**dict(zip(_COLUMNS, columns, strict=True)))


_VERSIONS = {b"WBJ1": _decode_1, _MAGIC: _decode_2}
