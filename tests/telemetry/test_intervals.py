"""Registers to energy: section 1 of metering-cases.md and more of its kinds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from math import floor, inf
from random import Random
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.calendar import HOUR_MS, QUARTER_MS, Step, edges, parse_instant
from telemetry.intervals import (
    Curve,
    Flag,
    Replacement,
    Settled,
    curve,
    names,
    settle,
    slots,
)
from telemetry.readings import Int64s, Series, Status

MINUTE_MS = 60_000
UTC = ZoneInfo("UTC")
Row = tuple[int, int, int, int]  # time, value, epoch, status


def ints(values: Sequence[int]) -> Int64s:
    return np.array(values, np.int64)


def series(rows: Sequence[Row]) -> Series:
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    time, value, epoch, status = columns
    return Series(time, value, epoch.astype(np.uint32), status.astype(np.uint16))


def settled(values: Sequence[int], epochs: Sequence[int] = (), step: int = QUARTER_MS) -> Settled:
    """Readings every ``step`` ms from 0."""
    each = epochs or [1] * len(values)
    return settle(series([(i * step, v, each[i], 0) for i, v in enumerate(values)]))


def at(text: str) -> int:
    return parse_instant(f"2024-06-01T{text}:00Z", UTC)


def total(found: Curve) -> int:
    return int(found.energy[-1])


# metering-cases.md, section 1, rollover: registers in 0.1 kWh.
def test_rollover_is_accepted() -> None:
    found = curve(
        settled([999_984, 31]), factor=Fraction(100), modulus=1_000_000, max_power_w=20_000
    )
    assert found.energy.tolist() == [0, 4_700]
    assert found.flags.tolist() == [0, Flag.ROLLOVER]
    assert not len(found.held_time)


# metering-cases.md, section 1, rollover that cannot be.
def test_rollover_that_cannot_be_is_quarantined() -> None:
    found = curve(
        settled([999_984, 31]), factor=Fraction(100), modulus=1_000_000, max_power_w=15_000
    )
    assert found.energy.tolist() == [0]
    assert found.held_time.tolist() == [QUARTER_MS]
    assert found.held_flags.tolist() == [Flag.QUARANTINED]
    answer = slots(found, ints([0, QUARTER_MS, 2 * QUARTER_MS]))
    assert answer.energy.tolist() == [0, 0]
    assert answer.flags.tolist() == [Flag.MISSING, Flag.MISSING | Flag.QUARANTINED]


@pytest.mark.parametrize(
    ("power", "accepted"), [(18_800, True), (18_799, False)], ids=["just", "not quite"]
)
def test_rollover_needs_power_to_the_watt(power: int, accepted: bool) -> None:
    found = curve(settled([99_998_400, 3_100]), modulus=100_000_000, max_power_w=power)
    assert (len(found.time) == 2) is accepted


@pytest.mark.parametrize("known", [{"modulus": 1_000}, {"max_power_w": 100}])
def test_rollover_needs_both_modulus_and_power(known: dict[str, int]) -> None:
    found = curve(settled([995, 5]), **known)  # type: ignore[arg-type]
    assert found.energy.tolist() == [0]
    assert found.held_flags.tolist() == [Flag.QUARANTINED]


def test_rollover_goes_on() -> None:
    found = curve(settled([990, 998, 6, 14, 22]), modulus=1_000, max_power_w=32)
    assert found.energy.tolist() == [0, 8, 16, 24, 32]
    assert found.flags.tolist() == [0, 0, Flag.ROLLOVER, 0, 0]


def test_rollover_to_zero_is_no_blip() -> None:
    found = curve(settled([995, 0, 5]), modulus=1_000, max_power_w=32)
    assert found.energy.tolist() == [0, 5, 10]


def test_zero_near_the_modulus_is_a_blip_if_the_register_goes_on() -> None:
    found = curve(settled([990, 0, 995]), modulus=1_000, max_power_w=80)
    assert found.energy.tolist() == [0, 5]
    assert found.flags.tolist() == [0, Flag.ZERO]


# metering-cases.md, section 1, a zero that is not a reset.
def test_zero_that_is_no_reset() -> None:
    found = curve(settled([134_237, 0, 134_239]), factor=Fraction(100))
    assert found.time.tolist() == [0, 2 * QUARTER_MS]
    assert found.energy.tolist() == [0, 200]
    assert found.flags.tolist() == [0, Flag.ZERO]
    assert found.held_time.tolist() == [QUARTER_MS]
    assert found.held_flags.tolist() == [Flag.ZERO]


@pytest.mark.parametrize(
    ("values", "epochs", "flag"),
    [
        ([500, 499, 501], [1, 1, 1], Flag.QUARANTINED),
        ([500, 0, 500], [1, 1, 1], Flag.ZERO),
        ([500, 0, 0, 0, 501], [1, 1, 1, 1, 1], Flag.ZERO),
        ([500, 0, 0, 501], [1, 2, 2, 2], Flag.ZERO),  # zeros sent while the meter boots
        ([500, 7, 7, 7, 7, 501], [1, 1, 1, 1, 1, 1], Flag.QUARANTINED),  # stuck
        ([500, 3, 0, 2, 500], [1, 1, 1, 1, 1], Flag.QUARANTINED | Flag.ZERO),
        ([500, 3, 4, 500], [1, 1, 1, 1], Flag.QUARANTINED),
    ],
)
def test_blips_are_not_booked(values: list[int], epochs: list[int], flag: Flag) -> None:
    found = curve(settled(values, epochs))
    assert found.energy.tolist() == [0, values[-1] - 500]
    assert found.flags.tolist() == [0, flag]
    assert len(found.held_time) == len(values) - 2


# metering-cases.md, section 1, a real reset: new epoch, or three rising values.
@pytest.mark.parametrize("epochs", [[1, 2, 2, 2], [1, 1, 1, 1]])
def test_reset_counts_from_zero(epochs: list[int]) -> None:
    found = curve(settled([81_230, 5, 7, 9], epochs), factor=Fraction(10))
    assert found.energy.tolist() == [0, 50, 70, 90]
    assert found.flags.tolist() == [0, Flag.RESET, 0, 0]


def test_reset_needs_three_readings_without_an_epoch() -> None:
    found = curve(settled([81_230, 5, 7]))
    assert found.energy.tolist() == [0]
    assert found.held_flags.tolist() == [Flag.QUARANTINED] * 2


def test_reset_by_epoch_needs_one_reading() -> None:
    assert curve(settled([81_230, 5], [1, 2])).energy.tolist() == [0, 5]


def test_old_epoch_is_no_reset() -> None:
    assert curve(settled([500, 5], [2, 1])).energy.tolist() == [0]


def test_new_epoch_without_a_drop_is_ordinary() -> None:
    found = curve(settled([500, 510, 520], [1, 2, 3]))
    assert found.energy.tolist() == [0, 10, 20]
    assert not found.flags.any()


def test_zeros_after_a_reset_wait_for_three_readings() -> None:
    found = curve(settled([500, 0, 0, 0, 2, 3, 5]))
    assert found.energy.tolist() == [0, 2, 3, 5]
    assert found.flags.tolist() == [0, Flag.RESET | Flag.ZERO, 0, 0]


def test_reset_may_pass_the_old_value_later() -> None:
    found = curve(settled([10, 1, 2, 3, 30]))
    assert found.energy.tolist() == [0, 1, 2, 3, 30]


def test_reset_that_was_not_to_zero_counts_from_its_value() -> None:
    found = curve(settled([81_230, 70_005, 70_007, 70_009]), max_power_w=100)
    assert found.energy.tolist() == [0, 0, 2, 4]
    assert found.flags.tolist() == [0, Flag.RESET, 0, 0]


def test_impossible_jump_is_not_booked() -> None:
    found = curve(settled([100, 110, 99_999, 130, 140]), max_power_w=80)
    assert found.energy.tolist() == [0, 10, 30, 40]
    assert found.flags.tolist() == [0, 0, Flag.QUARANTINED, 0]


def test_possible_power_to_the_watt_hour() -> None:
    assert curve(settled([0, 20]), max_power_w=80).energy.tolist() == [0, 20]
    assert curve(settled([0, 21]), max_power_w=80).energy.tolist() == [0]
    assert curve(settled([0, 10**9 + 1]), max_power_w=4 * 10**9).energy.tolist() == [0]


def test_jump_confirmed_by_three_readings_is_booked() -> None:
    found = curve(settled([100, 110, 5_000, 5_010, 5_020]), max_power_w=80)
    assert found.energy.tolist() == [0, 10, 4_900, 4_910, 4_920]
    assert found.flags.tolist() == [0, 0, Flag.QUARANTINED, 0, 0]


# metering-cases.md, section 1, meter replaced: 0.1 kWh.
def test_replaced_meter() -> None:
    found = curve(
        settled([49_980, 200], [7, 1]),
        factor=Fraction(100),
        replacements=[Replacement(MINUTE_MS, 50_000, 125)],
    )
    assert found.energy.tolist() == [0, 9_500]
    assert found.flags.tolist() == [0, Flag.REPLACED]


def test_replaced_by_a_meter_that_shows_more() -> None:
    found = curve(settled([100, 9_000]), replacements=[Replacement(QUARTER_MS, 105, 8_990)])
    assert found.energy.tolist() == [0, 15]
    assert found.flags.tolist() == [0, Flag.REPLACED]


def test_replaced_twice_between_two_readings() -> None:
    swaps = [Replacement(200, 30, 5), Replacement(100, 110, 20)]
    found = curve(settled([100, 7]), replacements=swaps)
    assert total(found) == 10 + 10 + 2


def test_zero_after_a_replacement_is_held() -> None:
    found = curve(settled([100, 0, 15]), replacements=[Replacement(1, 100, 12)])
    assert total(found) == 3
    assert found.flags.tolist() == [0, Flag.REPLACED | Flag.ZERO]


@pytest.mark.parametrize("time", [-5, 0, 9 * QUARTER_MS])
def test_replacement_outside_the_readings_changes_nothing(time: int) -> None:
    found = curve(settled([100, 110]), replacements=[Replacement(time, 5, 7)])
    assert found.energy.tolist() == [0, 10]
    assert not found.flags.any()


# metering-cases.md, section 1, gap.
def test_gap() -> None:
    gap = settle(series([(at("10:07"), 1_000_000, 1, 0), (at("13:22"), 1_006_500, 1, 0)]))
    found = slots(curve(gap), edges(Step.QUARTER, UTC, at("10:07"), at("13:22")))
    assert found.energy.tolist() == [267, *[500] * 12, 233]
    assert found.energy.sum() == 6_500
    partial = Flag.ESTIMATED | Flag.PARTIAL
    assert found.flags.tolist() == [partial, *[Flag.ESTIMATED] * 12, partial]


# metering-cases.md, section 1, gap: true late readings replace the estimates.
def test_late_readings_replace_estimates() -> None:
    rows = [
        (at("10:07"), 1_000_000, 1, 0),
        (at("13:22"), 1_006_500, 1, 0),
        (at("10:15"), 1_000_300, 1, 0),
        (at("10:30"), 1_000_900, 1, 0),
    ]
    found = slots(curve(settle(series(rows))), ints([at("10:00"), at("10:15"), at("10:30")]))
    assert found.energy.tolist() == [300, 600]
    assert found.flags.tolist() == [Flag.PARTIAL, 0]


# metering-cases.md, section 1, two values for one instant.
def test_newest_of_two_values_counts_and_carries_conflict() -> None:
    found = settle(series([(0, 5, 1, 0), (9, 10, 1, 0), (9, 8, 1, 0), (20, 12, 1, 0)]))
    assert found.value.tolist() == [5, 8, 12]
    assert found.flags.tolist() == [0, Flag.CONFLICT, 0]
    assert curve(found).flags.tolist() == [0, Flag.CONFLICT, Flag.CONFLICT]


def test_repeat_of_an_overruled_value_does_not_revive_it() -> None:
    found = settle(series([(9, 10, 1, 0), (9, 8, 1, 0), (9, 10, 1, 0)]))
    assert found.value.tolist() == [8]
    assert found.flags.tolist() == [Flag.CONFLICT]


def test_repeat_after_a_boot_keeps_its_first_epoch() -> None:
    rows = [(0, 900, 2, 0), (0, 900, 1, 0), (QUARTER_MS, 4, 2, 0)]
    assert settle(series(rows)).epoch.tolist() == [1, 2]
    assert total(curve(settle(series(rows)))) == 4


# metering-cases.md, section 1, missing: what is not there is interpolated, never zero.
def test_missing_reading_is_not_zero() -> None:
    found = curve(settle(series([(0, 100, 1, 0), (4 * QUARTER_MS, 140, 1, 0)])))
    answer = slots(found, ints([0, QUARTER_MS, 4 * QUARTER_MS, 5 * QUARTER_MS]))
    assert answer.energy.tolist() == [10, 30, 0]
    assert answer.flags.tolist() == [Flag.ESTIMATED, Flag.ESTIMATED, Flag.MISSING]


@pytest.mark.parametrize(
    ("status", "flag"),
    [
        (Status.ARRIVAL_TIME, Flag.ARRIVAL_TIME),
        (Status.ESTIMATED, Flag.DEVICE),
        (Status.SUSPECT, Flag.DEVICE),
        (Status.SUSPECT | Status.ARRIVAL_TIME, Flag.DEVICE | Flag.ARRIVAL_TIME),
    ],
)
def test_status_goes_to_both_intervals(status: Status, flag: Flag) -> None:
    rows = [(0, 1, 1, 0), (10, 2, 1, status), (20, 3, 1, 0), (30, 4, 1, 0)]
    found = curve(settle(series(rows)))
    assert found.flags.tolist() == [0, flag, flag, 0]
    assert slots(found, ints([0, 5, 10, 20, 30])).flags.tolist() == [flag, flag, flag, 0]


def test_names() -> None:
    assert names(Flag.ESTIMATED | Flag.ARRIVAL_TIME) == ["estimated", "arrival_time"]
    assert names(int(Flag.PARTIAL)) == ["partial"]
    assert names(0) == []


@pytest.mark.parametrize(
    ("factor", "values", "energy"),
    [
        (Fraction(1, 2), [1, 2, 3, 4], [0, 1, 1, 2]),
        (Fraction(1, 3), [0, 1, 2, 3], [0, 0, 1, 1]),
        (Fraction(1000), [7, 9], [0, 2_000]),
        (Fraction(10**15), [0, 9_000], [0, 9 * 10**18]),
    ],
)
def test_factor_rounds_the_exact_sum(
    factor: Fraction, values: list[int], energy: list[int]
) -> None:
    assert curve(settled(values), factor=factor).energy.tolist() == energy


@pytest.mark.parametrize("rows", [[], [(5, 100, 1, 0)]])
def test_too_few_readings_make_no_slots(rows: list[Row]) -> None:
    found = slots(curve(settle(series(rows))), ints([0, 10, 20]))
    assert found.energy.tolist() == [0, 0]
    assert found.flags.tolist() == [Flag.MISSING] * 2
    assert len(slots(curve(settle(series(rows))), ints([0])).energy) == 0


def test_at_is_clamped() -> None:
    found = curve(settled([100, 110, 140]))
    assert found.at(ints([-1, 0, QUARTER_MS, 2 * QUARTER_MS, 10**15])).tolist() == [
        0,
        0,
        10,
        40,
        40,
    ]
    assert curve(settle(series([]))).at(ints([1, 2])).tolist() == [0, 0]


def test_within_a_quarter_energy_is_linear_and_rounded_half_up() -> None:
    found = curve(settled([0, 3]))
    times = [0, 149_999, 150_000, 449_999, 450_000, 749_999, 750_000]
    assert found.at(ints(times)).tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_extras_are_spread_evenly_from_the_first() -> None:
    found = curve(settle(series([(0, 0, 1, 0), (8 * QUARTER_MS, 11, 1, 0)])))
    answer = slots(found, np.arange(9) * QUARTER_MS)
    assert answer.energy.tolist() == [2, 1, 2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("start", "energy", "shares"),
    [(10, 3, [1, 1, 1]), (5, 3, [1, 2, 0]), (7.5, 6, [2, 3, 1])],
    ids=["first and whole", "whole and last", "first and last"],
)
def test_of_equal_remainders_the_earlier_quarter_is_first(
    start: float, energy: int, shares: list[int]
) -> None:
    first = int(start * MINUTE_MS)
    last = first + 2 * QUARTER_MS
    found = curve(settle(series([(first, 0, 1, 0), (last, energy, 1, 0)])))
    assert slots(found, np.arange(4) * QUARTER_MS).energy.tolist() == shares


def test_gap_of_ten_years_of_great_energy() -> None:
    end = 10 * 365 * 24 * HOUR_MS + 7 * MINUTE_MS
    energy = 10**15 - 1
    found = curve(settle(series([(1, 0, 1, 0), (end, energy, 1, 0)])))
    answer = slots(found, edges(Step.QUARTER, UTC, 0, end))
    assert answer.energy.sum() == energy
    assert np.ptp(answer.energy[1:-1]) <= 1
    exact = [energy * (at - 1) // (end - 1) for at in (HOUR_MS, 10**11)]
    assert abs(found.at(ints([HOUR_MS, 10**11])) - ints(exact)).max() <= 2


@pytest.mark.parametrize(
    ("length", "estimated"), [(QUARTER_MS, False), (QUARTER_MS + 1, True)], ids=["15 min", "more"]
)
def test_estimated_from_more_than_a_quarter_on(length: int, estimated: bool) -> None:
    found = curve(settle(series([(0, 0, 1, 0), (length, 9, 1, 0), (length * 2, 18, 1, 0)])))
    answer = slots(found, ints([0, MINUTE_MS, length, 2 * length]))
    marks = [bool(flags & Flag.ESTIMATED) for flags in answer.flags.tolist()]
    assert marks == [estimated, estimated, False]


def test_flags_of_overlapping_intervals() -> None:
    found = curve(settled([500, 0, 501, 502, 3, 4, 5]))
    answer = slots(found, np.arange(-1, 8) * QUARTER_MS)
    assert [names(flags) for flags in answer.flags.tolist()] == [
        ["missing"],
        ["estimated", "zero"],
        ["estimated", "zero"],
        [],
        ["reset"],
        [],
        [],
        ["missing"],
    ]


# metering-cases.md, section 2: constant 1 kW in local days, read every 15 minutes or hardly ever.
@pytest.mark.parametrize("every", [QUARTER_MS, 7 * 24 * HOUR_MS])
@pytest.mark.parametrize(
    ("zone", "day", "energy"),
    [
        ("Europe/Berlin", "2024-03-31", 23_000),
        ("Europe/Berlin", "2024-10-27", 25_000),
        ("America/Sao_Paulo", "2018-11-04", 23_000),
        ("America/Sao_Paulo", "2018-02-17", 25_000),
        ("Australia/Lord_Howe", "2024-10-06", 23_500),
        ("Australia/Lord_Howe", "2024-04-07", 24_500),
        ("Asia/Kathmandu", "2024-02-29", 24_000),
        ("America/Havana", "2024-11-03", 25_000),
    ],
)
def test_constant_kilowatt(zone: str, day: str, energy: int, every: int) -> None:
    place = ZoneInfo(zone)
    start = parse_instant(day, place)
    times = [start + shift * every for shift in range(-200 * QUARTER_MS // every, 200)]
    rows = [(time, (time - times[0]) // 3_600, 1, 0) for time in times]
    found = curve(settle(series(rows)))
    for step in (Step.DAY, Step.HOUR, Step.QUARTER):
        end = int(edges(Step.DAY, place, start, start + 1)[1])
        assert slots(found, edges(step, place, start, end)).energy.sum() == energy


# metering-cases.md, section 2: the months of Sao Paulo in kWh.
@pytest.mark.parametrize(("month", "energy"), [("2018-02", 673_000), ("2018-11", 719_000)])
def test_constant_kilowatt_in_a_month(month: str, energy: int) -> None:
    zone = ZoneInfo("America/Sao_Paulo")
    start = int(datetime.fromisoformat("2018-01-01T00:00Z").timestamp()) * 1000
    rows = [(start + hour * HOUR_MS, hour * 1_000, 1, 0) for hour in range(366 * 24)]
    first = parse_instant(f"{month}-01", zone)
    found = slots(curve(settle(series(rows))), edges(Step.MONTH, zone, first, first + 1))
    assert found.energy.tolist() == [energy]
    assert found.flags.tolist() == [0]


# Properties.

READINGS = st.lists(
    st.tuples(
        st.integers(0, 20 * QUARTER_MS),
        st.integers(0, 60),
        st.integers(1, 3),
        st.sampled_from([0, 1]),
    ),
    max_size=16,
    unique_by=lambda row: row[0],
)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Ordinary registers with long and short intervals, on and off the grid of quarters."""
    times = draw(st.lists(st.integers(0, 9_000), min_size=2, max_size=9, unique=True))
    unit = draw(st.sampled_from([QUARTER_MS, MINUTE_MS, 7_919]))
    steps = draw(st.lists(st.integers(0, 5_000), min_size=len(times), max_size=len(times)))
    values = np.cumsum(steps).tolist()
    return curve(
        settle(series([(t * unit, v, 1, 0) for t, v in zip(sorted(times), values, strict=True)]))
    )


