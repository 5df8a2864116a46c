"""What a meter's sealed readings say of its days, computed from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from storage.blocks import Stored
from storage.meters import Meter
from storage.verify_report import Difference, differing
from telemetry import calendar, intervals
from telemetry.days import Days
from telemetry.intervals import Flag, Replacement
from telemetry.readings import Int64s, Series, Status, UInt16s

# Readings made where others were thinned away: the bit comes with retention.
_THINNED = Status.__members__.get("THINNED", Status(0))
_COLUMNS = ("wh", "covered_ms", "flags")


@dataclass(frozen=True, slots=True)
class Computed:
    """Days as they should be; of the dates in ``thinned`` only the energy is known."""

    days: Days
    thinned: set[int]
    newest_counts: bool  # whether the newest reading is booked


def compute(energy: Stored, meter: Meter, swaps: Sequence[Replacement], zone: ZoneInfo) -> Computed:
    """The days of a meter's energy readings, at least one, by time and acceptance."""
    settled = intervals.settle(Series(energy.time, energy.value, energy.epoch, energy.status))
    curve = intervals.curve(
        settled, modulus=meter.modulus_wh, max_power_w=meter.max_power_w, replacements=swaps
    )
    counts = int(curve.time[-1]) == int(settled.time[-1])
    edges, dates = calendar.days(zone, int(curve.time[0]), int(curve.time[-1]))
    slots = intervals.slots(curve, edges)
    covered = np.minimum(edges[1:], curve.time[-1]) - np.maximum(edges[:-1], curve.time[0])
    there = covered > 0
    found = Days(
        meter=np.full(int(there.sum()), meter.number, np.int64),
        day=dates[there],
        wh=slots.energy[there],
        covered_ms=covered[there],
        flags=(slots.flags[there] & ~np.uint16(Flag.PARTIAL)).astype(np.int64),
    )
    return Computed(found, thinned_dates(settled.time[made(settled.status)], zone), counts)


def made(status: UInt16s) -> npt.NDArray[np.bool_]:
    """Which readings were made by thinning."""
    return np.asarray(status & np.uint16(_THINNED)).astype(np.bool_)


def thinned_dates(instants: Int64s, zone: ZoneInfo) -> set[int]:
    """The dates that were thinned, by the instants of readings that were made, ascending."""
    if not len(instants):
        return set()
    edges, dates = calendar.days(zone, int(instants[0]) - 1, int(instants[-1]))
    touched = instants.searchsorted(edges[1:], side="right") > instants.searchsorted(edges[:-1])
    return set(dates[touched].tolist())


def compare(meter: Meter, stored: Days, computed: Computed, since: int = 0) -> Iterator[Difference]:
    """Every difference between the rows of a meter and what they should be, from a date on."""
    rows, expected = _by_date(stored), _by_date(computed.days)
    for date in sorted(date for date in rows.keys() | expected.keys() if date >= since):
        where = f"{place(meter)}, day {date // 10_000:04}-{date // 100 % 100:02}-{date % 100:02}"
        if date not in rows:
            yield Difference("daily", where, "no row", _text(expected[date]))
        elif date not in expected:
            yield Difference("daily", where, _text(rows[date]), "no row")
        else:
            pairs: dict[str, tuple[object, object]] = {
                f"daily.{name}": (rows[date][at], expected[date][at])
                for at, name in enumerate(_COLUMNS)
                if date not in computed.thinned or name == "wh"
            }
            yield from differing(where, pairs)


def place(meter: Meter) -> str:
    """A meter as differences name it."""
    return f"meter {meter.id} (number {meter.number})"


def _by_date(found: Days) -> dict[int, tuple[int, ...]]:
    columns = [getattr(found, name).tolist() for name in _COLUMNS]
    return dict(zip(found.day.tolist(), zip(*columns, strict=True), strict=True))


def _text(row: tuple[int, ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(_COLUMNS, row, strict=True))
