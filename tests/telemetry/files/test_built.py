"""Registers built from intervals: exact, the same again, and in any order (import-export.md)."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.files import FileError
from telemetry.files.built import MICRO, Intervals, Points, merge, place, same
from telemetry.readings import Int64s, Status

STEP = 1_800_000
ROOM = 10**9
SUSPECT = int(Status.SUSPECT)


def intervals(first: int, energies: list[int], skip: tuple[int, ...] = ()) -> Intervals:
    """Half hours from the ``first`` on, their energies in millionths; some are left out."""
    rows = np.array([row for row in range(len(energies)) if row not in skip], np.int64)
    start = (rows + first) * STEP
    energy = np.array(energies, np.int64)[rows]
    return Intervals(start, start + STEP, energy, np.zeros(len(rows), np.uint16))


def points(*readings: tuple[int, int]) -> Points:
    """Stored readings: the half hour's number and the value."""
    time, value = zip(*readings, strict=True) if readings else ((), ())
    zeros = np.zeros(len(time), np.uint16)
    return Points(np.array(time, np.int64) * STEP, np.array(value, np.int64), zeros)


def placed(part: Intervals, stored: Points) -> Points:
    return place(merge([part], str), stored, str)


def store(stored: Points, new: Points) -> Points:
    """What is settled after new readings: one an instant, the newest value, all status bits."""
    both = {at: (shown, status) for at, shown, status in columns(stored)}
    for at, shown, status in columns(new):
        before = both.get(at)
        assert before is None or before[0] == shown, "a stored value was changed"
        both[at] = shown, status | (before[1] if before else 0)
    rows = [(time, *both[time]) for time in sorted(both)]
    time, value, bits = np.array(rows, np.int64).reshape(-1, 3).T
    return Points(time.copy(), value.copy(), bits.astype(np.uint16))


def columns(of: Points) -> list[tuple[int, int, int]]:
    return list(zip(of.time.tolist(), of.value.tolist(), of.status.tolist(), strict=True))


def energies(of: Points) -> Int64s:
    return np.diff(of.value)


WHOLE = st.integers(0, 5000).map(lambda wh: wh * MICRO)
ANY = st.integers(0, 5 * 10**9)


def test_an_empty_store_leaves_room_below() -> None:
    found = placed(intervals(0, [5 * MICRO, 7 * MICRO]), points())
    assert columns(found) == [(0, ROOM, 0), (STEP, ROOM + 5, 0), (2 * STEP, ROOM + 12, 0)]
    large = placed(intervals(0, [10**8 * MICRO]), points())
    assert large.value.tolist() == [10**11, 10**11 + 10**8]


@given(st.lists(ANY, min_size=1, max_size=60))
def test_every_reading_is_the_exact_sum_rounded_half_up(values: list[int]) -> None:
    found = placed(intervals(0, values), points())
    total = Decimal(0)
    for value, shown in zip(values, found.value[1:].tolist(), strict=True):
        total += Decimal(value).scaleb(-6)
        assert shown - found.value[0] == int(total.to_integral_value(ROUND_HALF_UP))


@given(st.lists(ANY, min_size=1, max_size=40), st.sets(st.integers(0, 39)))
def test_the_same_file_twice_changes_nothing(values: list[int], skip: set[int]) -> None:
    part = intervals(0, values, tuple(skip))
    once = placed(part, points())
    again = placed(part, once)
    assert same(again, once).all()
    assert again.value.tolist() == once.value.tolist()


@given(st.lists(ANY, min_size=3, max_size=40), st.data())
def test_an_interrupted_import_goes_on(values: list[int], data: st.DataObject) -> None:
    part = intervals(0, values, (1,))
    whole = placed(part, points())
    kept = data.draw(st.integers(0, len(whole)))
    some = Points(whole.time[:kept], whole.value[:kept], whole.status[:kept])
    again = placed(part, some)
    if kept:
        assert again.value.tolist() == whole.value.tolist()
        assert store(some, again).status.tolist() == whole.status.tolist()


