"""The columns of blocks: packed, in runs, or the same as another (docs/block-format.md)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from storage.journal import DamagedError
from telemetry.readings import Int64s

# Once sealed a block is soon merged with others: less effort, some 1 % more octets.
BRIEF, LASTING = 6, 8
_CONFIGS = {
    level: ChunkConfig(
        compression_level=level, delta_spec=DeltaSpec.no_op(), mode_spec=ModeSpec.classic()
    )
    for level in (BRIEF, LASTING)
}
_NARROW = np.iinfo(np.int32)
_RUN = 8  # a column is written as runs where they are this long or longer
_ROOM = 1024  # for the counts at first: nothing else says how many meters there are

# A column's octets as pcodec packs them; or runs, each a value and how often it comes; or the
# place of the register whose column is the same.
Column = bytes | list[int] | int


class Register1(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The columns of one register in a block of version 1, each series after the other."""

    code: int
    meters: Column  # the first itself, then differences
    counts: Column  # of the readings of each meter
    time: Column  # differences; that of each series' first is added to ``starts``
    value: Column
    epoch: Column
    status: Column
    late: Column
    cumulative: bool  # value: the differences within each series
    divisor: int  # value: in units of this
    guide: list[int]  # value: less what another register says; its place and the rate, or nothing
    narrow: bool  # value: pcodec's number type is int32


class Register(Register1, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The columns of one register; ``starts`` and ``bases`` may be empty for zeros."""

    starts: Column  # time: what each series begins with
    bases: Column  # value: the same
    levels: Column  # value: less what these tell of each hour of the day, 24 a meter, or none
    sharp: int  # value: how many fewer bits than what is told are written apart, in ``low``
    lengths: Column  # low: the octets of each meter, or none
    low: bytes

    @classmethod
    def of_1(cls, own: Register1) -> Register:
        """One of version 1, which had nothing apart."""
        same = msgspec.structs.asdict(own)
        return cls(**same, starts=[], bases=[], levels=[], sharp=0, lengths=[], low=b"")


_TYPES: dict[str, type[np.generic]] = {
    "meters": np.int64,
    "counts": np.int64,
    "time": np.int64,
    "value": np.int64,
    "epoch": np.uint32,
    "status": np.uint16,
    "late": np.int64,
    "starts": np.int64,
    "bases": np.int64,
    "levels": np.int64,
    "lengths": np.int64,
}


def changes(column: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where runs of equal neighbours start, and the end of the last; shape (runs + 1,)."""
    return _bounds(column[1:] != column[:-1])


def _bounds(other: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    (starts,) = other.nonzero()
    bounds = np.empty(len(starts) + 2, np.intp)
    bounds[0], bounds[-1] = 0, len(other) + 1
    np.add(starts, 1, out=bounds[1:-1])
    return bounds


def differences(column: npt.NDArray[Any], firsts: npt.NDArray[np.intp]) -> Int64s:
    """Within each series the differences, its first value as it is; may wrap, as sums then do."""
    found = column.astype(np.int64)
    found[1:] -= column[:-1]
    found[firsts] = column[firsts]
    return found


def pack(
    name: str,
    column: npt.NDArray[Any],
    earlier: list[dict[str, npt.NDArray[Any]]],
    effort: int,
) -> Column:
    """A column in the shortest of the ways; ``earlier``: those of the registers before."""
    for place, columns in enumerate(earlier):
        if len(column) == len(columns[name]) and bool((column == columns[name]).all()):
            return place
    return _runs(column) or bytes(standalone.simple_compress(column, _CONFIGS[effort]))


def pack_values(column: Int64s, effort: int) -> tuple[Column, bool]:
    """The column of values, and whether it is narrow."""
    listed = _runs(column)
    if listed:
        return listed, False
    if column.min() < _NARROW.min or column.max() > _NARROW.max:
        return bytes(standalone.simple_compress(column, _CONFIGS[effort])), False
    packed = standalone.simple_compress(column.astype(np.int32), _CONFIGS[effort])
    return bytes(packed), True


def _runs(column: npt.NDArray[Any]) -> list[int]:
    """The column as runs if those are long, else nothing."""
    other = column[1:] != column[:-1]
    if _RUN * np.count_nonzero(other) > len(column):
        return []
    bounds = _bounds(other)
    runs = np.empty((len(bounds) - 1, 2), np.int64)
    runs[:, 0] = column[bounds[:-1]]
    np.subtract(bounds[1:], bounds[:-1], out=runs[:, 1])
    listed: list[int] = runs.ravel().tolist()
    return listed


def _packed(registers: list[Register], place: int, name: str) -> bytes | list[int]:
    """A column's own octets or runs, or those that it refers to."""
    packed: Column = getattr(registers[place], name)
    if isinstance(packed, int):
        if not 0 <= packed < place:
            raise DamagedError(f"the block's {name} refer to a register that is not before")
        packed = getattr(registers[packed], name)
        if isinstance(packed, int):
            raise DamagedError(f"the block's {name} refer to a reference")
    return packed


def unpack(registers: list[Register], place: int, name: str, count: int) -> npt.NDArray[Any]:
    """A column of so many values, to be read only; no room is made for any others."""
    packed = _packed(registers, place, name)
    if isinstance(packed, list):
        return _repeated(packed, name, count, count)
    narrow = name == "value" and registers[place].narrow
    column = np.empty(count, np.int32 if narrow else _TYPES[name])
    if _fill(column, packed, name) != count:
        raise DamagedError(f"the block's {name} are not {count}")
    return column.astype(np.int64) if narrow else column


def unpack_small(registers: list[Register], place: int, name: str, count: int) -> Int64s:
    """A column of so many values, or of none where all of them are 0."""
    if _packed(registers, place, name) == []:
        return np.zeros(count, np.int64)
    return unpack(registers, place, name, count)


def unpack_counts(registers: list[Register], place: int, most: int) -> Int64s:
    """How many readings each meter of a register has; not yet whether that can be."""
    packed = _packed(registers, place, "counts")
    if isinstance(packed, list):
        return _repeated(packed, "counts", 1, most)
    room = min(_ROOM, most)
    while True:
        column = np.empty(room, np.int64)
        count = _fill(column, packed, "counts")
        if count is not None:
            return column[:count]
        if room == most:
            raise DamagedError(f"the block has more than {most} meters")
        room = min(8 * room, most)


def _repeated(packed: list[int], name: str, least: int, most: int) -> npt.NDArray[Any]:
    """What runs stand for, if they are as long together as they should be."""
    lengths = packed[1::2]
    if len(packed) % 2 or min(lengths, default=0) < 1 or not least <= sum(lengths) <= most:
        raise DamagedError(f"the block's {name} are no runs of the right length")
    try:
        values = np.array(packed[0::2], _TYPES[name])
    except OverflowError:
        raise DamagedError(f"the block's {name} are out of range") from None
    return throughout(values, lengths[0]) if len(values) == 1 else np.repeat(values, lengths)


def throughout(value: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The one value of a column so many times, to be read only; it takes no room."""
    value.flags.writeable = False
    return np.ndarray(count, value.dtype, value, strides=(0,))


def _fill(column: npt.NDArray[Any], packed: bytes, name: str) -> int | None:
    """Unpack into a column: how many values there are, None where they are more than fit."""
    try:
        progress = standalone.simple_decompress_into(packed, column)
    except BaseException as error:  # the library raises what it likes, panics too
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DamagedError(f"the block's {name} cannot be unpacked: {error}") from None
    return int(progress.n_processed) if progress.finished else None
