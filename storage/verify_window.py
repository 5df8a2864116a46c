"""What is kept of some meters, at one instant: their readings in blocks, and the rows beside."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import sqlalchemy as sa

from storage import blocks, schema
from storage.blocks import Stored
from storage.journal import DamagedError
from storage.meters import Meter
from storage.verify_days import made
from storage.watermark import Watermark
from telemetry.days import Days
from telemetry.intervals import Replacement
from telemetry.readings import Int64s
from telemetry.registers import ENERGY_IMPORT

LOWEST, HIGHEST = 1 - 2**31, 2**31 - 1  # of the numbers that a row can have
_BODIES_A_READ = 32

_BLOCKS, _METERS, _LATEST = schema.blocks.c, schema.meters.c, schema.latest.c
_SWAPS = schema.replacements.c

# The days' table goes by day: a range of meters is looked up in each of its days.
_EACH_DAY = (
    "WITH RECURSIVE each_day(day) AS (SELECT min(day) FROM daily UNION ALL SELECT (SELECT min(day)"
    " FROM daily WHERE day > each_day.day) FROM each_day WHERE each_day.day IS NOT NULL) "
)
_COUNT_DAYS = sa.text(_EACH_DAY + "SELECT count(day) FROM each_day")
_DAYS = sa.text(
    _EACH_DAY
    + "SELECT daily.meter, daily.day, wh, covered_ms, flags FROM each_day CROSS JOIN daily"
    " WHERE daily.day = each_day.day AND daily.meter BETWEEN :low AND :high"
)

Reading = tuple[int, int, int]  # time, value, status
Latest = tuple[int, int, int, bool]  # and settled


@dataclass(slots=True)
class Window:
    """What is kept of the meters with numbers from ``low`` to ``high``."""

    meters: dict[int, Meter]  # by number, ascending
    zones: dict[int, str | None]  # whose days the rows in ``daily`` are
    swaps: dict[int, list[Replacement]]
    latest: dict[int, dict[int, Latest]]  # by meter and register
    days: dict[int, Days]  # by meter
    energy: Stored  # by meter, time and acceptance; of a large window only what thinning made
    newest: dict[int, dict[int, Reading]]  # by meter and register, what the blocks say
    unreadable: list[tuple[int, int]] = field(default_factory=list)  # numbers, from and to
    since: dict[int, int] = field(default_factory=dict)  # dates before which nothing is left

    def readable(self, number: int) -> bool:
        """Whether no block that may have readings of the meter is damaged."""
        return not any(first <= number <= last for first, last in self.unreadable)


def day_count(connection: sa.Connection) -> int:
    """How many days there are in ``daily``."""
    return int(connection.execute(_COUNT_DAYS).scalar_one())


def shifts(connection: sa.Connection) -> list[int]:
    """The shifts that blocks have, as far as they make sense."""
    found = sa.select(_BLOCKS.shift).where(_BLOCKS.shift.between(0, 32)).distinct()
    return sorted(connection.execute(found).scalars())


def everything(connection: sa.Connection) -> Watermark:
    """A watermark under which all blocks are looked into, whatever is stored of it."""
    return Watermark(shifts=sum(1 << shift for shift in shifts(connection)))


def values(connection: sa.Connection, numbers: list[int]) -> int:
    """About how many readings meters have in blocks; numbers ascend."""
    found = 0
    for shift in shifts(connection):
        sum_ = sa.select(sa.func.sum(_BLOCKS.readings)).where(_of(shift, numbers))
        inside = min(1.0, (numbers[-1] - numbers[0] + 1) / (1 << shift))
        found += int(float(connection.execute(sum_).scalar() or 0) * inside)
    return found


def load(
    connection: sa.Connection, low: int, high: int, numbers: list[int], *, large: bool
) -> Window:
    """Everything of the meters with these numbers, and rows of others between low and high."""
    rows = connection.execute(sa.select(schema.meters).where(_METERS.number.in_(numbers)))
    registered = {row.number: row for row in rows.all()}
    swaps = defaultdict(list)
    own = sa.select(_SWAPS.meter, _SWAPS.time_ms, _SWAPS.final_wh, _SWAPS.initial_wh)
    for meter, *swap in connection.execute(
        own.where(_SWAPS.meter.between(low, high)).order_by(_SWAPS.meter, _SWAPS.time_ms)
    ):
        swaps[meter].append(Replacement(*swap))
    latest: dict[int, dict[int, Latest]] = defaultdict(dict)
    newest = sa.select(
        _LATEST.meter,
        _LATEST.register,
        _LATEST.time_ms,
        _LATEST.value,
        _LATEST.status,
        _LATEST.settled,
    )
    for meter, code, *kept in connection.execute(newest.where(_LATEST.meter.between(low, high))):
        latest[meter][code] = kept[0], kept[1], kept[2], bool(kept[3])
    window = Window(
        meters={number: _meter(registered[number]) for number in numbers},
        zones={number: registered[number].daily_zone for number in numbers},
        swaps=swaps,
        latest=latest,
        days=_days(connection, low, high),
        energy=blocks.NOTHING,
        newest={},
    )
    if numbers:
        _read_blocks(connection, window, numbers, large=large)
    return window


def _meter(row: sa.Row[tuple[object, ...]]) -> Meter:
    # Prices play no part here.
    settings = {name: getattr(row, name) for name in Meter.__slots__}
    return Meter(**settings | {"price": None})


def _days(connection: sa.Connection, low: int, high: int) -> dict[int, Days]:
    rows = [tuple(row) for row in connection.execute(_DAYS, {"low": low, "high": high})]
    columns = np.array(rows, np.int64).reshape(-1, 5)
    columns = columns[np.argsort(columns[:, 0], kind="stable")]
    bounds = blocks.changes(columns[:, 0]).tolist() if rows else [0]
    parts = (columns[start:end].T for start, end in pairwise(bounds))
    return {int(part[0, 0]): Days(*part) for part in parts}


def _of(shift: int, numbers: list[int]) -> sa.ColumnElement[bool]:
    """The blocks of a shift that may have readings of meters."""
    low, high = numbers[0] >> shift, numbers[-1] >> shift
    return (_BLOCKS.shift == shift) & _BLOCKS.grp.between(low, high)


def _read_blocks(
    connection: sa.Connection, window: Window, numbers: list[int], *, large: bool
) -> None:
    """Fill in what the blocks say; each is in memory only for a moment."""
    energies, tips = [], []
    for shift in shifts(connection):
        mine = sa.select(_BLOCKS.id).where(_of(shift, numbers)).order_by(_BLOCKS.id)
        ids = list(connection.execute(mine).scalars())
        for at in range(0, len(ids), _BODIES_A_READ):
            bodies = sa.select(_BLOCKS.grp, _BLOCKS.body).where(
                _BLOCKS.id.in_(ids[at : at + _BODIES_A_READ])
            )
            for group, body in connection.execute(bodies):
                try:
                    stored = blocks.decode(body)
                except DamagedError:
                    window.unreadable.append((group << shift, ((group + 1) << shift) - 1))
                    continue
                inside = (stored.meter >= numbers[0]) & (stored.meter <= numbers[-1])
                if not inside.all():
                    stored = stored.take(inside)
                if not len(stored):
                    continue
                series = stored.series
                tips.append(stored.take(np.append(series[1:] != series[:-1], True)))
                kept = stored.register == ENERGY_IMPORT
                energies.append(stored.take(kept & made(stored.status) if large else kept))
    window.energy = _sorted(Stored.concatenate(energies))
    last = _sorted(Stored.concatenate(tips))
    newest: dict[int, dict[int, Reading]] = defaultdict(dict)
    columns = (last.meter, last.register, last.time, last.value, last.status)
    for meter, code, *reading in zip(*(column.tolist() for column in columns), strict=True):
        newest[meter][code] = reading[0], reading[1], reading[2]  # the last one stays
    window.newest = newest


def _sorted(stored: Stored) -> Stored:
    order: Int64s = np.lexsort((stored.late, stored.time, stored.meter))
    return stored.take(order)
