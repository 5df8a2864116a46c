"""Spacing against a plain reading of docs/formats.md, "Chatty senders", one reading at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry.datagrams import Envelopes, Mark
from telemetry.intervals import Flag, curve, settle
from telemetry.readings import COLUMNS, DEVICE_BITS, Readings, Series, Status
from telemetry.registers import ALERT_LIMIT, ENERGY_EXPORT, ENERGY_IMPORT, POWER_IMPORT
from telemetry.spacing import Part, Spacing
from tests.examples import examples

SLOT = 10
ENERGIES = (ENERGY_IMPORT, ENERGY_EXPORT)
START = 1_795_428_900_000


@dataclass(frozen=True, order=True)
class One:
    """A reading; ``meter`` is also both halves of its octets."""

    meter: int
    register: int
    time: int
    value: int
    status: int = 0
    epoch: int = 0

    @property
    def slot(self) -> int:
        return self.time // SLOT


Datagram = tuple[int, list[One]]  # its marks and readings
Step = list[Datagram] | int  # a batch, or so much later


@dataclass
class Remembered:
    opened: One
    newest: One
    heard: int
    before: One | None = None
    held: bool = False
    above_zero: int = 0
    changes: int = 0


@dataclass
class Plain:
    """The document, sentence by sentence."""

    series: dict[tuple[int, int], Remembered] = field(default_factory=dict)

    def take(self, one: One, now: int) -> list[One]:
        """What is stored because of this reading, in order; the last is itself, or nothing is."""
        energy = one.register in ENERGIES
        marked = bool(one.status & DEVICE_BITS)
        key = one.meter, one.register
        known = self.series.get(key)
        if known is None:
            self.series[key] = Remembered(one, one, now)
            return [one]
        if one.time <= known.newest.time:
            return self._late(one, known, energy, marked)
        last, known.newest, known.heard = known.newest, one, now
        stored = marked
        if one.slot != last.slot:
            known.before, known.opened, stored = known.opened, one, True
        fell = energy and (one.value < last.value or one.epoch != last.epoch)
        if fell:
            known.above_zero = known.changes = 3
            stored = True
        if energy and one.value > 0 and known.above_zero:
            known.above_zero -= 1
            stored = True
        if energy and not fell and one.value != last.value and known.changes:
            known.changes -= 1
            stored = True
        also = [last] if energy and known.held and (fell or marked) else []
        known.held = not stored
        return [*also, one] if stored else []

    def _late(self, one: One, known: Remembered, energy: bool, marked: bool) -> list[One]:
        lower, upper = known.opened, known.newest
        if one.slot != lower.slot and known.before is not None:
            lower, upper = known.before, known.opened
        nothing_new = lower.value <= one.value <= upper.value and lower.epoch == one.epoch
        remembered = [known.opened, known.newest, *([known.before] if known.before else [])]
        against = any(it.time == one.time and it.value != one.value for it in remembered)
        slots = {it.slot for it in remembered}
        if one.slot in slots and not marked and not against and (nothing_new or not energy):
            return []
        newest = known.newest
        if energy and known.held and newest.time == one.time and newest.value != one.value:
            known.held = False
            return [newest, one]
        return [one]

    def overdue(self, now: int) -> list[One]:
        over = [key for key, it in self.series.items() if not 0 <= now - it.heard < 2 * SLOT]
        return self._let_go(over)

    def rest(self) -> list[One]:
        return self._let_go(list(self.series))

    def _let_go(self, keys: Iterable[tuple[int, int]]) -> list[One]:
        gone = [self.series.pop(key) for key in keys]
        return [it.newest for it in gone if it.held and it.newest.register in ENERGIES]


def part(datagrams: Sequence[Datagram]) -> Part:
    rows = [one for _, ones in datagrams for one in ones]
    columns = {
        "key_high": [one.meter for one in rows],
        "key_low": [one.meter for one in rows],
        **{
            name: [getattr(one, name) for one in rows]
            for name in ("epoch", "register", "status", "time", "value")
        },
    }
    readings = Readings(**{n: np.array(columns[n], dtype) for n, dtype in COLUMNS.items()})
    meters = np.array([ones[0].meter for _, ones in datagrams], np.uint64)
    envelopes = Envelopes(
        meters,
        meters.copy(),
        np.array([ones[0].epoch for _, ones in datagrams], np.uint32),
        np.arange(len(datagrams), dtype=np.uint32),
        np.array([len(ones) for _, ones in datagrams], np.uint16),
        np.array([marks for marks, _ in datagrams], np.uint8),
    )
    return envelopes, readings


def ones(readings: Readings) -> list[One]:
    assert (readings.key_high == readings.key_low).all()
    columns = ("key_high", "register", "time", "value", "status", "epoch")
    return [
        One(*row) for row in zip(*(getattr(readings, n).tolist() for n in columns), strict=True)
    ]


def by_envelope(part: Part) -> Iterator[tuple[int, int, list[One]]]:
    """Marks, sequence and readings of each; they fit each other."""
    envelopes, readings = part
    assert int(envelopes.count.sum()) == len(readings)
    found = iter(ones(readings))
    for row in range(len(envelopes)):
        own = [next(found) for _ in range(int(envelopes.count[row]))]
        assert {(one.meter, one.epoch) for one in own} <= {
            (int(envelopes.key_high[row]), int(envelopes.epoch[row]))
        }
        yield int(envelopes.marks[row]), int(envelopes.sequence[row]), own


def released(part: Part) -> list[One]:
    """The readings of a part that brings only those that were held back."""
    found = list(by_envelope(part))
    assert all(marks == Mark.UNCOUNTED and sequence == 0 for marks, sequence, _ in found)
    return [one for *_, own in found for one in own]


@st.composite
def datagram(draw: st.DrawFn) -> Datagram:
    meter, epoch = draw(st.integers(1, 2)), draw(st.sampled_from([0, 0, 0, 0, 1]))
    marks = draw(st.sampled_from([0, 0, 0, 0, Mark.NUMBERED, Mark.ACKNOWLEDGE, Mark.UNCOUNTED]))
    return marks, [
        One(
            meter,
            draw(st.sampled_from([ENERGY_IMPORT, ENERGY_IMPORT, POWER_IMPORT, ALERT_LIMIT])),
            draw(st.integers(0, 60)),
            draw(st.integers(0, 8)),
            int(draw(st.sampled_from([0, 0, 0, 0, Status.ARRIVAL_TIME, Status.SUSPECT]))),
            epoch,
        )
        for _ in range(draw(st.integers(1, 4)))
    ]


steps = st.lists(st.one_of(st.lists(datagram(), min_size=1, max_size=6), st.integers(-5, 25)))


@settings(max_examples=examples(600))
@given(steps)
def test_it_does_what_the_document_says(script: list[Step]) -> None:
    spacing, plain, now = Spacing(SLOT), Plain(), 1000
    for step in script:
        if isinstance(step, int):
            now += step
            assert sorted(released(spacing.overdue(now))) == sorted(plain.overdue(now))
            continue
        told, expected = [], []
        for number, (marks, sent) in enumerate(step):
            own = []
            for one in sent:
                exempt = marks & (Mark.ACKNOWLEDGE | Mark.UNCOUNTED)
                if exempt or one.register == ALERT_LIMIT:
                    own.append(one)
                    continue
                stored = plain.take(one, now)
                own += stored[-1:]
                told += stored[:-1]
            expected.append((marks, number, own))
        found = list(by_envelope(spacing.thin(*part(step), now)))
        extra, own_ = found[: -len(step)], found[-len(step) :]
        # What was held back comes out in its own envelope, or, where that is in the same batch,
        # in the datagram that brought it.
        assert [(marks, number) for marks, number, _ in own_] == [e[:2] for e in expected]
        assert all(marks == Mark.UNCOUNTED for marks, *_ in extra)
        stored_ = [one for *_, own in expected for one in own]
        assert sorted(one for *_, own in found for one in own) == sorted(stored_ + told)
        for (*_, got), (*_, least) in zip(own_, expected, strict=True):
            assert set(least) <= set(got)
    assert sorted(released(spacing.rest())) == sorted(plain.rest())
    assert not len(spacing.rest()[0])


# What is lost of energies: nothing


def at(values: Iterable[int], step: int = 1, meter: int = 1, epoch: int = 0) -> list[One]:
    """A register's values, ``step`` apart."""
    return [
        One(meter, ENERGY_IMPORT, number * step, value, epoch=epoch)
        for number, value in enumerate(values)
    ]