@given(READINGS, st.randoms(use_true_random=False), st.data())
def test_order_and_repeats_do_not_matter(
    rows: list[Row], random: Random, data: st.DataObject
) -> None:
    repeats = data.draw(st.lists(st.sampled_from(rows), max_size=5)) if rows else []
    shuffled = rows + repeats
    random.shuffle(shuffled)
    expected, found = settle(series(sorted(rows))), settle(series(shuffled))
    for column in ("time", "value", "epoch", "status", "flags"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist()
        assert getattr(found, column).dtype == getattr(expected, column).dtype


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2, st.integers(1, 2), st.just(0)), max_size=30))
def test_settle_is_as_told(rows: list[Row]) -> None:
    first: dict[tuple[int, int], int] = {}
    for time, value, _, _ in rows:
        first.setdefault((time, value), len(first))
    found = settle(series(rows))
    times = sorted({time for time, _ in first})
    assert found.time.tolist() == times
    for index, time in enumerate(times):
        values = sorted((rank, value) for (t, value), rank in first.items() if t == time)
        current = values[-1][1]
        assert found.value[index] == current
        assert bool(found.flags[index] & Flag.CONFLICT) is (len(values) > 1)
        assert found.epoch[index] == min(e for t, v, e, _ in rows if (t, v) == (time, current))


