"""Blocks: readings of a group of meters, sorted and packed in columns (docs/block-format.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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
from storage.journal import Batch, DamagedError
from telemetry.readings import Int64s, UInt16s, UInt32s, UInt64s

__all__ = [
    "BRIEF",
    "LASTING",
    "MOST_READINGS",
    "NOTHING",
    "READINGS",
    "Stored",
    "arrange",
    "changes",
    "decode",
    "encode",
    "near",
    "open_body",
    "who",
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
READINGS = ("time", "epoch", "status", "late")

# Some times what a pass takes: a decoder makes room for no more.
MOST_READINGS = 1 << 22


@dataclass(frozen=True, slots=True)
class Stored:
    """Readings with their meters' numbers; every column has shape (n,).

    ``late`` is 0 for a reading that was newer than all of its series when it was accepted, else the
    journal row it came in. So of one instant a reading accepted later has a higher one, or the same
    and comes later in every order.
    """

    meter: UInt32s
    register: UInt16s
    status: UInt16s
    epoch: UInt32s
    time: Int64s
    value: Int64s
    late: Int64s

    def __len__(self) -> int:
        return len(self.time)

    @property
    def series(self) -> UInt64s:
        """Register and meter in one number, by which a block is sorted."""
        return (self.register.astype(np.uint64) << np.uint64(32)) | self.meter

    def take(self, rows: npt.NDArray[Any] | slice) -> Stored:
        """The readings of the given rows, in the order of the rows."""
        return Stored(*(getattr(self, name)[rows] for name in Stored.__slots__))

    @classmethod
    def of(cls, batch: Batch, revision: int) -> Stored:
        """The readings of the journal row ``revision``, in their order, all of them late."""
        late = np.full(len(batch), revision, np.int64)
        columns = (batch.meter, batch.register, batch.status, batch.epoch, batch.time, batch.value)
        return cls(*columns, late)

    @classmethod
    def concatenate(cls, parts: list[Stored]) -> Stored:
        """The readings of all parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        columns = ([getattr(part, name) for part in parts] for name in Stored.__slots__)
        return cls(*(np.concatenate(column) for column in columns)) if parts else NOTHING


NOTHING = Stored(
    np.empty(0, np.uint32),
    np.empty(0, np.uint16),
    np.empty(0, np.uint16),
    np.empty(0, np.uint32),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
)


def arrange(stored: Stored) -> Stored:
    """The readings by register, meter and time, of one instant by acceptance, repeats once."""
    if not is_arranged(stored):
        order = np.argsort(near(stored.meter), kind="stable")
        stored = stored.take(order[np.argsort(stored.register[order], kind="stable")])
        if not is_arranged(stored):
            stored = stored.take(np.lexsort((stored.late, stored.time, stored.series)))
    series, time = stored.series, stored.time
    same = (series[1:] == series[:-1]) & (time[1:] == time[:-1])
    if same.any():
        # A repeat with an older epoch says something new: its reading was before the reset.
        # So does one of another status: an instant's doubts are those of all its repeats.
        same &= stored.value[1:] == stored.value[:-1]
        same &= stored.status[1:] == stored.status[:-1]
        same &= stored.epoch[1:] >= stored.epoch[:-1]
        stored = stored.take(np.append(True, ~same))
    return stored


def near(meter: UInt32s) -> npt.NDArray[Any]:
    """Numbers in the same order, in sixteen bits if they fit: those are sorted by radix."""
    numbers: npt.NDArray[Any] = meter - meter.min()
    return numbers.astype(np.uint16) if numbers.max() < 1 << 16 else numbers


def is_arranged(stored: Stored) -> bool:
    """Whether readings are sorted as ``arrange`` sorts them."""
    series, time, late = stored.series, stored.time, stored.late
    behind = (time[1:] < time[:-1]) | ((time[1:] == time[:-1]) & (late[1:] < late[:-1]))
    wrong = (series[1:] < series[:-1]) | ((series[1:] == series[:-1]) & behind)
    return not wrong.any()


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
    guides: list[Int64s] = []
    left = MOST_READINGS
    for place, register in enumerate(registers):
        meters, counts, firsts = who(registers, place, left)
        total = int(counts.sum())
        left -= total
        time, epoch, status, late = (unpack(registers, place, name, total) for name in READINGS)
        time[firsts] += unpack_small(registers, place, "starts", len(meters))
        time = _sums(time, firsts, counts)
        part = Part(slice(0, len(meters)), firsts, time)
        packed = unpack(registers, place, "value", total)
        guide = guides[register.guide[0]] if register.guide else None
        value = steps(register, small(registers, place, len(meters)), packed, guide, part)
        guides.append(value)
        if register.cumulative:
            value = _sums(value, firsts, counts)
        codes = np.full(total, register.code, np.uint16)
        parts.append(Stored(np.repeat(meters, counts), codes, status, epoch, time, value, late))
    return Stored.concatenate(parts)


def who(registers: list[Register], place: int, most: int) -> tuple[UInt32s, Int64s, Int64s]:
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
