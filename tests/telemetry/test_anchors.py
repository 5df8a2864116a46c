"""A part of a series, cut where anchors allow it, tells what the whole series tells."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import anchors, intervals
from telemetry.intervals import Curve, Replacement, Settled
from telemetry.readings import Series
from tests.examples import examples

START = 1_760_000_000_000
MINUTE = 60_000

# A step of the register: rising, standing still, falling, a jump, a zero, a restart.
steps = st.one_of(
    st.tuples(st.just("rise"), st.integers(1, 20)),
    st.tuples(st.just("rise"), st.integers(1, 20)),
    st.tuples(st.just("rise"), st.integers(1, 20)),
    st.tuples(st.just("rise"), st.integers(0, 3)),
    st.tuples(st.just("fall"), st.integers(1, 300)),
    st.tuples(st.just("jump"), st.integers(300, 5000)),
    st.tuples(st.just("set"), st.sampled_from([0, 1, 5, 50])),
    st.tuples(st.just("boot"), st.sampled_from([0, 1, 5])),
)
gaps = st.sampled_from([1, 5, 14, 15, 16, 60, 400])


@st.composite
def series(draw: st.DrawFn) -> tuple[Series, list[Replacement]]:
    """A register's life with everything that happens to registers, and its replacements."""
    time, value, epoch = START, draw(st.integers(0, 500)), 1
    rows = [(time, value, epoch)]
    swaps = []
    for (kind, size), gap in draw(
        st.lists(st.tuples(steps, gaps), min_size=1, max_size=60).map(
            lambda some: [pair for pair in some for _ in range(1 + pair[1] % 3)]
        )
    ):
        time += gap * MINUTE
        epoch += kind == "boot"
        if kind in ("set", "boot"):
            value = size
        else:
            value = max(0, value + (-size if kind == "fall" else size))
        if kind == "boot" and draw(st.booleans()):
            swaps.append(Replacement(time - MINUTE // 2, value + 700, size))
        rows.append((time, value, epoch))
    columns = np.array(rows, np.int64)
    n = len(rows)
    whole = Series(
        columns[:, 0], columns[:, 1], columns[:, 2].astype(np.uint32), np.zeros(n, np.uint16)
    )
    return whole, swaps


@settings(max_examples=examples(600), deadline=None)
@given(
    series(),
    st.sampled_from([None, 2_000, 40_000]),
    st.sampled_from([None, 1_000, 10_000]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_part_between_anchors_books_what_the_whole_books(
    made: tuple[Series, list[Replacement]],
    power: int | None,
    modulus: int | None,
    between: tuple[float, float],
) -> None:
    whole, swaps = made
    settled = intervals.settle(whole)
    span = int(settled.time[-1]) - START
    start, end = (START + int(span * share) for share in sorted(between))
    end = max(end, start + 1)

    def book(part: Settled) -> Curve:
        return intervals.curve(part, modulus=modulus, max_power_w=power, replacements=swaps)

    found = anchors.anchored(settled.time, settled.value, power, swaps)
    edges = np.unique(np.linspace(start, end, 7).astype(np.int64))
    expected = intervals.slots(book(settled), edges)
    # Each side alone is the same side of both, and needs no more than its own readings.
    both = [anchors.cut(found, settled.time, *one) for one in ((start, None), (None, end))]
    assert anchors.before(settled, start, power, swaps) == (both[0] and both[0].start)
    assert anchors.after(settled, end, power, swaps) == (both[1] and both[1].stop)
    for low, high in ((start, end), (start, None), (None, end)):
        rows = anchors.cut(found, settled.time, low, high)
        if rows is None:
            continue
        part = intervals.slots(book(settled.part(rows)), edges)
        assert part.energy.tolist() == expected.energy.tolist()
        assert part.flags.tolist() == expected.flags.tolist()


@st.composite
def small(draw: st.DrawFn) -> Series:
    """Few low values in rising stretches, so that each of them may decide about others."""
    stretches = draw(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), max_size=4))
    value = np.array([value for some in stretches for value in sorted(some)], np.int64)
    epoch = np.sort(draw(st.lists(st.integers(1, 3), min_size=len(value), max_size=len(value))))
    time = np.arange(len(value)) * 60 * MINUTE
    return Series(time, value, epoch.astype(np.uint32), np.zeros(len(value), np.uint16))


@settings(max_examples=examples(1_000), deadline=None)
@given(small(), st.sampled_from([None, 2, 5]), st.sampled_from([None, 8]), st.data())
def test_no_value_is_too_low_to_be_cut_right(
    made: Series, power: int | None, modulus: int | None, data: st.DataObject
) -> None:
    settled = intervals.settle(made)
    found = anchors.anchored(settled.time, settled.value, power, [])
    whole = intervals.curve(settled, modulus=modulus, max_power_w=power)
    if len(found):
        assert np.isin(settled.time[found.end], whole.time).all()
        last = len(settled) - 1
        low, high = sorted(data.draw(st.tuples(st.integers(0, last), st.integers(0, last))))
        start, end = int(settled.time[low]), int(settled.time[high])
        first, final = (
            anchors.cut(found, settled.time, *one) for one in ((start, None), (None, end))
        )
        assert anchors.before(settled, start, power, []) == (first and first.start)
        assert anchors.after(settled, end, power, []) == (final and final.stop)
        for rows in (
            anchors.cut(found, settled.time, start, end),
            anchors.cut(found, settled.time, start, None),
            anchors.cut(found, settled.time, None, end),
        ):
            if rows is not None and low < high:
                part = intervals.curve(settled.part(rows), modulus=modulus, max_power_w=power)
                edges = settled.time[low : high + 1]
                one, other = intervals.slots(part, edges), intervals.slots(whole, edges)
                assert one.energy.tolist() == other.energy.tolist()
                assert one.flags.tolist() == other.flags.tolist()


def test_a_register_that_rises_every_third_reading_has_anchors() -> None:
    time = START + np.arange(100) * 1_000
    found = anchors.anchored(time, 1000 + np.arange(100) // 3, None, [])
    assert found.end.tolist() == list(range(5, 100))
    assert (found.end - found.begin).max() <= 5


def test_anchors_are_found_in_a_healthy_series_and_not_in_a_silent_one() -> None:
    time = START + np.arange(100) * 15 * MINUTE
    rising, still = 1000 + np.arange(100) * 7, np.full(100, 1000)
    assert anchors.anchored(time, rising, None, []).end.tolist() == list(range(4, 100))
    assert anchors.anchored(time, still, None, []).end.tolist() == []
    found = anchors.anchored(time, rising, None, [])
    assert anchors.cut(found, time, int(time[50]), int(time[60])) == slice(50, 65)
    assert anchors.cut(found, time, int(time[3]), None) is None
    assert anchors.cut(found, time, None, int(time[96])) is None
    # Too steep for the meter: nothing is certain.
    assert anchors.anchored(time, rising, 1, []).end.tolist() == []
    # Nothing is certain either where the device was exchanged between two of the five.
    swap = [Replacement(int(time[20]) - 1, 0, 0)]
    missing = set(range(4, 100)) - set(anchors.anchored(time, rising, None, swap).end.tolist())
    assert missing == {20, 21, 22, 23}


def test_the_row_before_an_instant_is_the_last_anchor_up_to_it() -> None:
    """However it is found: one rise and one fall anywhere; a power that allows all changes none."""
    time = np.arange(16, dtype=np.int64)
    zeros = np.zeros(16, np.uint32)
    found_all = set()
    for first, rise, fall in product((0, 5), range(1, 17), range(1, 17)):
        value = first + 10 * (time >= rise) - np.minimum(first, 1) * (time >= fall)
        settled = intervals.settle(Series(time, value, zeros, zeros.astype(np.uint16)))
        for start, power in product(range(3, 16), (None, 10**12)):
            found = anchors.anchored(time[: start + 1], value[: start + 1], power, ())
            row = anchors.before(settled, start, power, ())
            assert row == (int(found.end[-1]) if len(found) else None)
            found_all.add(row)
    assert found_all > {None, 11, 15}
