"""Blocks: readings of a group of meters, sorted and packed in columns (docs/block-format.md)."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from storage.block_columns import (
    BRIEF,
    LASTING,
    Register,
    changes,
    pack,
    pack_values,
    unpack,
    unpack_counts,
)
from storage.journal import DamagedError
from storage.stored import NOTHING, Stored, arrange, near
from telemetry.readings import Int64s, UInt16s, UInt32s

__all__ = [
    "BRIEF",
    "LASTING",
    "MOST_READINGS",
    "NOTHING",
    "Contents",
    "Stored",
    "arrange",
    "changes",
    "contents",
    "decode",
    "encode",
    "near",
    "open_body",
]

_HEAD = struct.Struct("<4sI")
_MAGIC = b"WBB1"
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Register])
_READINGS = ("time", "epoch", "status", "late")
_SAMPLE = 32  # values that tell whether there is a common unit
_RATE_BITS = 16
_TELLING = 0.95  # a guide is worth its while where the rest is spread less by this
_UNITS = (1_000_000, 100_000, 10_000, 1000, 100, 10)

# Some times what a pass takes: a decoder makes room for no more.
MOST_READINGS = 1 << 22


def encode(stored: Stored, effort: int = LASTING) -> bytes:
    """The body of a block of arranged readings, from one to MOST_READINGS."""
    assert len(stored) <= MOST_READINGS
    bounds = changes(stored.register)
    registers: list[Register] = []
    earlier: list[dict[str, npt.NDArray[Any]]] = []
    guides: dict[int, Int64s] = {}
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        own = stored.take(slice(start, end))
        series = changes(own.meter)
        firsts = series[:-1]
        growth = _differences(own.value, firsts)
        cumulative = bool(growth.min() >= 0)
        columns: dict[str, npt.NDArray[Any]] = {
            "meters": _differences(own.meter[firsts], firsts[:1]),
            "counts": series[1:] - firsts,
            "time": _differences(own.time, firsts),
            "epoch": own.epoch,
            "status": own.status,
            "late": own.late,
        }
        packed = {name: pack(name, column, earlier, effort) for name, column in columns.items()}
        values, divisor = _divided(growth if cumulative else own.value)
        guide: list[int] = []
        place = packed["time"]
        same = packed["counts"] == packed["meters"] == place
        if same and not cumulative and isinstance(place, int) and place in guides:
            values, guide = _guided(values, place, guides[place])
        value, narrow = pack_values(values, effort)
        registers.append(
            Register(
                int(own.register[0]),
                **packed,
                value=value,
                cumulative=cumulative,
                divisor=divisor,
                guide=guide,
                narrow=narrow,
            )
        )
        if cumulative:
            guides[len(earlier)] = _guide(growth, firsts)
        earlier.append(columns)
    body = _ENCODER.encode(registers)
    return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def _divided(column: Int64s) -> tuple[Int64s, int]:
    """A column in the largest power of ten that divides it: registers may count in tens."""
    sample = int(np.gcd.reduce(column[:_SAMPLE]))
    for unit in _UNITS:
        if sample and sample % unit == 0 and not (column % unit).any():
            return column // unit, unit
    return column, 1


def _guide(growth: Int64s, firsts: npt.NDArray[np.intp]) -> Int64s:
    """What a cumulative register grew by at each reading; 0 at the first of each series."""
    guide = growth.copy()
    guide[firsts] = 0
    return guide


def _guided(values: Int64s, place: int, guide: Int64s) -> tuple[Int64s, list[int]]:
    """Values less what the guide tells of them, if it tells anything: power follows energy."""
    total = int(guide.sum())
    rate = (int(values.sum()) << _RATE_BITS) // total if total > 0 else 0
    if not 0 < rate < 1 << 31 or int(guide.max()) >= 1 << 31:
        return values, []
    rest = values - ((guide * rate) >> _RATE_BITS)
    spread, without = np.abs(rest - rest.mean()).mean(), np.abs(values - values.mean()).mean()
    return (rest, [place, rate]) if spread < _TELLING * without else (values, [])


def _values_of(registers: list[Register], place: int, total: int, firsts: Int64s) -> Int64s:
    """A register's values, or differences, in its own unit."""
    register = registers[place]
    values: Int64s = unpack(registers, place, "value", total)
    if register.guide:
        at, rate = register.guide
        guide = _guide(unpack(registers, at, "value", total) * registers[at].divisor, firsts)
        values = values + ((guide * rate) >> _RATE_BITS)
    return values * register.divisor


