"""The collector's windows: verdicts as one datagram after the other has them, honest answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.formats.ack import WINDOW
from telemetry.windows import LAST, LATE, Verdict, Windows, acknowledgements, judge, late
from tests.examples import examples

Number = tuple[int, int]  # epoch and sequence


@dataclass
class Meter:
    """One meter's window as docs/delivery.md has it, a datagram at a time, and all that came.

    ``seen`` are the numbers that were unique; nothing is ever forgotten here.
    """

    epoch: int = -1
    highest: int = -1
    begin: dict[int, int] = field(default_factory=dict)  # by epoch: where the count begins
    top: dict[int, int] = field(default_factory=dict)  # by epoch
    seen: set[Number] = field(default_factory=set)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("unique", "duplicate", "stale", "out_of_order"), 0)
    )

    def judge(self, epoch: int, number: int) -> Verdict:
        verdict = self._verdict(epoch, number)
        self.counts[verdict.name.lower()] += 1
        if verdict is not Verdict.UNIQUE:
            return verdict
        if epoch > self.epoch:
            never = self.epoch < 0
            self.begin[epoch] = number if never and number >= WINDOW else 0
            self.epoch, self.highest = epoch, number
        elif number > self.highest:
            self.highest = number
        else:
            self.counts["out_of_order"] += 1
        self.top[epoch] = self.highest
        self.seen.add((epoch, number))
        return verdict

    def _verdict(self, epoch: int, number: int) -> Verdict:
        if epoch < self.epoch or (epoch == self.epoch and number <= self.highest - WINDOW):
            return Verdict.STALE
        return Verdict.DUPLICATE if (epoch, number) in self.seen else Verdict.UNIQUE

    @property
    def lost(self) -> int:
        """Numbers up to the highest of each epoch that never came."""
        expected = sum(top + 1 - self.begin[epoch] for epoch, top in self.top.items())
        came = sum(number >= self.begin[epoch] for epoch, number in self.seen)
        return expected - came

    @property
    def acknowledgement(self) -> tuple[int, int]:
        low = max(0, self.highest - WINDOW + 1)
        window = range(low, self.highest + 1)
        missing = [n for n in window if (self.epoch, n) not in self.seen]
        following = missing[0] if missing else self.highest + 1
        told = [n for n in window if n > following and (self.epoch, n) in self.seen]
        return min(following, LAST), sum(1 << (n - following - 1) for n in told)


class Fleet:
    """The vectorised half, of a few meters, commit by commit."""

    def __init__(self, count: int) -> None:
        self.windows = Windows.empty(count)
        self.lost = np.zeros(count, np.int64)

    def commit(self, came: list[tuple[int, int, int]]) -> tuple[list[int], list[bool]]:
        """Judge datagrams of meter, epoch and sequence; verdicts in the order of arrival."""
        columns = np.array(came, np.int64).reshape(-1, 3)
        order = np.argsort(columns[:, 0], kind="stable")
        meters, group = np.unique(columns[order, 0], return_inverse=True)
        epoch, sequence = (columns[order, at].astype(np.uint32) for at in (1, 2))
        before = self.windows.take(meters)
        judged = judge(before, group, epoch, sequence)
        self.windows.put(meters, judged.windows)
        np.add.at(self.lost, columns[order, 0], judged.lost)
        verdict = np.empty(len(came), np.uint8)
        out_of_order = np.empty(len(came), np.bool_)
        verdict[order], out_of_order[order] = judged.verdict, judged.out_of_order
        return verdict.tolist(), out_of_order.tolist()


# Numbers near each other and near every limit: of the window, of 32 bits.
NEAR = st.one_of(
    st.integers(0, 150),
    st.integers(2**31 - 70, 2**31 + 70),
    st.integers(LAST - 150, LAST),
    st.integers(0, LAST),
)
EPOCHS = st.sampled_from([0, 1, 2, 7, LAST - 1, LAST])
CAME = st.tuples(st.integers(0, 3), EPOCHS, NEAR)
COMMITS = st.lists(st.lists(CAME, max_size=60), max_size=6)


@st.composite
def disturbed(draw: st.DrawFn) -> list[list[tuple[int, int, int]]]:
    """What meters count one after the other, with losses, repeats and another order."""
    start = draw(st.sampled_from([0, 1, 63, 64, 1000, LAST - 130]))
    epoch = draw(EPOCHS)
    sent = []
    for number in range(start, min(start + draw(st.integers(1, 130)), LAST + 1)):
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2]))):
            delay = draw(st.sampled_from([0, 0, 0, 1, 5, 63, 64, 65, 100]))
            sent.append((number + delay, draw(st.integers(0, 1)), epoch, number))
    came = [each[1:] for each in sorted(sent)]
    cut = draw(st.integers(0, len(came)))
    return [came[:cut], came[cut:]]


def check(commits: list[list[tuple[int, int, int]]]) -> None:
    meters, fleet = [Meter() for _ in range(4)], Fleet(4)
    for came in commits:
        before = [meter.counts["out_of_order"] for meter in meters]
        expected = [meters[meter].judge(epoch, number).value for meter, epoch, number in came]
        verdicts, out_of_order = fleet.commit(came)
        assert verdicts == expected
        for at, meter in enumerate(meters):
            own = sum(late for late, each in zip(out_of_order, came, strict=True) if each[0] == at)
            assert own == meter.counts["out_of_order"] - before[at]
            assert fleet.lost[at] == meter.lost
            assert meter.lost >= 0
            if meter.epoch < 0:
                assert fleet.windows.bitmap[at] == 0
                continue
            assert (fleet.windows.epoch[at], fleet.windows.highest[at]) == (
                meter.epoch,
                meter.highest,
            )
            following, told = acknowledgements(fleet.windows.take(np.array([at])))
            assert (int(following[0]), int(told[0])) == meter.acknowledgement


@given(COMMITS)
@settings(max_examples=examples(400), deadline=None)
def test_verdicts_are_those_of_one_after_the_other(
    commits: list[list[tuple[int, int, int]]],
) -> None:
    check(commits)


@given(disturbed())
@settings(max_examples=examples(300), deadline=None)
def test_verdicts_of_what_meters_send(commits: list[list[tuple[int, int, int]]]) -> None:
    check(commits)


def test_meters_that_count_one_after_the_other_beside_others() -> None:
    """What is usual takes a shorter way, whoever sends between: meter 1 has a gap, 2 repeats."""
    first = [(meter, 1, number) for meter in range(4) for number in range(3)]
    for odd in (5, 2, 0):
        check([first, [(0, 1, 3), (1, 1, odd), (2, 1, 3), (2, 1, 3), (3, 1, 3), (3, 1, 4)]])
    check([first, [(3, 1, number) for number in range(3, 70)], [(3, 1, 70), (0, 1, 3)]])


def test_the_first_number_of_an_epoch_does_not_follow_the_last_of_another() -> None:
    check([[(0, 7, LAST - 1)], [(0, 7, LAST)], [(0, 8, 0)], [(0, 8, 1)]])
    check([[(0, 7, LAST)], [(0, 8, 0), (0, 8, 1)]])


@given(COMMITS)
@settings(deadline=None)
def test_it_does_not_matter_how_datagrams_fall_into_commits(
    commits: list[list[tuple[int, int, int]]],
) -> None:
    whole, parts = Fleet(4), Fleet(4)
    all_at_once = whole.commit([each for came in commits for each in came])[0]
    assert all_at_once == [verdict for came in commits for verdict in parts.commit(came)[0]]
    assert (whole.lost == parts.lost).all()
    for name in Windows.__slots__:
        assert (getattr(whole.windows, name) == getattr(parts.windows, name)).all()


@given(COMMITS)
@settings(deadline=None)
def test_an_acknowledgement_names_only_what_is_stored(
    commits: list[list[tuple[int, int, int]]],
) -> None:
    fleet = Fleet(4)
    stored: set[tuple[int, int, int]] = set()
    for came in commits:
        verdicts, _ = fleet.commit(came)
        stored |= {each for each, verdict in zip(came, verdicts, strict=True) if not verdict}
        following, told = acknowledgements(fleet.windows)
        for meter in np.flatnonzero(fleet.windows.bitmap).tolist():
            epoch, highest = int(fleet.windows.epoch[meter]), int(fleet.windows.highest[meter])
            below = range(max(0, highest - WINDOW + 1), int(following[meter]))
            bits = [n for n in range(WINDOW) if int(told[meter]) >> n & 1]
            named = [*below, *(int(following[meter]) + 1 + n for n in bits)]
            assert {(meter, epoch, number) for number in named} <= stored


def by_the_rules(fleet: Fleet, chance: Iterator[float], count: int, epoch: int) -> None:
    """A sender that follows docs/delivery.md, over a network that loses a third each way."""
    waiting = dict.fromkeys(range(count), True)
    while waiting:
        oldest = next(iter(waiting))
        sent = [n for n in waiting if n < oldest + WINDOW]
        came = [(0, epoch, n) for n in sent if next(chance) > 0.33]
        came.sort(key=lambda _: next(chance))
        if not came:
            continue
        fleet.commit(came)
        following, told = (int(column[0]) for column in acknowledgements(fleet.windows))
        if next(chance) < 0.33:
            continue
        for number in list(waiting):
            above = number - following - 1
            if number < following or (above >= 0 and told >> above & 1):
                del waiting[number]


@given(st.integers(0, 2**32), st.integers(1, 400))
@settings(max_examples=examples(60), deadline=None)
def test_who_follows_the_rules_gets_everything_acknowledged(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    chance = iter(random.random, None)
    fleet = Fleet(1)
    for epoch in (3, 4):
        by_the_rules(fleet, chance, count, epoch)
        assert fleet.lost[0] == 0
        assert fleet.windows.highest[0] == count - 1


@pytest.mark.parametrize(
    ("highest", "bitmap", "expected"),
    [
        (0, 1, (1, 0)),
        (5, 0b111111, (6, 0)),
        (5, 1, (0, 0b10000)),
        (5, 0b100011, (1, 0b1100)),
        (63, 2**64 - 1, (64, 0)),
        (64, 2**64 - 1, (65, 0)),
        (1000, 1, (937, 1 << 62)),
        (1000, 2**64 - 1 - 2**63, (937, 2**63 - 1)),
        (1000, 2**64 - 1 - 2, (999, 1)),
        (LAST - 1, 2**64 - 1, (LAST, 0)),
        (LAST, 2**64 - 1, (LAST, 0)),  # there is no number after it
        (LAST, 2**64 - 1 - 2, (LAST - 1, 1)),
    ],
)
def test_acknowledgements(highest: int, bitmap: int, expected: tuple[int, int]) -> None:
    epoch, top, first = (np.array([value], np.uint32) for value in (1, highest, 0))
    windows = Windows(epoch, top, first, np.array([bitmap], np.uint64))
    following, told = acknowledgements(windows)
    assert (int(following[0]), int(told[0])) == expected
    assert (str(following.dtype), str(told.dtype)) == ("uint32", "uint64")


def test_a_count_begins_with_the_first_datagram() -> None:
    for first, lost in ((0, 0), (5, 5), (63, 63), (64, 0), (70, 0)):
        fleet = Fleet(1)
        fleet.commit([(0, 9, first)])
        assert fleet.lost[0] == lost
        fleet.commit([(0, 9, first + 3)])
        assert fleet.lost[0] == lost + 2
        fleet.commit([(0, 9, first + 1)])  # late, not lost
        assert fleet.lost[0] == lost + 1
        if first:
            fleet.commit([(0, 9, first - 1)])
            assert fleet.lost[0] == lost + 1 - (first < WINDOW)
        fleet.commit([(0, 10, 2)])  # a new epoch counts from 0
        assert fleet.lost[0] == lost + 3 - (0 < first < WINDOW)


def test_late() -> None:
    now = 1_760_000_000_000
    newest = np.array([now, now - LATE, now - LATE - 1], np.int64)
    assert late(newest, now).tolist() == [False, False, True]
