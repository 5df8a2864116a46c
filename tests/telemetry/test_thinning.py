"""Thinning: the same energy at every edge and everywhere outside, whatever the meter did."""

from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import intervals
from telemetry.calendar import DAY_MS, HOUR_MS, QUARTER_MS, Period, Step, edges, parse_instant
from telemetry.intervals import Curve, Flag, Replacement, settle, slots
from telemetry.readings import Int64s, Series, Status
from telemetry.thinning import Book, thin_energy, thin_instants
from tests.examples import examples

MINUTE_MS = 60_000
UTC = ZoneInfo("UTC")
Row = tuple[int, int, int, int]  # time, value, epoch, status


def series(rows: list[Row]) -> Series:
    time, value, epoch, status = np.array(rows, np.int64).reshape(-1, 4).T
    return Series(time, value, epoch.astype(np.uint32), status.astype(np.uint16))


def rows(found: Series) -> list[Row]:
    columns = (found.time, found.value, found.epoch, found.status)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def union(before: Series, window: Period, thinned: Series) -> Series:
    """The series after the window's readings were replaced."""
    outside = [row for row in rows(before) if not window.start_ms <= row[0] < window.end_ms]
    return series(outside + rows(thinned))


def grid(step: Step, window: Period, zone: ZoneInfo = UTC) -> Int64s:
    return edges(step, zone, window.start_ms, window.end_ms)


def thin(before: Series, window: Period, step: Step, book: Book = intervals.curve) -> Series:
    return union(before, window, thin_energy(before, window, grid(step, window), book))


