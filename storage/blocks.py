"""Blocks: readings of a group of meters, sorted and packed in columns (docs/block-format.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from storage import block_values
from storage.block_columns import (
    BRIEF,
    LASTING,
    Register,
    Register1,
    changes,
    differences,
    pack,
    unpack,
    unpack_counts,
    unpack_small,
)
from storage.block_values import SHARPEST, UNITS, Part, grown, small, steps
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
    "begins",
    "changes",
    "contents",
    "decode",
    "encode",
    "near",
    "open_body",
]

_HEAD = struct.Struct("<4sI")
_MAGIC = b"WBB2"
_ENCODER = msgspec.msgpack.Encoder()
_DECODER_1 = msgspec.msgpack.Decoder(list[Register1])
_DECODER_2 = msgspec.msgpack.Decoder(list[Register])
_DECODERS: dict[bytes, Callable[[memoryview], list[Register]]] = {
    b"WBB1": lambda packed: [Register.of_1(own) for own in _DECODER_1.decode(packed)],
    _MAGIC: _DECODER_2.decode,
}
_READINGS = ("time", "epoch", "status", "late")

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
        gaps = _gaps(own.time, firsts, series[1:])
        columns: dict[str, npt.NDArray[Any]] = {
            "meters": differences(own.meter[firsts], firsts[:1]),
            "counts": series[1:] - firsts,
            "time": gaps,
            "epoch": own.epoch,
            "status": own.status,
            "late": own.late,
            "starts": own.time[firsts] - gaps[firsts],
        }
        packed = {name: pack(name, column, earlier, effort) for name, column in columns.items()}
        place = packed["time"]
        same = packed["counts"] == packed["meters"] == packed["starts"] == place
        guide = None
        if same and isinstance(place, int) and place in guides:
            guide = place, guides[place]
        fields = block_values.encode(own.value, own.time, firsts, guide, effort)
        columns["bases"] = fields["bases"]
        packed["bases"] = pack("bases", fields["bases"], earlier, effort)
        registers.append(Register(int(own.register[0]), **(fields | packed)))
        if fields["cumulative"]:
            guides[len(earlier)] = block_values.grown(own.value, firsts)
        earlier.append(columns)
    body = _ENCODER.encode(registers)
    return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def _gaps(time: Int64s, firsts: Int64s, ends: Int64s) -> Int64s:
    """How long after the one before each reading was; a series' first as its second, if any."""
    gaps = grown(time, firsts)
    gaps[firsts] = gaps[np.minimum(firsts + 1, ends - 1)]
    return gaps


def decode(body: bytes) -> Stored:
    """The readings of a block; DamagedError where it is not what was written."""
    registers = open_body(body)
    parts: list[Stored] = []
    grown_by: dict[int, Int64s] = {}
    left = MOST_READINGS
    for place, register in enumerate(registers):
        own = contents(registers, place, left, grown_by)
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


def contents(
    registers: list[Register],
    place: int,
    most: int = MOST_READINGS,
    known: dict[int, Int64s] | None = None,
) -> Contents:
    """A register's readings, unpacked; DamagedError where they cannot be, or are too many.

    ``known`` has, by their places, the steps of registers before that may tell of this one's.
    """
    meters, counts, starts = _who(registers, place, most)
    total = int(counts.sum())
    time, epoch, status, late = (unpack(registers, place, name, total) for name in _READINGS)
    time = _own(time)
    time[starts] += unpack_small(registers, place, "starts", len(meters))
    time = _sums(time, starts, counts)
    known = {} if known is None else known
    part = Part(slice(0, len(meters)), starts, time)
    for at in (*registers[place].guide[:1], place):
        if at not in known:
            packed = _own(unpack(registers, at, "value", total))
            guide = known[registers[at].guide[0]] if registers[at].guide else None
            known[at] = steps(registers[at], small(registers, at, len(meters)), packed, guide, part)
    value = known[place]
    if registers[place].cumulative:
        value = _sums(value, starts, counts)
    return Contents(meters, counts, starts, status, epoch, time, value, late)


def begins(registers: list[Register], place: int) -> tuple[UInt32s, Int64s]:
    """The meters that a register has, and the instants of their first readings."""
    meters, counts, starts = _who(registers, place, MOST_READINGS)
    time = unpack(registers, place, "time", int(counts.sum()))
    return meters, time[starts] + unpack_small(registers, place, "starts", len(meters))


def _own(column: Int64s) -> Int64s:
    """The column, to be written to."""
    return column if column.flags.writeable else column.copy()


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
    """The inverse of ``differences``."""
    total = differences.cumsum()
    if len(starts) == 1:
        return total
    return total - np.repeat(total[starts] - differences[starts], counts)


def open_body(body: bytes) -> list[Register]:
    """The registers of a block, packed; DamagedError where it is not what was written."""
    if len(body) < _HEAD.size:
        raise DamagedError(f"a block of {len(body)} octets is too short for a header")
    magic, checksum = _HEAD.unpack_from(body)
    if magic not in _DECODERS:
        raise DamagedError(f"the block starts with {magic!r}, not {_MAGIC!r}")
    packed = memoryview(body)[_HEAD.size :]
    if zlib.crc32(packed) != checksum:
        raise DamagedError("the block's checksum does not match its octets")
    try:
        registers = _DECODERS[magic](packed)
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
    if register.divisor not in (1, *UNITS):
        raise DamagedError(f"the block's values are in units of {register.divisor}")
    if register.guide:
        if len(register.guide) != 2 or not 0 < register.guide[1] < 1 << 31:
            raise DamagedError("the block's guide is no place and rate")
        at = register.guide[0]
        if not 0 <= at < place or not registers[at].cumulative or registers[at].guide:
            raise DamagedError("the block's guide is no register before that grows")
        if register.counts != at or register.time != at or register.meters != at:
            raise DamagedError("the block's guide has other readings")
        if register.starts not in (at, registers[at].starts):
            raise DamagedError("the block's guide has other readings")
    if not 0 <= register.sharp <= SHARPEST:
        raise DamagedError(f"the block's values are sharp by {register.sharp} bits")