@given(st.lists(WHOLE, min_size=1, max_size=30), st.lists(WHOLE, min_size=1, max_size=30))
def test_two_months_in_both_orders(january: list[int], february: list[int]) -> None:
    first, second = intervals(0, january), intervals(len(january), february)
    expected = [energy // MICRO for energy in january + february]
    for order in ((first, second), (second, first)):
        stored = points()
        for part in order:
            stored = store(stored, placed(part, stored))
        assert energies(stored).tolist() == expected
        assert not stored.status.any()


@given(st.lists(ANY, min_size=2, max_size=40), st.data())
def test_overlapping_files_fit(values: list[int], data: st.DataObject) -> None:
    """Also where sums are no whole Wh: the second file's level has the first one's remainder."""
    cut = data.draw(st.integers(1, len(values)))
    begin = data.draw(st.integers(0, cut - 1))
    whole = placed(intervals(0, values), points())
    head = placed(intervals(0, values[:cut]), points())
    level = head.value[0] - whole.value[0]
    both = store(head, placed(intervals(begin, values[begin:]), head))
    assert np.abs(both.value - whole.value - level).max() <= 1


def test_a_gap_has_no_energy_and_its_end_is_doubted() -> None:
    found = placed(intervals(0, [MICRO, 2 * MICRO, 4 * MICRO, 8 * MICRO], skip=(1, 2)), points())
    assert columns(found) == [
        (0, ROOM, 0),
        (STEP, ROOM + 1, 0),
        (3 * STEP, ROOM + 1, SUSPECT),
        (4 * STEP, ROOM + 9, 0),
    ]


def test_a_file_after_a_gap_goes_on_from_what_is_stored() -> None:
    found = placed(intervals(10, [3 * MICRO]), points((0, 100), (5, 120)))
    assert columns(found) == [(10 * STEP, 120, SUSPECT), (11 * STEP, 123, 0)]


def test_a_file_with_gaps_before_what_is_stored_ends_there() -> None:
    stored = points((10, 120), (11, 125))
    found = placed(intervals(0, [MICRO, 2 * MICRO, 3 * MICRO], skip=(1,)), stored)
    assert columns(found) == [
        (0, 116, 0),
        (STEP, 117, 0),
        (2 * STEP, 117, SUSPECT),
        (3 * STEP, 120, 0),
        (10 * STEP, 120, SUSPECT),
    ]
    assert same(
        placed(intervals(0, [MICRO, 2 * MICRO, 3 * MICRO], skip=(1,)), store(stored, found)),
        store(stored, found),
    ).all()


@given(
    st.lists(st.tuples(WHOLE, st.booleans()), min_size=1, max_size=25),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=6),
)
def test_what_is_accepted_is_right_and_what_is_stored_stays(
    wanted: list[tuple[int, bool]], known: list[tuple[int, int]]
) -> None:
    """Whatever a real register showed: refused, or each interval has its energy and none falls."""
    rising = dict(zip(sorted({at for at, _ in known}), sorted(v for _, v in known), strict=False))
    stored = points(*((at, 10_000 + value) for at, value in rising.items()))
    skip = tuple(at for at, (_, there) in enumerate(wanted) if not there)
    part = intervals(3, [energy % (4 * MICRO) for energy, _ in wanted], skip)
    try:
        found = placed(part, stored)
    except FileError:
        return
    both = store(stored, found)
    assert (np.diff(both.value) >= 0).all()
    at_start = both.value[both.time.searchsorted(part.start)]
    at_end = both.value[both.time.searchsorted(part.end)]
    assert ((at_end - at_start) * MICRO == part.energy).all()


def test_between_real_readings_the_gaps_have_the_difference() -> None:
    found = placed(intervals(4, [MICRO, MICRO]), points((0, 100), (10, 110)))
    assert found.value.tolist() == [100, 101, 102]


def test_a_real_register_goes_on_from_a_file_that_ends_at_its_first_reading() -> None:
    found = placed(intervals(0, [3 * MICRO, 4 * MICRO]), points((2, 13_423), (3, 13_500)))
    assert found.value.tolist() == [13_416, 13_419, 13_423]


@pytest.mark.parametrize(
    ("part", "stored", "message"),
    [
        (
            intervals(0, [MICRO, MICRO]),
            points((0, 5), (1, 6), (2, 9)),
            "would show 7 at 3600000, but 9",
        ),
        (
            intervals(0, [MICRO, MICRO]),
            points((0, 5), (1, 16), (2, 7)),
            "would show 6 at 1800000, but 16",
        ),
        (intervals(0, [5 * MICRO]), points((1, 2)), "below 0"),
        (intervals(6, [10 * MICRO] * 6), points((0, 100), (10, 105)), "but 100 is stored"),
        (
            intervals(4, [5 * MICRO]),
            points((0, 100), (10, 102)),
            "would show 105 at 18000000, but 102",
        ),
        (intervals(0, [MICRO]), points((0, 5), (1, 10**14)), "but 100,000,000,000,000 is stored"),
    ],
)
def test_what_disagrees_is_refused(part: Intervals, stored: Points, message: str) -> None:
    with pytest.raises(FileError, match=message):
        placed(part, stored)


def test_a_stored_reading_inside_an_interval_must_lie_inside_its_energy() -> None:
    part = intervals(0, [10 * MICRO, 10 * MICRO])
    inside = Points(
        np.array([0, STEP // 2], np.int64), np.array([100, 104], np.int64), np.zeros(2, np.uint16)
    )
    assert placed(part, inside).value.tolist() == [100, 110, 120]
    inside.value[1] = 111
    with pytest.raises(FileError, match="but 111 is stored"):
        placed(part, inside)


def test_a_month_between_two_stored_ones_is_refused() -> None:
    stored = store(points(), placed(intervals(0, [MICRO] * 2), points()))
    stored = store(stored, placed(intervals(4, [MICRO] * 2), stored))
    with pytest.raises(FileError, match="cannot both be true"):
        placed(intervals(2, [MICRO] * 2), stored)


def test_files_of_one_command_are_put_together_in_any_order() -> None:
    parts = [
        intervals(4, [3 * MICRO]),
        intervals(0, [MICRO] * 2),
        intervals(1, [MICRO, MICRO, MICRO]),
    ]
    found = place(merge(parts, str), points(), str)
    assert energies(found).tolist() == [1, 1, 1, 1, 3]


def test_an_interval_with_two_energies_is_refused() -> None:
    with pytest.raises(FileError, match="has two energies, 1 and 2 Wh"):
        merge([intervals(0, [MICRO]), intervals(0, [2 * MICRO])], str)


def test_intervals_that_overlap_are_refused() -> None:
    half = intervals(0, [MICRO])
    shifted = Intervals(half.start + 1, half.end + 1, half.energy, half.status)
    with pytest.raises(FileError, match="intervals overlap at 1"):
        merge([half, shifted], str)


def test_no_intervals_are_no_readings() -> None:
    assert len(placed(intervals(0, []), points())) == 0


def test_more_status_bits_are_news() -> None:
    stored = points((0, 1), (1, 2))
    wanted = Points(stored.time, stored.value, np.array([0, 1], np.uint16))
    assert same(wanted, stored).tolist() == [True, False]
    assert same(stored, wanted).tolist() == [True, True]