def steady(every: int, count: int, watts: int = 3_600, start: int = 0) -> Series:
    """A register that rises evenly, read every so many ms."""
    times = start + np.arange(count) * every
    none = np.zeros(count, np.uint16)
    return Series(times, times * watts // HOUR_MS, none.astype(np.uint32), none)


# Examples.


def test_a_reading_a_quarter_stays() -> None:
    window = Period(0, HOUR_MS)
    before = steady(1_000, 3_601)
    found = thin_energy(before, window, grid(Step.QUARTER, window), intervals.curve)
    assert rows(found) == [(k * QUARTER_MS, k * 900, 0, 0) for k in range(4)]


def test_between_readings_one_is_made_of_the_value_that_the_curve_has() -> None:
    window = Period(0, HOUR_MS)
    before = series([(t * MINUTE_MS + 7_000, 10 * t, 3, 0) for t in range(-5, 70)])
    found = thin_energy(before, window, grid(Step.QUARTER, window), intervals.curve)
    # 53 of 60 seconds of each minute's 10 Wh, rounded half up; one at the end of the window, too.
    made = [(k * QUARTER_MS, 150 * k - 1, 3, Status.THINNED) for k in range(5)]
    assert rows(found) == made


def test_a_day_keeps_one_reading_on_its_midnight_in_the_meters_zone() -> None:
    zone = ZoneInfo("Asia/Kathmandu")
    begin = parse_instant("2024-02-01T00:00Z", UTC)
    window = Period(begin, begin + 3 * DAY_MS)
    before = steady(30_000, 4 * 2_880 + 1, start=begin - DAY_MS // 2)
    found = thin_energy(before, window, grid(Step.DAY, window, zone), intervals.curve)
    midnights = [begin + DAY_MS * k + 18 * HOUR_MS + 15 * MINUTE_MS for k in range(3)]
    assert found.time.tolist() == [begin, *midnights]


def test_the_first_and_the_last_reading_stay() -> None:
    window = Period(0, HOUR_MS)
    before = steady(10_000, 200, start=100_000)
    found = thin_energy(before, window, grid(Step.QUARTER, window), intervals.curve)
    assert found.time.tolist()[0] == 100_000
    assert found.time.tolist()[-1] == 100_000 + 199 * 10_000
    assert len(found) < 10


def test_the_ends_of_a_gap_over_an_edge_stay_as_sent() -> None:
    gap = [(r[0], r[1], 0, 0) for r in rows(steady(10_000, 721)) if not 605_000 < r[0] < 2_900_000]
    before, window = series(gap), Period(0, 2 * HOUR_MS)
    found = thin(before, window, Step.QUARTER)
    times = found.time.tolist()
    assert 600_000 in times
    assert 2_900_000 in times
    # What comes late into the gap refines it as it would have before.
    late = series([(QUARTER_MS, 850, 0, 0)])
    one, other = (
        intervals.curve(settle(series(rows(each) + rows(late)))) for each in (before, found)
    )
    assert (
        one.at(grid(Step.QUARTER, window)).tolist() == other.at(grid(Step.QUARTER, window)).tolist()
    )


def test_a_meter_read_every_hour_is_left_alone() -> None:
    window = Period(0, DAY_MS)
    before = steady(HOUR_MS, 24, start=7 * MINUTE_MS)
    found = thin_energy(before, window, grid(Step.QUARTER, window), intervals.curve)
    assert rows(found) == rows(before)


def test_nothing_is_made_of_a_meter_read_every_quarter() -> None:
    window = Period(0, DAY_MS)
    before = steady(QUARTER_MS, 96, start=7 * MINUTE_MS)
    found = thin_energy(before, window, grid(Step.QUARTER, window), intervals.curve)
    assert rows(found) == rows(before)


@pytest.mark.parametrize(
    ("odd", "flag"),
    [
        ({950: 0}, Flag.ZERO),
        ({950: 3, 951: 0}, Flag.QUARANTINED),
        ({at: at - 949 for at in range(950, 1_800)}, Flag.RESET),
    ],
    ids=["zero", "blip", "reset"],
)
def test_events_keep_their_flags_and_those_that_decide(odd: dict[int, int], flag: Flag) -> None:
    sent = [(t * 2_000, odd.get(t, 5_000 + t), 0, 0) for t in range(1_800)]
    before, window = series(sent), Period(0, HOUR_MS)
    found = thin(before, window, Step.QUARTER)
    assert len(found) < 30
    assert_same(before, found, window, Step.QUARTER)
    answer = slots(intervals.curve(settle(found)), grid(Step.QUARTER, window))
    assert [bool(flags & flag) for flags in answer.flags.tolist()] == [False, False, True, False]


def test_a_register_stuck_for_hours_does_not_keep_all_of_it() -> None:
    stuck = range(3_000, 9_000)
    sent = [(t * 2_000, 0 if t in stuck else 5_000 + t, 0, 0) for t in range(12_000)]
    before, window = series(sent), Period(0, 24_000_000 // QUARTER_MS * QUARTER_MS)
    found = thin(before, window, Step.QUARTER)
    assert len(rows(found)) < 1_000
    assert_same(before, found, window, Step.QUARTER)


def test_a_meter_without_a_clock_thins_as_well() -> None:
    sent = [(t * 7_000, t, 0, int(Status.ARRIVAL_TIME)) for t in range(2_000)]
    before, window = series(sent), Period(0, 3 * HOUR_MS)
    found = thin(before, window, Step.QUARTER)
    inside = found.time[found.time < window.end_ms]
    assert len(inside) == 12
    assert_same(before, found, window, Step.QUARTER)


def test_one_doubtful_reading_marks_its_slot_only() -> None:
    sent = [(t * 7_000, t, 0, int(Status.SUSPECT) if t == 200 else 0) for t in range(2_000)]
    before, window = series(sent), Period(0, 3 * HOUR_MS)
    found = thin(before, window, Step.QUARTER)
    assert_same(before, found, window, Step.QUARTER)
    assert 200 * 7_000 in found.time.tolist()
    assert 201 * 7_000 not in found.time.tolist()


def test_both_values_of_a_conflict_stay() -> None:
    sent = [(t * 7_000, 10 * t, 0, 0) for t in range(2_000)] + [(700_000, 1_003, 0, 0)]
    before, window = series(sent), Period(0, 3 * HOUR_MS)
    found = thin(before, window, Step.QUARTER)
    assert [row[1] for row in rows(found) if row[0] == 700_000] == [1_000, 1_003]
    assert_same(before, found, window, Step.QUARTER)


def test_a_repeat_that_comes_late_changes_nothing() -> None:
    before, window = steady(7_000, 4_000, 1_234), Period(0, 6 * HOUR_MS)
    found = thin(before, window, Step.QUARTER)
    repeats = series(rows(found) + rows(before)[300:400])
    assert_same(before, repeats, window, Step.QUARTER)
    assert sorted(rows(thin(repeats, window, Step.QUARTER))) == sorted(rows(found))


@pytest.mark.parametrize("shift", [7_000, 7_001, 8_500])
def test_rounding_at_the_highest_power_makes_no_reading_impossible(shift: int) -> None:
    # 3.6 kW are 1 Wh a second: the whole Wh made on an edge may ask for more than the meter can.
    sent = [(t * 15_000 + shift, 15 * t, 0, 0) for t in range(1_000)]
    before, window = series(sent), Period(0, 4 * HOUR_MS)
    book = partial(intervals.curve, max_power_w=3_600)
    found = thin(before, window, Step.QUARTER, book)
    assert len(found) < 200
    assert_same(before, found, window, Step.QUARTER, book)
    assert not book(settle(found)).flags.any()


def test_of_other_registers_the_last_reading_of_each_slot_stays() -> None:
    window = Period(0, HOUR_MS)
    sent = [(t * 60_000, 7 * t % 13, 1, 0) for t in range(60)] + [(29 * 60_000, 99, 1, 0)]
    found = thin_instants(series(sent), window, grid(Step.QUARTER, window))
    assert rows(found) == [
        (14 * 60_000, 7 * 14 % 13, 1, 0),
        (29 * 60_000, 99, 1, 0),
        (44 * 60_000, 7 * 44 % 13, 1, 0),
        (59 * 60_000, 7 * 59 % 13, 1, 0),
    ]
    assert rows(thin_instants(found, window, grid(Step.QUARTER, window))) == rows(found)


def test_ninety_days_of_seconds() -> None:
    window = Period(0, 90 * DAY_MS)
    before = steady(1_000, 90 * 86_400)
    found = thin_energy(before, window, grid(Step.QUARTER, window), intervals.curve)
    assert len(found) == 90 * 96 + 1


# Properties.


def curves(before: Series, after: Series, book: Book) -> tuple[Curve, Curve]:
    return book(settle(before)), book(settle(after))


def assert_same(
    before: Series,
    after: Series,
    window: Period,
    step: Step,
    book: Book = intervals.curve,
    zone: ZoneInfo = UTC,
) -> None:
    """All that thinning promises of a window."""
    old, new = curves(before, after, book)
    bounds = grid(step, window, zone)
    assert new.at(bounds).tolist() == old.at(bounds).tolist()
    assert slots(new, bounds).flags.tolist() == slots(old, bounds).flags.tolist()
    assert (new.time[0], new.time[-1]) == (old.time[0], old.time[-1])
    # Outside: at the readings, and at any instant between them.
    around = [window.start_ms, window.end_ms]
    first, last = int(old.time[0]) - 1, int(old.time[-1]) + 1
    many = np.concatenate(
        [np.linspace(first, around[0], 97), np.linspace(around[1], last, 97), old.time, around]
    ).astype(np.int64)
    outside = many[(many <= around[0]) | (many >= around[1])]
    assert new.at(outside).tolist() == old.at(outside).tolist()
    for fine in (Step.QUARTER, Step.DAY):
        for part in ((first, around[0]), (around[1], last)):
            if part[0] < part[1]:
                marks = edges(fine, UTC, *part)
                marks = marks[(marks <= around[0]) | (marks >= around[1])]
                kept = [
                    slots(each, marks[marks <= around[0]]).flags.tolist() for each in (old, new)
                ]
                assert kept[0] == kept[1]
                kept = [
                    slots(each, marks[marks >= around[1]]).flags.tolist() for each in (old, new)
                ]
                assert kept[0] == kept[1]


KINDS = ["rise"] * 12 + ["zero", "stuck", "drop", "jump", "reset", "boot", "gap", "conflict"]
STATUS = st.sampled_from([0] * 12 + [1, 0x0100, 0x0101])


@st.composite
def nasty(draw: st.DrawFn) -> Series:
    """A register that rises, with all that meters do; in any order of acceptance."""
    sent: list[Row] = []
    time = draw(st.integers(-2 * HOUR_MS, HOUR_MS))
    value, epoch = draw(st.integers(0, 100)), 1
    beat = draw(st.sampled_from([QUARTER_MS, 200_000, 61_003, 20_000]))
    highest = draw(st.sampled_from([1, 40]))
    usual = draw(STATUS)
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=12)):
        count = draw(st.integers(1, 60)) if kind in ("rise", "stuck") else 1
        stuck = draw(st.integers(0, 5)) * value // 5
        for _ in range(count):
            usually = st.just(beat) | st.just(beat) | st.integers(1, beat)
            time += draw(usually) if kind != "gap" else 20 * beat
            status = usual | draw(STATUS)
            rise = draw(st.integers(0, highest))
            match kind:
                case "zero":
                    sent.append((time, 0, epoch, status))
                    continue
                case "stuck":
                    sent.append((time, stuck, epoch, status))
                    continue
                case "drop":
                    sent.append((time, draw(st.integers(0, value)), epoch, status))
                    continue
                case "jump":
                    sent.append((time, value + draw(st.integers(0, 900)), epoch, status))
                    continue
                case "conflict":
                    sent.append((time, value + draw(st.integers(0, 9)), epoch, status))
                case "reset":
                    value = draw(st.integers(0, 3))
                case "boot":
                    epoch += 1
                    value = value if draw(st.booleans()) else 0
            value += rise
            sent.append((time, value, epoch, status))
    late = draw(st.lists(st.integers(0, len(sent) - 1), max_size=4, unique=True))
    repeats = [sent[i] for i in draw(st.lists(st.integers(0, len(sent) - 1), max_size=4))]
    order = [row for i, row in enumerate(sent) if i not in late] + [sent[i] for i in late]
    return series(order + repeats)


@st.composite
def books(draw: st.DrawFn) -> Book:
    swap = st.builds(
        Replacement, st.integers(0, 20 * QUARTER_MS), st.integers(0, 900), st.integers(0, 90)
    )
    return partial(
        intervals.curve,
        modulus=draw(st.none() | st.integers(500, 1_500)),
        max_power_w=draw(st.none() | st.integers(1, 2_000)),
        replacements=draw(st.lists(swap, max_size=2)),
    )


@st.composite
def windows(draw: st.DrawFn) -> Period:
    start = draw(st.integers(-9, 60))
    unit = draw(st.sampled_from([QUARTER_MS, HOUR_MS]))
    return Period(start * unit, (start + draw(st.integers(1, 60))) * unit)


@settings(max_examples=examples(400), deadline=None)
@given(nasty(), windows(), books(), st.sampled_from([Step.QUARTER, Step.HOUR, Step.DAY]))
def test_thinning_is_exact_and_happens_once(
    before: Series, window: Period, book: Book, step: Step
) -> None:
    found = thin(before, window, step, book)
    assert len(found) <= len(before)
    assert_same(before, found, window, step, book)
    assert sorted(rows(thin(found, window, step, book))) == sorted(rows(found))


@settings(max_examples=examples(200), deadline=None)
@given(nasty(), books(), st.sampled_from(["UTC", "Asia/Kathmandu", "America/Sao_Paulo"]))
def test_two_steps_are_as_exact_as_one(before: Series, book: Book, name: str) -> None:
    zone, window = ZoneInfo(name), Period(0, 2 * DAY_MS)
    days = grid(Step.DAY, window, zone)
    quarters = union(before, window, thin_energy(before, window, grid(Step.QUARTER, window), book))
    twice = union(quarters, window, thin_energy(quarters, window, days, book))
    once = union(before, window, thin_energy(before, window, days, book))
    for after in (twice, once):
        assert_same(before, after, window, Step.DAY, book, zone)


@settings(max_examples=examples(200), deadline=None)
@given(nasty(), books(), st.integers(1, 9), st.integers(1, 9))
def test_windows_one_after_another(before: Series, book: Book, first: int, second: int) -> None:
    windows = [
        Period(0, first * HOUR_MS),
        Period(first * HOUR_MS, (first + second) * HOUR_MS),
    ]
    found = before
    for window in windows:
        found = thin(found, window, Step.QUARTER, book)
    assert_same(before, found, Period(0, windows[1].end_ms), Step.QUARTER, book)


@settings(max_examples=examples(100), deadline=None)
@given(nasty(), st.integers(-HOUR_MS, HOUR_MS), st.integers(1, 9 * HOUR_MS))
def test_windows_off_the_grid(before: Series, start: int, length: int) -> None:
    window = Period(start, start + length)
    found = thin(before, window, Step.QUARTER)
    old, new = curves(before, found, intervals.curve)
    bounds = grid(Step.QUARTER, window)
    assert new.at(bounds).tolist() == old.at(bounds).tolist()
    outside = old.time[(old.time < window.start_ms) | (old.time >= window.end_ms)]
    assert new.at(outside).tolist() == old.at(outside).tolist()