def thinned(sent: Sequence[One], batches: Iterable[int] = ()) -> list[One]:
    """What is stored of readings, each a datagram, in batches of these sizes and then all."""
    spacing, left, stored = Spacing(SLOT), list(sent), []
    for size in [*batches, len(left)]:
        batch, left = left[:size], left[size:]
        if batch:
            stored += ones(spacing.thin(*part([(0, [one]) for one in batch]), 0)[1])
    return stored + ones(spacing.rest()[1])


def energy(sent: Sequence[One]) -> tuple[int, int]:
    """The energy of all readings, and how often the register was reset."""
    columns = ([one.time for one in sent], [one.value for one in sent], [one.epoch for one in sent])
    time, value, epoch = (np.array(column, np.int64) for column in columns)
    status = np.array([one.status for one in sent], np.uint16)
    booked = curve(settle(Series(time, value, epoch.astype(np.uint32), status)))
    return int(booked.energy[-1]), int(np.count_nonzero(booked.flags & Flag.RESET))


lives = st.lists(
    st.one_of(
        st.lists(st.integers(0, 3), min_size=3, max_size=30).map(
            lambda steps: np.cumsum(steps).tolist()
        ),
        st.lists(st.integers(0, 3), min_size=3, max_size=30).map(
            lambda steps: (1000 + np.cumsum(steps)).tolist()
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=examples(400))
@given(lives, st.lists(st.integers(1, 20), max_size=6), st.booleans())
@example([[5, 5, 5], [1, 1, 1, 2, 3, 4, 5, 6]], [], False)
@example([[5, 5, 5], [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]], [4], False)
@example([[5, 5, 5], [1, 1, 1, 2, 3, 4, 5, 6]], [4], True)
def test_the_energy_is_that_of_all_readings(
    lives: list[list[int]], batches: list[int], epochs: bool
) -> None:
    """Of a register that is reset, with or without a new epoch, and in whatever batches."""
    sent = [
        One(1, ENERGY_IMPORT, 0, value, epoch=life if epochs else 0)
        for life, values in enumerate(lives)
        for value in values
    ]
    sent = [replace(one, time=number) for number, one in enumerate(sent)]
    stored = thinned(sent, batches)
    assert energy(stored) == energy(sent)
    assert (stored[0], max(stored, key=lambda one: one.time)) == (sent[0], sent[-1])
    resets = sum(later.value < one.value for one, later in pairwise(sent)) + len(lives)
    assert len(stored) <= len(sent) / SLOT + 2 + 7 * resets


def test_a_blip_is_told_from_a_reset() -> None:
    values = [*range(100, 125), 3, *range(125, 160)]
    assert energy(thinned(at(values))) == energy(at(values)) == (59, 0)


def test_a_chatty_sender_is_thinned() -> None:
    values = list(range(600))
    stored = thinned(at(values))
    assert [one.time for one in stored] == [*range(0, 600, SLOT), 599]
    # In any batches the same.
    assert thinned(at(values), range(1, 30)) == stored
    power = [replace(one, register=POWER_IMPORT) for one in at(values)]
    assert [one.time for one in thinned(power)] == list(range(0, 600, SLOT))


def test_the_last_readings_again_and_again_are_thinned_as_well() -> None:
    """As ``wattbus meter --repeat 2 --no-ack`` sends them."""
    spacing, stored, values = Spacing(SLOT), [], at(range(600))
    for number in range(600):
        last = values[max(0, number - 2) : number + 1]
        stored += ones(spacing.thin(*part([(Mark.NUMBERED, last[::-1])]), 0)[1])
    assert [one.time for one in stored] == list(range(0, 600, SLOT))


def test_what_comes_late_from_before_an_outage_is_stored() -> None:
    sent = [*at(range(100)), *at(range(400))[300:], *at(range(300))[100:]]
    stored = thinned(sent)
    assert {one.time for one in stored} >= set(range(110, 290))
    assert energy(stored) == (399, 0)


@pytest.mark.parametrize("marks", [Mark.ACKNOWLEDGE | Mark.NUMBERED, Mark.UNCOUNTED])
def test_what_is_never_thinned(marks: int) -> None:
    spacing, batch = Spacing(SLOT), part([(marks, at(range(50)))])
    assert spacing.thin(*batch, 0) == batch
    limits = [replace(one, register=ALERT_LIMIT) for one in at(range(50))]
    batch = part([(0, limits)])
    assert spacing.thin(*batch, 0) == batch
    assert not len(spacing.rest()[0])


def test_a_register_that_falls_silent_is_stored_to_its_end() -> None:
    spacing = Spacing(SLOT)
    spacing.thin(*part([(0, [one]) for one in at(range(5))]), 1000)
    assert not released(spacing.overdue(1000 + 2 * SLOT - 1))
    assert released(spacing.overdue(1000 + 2 * SLOT)) == at(range(5))[-1:]
    assert not released(spacing.overdue(9000))
    assert not released(spacing.rest())


def test_a_device_clock_that_was_ahead_thins_again_after_two_intervals() -> None:
    spacing, stored = Spacing(SLOT), 0
    spacing.thin(*part([(0, [One(1, POWER_IMPORT, 10_000, 5)])]), 0)
    for now in range(600):
        stored += len(spacing.thin(*part([(0, [One(1, POWER_IMPORT, now, 5)])]), now)[1])
        spacing.overdue(now)
    assert 2 * SLOT <= stored <= 2 * SLOT + 600 // SLOT


def test_the_collectors_clock_set_back_holds_nothing_for_ever() -> None:
    spacing = Spacing(SLOT)
    spacing.thin(*part([(0, [one]) for one in at(range(5))]), 10_000)
    assert released(spacing.overdue(9_999)) == at(range(5))[-1:]


def test_memory_is_bounded_and_what_is_forgotten_is_stored() -> None:
    spacing, stored = Spacing(SLOT, most=1000), list[One]()
    for meters in np.split(np.arange(20_000), 40):
        for number in (0, 1):
            batch = [(0, [One(meter, ENERGY_IMPORT, number, number)]) for meter in meters.tolist()]
            stored += ones(spacing.thin(*part(batch), 0)[1])
        assert len(spacing._numbers) <= 1500
        assert len(spacing._series) <= 2048
    stored += ones(spacing.rest()[1])
    assert sorted(one.meter for one in stored if one.value == 0) == list(range(20_000))
    assert sorted(one.meter for one in stored if one.value == 1) == list(range(20_000))


def test_meters_and_registers_are_told_apart() -> None:
    registers = (ENERGY_IMPORT, ENERGY_EXPORT, POWER_IMPORT)
    first = [(0, [One(m, register, 0, 9) for register in registers]) for m in (0, 1, 2**64 - 1)]
    second = [(0, [One(m, register, 1, 9) for register in registers]) for m in (0, 1, 2**64 - 1)]
    spacing = Spacing(SLOT)
    assert len(spacing.thin(*part(first), 0)[1]) == 9
    envelopes, readings = spacing.thin(*part(second), 0)
    assert (len(envelopes), len(readings), envelopes.count.tolist()) == (3, 0, [0, 0, 0])
    assert len(released(spacing.rest())) == 6


def test_a_late_reading_of_another_epoch_is_stored() -> None:
    late = replace(at(range(9))[4], epoch=1)
    assert late in thinned([*at(range(4)), *at(range(9))[5:], late])
    assert replace(late, epoch=0) not in thinned([*at(range(4)), *at(range(9))[5:], late])
