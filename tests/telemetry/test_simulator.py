from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import meter_id
from telemetry.bounds import MAXIMA, MINIMA
from telemetry.formats import native
from telemetry.registers import ALERT_LIMIT, ENERGY_IMPORT
from telemetry.simulator import (
    HIGHEST_MULTIPLIER,
    HIGHEST_REGISTER_MWH,
    LONGEST_STEP_MS,
    MOST_REPEATS,
    Fleet,
    Measured,
)

MIDNIGHT = 1_790_000_000_000 // 86_400_000 * 86_400_000
HOUR = 3_600_000


def step(fleet: Fleet, now: int, elapsed: int, multiplier: float = 1.0) -> Measured:
    return fleet.step(now, elapsed, utc_offset_ms=0, multiplier=multiplier)


def test_same_seed_same_fleet() -> None:
    first, second = (Fleet(["a", "b"], 7, {}) for _ in range(2))
    for tick in range(10):
        one, two = (step(fleet, MIDNIGHT + tick * 10_000, 10_000) for fleet in (first, second))
        assert np.array_equal(one.power_import, two.power_import)
        assert np.array_equal(one.voltage_l1, two.voltage_l1)
    assert first.registers() == second.registers()


def test_homes_differ_from_each_other_and_between_seeds() -> None:
    ids = [f"m-{number}" for number in range(20)]
    powers = step(Fleet(ids, 0, {}), MIDNIGHT, 0).power_import
    assert len(set(powers.tolist())) > 15
    assert not np.array_equal(powers, step(Fleet(ids, 1, {}), MIDNIGHT, 0).power_import)


def test_a_home_is_the_same_home_in_a_larger_fleet() -> None:
    alone = [step(Fleet(["a"], 3, {}), MIDNIGHT + h * HOUR, 0) for h in range(24)]
    among = [step(Fleet(["b", "a"], 3, {}), MIDNIGHT + h * HOUR, 0) for h in range(24)]
    ratio = sum(int(m.power_import[0]) for m in alone) / sum(int(m.power_import[1]) for m in among)
    assert ratio == pytest.approx(1, abs=0.15)  # the noise differs, the home does not


def test_evening_is_higher_than_night_by_local_time() -> None:
    fleet = Fleet([f"m-{number}" for number in range(200)], 0, {})
    night = fleet.step(MIDNIGHT + 3 * HOUR, 0, utc_offset_ms=0, multiplier=1).power_import.sum()
    evening = fleet.step(MIDNIGHT + 19 * HOUR, 0, utc_offset_ms=0, multiplier=1).power_import.sum()
    shifted = fleet.step(
        MIDNIGHT + 22 * HOUR, 0, utc_offset_ms=-3 * HOUR, multiplier=1
    ).power_import.sum()
    assert evening > 3 * night
    assert shifted == pytest.approx(evening, rel=0.1)


def test_no_time_no_energy() -> None:
    fleet = Fleet(["a"], 0, {"a": 1_234_567})
    assert step(fleet, MIDNIGHT, 0).energy_import.tolist() == [1234]
    assert fleet.registers() == {"a": 1_234_567}


def test_short_steps_lose_nothing_to_rounding() -> None:
    fleet = Fleet(["a", "b"], 0, {})
    milliwatt_milliseconds = np.zeros(2, np.int64)
    for tick in range(5000):
        measured = step(fleet, MIDNIGHT + tick, 1)
        milliwatt_milliseconds += measured.power_import * 100
    expected = milliwatt_milliseconds / HOUR
    counted = np.array(list(fleet.registers().values()))
    # The power shown is rounded to 0.1 W, the energy is not.
    assert np.abs(counted - expected).max() < 50 * 5000 / HOUR + 1
    assert counted.min() > 10


def test_multiplier_scales() -> None:
    one = step(Fleet(["a"], 0, {}), MIDNIGHT, HOUR, 1)
    ten = step(Fleet(["a"], 0, {}), MIDNIGHT, HOUR, 10)
    assert ten.power_import[0] == pytest.approx(10 * one.power_import[0], abs=5)
    assert step(Fleet(["a"], 0, {}), MIDNIGHT, HOUR, 0).power_import[0] == 0


