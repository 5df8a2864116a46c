"""Speedwire's times: by arrival, in the order and at the distances that the tickers tell."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.formats import speedwire_clock
from telemetry.formats.speedwire_clock import DUPLICATE, LATE, MOST_METERS, RECENT, Clock

START = 1_795_428_900_000
WRAP = 1 << 32


class Meter:
    """Hands the datagrams of one meter to a clock."""

    def __init__(self, clock: Clock | None = None, name: bytes = b"349-1") -> None:
        self.clock, self.name = clock or Clock(), name

    def send(
        self, *tickers: int, at: int, contents: Sequence[int] | None = None
    ) -> list[int | None]:
        """Tickers that arrive together ``at`` milliseconds after the start; times after it."""
        wrapped = [ticker % WRAP for ticker in tickers]
        times = self.clock.times(self.name, wrapped, contents or tickers, START + at)
        return [None if time is DUPLICATE else time - START for time in times]


def test_the_first_is_sent_when_it_arrives() -> None:
    assert Meter().send(777, at=5) == [5]


def test_those_that_waited_together_keep_their_distances() -> None:
    meter = Meter()
    assert meter.send(1000, 2000, 3001, at=9000) == [6999, 7999, 9000]
    assert meter.send(4001, 5001, 6001, at=12_003) == [10_003, 11_003, 12_003]  # 0.1 %
    assert meter.send(7001, at=13_000) == [13_000]


def test_a_frozen_collector_does_not_move_them() -> None:
    meter = Meter()
    for second in range(10):
        assert meter.send(50_000 + 1000 * second, at=1000 * second) == [1000 * second]
    late = [50_000 + 1000 * second for second in range(10, 70)]
    assert meter.send(*late, at=69_400) == [1000 * second + 60 for second in range(10, 70)]


@pytest.mark.parametrize("drift", [-200, -50, 0, 50, 200])
def test_a_drifting_device_is_followed(drift: int) -> None:
    """Parts per million; for two days, with a way that takes up to 20 ms."""
    meter, rng = Meter(), random.Random(drift)
    last = None
    for second in range(0, 172_800, 7):
        sent = 1000 * second
        ticker = sent + sent * drift // 1_000_000
        arrival = sent + rng.randrange(20)
        (time,) = meter.send(ticker, at=arrival)
        assert time is not None
        assert arrival - 40 <= time <= arrival
        assert last is None or 6950 < time - last < 7050
        last = time


def test_a_first_one_that_came_late_is_corrected_at_once() -> None:
    meter = Meter()
    assert meter.send(1000, at=4000) == [4000]
    assert meter.send(2000, at=4001) == [4001]  # never before it, and not before the arrival
    assert meter.send(3000, at=4002) == [4002]
    assert meter.send(4000, at=4010) == [4010]
    assert meter.send(5000, at=5050) == [5011]


def test_what_came_already_is_a_duplicate() -> None:
    meter = Meter()
    assert meter.send(1000, 1000, at=0) == [0, DUPLICATE]
    assert meter.send(2000, at=1000) == [1000]
    assert meter.send(1000, 2000, 1000, at=1001) == [DUPLICATE] * 3
    assert meter.send(1000, at=60_000) == [DUPLICATE]
    assert meter.send(3000, at=2000) == [2000]


def test_another_content_of_the_same_instant_is_none() -> None:
    meter = Meter()
    assert meter.send(1000, at=0, contents=[1]) == [0]
    assert meter.send(2000, at=1003, contents=[1]) == [1001]
    assert meter.send(2000, at=1007, contents=[2]) == [1001]
    assert meter.send(1000, at=1007, contents=[2]) == [0]


def test_a_late_one_is_put_where_it_belongs() -> None:
    meter = Meter()
    meter.send(1000, 2000, at=2000)
    assert meter.send(5000, at=5000) == [5000]
    assert meter.send(4000, at=5001) == [4000]
    assert meter.send(3000, at=5001) == [3000]
    assert meter.send(3000, 4000, 5000, 2000, at=5001) == [DUPLICATE] * 4
    assert meter.send(6000, at=6000) == [6000]


def test_late_in_the_same_call() -> None:
    assert Meter().send(2000, 1000, 3000, 3000, at=10_000) == [9000, 8000, 10_000, DUPLICATE]


def test_a_ticker_that_wraps_goes_on() -> None:
    meter = Meter()
    times = [meter.send(WRAP - 2500 + 1000 * n, at=1000 * n)[0] for n in range(6)]
    assert times == [0, 1000, 2000, 3000, 4000, 5000]
    assert meter.send(WRAP + 500, WRAP - 500, at=5001) == [DUPLICATE] * 2
    together = [WRAP - 1500, WRAP - 500, WRAP + 500]
    assert Meter().send(*together, at=2000) == [0, 1000, 2000]


@pytest.mark.parametrize("up", [12_000, 600_000, 20 * 86_400_000, 40 * 86_400_000])
def test_a_device_that_starts_again(up: int) -> None:
    """After seconds, minutes, days; after 25 days its ticker seems to jump ahead."""
    meter = Meter()
    assert meter.send(up - 1000, up, at=1000) == [0, 1000]
    assert meter.send(500, at=31_000) == [31_000]
    assert meter.send(1500, at=32_000) == [32_000]
    assert meter.send(2500, 3500, at=34_500) == [33_002, 34_002]
    assert meter.send(3500, at=34_600) == [DUPLICATE]


def test_a_device_that_starts_again_while_nobody_listens() -> None:
    meter = Meter()
    up = 3_600_000
    assert meter.send(up, at=0) == [0]
    times = meter.send(up + 1000, up + 2000, 300, 1300, 2300, at=40_000)
    assert times == [1002, 2002, 38_000, 39_000, 40_000]
    # Of one that was not known, too: nothing says how long it was gone.
    assert Meter().send(up, up + 1000, 300, 1300, at=40_000) == [37_999, 38_999, 39_000, 40_000]


def test_after_a_pause_a_smaller_ticker_is_a_new_start() -> None:
    meter = Meter()
    assert meter.send(8000, at=0) == [0]
    assert meter.send(3000, at=LATE + 1) == [LATE + 1]
    assert meter.send(4000, at=LATE + 1001) == [LATE + 1001]


def test_one_that_was_silent_goes_on() -> None:
    meter = Meter()
    assert meter.send(1000, at=0) == [0]
    day = 86_400_000
    assert meter.send(1000 + day, at=day + 4000) == [day + 4000]  # 46 ppm: within the slew
    assert meter.send(2000 + day, at=day + 5000) == [day + 5000]


def test_our_clock_set_ahead_and_back() -> None:
    meter = Meter()
    meter.send(1000, at=0)
    assert meter.send(2000, at=3_601_000) == [3_601_000]
    assert meter.send(3000, at=3_602_000) == [3_602_000]
    assert meter.send(4000, at=4000) == [4000]
    assert meter.send(5000, at=5000) == [5000]
    # By little: in order, until it has caught up.
    assert meter.send(6000, 7000, at=4500) == [5001, 5002]
    assert meter.send(8000, at=5500) == [5500]


def test_meters_do_not_know_of_each_other() -> None:
    clock = Clock()
    one, other = Meter(clock, b"349-1"), Meter(clock, b"349-2")
    assert one.send(1000, at=0) == [0]
    assert other.send(1000, at=100) == [100]
    assert one.send(2000, at=1000) == [1000]
    assert other.send(1000, at=1200) == [DUPLICATE]


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    faithful = Meter(clock, b"faithful")
    for number in range(3 * MOST_METERS):
        Meter(clock, b"%d" % number).send(1, at=0)
        if not number % (MOST_METERS // 2):
            faithful.send(number, at=number)
    assert len(clock._younger) <= MOST_METERS
    assert len(clock._younger) + len(clock._elder) <= 2 * MOST_METERS
    newest = 3 * MOST_METERS - MOST_METERS // 2
    assert faithful.send(newest, at=newest) == [DUPLICATE]  # who goes on sending is remembered
    for ticker in range(0, 5000, 5):
        faithful.send(100_000 + ticker, at=100_000 + ticker)
    state = clock._younger[b"faithful"]
    assert len(state.recent) == RECENT
    faithful.send(200_000, at=200_000)
    for ticker in range(200_000, 260_000, 1000):
        faithful.send(ticker, at=ticker)
    assert LATE // 1000 <= len(state.recent) <= LATE // 1000 + 2


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.one_of(
                    st.integers(0, WRAP - 1),
                    st.integers(0, 30).map(lambda n: 1000 * n),
                    st.integers(0, 30).map(lambda n: (WRAP - 15_000 + 1000 * n) % WRAP),
                ),
                min_size=1,
                max_size=8,
            ),
            st.integers(-20_000, 20_000),
        ),
        max_size=12,
    )
)
def test_any_tickers_have_times_near_the_arrival(calls: list[tuple[list[int], int]]) -> None:
    clock, arrival = Clock(), START
    for tickers, passed in calls:
        arrival += passed
        times = clock.times(b"1-1", tickers, tickers, arrival)
        assert len(times) == len(tickers)
        known = [time for time in times if time is not DUPLICATE]
        # Behind the arrival by what a call may hold and the ticker's lateness; never far ahead.
        span = (len(tickers) + 1) * (speedwire_clock.MOST_LAG + LATE)
        assert all(
            arrival - span - LATE <= time <= arrival + speedwire_clock.MOST_LAG + 200
            for time in known
        )
