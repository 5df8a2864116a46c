"""Sealed readings of a meter, found in its blocks."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from storage import block_series, schema
from storage.blocks import NOTHING, Stored
from storage.engine import StorageError
from storage.journal import DamagedError
from storage.prepared import Prepared
from storage.watermark import Watermark
from telemetry.readings import Int64s, Series

_NEVER, _ALWAYS = -(2**63), 2**63 - 1
_BLOCKS = schema.blocks.c


@lru_cache(maxsize=64)
def _of_groups(shifts: tuple[int, ...]) -> Prepared:
    """The blocks of one group of each shift that touch a time; groups named g<shift>."""
    return Prepared(
        sa.union_all(
            *(
                sa.select(_BLOCKS.id, _BLOCKS.body).where(
                    _BLOCKS.shift == shift,
                    _BLOCKS.grp == sa.bindparam(f"g{shift}"),
                    _BLOCKS.first_ms <= sa.bindparam("end"),
                    _BLOCKS.last_ms >= sa.bindparam("start"),
                )
                for shift in shifts
            )
        )
    )


def parts(
    connection: sa.Connection,
    watermark: Watermark,
    meter: int,
    code: int,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> list[Stored]:
    """A register's sealed readings in [start, end], by time, of one instant by acceptance.

    They come in parts, each after the one before. Raises StorageError for a damaged block.
    """
    shifts = watermark.shift_list
    if not shifts:
        return []
    values = {f"g{shift}": meter >> shift for shift in shifts}
    values["start"] = _NEVER if start_ms is None else start_ms
    values["end"] = _ALWAYS if end_ms is None else end_ms
    found = []
    for number, body in _of_groups(shifts).rows(connection, **values):
        try:
            part = block_series.series(body, meter, code, start_ms, end_ms)
        except DamagedError as error:
            raise damaged(number, error) from None
        if part is not None and len(part):
            found.append(part)
    found.sort(key=lambda part: int(part.time[0]))
    if all(one.time[-1] < after.time[0] for one, after in pairwise(found)):
        return found  # in a block they are by time, then acceptance
    both = Stored.concatenate(found)
    return [both.take(np.lexsort((both.late, both.time)))]


def inside(time: Int64s, start_ms: int | None, end_ms: int | None) -> slice | npt.NDArray[np.intp]:
    """Which instants, in any order, are in [start, end]."""
    low, high = _NEVER if start_ms is None else start_ms, _ALWAYS if end_ms is None else end_ms
    rows = np.flatnonzero((time >= low) & (time <= high))
    if not len(rows):
        return slice(0)
    together = int(rows[-1] - rows[0]) == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else rows


def together(parts: list[Stored]) -> Series:
    """A series that comes in parts, one after the other."""
    if len(parts) < 2:
        own = parts[0] if parts else NOTHING
        return Series(own.time, own.value, own.epoch, own.status)
    return Series(
        np.concatenate([own.time for own in parts]),
        np.concatenate([own.value for own in parts]),
        np.concatenate([own.epoch for own in parts]),
        np.concatenate([own.status for own in parts]),
    )


@lru_cache(maxsize=64)
def _next(shifts: tuple[int, ...]) -> Prepared:
    """When the first block after a time of one group of each shift begins; the index tells it."""
    return Prepared(
        sa.union_all(
            *(
                sa.select(sa.func.min(_BLOCKS.first_ms)).where(
                    _BLOCKS.shift == shift,
                    _BLOCKS.grp == sa.bindparam(f"g{shift}"),
                    _BLOCKS.first_ms > sa.bindparam("after"),
                )
                for shift in shifts
            )
        )
    )


@lru_cache(maxsize=64)
def _beginning(shifts: tuple[int, ...]) -> Prepared:
    """The blocks of one group of each shift that begin at an instant."""
    return Prepared(
        sa.union_all(
            *(
                sa.select(_BLOCKS.id, _BLOCKS.body).where(
                    _BLOCKS.shift == shift,
                    _BLOCKS.grp == sa.bindparam(f"g{shift}"),
                    _BLOCKS.first_ms == sa.bindparam("first"),
                )
                for shift in shifts
            )
        )
    )


def begins(
    connection: sa.Connection, watermark: Watermark, meter: int, after_ms: int = _NEVER
) -> int | None:
    """When the meter's first block after an instant begins: in none of them is an older reading."""
    shifts = watermark.shift_list
    if not shifts:
        return None
    groups = {f"g{shift}": meter >> shift for shift in shifts}
    rows = _next(shifts).rows(connection, after=after_ms, **groups)
    return min((first for (first,) in rows if first is not None), default=None)


def oldest(connection: sa.Connection, watermark: Watermark, meter: int, code: int) -> int | None:
    """The instant of a register's oldest sealed reading. Raises StorageError."""
    shifts = watermark.shift_list
    groups = {f"g{shift}": meter >> shift for shift in shifts}
    found: int | None = None
    begin = begins(connection, watermark, meter)
    while begin is not None and (found is None or begin < found):
        for number, body in _beginning(shifts).rows(connection, first=begin, **groups):
            try:
                first = block_series.begins(body, meter, code)
            except DamagedError as error:
                raise damaged(number, error) from None
            if first is not None:
                found = first if found is None else min(found, first)
        if found == begin:
            break
        begin = begins(connection, watermark, meter, begin)
    return found


def damaged(number: int, error: DamagedError) -> StorageError:
    """What to say of a block that is not what was written."""
    return StorageError(
        f"block {number} is damaged: {error}. `wattbus verify` lists what is; restore a backup"
    )