@given(
    now=st.integers(0, 4 * 10**12),
    elapsed=st.integers(0, LONGEST_STEP_MS),
    multiplier=st.floats(0, HIGHEST_MULTIPLIER),
    register=st.integers(0, HIGHEST_REGISTER_MWH),
)
def test_every_reading_is_one_a_collector_takes(
    now: int, elapsed: int, multiplier: float, register: int
) -> None:
    fleet = Fleet(["a", "b"], 0, {"a": register})
    measured = step(fleet, now, elapsed, multiplier)
    assert fleet.registers()["a"] >= register
    rows = fleet.datagrams(measured, now, epoch=1, sequence=0, alert_limit_wh=0)
    records = rows[:, native.HEADER.itemsize :].copy().view(native.RECORD)
    assert (records["value"] >= MINIMA[records["register"]]).all()
    assert (records["value"] <= MAXIMA[records["register"]]).all()


def test_datagrams_decode_to_what_was_measured() -> None:
    fleet = Fleet(["a", "b"], 0, {"b": 5_000_000})
    measured = step(fleet, MIDNIGHT, 0)
    rows = fleet.datagrams(measured, MIDNIGHT, epoch=4, sequence=9, alert_limit_wh=500_000)
    datagram = native.decode(rows[1].tobytes(), MIDNIGHT)
    assert meter_id.to_name(datagram.octets) == "b"
    assert (datagram.epoch, datagram.sequence) == (4, 9)
    values = {record.register: record.value for record in datagram.records}
    assert values[ENERGY_IMPORT] == 5000
    assert values[ALERT_LIMIT] == 500_000
    assert {record.time for record in datagram.records} == {MIDNIGHT}
    without = fleet.datagrams(measured, MIDNIGHT, epoch=4, sequence=9)
    assert len(native.decode(without[0].tobytes(), MIDNIGHT).records) == 5
    assert 49_900 < values[12] < 50_100
    assert 200_000 < values[13] < 253_000


def test_datagrams_carry_the_last_measurements_again() -> None:
    fleet = Fleet(["a", "b"], 0, {})
    expected: list[tuple[int, int, int]] = []
    for tick in range(4):
        now = MIDNIGHT + tick * 10_000
        limit = 5 if tick == 1 else None
        measured = step(fleet, now, 10_000)
        rows = fleet.datagrams(
            measured, now, epoch=1, sequence=tick, alert_limit_wh=limit, repeat=2
        )
        records = native.decode(rows[1].tobytes(), now).records
        found = [(each.register, each.time, each.value) for each in records]
        own = found[-6 if limit else -5 :]
        assert {time for _, time, _ in own} == {now}
        expected += own
        assert found == expected[-len(found) :]
        assert len({time for _, time, _ in found}) == min(tick + 1, 3)


def test_as_many_repeats_as_fit() -> None:
    fleet = Fleet(["a"], 0, {})
    for tick in range(MOST_REPEATS + 2):
        rows = fleet.datagrams(
            step(fleet, MIDNIGHT, 0), MIDNIGHT + tick, epoch=1, sequence=tick,
            alert_limit_wh=1, repeat=MOST_REPEATS,
        )  # fmt: skip
    assert rows.shape[1] <= native.LONGEST - 16  # and a tag
    assert len(native.decode(rows[0].tobytes(), MIDNIGHT).records) == 6 * (MOST_REPEATS + 1)


def test_what_is_too_long_ago_for_an_offset_is_left_out() -> None:
    fleet = Fleet(["a"], 0, {})
    lengths = [
        fleet.datagrams(step(fleet, now, 0), now, epoch=1, sequence=0, repeat=1).shape[1]
        for now in (MIDNIGHT, MIDNIGHT + 2**31, MIDNIGHT + 2**32 - 1)
    ]
    assert lengths == [120, 120, 200]


def test_a_place_in_the_fleet_by_its_octets() -> None:
    fleet = Fleet(["a", "b", "x" * 40], 0, {})
    high, low = np.array([meter_id.halves(meter_id.to_octets("x" * 40))], np.uint64).T
    assert fleet.index().find(high, low).tolist() == [2]
