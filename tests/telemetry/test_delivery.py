"""The meter's half against a simulated network and the collector's rules, written apart from it."""

from __future__ import annotations

import math
import os
import random
from collections import Counter, deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.delivery import LONGEST, Delivery, Numbers
from telemetry.formats.ack_bulk import Acks
from tests.delivery.honest_collector import BadNetwork, HonestCollector
from tests.examples import examples

Ack = tuple[int, int, int, int]  # meter, epoch, next, bitmap


def column(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def numbers(*triples: tuple[int, int, int]) -> Numbers:
    return Numbers(*np.array(triples, np.int64).reshape(len(triples), 3).T)


def acks(*quadruples: Ack) -> Acks:
    meter, epoch, following, bitmap = zip(*quadruples, strict=True)
    return Acks(column(*meter), column(*epoch), column(*following), np.array(bitmap, np.uint64))


def add(delivery: Delivery, meter: int, epoch: int, first: int, end: int) -> None:
    delivery.add(numbers((meter, epoch, first)), column(end))


def listed(found: Numbers) -> list[tuple[int, int, int]]:
    columns = found.meter.tolist(), found.epoch.tolist(), found.sequence.tolist()
    return list(zip(*columns, strict=True))


def send(delivery: Delivery, now: float, chance: float = 0.0) -> list[int]:
    """Everything due leaves; the sequence numbers."""
    due = delivery.due(now)
    delivery.sent(due, now, np.full(len(due), chance))
    sequences: list[int] = due.sequence.tolist()
    return sequences


def opened(count: int) -> Delivery:
    """One meter with so many numbers of epoch 7 that wait, and a collector that answers."""
    delivery = Delivery(1)
    for number in range(count):
        add(delivery, 0, 7, number, number + 1)
    return delivery


def test_no_more_than_64_are_under_way() -> None:
    delivery = opened(200)
    assert send(delivery, 0) == list(range(64))
    assert delivery.waiting == 200
    done = delivery.acknowledged(acks((0, 7, 3, 0b10)), 0.1)
    assert listed(done) == [(0, 7, 3)]
    assert delivery.waiting == 196
    assert send(delivery, 0.1) == [64, 65, 66]
    assert listed(delivery.acknowledged(acks((0, 7, 4, 0)), 0.2)) == [(0, 7, 4)]
    assert send(delivery, 0.2) == [67]


def test_a_whole_window_at_once() -> None:
    delivery = opened(129)
    send(delivery, 0)
    assert listed(delivery.acknowledged(acks((0, 7, 64, 0)), 0.1)) == [(0, 7, 64)]
    assert send(delivery, 0.1) == list(range(64, 128))
    bits = (1 << 63) - 1
    assert listed(delivery.acknowledged(acks((0, 7, 64, bits)), 0.1)) == []
    assert delivery.waiting == 2
    assert listed(delivery.acknowledged(acks((0, 7, 65, 0)), 0.1)) == [(0, 7, 128)]
    assert send(delivery, 0.1) == [128]


def test_pauses_double_up_to_the_longest_and_never_end() -> None:
    delivery, now, pauses = opened(1), 0.0, []
    for _ in range(150):
        assert send(delivery, now) == [0]
        assert send(delivery, np.nextafter(delivery.next_due(), 0)) == []
        pauses.append(delivery.next_due() - now)
        now = delivery.next_due()
    assert pauses[:8] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert set(np.round(pauses[6:], 6)) == {LONGEST}


def test_chance_shortens_by_up_to_a_third() -> None:
    delivery = opened(3)
    delivery.sent(delivery.due(0), 0, np.array([0, 0.5, 0.999999]))
    assert send(delivery, 2 / 3) == []
    assert send(delivery, 0.667) == [2]
    assert send(delivery, 0.834) == [1]
    assert send(delivery, 1) == [0]


def test_a_slow_collector_is_given_time() -> None:
    delivery, now = Delivery(1), 0.0
    for number in range(60):
        add(delivery, 0, 7, number, number + 1)
        send(delivery, now)
        delivery.acknowledged(acks((0, 7, number + 1, 0)), now + 3)
        now += 10
    add(delivery, 0, 7, 60, 61)
    send(delivery, now)
    assert delivery.next_due() - now == pytest.approx(6, rel=0.01)


def test_what_was_sent_twice_says_nothing_about_time() -> None:
    delivery = opened(1)
    send(delivery, 0)
    send(delivery, 1)
    delivery.acknowledged(acks((0, 7, 1, 0)), 40)
    add(delivery, 0, 7, 1, 2)
    send(delivery, 50)
    assert delivery.next_due() == 51


def test_a_silent_collector_is_probed_with_the_oldest_only() -> None:
    delivery = opened(100)
    assert len(send(delivery, 0)) == 64
    assert delivery.expecting
    assert len(send(delivery, 1)) == 64
    before = delivery.silent
    assert 0 in send(delivery, 3)
    assert (before, delivery.silent, delivery.expecting) == (False, True, False)
    add(delivery, 0, 7, 100, 101)
    sent = Counter(number for now in range(4, 2000) for number in send(delivery, now))
    assert set(sent) == {0}
    assert 30 < sent[0] < 40
    delivery.acknowledged(acks((0, 7, 1, 0b1010)), 2000)
    assert not delivery.silent
    assert send(delivery, 2000) == [1, 2, 4, *range(6, 65)]
    assert delivery.next_due() == 2001


def test_a_backlog_from_before_starts_with_the_oldest() -> None:
    delivery = Delivery(2)
    delivery.add(numbers((0, 7, 5), (1, 8, 0)), column(50, 1))
    assert listed(delivery.due(0)) == [(0, 7, 5), (1, 8, 0)]
    send(delivery, 0)
    # The collector had more before the restart than was sent since.
    assert listed(delivery.acknowledged(acks((0, 7, 40, 1)), 0.1)) == [(0, 7, 40)]
    assert send(delivery, 0.1) == [40, *range(42, 50)]


def test_an_older_epoch_comes_first() -> None:
    delivery = opened(2)
    add(delivery, 0, 9, 0, 1)
    add(delivery, 0, 9, 1, 2)
    add(delivery, 0, 11, 0, 1)
    assert delivery.waiting == 5
    assert send(delivery, 0) == [0, 1]
    assert listed(delivery.acknowledged(acks((0, 9, 2, 0), (0, 7, 1, 0)), 0)) == [(0, 7, 1)]
    assert send(delivery, 0.5) == []
    assert listed(delivery.acknowledged(acks((0, 7, 2, 0)), 0)) == [(0, 7, 2)]
    assert listed(delivery.due(0.5)) == [(0, 9, 0), (0, 9, 1)]
    send(delivery, 0.5)
    assert listed(delivery.acknowledged(acks((0, 9, 2, 0)), 1)) == [(0, 9, 2)]
    assert listed(delivery.due(1)) == [(0, 11, 0)]


@pytest.mark.parametrize(
    "wrong",
    [
        (0, 6, 2, 0),  # an older epoch
        (0, 8, 2, 0),  # one that is not yet
        (0, 7, 11, 0),  # numbers that do not exist
        (0, 7, 2**32 - 1, 0),
        (0, 7, 0, 1 << 9),
        (0, 7, 8, 0b10),
        (0, 7, 10, 1),
        (0, 7, 2, 2**63),
    ],
)
def test_a_wrong_acknowledgement_changes_nothing(wrong: Ack) -> None:
    delivery, untouched = opened(10), opened(10)
    for each in (delivery, untouched):
        for now in (0, 1, 3):
            send(each, now)
    assert listed(delivery.acknowledged(acks(wrong), 3.5)) == []
    assert delivery.silent  # nobody was heard
    for name, value in vars(untouched).items():
        assert np.array_equal(getattr(delivery, name), value), name


def test_an_old_acknowledgement_takes_nothing_back() -> None:
    delivery = opened(100)
    send(delivery, 0)
    delivery.acknowledged(acks((0, 7, 20, 0b100), (0, 7, 10, 0), (0, 7, 0, 0b1)), 0)
    assert delivery.waiting == 79
    assert listed(delivery.acknowledged(acks((0, 7, 3, 2**63 - 1 - 2**19)), 0)) == [(0, 7, 67)]


class World:
    """A fleet, a network that loses, repeats and reorders, and a collector that may restart."""

    def __init__(self, seed: int, meters: int, loss: float, repeats: float, jitter: float):
        self.random = random.Random(seed)
        self.meters = meters
        self.chance = np.random.default_rng(seed)
        self.collector = HonestCollector()
        self.there: BadNetwork[tuple[int, int, int]] = BadNetwork(
            seed, loss=loss, repeats=repeats, delay=0.01, jitter=jitter
        )
        self.back: BadNetwork[Ack] = BadNetwork(
            seed + 1, loss=loss, repeats=repeats, delay=0.01, jitter=jitter
        )
        self.next = [(7, 0)] * meters
        # What is on disk: of each meter, its epochs and sequence numbers in order.
        self.outbox: list[deque[tuple[int, int]]] = [deque() for _ in range(meters)]
        self.delivery = Delivery(meters)
        self.now = 0.0
        self.transmissions = 0
        self.readings = 0

    def measure(self, meter: int) -> None:
        epoch, sequence = self.next[meter]
        if sequence and self.random.random() < 0.005:
            epoch, sequence = epoch + self.random.randint(1, 9), 0
        self.next[meter] = epoch, sequence + 1
        self.outbox[meter].append((epoch, sequence))
        add(self.delivery, meter, epoch, sequence, sequence + 1)
        self.readings += 1

    def restart(self) -> None:
        """As after kill -9: what is known is what is on disk."""
        self.delivery = Delivery(self.meters)
        spans: dict[tuple[int, int], list[int]] = {}
        for meter, waits in enumerate(self.outbox):
            for epoch, sequence in waits:
                spans.setdefault((epoch, meter), []).append(sequence)
        for (epoch, meter), found in sorted(spans.items()):
            assert found == list(range(found[0], found[-1] + 1))
            add(self.delivery, meter, epoch, found[0], found[-1] + 1)

    def step(self, *, reachable: bool = True) -> None:
        for meter, epoch, sequence in self.there.out(self.now):
            if self.collector.take(meter, epoch, sequence, None) and reachable:
                ack = self.collector.windows[meter].acknowledgement()
                self.back.put(self.now, (meter, *ack))
        if came := self.back.out(self.now):
            removed = self.delivery.acknowledged(acks(*came), self.now)
            for meter, epoch, below in listed(removed):
                waits = self.outbox[meter]
                while waits and waits[0][0] == epoch and waits[0][1] < below:
                    gone = (meter, *waits.popleft())
                    assert gone in self.collector.stored, "removed and not durable"
        due = self.delivery.due(self.now)
        self.delivery.sent(due, self.now, self.chance.random(len(due)))
        self.transmissions += len(due)
        for meter, epoch, sequence in listed(due):
            oldest = self.outbox[meter][0]
            assert epoch == oldest[0], "an older epoch waits"
            assert oldest[1] <= sequence < oldest[1] + 64, "more than 64 under way"
            if reachable:
                self.there.put(self.now, (meter, epoch, sequence))

    def finish(self, within: float, pause: float = 0.0) -> None:
        deadline = self.now + within
        while any(self.outbox):
            events = self.there.next(), self.back.next(), self.delivery.next_due()
            self.now = max(self.now + pause, min(events))
            assert self.now < deadline, "not everything is acknowledged"
            self.step()
        assert self.delivery.waiting == 0
        assert self.delivery.next_due() == math.inf


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    meters=st.integers(1, 4),
    loss=st.sampled_from([0.0, 0.1, 0.3, 0.6]),
    repeats=st.sampled_from([0.0, 0.05, 0.5]),
    jitter=st.sampled_from([0.0, 0.2, 5.0]),
    actions=st.lists(
        st.tuples(st.sampled_from(["few", "many", "wait", "away", "restart"]), st.integers(1, 100)),
        max_size=12,
    ),
)
def test_everything_is_acknowledged_in_the_end_and_stored_once(
    seed: int, meters: int, loss: float, repeats: float, jitter: float,
    actions: list[tuple[str, int]],
) -> None:  # fmt: skip
    world = World(seed, meters, loss, repeats, jitter)
    for action, size in actions:
        match action:
            case "few" | "many":
                for _ in range(size if action == "many" else 1):
                    for meter in range(meters):
                        world.measure(meter)
                world.step()
            case "wait" | "away":
                for _ in range(min(size, 30)):
                    world.now += size / 100
                    world.step(reachable=action == "wait")
            case "restart":
                world.restart()
        assert world.delivery.waiting <= sum(map(len, world.outbox))
    world.finish(within=20_000)
    assert len(world.collector.stored) == world.readings
    assert world.collector.verdicts["unique"] == world.readings


@pytest.mark.timeout(1800)
def test_a_bad_network_costs_at_most_two_and_a_half_transmissions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """30 % lost each way, 5 % repeated, 200 ms jitter; WATTBUS_LONG=1: a million readings."""
    meters = 10_000 if os.environ.get("WATTBUS_LONG") == "1" else 200
    world = World(1, meters, loss=0.3, repeats=0.05, jitter=0.2)
    for _ in range(100):
        for meter in range(meters):
            world.measure(meter)
        for _ in range(10):
            world.now += 0.1
            world.step()
    world.finish(within=3600, pause=0.02)
    assert len(world.collector.stored) == world.readings == 100 * meters
    cost = world.transmissions / world.readings
    with capsys.disabled():
        verdicts = dict(world.collector.verdicts)
        print(f"\n{world.readings:,} readings: {cost:.3f} transmissions a reading, {verdicts}")
    assert 1 / 0.7 < cost <= 2.5