def _differences(column: npt.NDArray[Any], firsts: npt.NDArray[np.intp]) -> Int64s:
    """Within each series the differences, its first value as it is; may wrap, as sums then do."""
    differences = column.astype(np.int64)
    differences[1:] -= column[:-1]
    differences[firsts] = column[firsts]
    return differences


def decode(body: bytes) -> Stored:
    """The readings of a block; DamagedError where it is not what was written."""
    registers = open_body(body)
    parts: list[Stored] = []
    left = MOST_READINGS
    for place, register in enumerate(registers):
        own = contents(registers, place, left)
        left -= len(own.time)
        codes = np.full(len(own.time), register.code, np.uint16)
        parts.append(Stored(np.repeat(own.meters, own.counts), codes, *own.columns))
    return Stored.concatenate(parts)


class Contents(NamedTuple):
    """What a block has of a register: its meters, how many readings each has from where on."""

    meters: UInt32s
    counts: Int64s
    starts: Int64s
    status: UInt16s
    epoch: UInt32s
    time: Int64s
    value: Int64s
    late: Int64s

    @property
    def columns(self) -> tuple[UInt16s, UInt32s, Int64s, Int64s, Int64s]:
        """Those of the readings, in the order of ``Stored``."""
        return self[3:]


def contents(registers: list[Register], place: int, most: int = MOST_READINGS) -> Contents:
    """A register's readings, unpacked; DamagedError where they cannot be, or are too many."""
    meters, counts, starts = _who(registers, place, most)
    total = int(counts.sum())
    time, epoch, status, late = (unpack(registers, place, name, total) for name in _READINGS)
    value = _values_of(registers, place, total, starts)
    if registers[place].cumulative:
        value = _sums(value, starts, counts)
    time = _sums(time, starts, counts)
    return Contents(meters, counts, starts, status, epoch, time, value, late)


def _who(registers: list[Register], place: int, most: int) -> tuple[UInt32s, Int64s, Int64s]:
    """The meters of a register, how many readings each has, and where they start."""
    counts = unpack_counts(registers, place, most)
    if not len(counts) or counts.min() < 1 or counts.max() > most or counts.sum() > most:
        raise DamagedError("the block's counts are not those of readings")
    meters = unpack(registers, place, "meters", len(counts)).cumsum()
    if meters[0] < 0 or meters[-1] >= 1 << 32 or not (meters[1:] > meters[:-1]).all():
        raise DamagedError("the block's meters do not ascend")
    return meters.astype(np.uint32), counts, counts.cumsum() - counts


def _sums(differences: Int64s, starts: Int64s, counts: npt.NDArray[Any]) -> Int64s:
    """The inverse of ``_differences``."""
    total = differences.cumsum()
    return total - np.repeat(total[starts] - differences[starts], counts)


def open_body(body: bytes) -> list[Register]:
    """The registers of a block, packed; DamagedError where it is not what was written."""
    if len(body) < _HEAD.size:
        raise DamagedError(f"a block of {len(body)} octets is too short for a header")
    magic, checksum = _HEAD.unpack_from(body)
    if magic != _MAGIC:
        raise DamagedError(f"the block starts with {magic!r}, not {_MAGIC!r}")
    packed = memoryview(body)[_HEAD.size :]
    if zlib.crc32(packed) != checksum:
        raise DamagedError("the block's checksum does not match its octets")
    try:
        registers = _DECODER.decode(packed)
    except msgspec.MsgspecError as error:
        raise DamagedError(f"the block is no list of registers: {error}") from None
    if not registers:
        raise DamagedError("the block has no registers")
    for place, register in enumerate(registers):
        _check(registers, place, register)
    codes = [-1, *(register.code for register in registers), 1 << 16]
    if any(after <= before for before, after in pairwise(codes)):
        raise DamagedError("the block's registers do not ascend")
    return registers


def _check(registers: list[Register], place: int, register: Register) -> None:
    if isinstance(register.value, int):
        raise DamagedError("the block's values refer to others")
    if register.divisor not in (1, *_UNITS):
        raise DamagedError(f"the block's values are in units of {register.divisor}")
    if register.guide:
        if len(register.guide) != 2 or not 0 < register.guide[1] < 1 << 31:
            raise DamagedError("the block's guide is no place and rate")
        at = register.guide[0]
        if not 0 <= at < place or not registers[at].cumulative or registers[at].guide:
            raise DamagedError("the block's guide is no register before that grows")
        if register.counts != at or register.time != at or register.meters != at:
            raise DamagedError("the block's guide has other readings")
