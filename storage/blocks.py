"""Blocks: readings of a group of meters, sorted and packed in columns (docs/block-format.md)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from storage.journal import Batch, DamagedError
from telemetry.readings import Int64s, UInt16s, UInt32s, UInt64s

_HEAD = struct.Struct("<4sI")
_MAGIC = b"WBB1"
_ENCODER = msgspec.msgpack.Encoder()

# Once sealed a block is soon merged with others: less effort, some 2 % more octets.
BRIEF, LASTING = 4, 8
_CONFIGS = {
    level: ChunkConfig(
        compression_level=level, delta_spec=DeltaSpec.no_op(), mode_spec=ModeSpec.auto()
    )
    for level in (BRIEF, LASTING)
}
_RUN = 8  # a column is written as runs where they are this long or longer

# A column's octets as pcodec packs them; or runs, each a value and how often it comes; or the
# place of the register whose column is the same.
Column = bytes | list[int] | int


class _Register(msgspec.Struct, array_like=True, frozen=True):
    code: int
    meters: Column  # time and meters: differences, the first (of each series) itself
    counts: Column  # of the readings of each meter
    time: Column
    value: Column
    epoch: Column
    status: Column
    late: Column
    cumulative: bool  # value: the differences within each series, the first value itself


_DECODER = msgspec.msgpack.Decoder(list[_Register])
_TYPES: dict[str, type[np.generic]] = {
    "meters": np.int64,
    "counts": np.int64,
    "time": np.int64,
    "value": np.int64,
    "epoch": np.uint32,
    "status": np.uint16,
    "late": np.int64,
}
_READINGS = ("time", "value", "epoch", "status", "late")


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
        # Sixteen bits are sorted by radix, many times quicker.
        numbers = stored.meter - stored.meter.min()
        if numbers.max() < 1 << 16:
            numbers = numbers.astype(np.uint16)
        order = np.argsort(numbers, kind="stable")
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


def is_arranged(stored: Stored) -> bool:
    """Whether readings are sorted as ``arrange`` sorts them."""
    series, time, late = stored.series, stored.time, stored.late
    behind = (time[1:] < time[:-1]) | ((time[1:] == time[:-1]) & (late[1:] < late[:-1]))
    wrong = (series[1:] < series[:-1]) | ((series[1:] == series[:-1]) & behind)
    return not wrong.any()


def encode(stored: Stored, effort: int = LASTING) -> bytes:
    """The body of a block of arranged readings, at least one."""
    bounds = changes(stored.register)
    registers: list[_Register] = []
    earlier: list[dict[str, npt.NDArray[Any]]] = []
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
            "value": growth if cumulative else own.value,
            "epoch": own.epoch,
            "status": own.status,
            "late": own.late,
        }
        packed = {name: _pack(name, column, earlier, effort) for name, column in columns.items()}
        registers.append(_Register(int(own.register[0]), **packed, cumulative=cumulative))
        earlier.append(columns)
    body = _ENCODER.encode(registers)
    return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def changes(column: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where runs of equal neighbours start, and the end of the last; shape (runs + 1,)."""
    starts = np.flatnonzero(column[1:] != column[:-1])
    bounds = np.empty(len(starts) + 2, np.intp)
    bounds[0], bounds[-1] = 0, len(column)
    np.add(starts, 1, out=bounds[1:-1])
    return bounds


def _differences(column: npt.NDArray[Any], firsts: npt.NDArray[np.intp]) -> Int64s:
    """Within each series the differences, its first value as it is; may wrap, as sums then do."""
    differences = column.astype(np.int64)
    differences[1:] -= column[:-1]
    differences[firsts] = column[firsts]
    return differences


