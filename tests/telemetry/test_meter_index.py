"""The index of meters against a dict, with ids that collide; the runs of equal neighbours."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from telemetry.meter_index import UNKNOWN, MeterIndex, runs
from telemetry.readings import UInt64s

Key = tuple[int, int]


def halves(keys: list[Key]) -> tuple[UInt64s, UInt64s]:
    high, low = (np.array([key[half] for key in keys], np.uint64) for half in (0, 1))
    return high, low


def add(index: MeterIndex, keys: list[Key], first: int) -> None:
    index.add(*halves(keys), np.arange(first, first + len(keys), dtype=np.int64))


def colliding(count: int) -> list[Key]:
    """Ids that all want one slot of an empty index, and its neighbours."""
    rng = np.random.default_rng(7)
    high = rng.integers(0, 2**64, 400_000, np.uint64)
    low = rng.integers(0, 2**64, 400_000, np.uint64)
    home = MeterIndex()._home(high, low)
    size = len(MeterIndex()._number)
    chosen = np.flatnonzero((home >= size - 2) | (home == 0))[:count]
    assert len(chosen) == count
    return list(zip(high[chosen].tolist(), low[chosen].tolist(), strict=True))


COLLIDING = colliding(200)
# Ids that differ in one half only, and the octets of an empty slot, which are an id all the same.
NEAR = [(high, low) for high in (0, 1, 2**63, 2**64 - 1) for low in (0, 1, 2**63, 2**64 - 1)]
keys = st.one_of(
    st.sampled_from(NEAR),
    st.sampled_from(COLLIDING),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)


class IndexMachine(RuleBasedStateMachine):
    """An index and a dict, told the same."""

    @initialize()
    def begin(self) -> None:
        self.index = MeterIndex()
        self.known: dict[Key, int] = {}

    @rule(wanted=st.lists(keys, unique=True, max_size=100))
    def add(self, wanted: list[Key]) -> None:
        new = [key for key in wanted if key not in self.known]
        first = 1 + max(self.known.values(), default=0)
        add(self.index, new, first)
        self.known |= {key: number for number, key in enumerate(new, first)}

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.known:
            key = data.draw(st.sampled_from(sorted(self.known)))
            self.index.remove(self.known.pop(key))

    @rule(asked=st.lists(keys, max_size=100))
    def find(self, asked: list[Key]) -> None:
        expected = [self.known.get(key, UNKNOWN) for key in asked]
        assert self.index.find(*halves(asked)).tolist() == expected

    @rule()
    def find_all(self) -> None:
        self.find(list(self.known))

    @rule(most=st.integers(1, 4000))
    def add_many(self, most: int) -> None:
        """Enough to make it grow, one after the other in number."""
        self.add([(n, len(self.known)) for n in range(most)])

    @invariant()
    def count(self) -> None:
        assert len(self.index) == len(self.known)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


def test_ids_that_all_collide() -> None:
    index = MeterIndex()
    for at in range(0, len(COLLIDING), 50):
        add(index, COLLIDING[at : at + 50], at)
    assert index.find(*halves(COLLIDING)).tolist() == list(range(len(COLLIDING)))
    absent = [(high ^ 1, low) for high, low in COLLIDING]
    assert set(index.find(*halves(absent)).tolist()) == {UNKNOWN}


def test_the_argument_may_repeat_and_stays_as_it_is() -> None:
    index = MeterIndex()
    add(index, COLLIDING[:3], 10)
    asked = [COLLIDING[2], COLLIDING[0], COLLIDING[2], (5, 5)]
    high, low = halves(asked)
    assert index.find(high, low).tolist() == [12, 10, 12, UNKNOWN]
    assert list(zip(high.tolist(), low.tolist(), strict=True)) == asked


def test_nothing() -> None:
    index = MeterIndex()
    index.add(*halves([]), np.empty(0, np.int64))
    assert len(index) == 0
    assert index.find(*halves([])).tolist() == []


def test_growth_in_one_step_and_in_many() -> None:
    """Names as meters have them: 100,000 that differ in few octets."""
    names = [f"meter-{n}".encode().ljust(16, b"\0") for n in range(100_000)]
    pairs = np.frombuffer(b"".join(names), np.uint64)
    high, low, number = pairs[0::2].copy(), pairs[1::2].copy(), np.arange(len(names))
    at_once, by_steps = MeterIndex(), MeterIndex()
    at_once.add(high, low, number)
    for at in range(0, len(names), 777):
        by_steps.add(high[at : at + 777], low[at : at + 777], number[at : at + 777])
    for index in (at_once, by_steps):
        assert len(index) == len(names)
        assert len(index) <= len(index._number) // 2
        assert (index.find(high, low) == number).all()


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2**64 - 1]), st.sampled_from([0, 1])), max_size=30)
)
def test_runs(pairs: list[Key]) -> None:
    starts, lengths = runs(*halves(pairs))
    expected = [(key, len(list(group))) for key, group in groupby(pairs)]
    assert [pairs[at] for at in starts.tolist()] == [key for key, _ in expected]
    assert lengths.tolist() == [length for _, length in expected]
    assert starts.tolist() == [0, *np.cumsum(lengths)[:-1].tolist()][: len(expected)]
