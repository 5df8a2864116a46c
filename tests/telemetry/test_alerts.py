"""The energy limit: section 4 of metering-cases.md and more of its kinds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.alerts import Crossing, limit_crossing
from telemetry.intervals import Curve, curve, settle
from telemetry.readings import Series

HOUR_MS = 3_600_000
MONTH_MS = 30 * 24 * HOUR_MS


def readings(rows: list[tuple[int, int]]) -> Curve:
    """The curve of (hour, Wh) in the order of acceptance."""
    return curve(
        settle(
            Series(
                np.array([hour * HOUR_MS for hour, _ in rows], np.int64),
                np.array([value for _, value in rows], np.int64),
                np.ones(len(rows), np.uint32),
                np.zeros(len(rows), np.uint16),
            )
        )
    )


# metering-cases.md, section 4, energy limit of a period: the default of 500 kWh.
def test_limit_is_crossed_once() -> None:
    found = readings([(0, 70_000), (100, 500_000), (200, 570_001), (300, 900_000)])
    assert limit_crossing(found, 0, MONTH_MS, 500_000) == Crossing(200 * HOUR_MS, 500_001)


# metering-cases.md, section 4, the crossing arrives late: its time is the crossing's.
def test_crossing_that_arrives_late() -> None:
    rows = [(0, 0), (100, 400_000), (300, 900_000)]
    late = readings([*rows, (200, 600_000)])
    assert limit_crossing(readings(rows), 0, MONTH_MS, 500_000) == Crossing(300 * HOUR_MS, 900_000)
    assert limit_crossing(late, 0, MONTH_MS, 500_000) == Crossing(200 * HOUR_MS, 600_000)


def test_limit_itself_is_no_crossing() -> None:
    assert limit_crossing(readings([(0, 0), (9, 500_000)]), 0, MONTH_MS, 500_000) is None


def test_each_period_counts_from_its_start() -> None:
    found = readings([(0, 0), (10, 300), (20, 600), (30, 900), (40, 1_200)])
    assert limit_crossing(found, 0, 20 * HOUR_MS, 500) == Crossing(20 * HOUR_MS, 600)
    assert limit_crossing(found, 20 * HOUR_MS, 40 * HOUR_MS, 500) == Crossing(40 * HOUR_MS, 600)
    assert limit_crossing(found, 20 * HOUR_MS, 40 * HOUR_MS, 600) is None
    assert limit_crossing(found, 15 * HOUR_MS, 40 * HOUR_MS, 300) == Crossing(30 * HOUR_MS, 450)


@pytest.mark.parametrize(("end", "crossed"), [(20, True), (19, False)])
def test_reading_at_the_end_closes_the_period(end: int, crossed: bool) -> None:
    found = limit_crossing(readings([(0, 0), (20, 600)]), 0, end * HOUR_MS, 500)
    assert (found is not None) is crossed


def test_no_readings_cross_nothing() -> None:
    assert limit_crossing(readings([]), 0, MONTH_MS, 0) is None


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 99)), max_size=9),
    st.integers(0, 20),
    st.integers(1, 20),
    st.integers(0, 200),
)
def test_first_reading_above_the_limit(
    steps: list[tuple[int, int]], start: int, length: int, limit: int
) -> None:
    hours = sorted({hour for hour, _ in steps})
    values = np.cumsum([energy for _, energy in steps]).tolist()[: len(hours)]
    found = readings(list(zip(hours, values, strict=True)))
    begin, end = start * HOUR_MS, (start + length) * HOUR_MS
    before = int(found.at(np.array([begin], np.int64))[0])
    above = [
        Crossing(time, energy - before)
        for time, energy in zip(found.time.tolist(), found.energy.tolist(), strict=True)
        if begin < time <= end and energy - before > limit
    ]
    assert limit_crossing(found, begin, end, limit) == (above[0] if above else None)
