"""Sealed readings of a meter, found in its blocks."""

from __future__ import annotations

from functools import lru_cache

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


def series(
    connection: sa.Connection,
    watermark: Watermark,
    meter: int,
    code: int,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Stored:
    """A register's sealed readings in [start, end], by time, of one instant by acceptance.

    Raises StorageError for a damaged block.
    """
    shifts = watermark.shift_list
    if not shifts:
        return NOTHING
    values = {f"g{shift}": meter >> shift for shift in shifts}
    values["start"] = _NEVER if start_ms is None else start_ms
    values["end"] = _ALWAYS if end_ms is None else end_ms
    found = []
    for number, body in _of_groups(shifts).rows(connection, **values):
        try:
            part = block_series.series(body, meter, code)
        except DamagedError as error:
            raise damaged(number, error) from None
        if part is not None and len(part := between(part, start_ms, end_ms)):
            found.append(part)
    if len(found) < 2:
        return found[0] if found else NOTHING  # in a block they are by time, then acceptance
    found.sort(key=lambda part: int(part.time[0]))
    both = Stored.concatenate(found)
    if not (both.time[1:] > both.time[:-1]).all():
        both = both.take(np.lexsort((both.late, both.time)))
    return both


Rows = slice | npt.NDArray[np.intp]


def inside(time: Int64s, start_ms: int | None, end_ms: int | None) -> Rows:
    """Which instants, in any order, are in [start, end]."""
    low, high = _NEVER if start_ms is None else start_ms, _ALWAYS if end_ms is None else end_ms
    rows = np.flatnonzero((time >= low) & (time <= high))
    if not len(rows):
        return slice(0)
    together = int(rows[-1] - rows[0]) == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else rows


def together(parts: list[tuple[Stored, Rows]]) -> Series:
    """Rows of parts, one after the other."""
    if len(parts) == 1:
        (own, rows), *_ = parts
        return Series(own.time[rows], own.value[rows], own.epoch[rows], own.status[rows])
    return Series(
        np.concatenate([own.time[rows] for own, rows in parts]),
        np.concatenate([own.value[rows] for own, rows in parts]),
        np.concatenate([own.epoch[rows] for own, rows in parts]),
        np.concatenate([own.status[rows] for own, rows in parts]),
    )


def between(part: Stored, start_ms: int | None, end_ms: int | None) -> Stored:
    """Readings, sorted by time, of [start, end]."""
    low = 0 if start_ms is None else int(part.time.searchsorted(start_ms))
    high = len(part) if end_ms is None else int(part.time.searchsorted(end_ms, side="right"))
    return part if high - low == len(part) else part.take(slice(low, high))


@lru_cache(maxsize=64)
def _earliest(shifts: tuple[int, ...]) -> Prepared:
    """The blocks of one group of each shift by the time at which they begin."""
    return Prepared(
        sa.union_all(
            *(
                sa.select(_BLOCKS.first_ms, _BLOCKS.id).where(
                    _BLOCKS.shift == shift, _BLOCKS.grp == sa.bindparam(f"g{shift}")
                )
                for shift in shifts
            )
        ).order_by("first_ms")
    )


@lru_cache(maxsize=64)
def _begins(shifts: tuple[int, ...]) -> Prepared:
    """When the first block of one group of each shift begins."""
    return Prepared(
        sa.union_all(
            *(
                sa.select(sa.func.min(_BLOCKS.first_ms)).where(
                    _BLOCKS.shift == shift, _BLOCKS.grp == sa.bindparam(f"g{shift}")
                )
                for shift in shifts
            )
        )
    )


def begins(connection: sa.Connection, watermark: Watermark, meter: int) -> int | None:
    """No sealed reading of the meter is older; None where it has none."""
    shifts = watermark.shift_list
    if not shifts:
        return None
    groups = {f"g{shift}": meter >> shift for shift in shifts}
    found = [first for (first,) in _begins(shifts).rows(connection, **groups) if first is not None]
    return min(found, default=None)


_BODY = Prepared(sa.select(_BLOCKS.body).where(_BLOCKS.id == sa.bindparam("id")))


def oldest(connection: sa.Connection, watermark: Watermark, meter: int, code: int) -> int | None:
    """The instant of a register's oldest sealed reading. Raises StorageError."""
    shifts = watermark.shift_list
    groups = {f"g{shift}": meter >> shift for shift in shifts}
    found: int | None = None
    for first_ms, number in _earliest(shifts).rows(connection, **groups) if shifts else ():
        if found is not None and first_ms >= found:
            break
        (body,) = _BODY.row(connection, id=number)
        try:
            part = block_series.series(body, meter, code)
        except DamagedError as error:
            raise damaged(number, error) from None
        if part is not None:
            first = int(part.time[0])
            found = first if found is None else min(found, first)
    return found


def damaged(number: int, error: DamagedError) -> StorageError:
    """What to say of a block that is not what was written."""
    return StorageError(
        f"block {number} is damaged: {error}. `wattbus verify` lists what is; restore a backup"
    )