def _pack(
    name: str,
    column: npt.NDArray[Any],
    earlier: list[dict[str, npt.NDArray[Any]]],
    effort: int,
) -> Column:
    for place, columns in enumerate(earlier):
        if len(column) == len(columns[name]) and bool((column == columns[name]).all()):
            return place
    bounds = changes(column)
    if _RUN * (len(bounds) - 2) <= len(column):
        runs = np.empty((len(bounds) - 1, 2), np.int64)
        runs[:, 0] = column[bounds[:-1]]
        np.subtract(bounds[1:], bounds[:-1], out=runs[:, 1])
        listed: list[int] = runs.ravel().tolist()
        return listed
    return bytes(standalone.simple_compress(column, _CONFIGS[effort]))


def decode(body: bytes) -> Stored:
    """The readings of a block; DamagedError where it is not what was written."""
    registers = _open(body)
    parts = []
    for register in registers:
        meters, counts, starts = _who(registers, register)
        time, value, epoch, status, late = (
            _unpack(registers, register, name) for name in _READINGS
        )
        lengths = {len(time), len(value), len(epoch), len(status), len(late), int(counts.sum())}
        if len(lengths) != 1:
            raise DamagedError("the block's columns differ in length")
        time = _sums(time, starts, counts)
        if register.cumulative:
            value = _sums(value, starts, counts)
        codes = np.full(len(time), register.code, np.uint16)
        parts.append(Stored(np.repeat(meters, counts), codes, status, epoch, time, value, late))
    return Stored.concatenate(parts)


def _who(registers: list[_Register], register: _Register) -> tuple[UInt32s, Int64s, Int64s]:
    """The meters of a register, how many readings each has, and where they start."""
    meters = _unpack(registers, register, "meters").cumsum()
    counts = _unpack(registers, register, "counts")
    if len(meters) != len(counts) or not len(counts) or counts.min() < 1:
        raise DamagedError("the block's meters and their counts differ")
    return meters.astype(np.uint32), counts, counts.cumsum() - counts


def _sums(differences: Int64s, starts: Int64s, counts: npt.NDArray[Any]) -> Int64s:
    """The inverse of ``_differences``."""
    total = differences.cumsum()
    return total - np.repeat(total[starts] - differences[starts], counts)


def series(body: bytes, meter: int, code: int) -> Stored | None:
    """The readings of one series in a block, None where it has none; raises DamagedError."""
    registers = _open(body)
    register = next((register for register in registers if register.code == code), None)
    if register is None:
        return None
    meters, counts, starts = _who(registers, register)
    place = int(np.searchsorted(meters, meter))
    if place == len(meters) or meters[place] != meter:
        return None
    rows = slice(int(starts[place]), int(starts[place] + counts[place]))
    time, value, epoch, status, late = (
        _unpack(registers, register, name)[rows] for name in _READINGS
    )
    lengths = {len(time), len(value), len(epoch), len(status), len(late), int(counts[place])}
    if len(lengths) != 1:
        raise DamagedError("the block's columns differ in length")
    return Stored(
        np.full(len(time), meter, np.uint32),
        np.full(len(time), code, np.uint16),
        status,
        epoch,
        time.cumsum(),
        value.cumsum() if register.cumulative else value,
        late,
    )


def _open(body: bytes) -> list[_Register]:
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
    return registers


def _unpack(registers: list[_Register], register: _Register, name: str) -> npt.NDArray[Any]:
    packed: Column = getattr(register, name)
    if isinstance(packed, int):
        if not 0 <= packed < len(registers):
            raise DamagedError(f"the block's {name} refer to a register that is not there")
        packed = getattr(registers[packed], name)
    kind = _TYPES[name]
    if isinstance(packed, list):
        try:
            return np.repeat(np.array(packed[0::2], kind), np.array(packed[1::2], np.int64))
        except (ValueError, OverflowError):
            raise DamagedError(f"the block's {name} are no runs") from None
    if isinstance(packed, int):
        raise DamagedError(f"the block's {name} refer to a reference")
    try:
        column = standalone.simple_decompress(packed)
    except Exception as error:  # the library raises what it likes
        raise DamagedError(f"the block's {name} cannot be unpacked: {error}") from None
    if column is None or column.dtype != kind:
        raise DamagedError(f"the block's {name} are of another type")
    return np.asarray(column)