def quarter_shares(start: int, end: int, energy: int) -> list[tuple[int, int]]:
    """(start, Wh) of each quarter between two readings by largest remainder, one at a time."""
    bounds = [start, *range(start // QUARTER_MS * QUARTER_MS + QUARTER_MS, end, QUARTER_MS), end]
    pieces = list(pairwise(bounds))
    exact = [Fraction(energy * (b - a), end - start) for a, b in pieces]
    shares = [floor(share) for share in exact]
    ranked = sorted(range(len(pieces)), key=lambda i: (shares[i] - exact[i], i))
    favoured = ranked[: energy - sum(shares)]
    whole = [i for i, (a, b) in enumerate(pieces) if b - a == QUARTER_MS]
    extras = sum(i in whole for i in favoured)
    for i in favoured:
        shares[i] += i not in whole
    for place, i in enumerate(whole):
        shares[i] += -(-(place + 1) * extras // len(whole)) - -(-place * extras // len(whole))
    return [(a, share) for (a, _), share in zip(pieces, shares, strict=True)]


@given(
    st.integers(-2, 2) | st.integers(-QUARTER_MS, QUARTER_MS),
    st.integers(1, 40 * QUARTER_MS) | st.integers(1, 40).map(lambda n: n * QUARTER_MS),
    st.integers(0, 100) | st.integers(0, 10**15),
)
def test_quarters_by_largest_remainder(start: int, length: int, energy: int) -> None:
    end = start + length
    found = curve(settle(series([(start, 0, 1, 0), (end, energy, 1, 0)])))
    expected = quarter_shares(start, end, energy)
    bounds = ints([*(time for time, _ in expected), end])
    assert slots(found, bounds).energy.tolist() == [share for _, share in expected]


@given(curves(), st.lists(st.integers(-QUARTER_MS, 9_001 * QUARTER_MS), min_size=1, max_size=30))
def test_any_partition_adds_up(found: Curve, cuts: list[int]) -> None:
    start, end = int(found.time[0]), int(found.time[-1])
    inside = [start, *(cut for cut in set(cuts) if start < cut < end), end]
    answer = slots(found, ints(sorted(inside)))
    assert (answer.energy >= 0).all()
    assert answer.energy.sum() == total(found)
    assert not (answer.flags & (Flag.MISSING | Flag.PARTIAL)).any()


@given(curves(), st.sampled_from(["UTC", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Berlin"]))
def test_steps_are_consistent(found: Curve, name: str) -> None:
    zone = ZoneInfo(name)
    months = edges(Step.MONTH, zone, int(found.time[0]), int(found.time[-1]) + 1)
    coarse = months
    for step in (Step.DAY, Step.HOUR, Step.QUARTER):
        fine = edges(step, zone, int(months[0]), int(months[-1]))
        answer = slots(found, fine)
        parts = np.add.reduceat(answer.energy, fine.searchsorted(coarse[:-1]))
        assert parts.tolist() == slots(found, coarse).energy.tolist()
        marks = np.bitwise_or.reduceat(answer.flags, fine.searchsorted(coarse[:-1]))
        kept = ~np.uint16(Flag.ESTIMATED | Flag.PARTIAL | Flag.MISSING)
        assert (marks & kept).tolist() == (slots(found, coarse).flags & kept).tolist()
        coarse = fine


@given(curves(), st.integers(0, 9_000 * QUARTER_MS), st.integers(1, 50 * QUARTER_MS))
def test_slot_flags_one_by_one(found: Curve, start: int, length: int) -> None:
    bounds = [start + k * length for k in range(6)]
    answer = slots(found, ints(bounds))
    times = found.time.tolist()
    for k, (a, b) in enumerate(pairwise(bounds)):
        expected = Flag(0)
        if b <= times[0] or a >= times[-1]:
            expected = Flag.MISSING
        elif a < times[0] or b > times[-1]:
            expected = Flag.PARTIAL
        for s, e in pairwise(times):
            if e - s > QUARTER_MS and max(s, a) < min(e, b) and (s < a < e or s < b < e):
                expected |= Flag.ESTIMATED
        assert answer.flags[k] == expected


@given(curves())
def test_ordinary_registers_add_up(found: Curve) -> None:
    assert (np.diff(found.energy) >= 0).all()
    assert not found.flags.any()
    assert found.at(found.time).tolist() == found.energy.tolist()


@dataclass
class Judge:
    """The rules of ``curve``, one reading at a time."""

    rows: list[Row]
    modulus: int | None
    power: int | None
    swap: Replacement | None

    def booked(self) -> list[tuple[int, int]]:
        """(time, raw energy) of the readings that count."""
        last, booked = self.rows[0], [(self.rows[0][0], 0)]
        for i, row in enumerate(self.rows[1:], 1):
            gain = self.gain(last, i)
            if gain is not None:
                booked.append((row[0], booked[-1][1] + gain))
                last = row
        return booked

    def gain(self, last: Row, i: int) -> int | None:
        row = self.rows[i]
        carried, old = self.base(last, row)
        rise = carried + row[1] - old
        if row[1] >= old:
            return rise if self.possible(last, row, rise) or self.confirmed(i, inf) else None
        other = next((later for later in self.rows[i:] if later[1] != row[1]), None)
        if other and self.goes_on(last, other):
            return None
        rolled = rise + (self.modulus or 0)
        if self.modulus and self.power and rolled > carried and self.possible(last, row, rolled):
            return rolled
        if row[2] > last[2] or self.confirmed(i, old):
            return carried + (row[1] if self.possible(last, row, carried + row[1]) else 0)
        return None

    def base(self, last: Row, row: Row) -> tuple[int, int]:
        if self.swap and last[0] < self.swap.time_ms <= row[0]:
            return max(self.swap.final - last[1], 0), self.swap.initial
        return 0, last[1]

    def possible(self, last: Row, row: Row, gain: int) -> bool:
        elapsed = row[0] - last[0]
        return self.power is None or Fraction(gain) <= Fraction(self.power * elapsed, HOUR_MS)

    def goes_on(self, last: Row, row: Row) -> bool:
        carried, old = self.base(last, row)
        return row[1] >= old and self.possible(last, row, carried + row[1] - old)

    def confirmed(self, i: int, below: float) -> bool:
        three = self.rows[i : i + 3]
        rising = len(three) == 3 and all(self.goes_on(*pair) for pair in pairwise(three))
        return rising and three[0][1] > 0 and three[2][1] < below


@st.composite
def registers(draw: st.DrawFn) -> list[Row]:
    """Registers that mostly rise, with zeros, drops, jumps and new epochs."""
    rows: list[Row] = []
    value, epoch = draw(st.integers(0, 100)), 1
    gaps = st.sampled_from([QUARTER_MS, QUARTER_MS // 2, 4 * QUARTER_MS])
    for _ in range(draw(st.integers(1, 14))):
        sent = value
        match draw(st.sampled_from(["rise"] * 6 + ["zero", "drop", "jump", "reset", "boot"])):
            case "rise":
                sent = value = value + draw(st.integers(0, 3))
            case "zero":
                sent = 0
            case "drop":
                sent = draw(st.integers(0, max(value, 1)))
            case "jump":
                sent = value + draw(st.integers(0, 200))
            case "reset":
                sent = value = draw(st.integers(0, 3))
            case _:
                epoch += 1
        rows.append(((rows[-1][0] + draw(gaps)) if rows else 0, sent, epoch, 0))
    return rows


@given(
    registers(),
    st.none() | st.integers(50, 150),
    st.none() | st.integers(1, 60),
    st.none()
    | st.builds(Replacement, st.integers(0, 10**7), st.integers(0, 150), st.integers(0, 9)),
)
def test_curve_is_as_told(
    rows: list[Row], modulus: int | None, power: int | None, swap: Replacement | None
) -> None:
    found = curve(
        settle(series(rows)),
        modulus=modulus,
        max_power_w=power,
        replacements=[swap] if swap else [],
    )
    expected = Judge(rows, modulus, power, swap).booked()
    assert list(zip(found.time.tolist(), found.energy.tolist(), strict=True)) == expected
    assert (np.diff(found.energy) >= 0).all()
    assert len(found.time) + len(found.held_time) == len(rows)
    for time, flag in zip(found.held_time.tolist(), found.held_flags.tolist(), strict=True):
        value = next(row[1] for row in rows if row[0] == time)
        assert flag == (Flag.QUARANTINED if value else Flag.ZERO)
        after = found.time.searchsorted(time)
        assert after == len(found.time) or found.flags[after] & flag


@given(registers())
def test_sum_is_last_minus_first_of_each_run(rows: list[Row]) -> None:
    found = curve(settle(series(rows)))
    values = {row[0]: row[1] for row in rows}
    kept = [values[time] for time in found.time.tolist()]
    resets = [i for i in range(1, len(kept)) if found.flags[i] & Flag.RESET]
    starts = [0, *resets]
    ends = [*(i - 1 for i in resets), len(kept) - 1]
    exact = sum(
        kept[end] - (kept[start] if not start else 0)
        for start, end in zip(starts, ends, strict=True)
    )
    assert total(found) == exact


@given(registers(), st.integers(1, 7), st.integers(1, 7))
def test_rounding_does_not_add_up(rows: list[Row], numerator: int, denominator: int) -> None:
    factor = Fraction(numerator, denominator)
    raw = curve(settle(series(rows)))
    found = curve(settle(series(rows)), factor=factor)
    expected = [floor(energy * factor + Fraction(1, 2)) for energy in raw.energy.tolist()]
    assert found.energy.tolist() == expected
