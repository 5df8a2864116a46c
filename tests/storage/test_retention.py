"""Retention on a real database: blocks shrink, energy and days stay, and each slice is short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from storage import journal, meters, schema
from storage.changes import ChangeMeter
from storage.defaults import Defaults
from storage.energy import energy_curve
from storage.engine import Database, close_writer, open_writer
from storage.ladder import Keep, Policy, parse
from storage.queries import Reader
from storage.retention import Retention
from storage.retention_marks import coming
from storage.sealing import Sealer
from telemetry import meter_id
from telemetry.calendar import DAY_MS, HOUR_MS, Step, edges, parse_instant
from telemetry.intervals import slots
from telemetry.readings import Int64s, Readings
from telemetry.registers import BY_CODE, ENERGY_IMPORT, POWER_IMPORT

BERLIN = "Europe/Berlin"
DEFAULTS = Defaults(time_zone=BERLIN)
START = parse_instant("2024-01-01T00:00Z", ZoneInfo("UTC"))
LATER = START + 400 * DAY_MS


class House:
    """A database with meters, a sealer and retention, driven by hand."""

    def __init__(self, database: Database, policy: Policy, count: int) -> None:
        self.database = database
        self.engine: Engine = open_writer(database)
        with self.engine.begin() as connection:
            for number in range(1, count + 1):
                meters.change(connection, ChangeMeter(id=f"m-{number}", add=True), number, 0)
        self.next = 1
        self.sealer = Sealer(self.engine.begin, DEFAULTS)
        with self.engine.begin() as connection:
            self.sealer.learn(connection)
        self.retention = Retention(self.engine.begin, policy, DEFAULTS, self.sealer.look_again)
        self.slices: list[float] = []  # seconds of CPU: others use this machine too

    def add(self, number: int, times: Int64s, values: Int64s, code: int = ENERGY_IMPORT) -> None:
        """A committed row of the journal."""
        count = len(times)
        high, low = meter_id.halves(meter_id.to_octets(f"m-{number}"))
        readings = Readings(
            key_high=np.full(count, high, np.uint64),
            key_low=np.full(count, low, np.uint64),
            epoch=np.ones(count, np.uint32),
            register=np.full(count, code, np.uint16),
            status=np.zeros(count, np.uint16),
            time=times,
            value=values,
        )
        batch = journal.sort(np.full(count, number, np.uint32), readings)
        with self.engine.begin() as connection:
            connection.execute(
                schema.journal.insert().values(
                    id=self.next,
                    committed_ms=0,
                    first_ms=int(times.min()),
                    last_ms=int(times.max()),
                    readings=count,
                    body=journal.encode(batch),
                )
            )
        self.next += 1
        self.sealer.committed(count, 0)

    def seal(self) -> None:
        self.sealer.seal_all()

    def thin(self, now_ms: int = LATER) -> None:
        """All that is due."""
        for _ in range(2_000):
            began = time.thread_time()
            more = self.retention.step(now_ms)
            self.slices.append(time.thread_time() - began)
            if not more:
                self.retention._not_before = 0
                return
        raise AssertionError("retention does not come to an end")

    def readings(self, number: int, code: int = ENERGY_IMPORT) -> list[tuple[int, int]]:
        reader = Reader(self.database)
        try:
            with reader.snapshot():
                found = reader.series(reader.by_number(number), BY_CODE[code])
        finally:
            reader.close()
        return list(zip(found.time.tolist(), found.value.tolist(), strict=True))

    def energy(self, number: int, step: Step, days: int = 100) -> tuple[list[int], list[int]]:
        reader = Reader(self.database)
        try:
            with reader.snapshot():
                curve = energy_curve(reader, reader.by_number(number))
        finally:
            reader.close()
        found = slots(curve, edges(step, ZoneInfo(BERLIN), START, START + days * DAY_MS))
        return found.energy.tolist(), found.flags.tolist()

    def table(self, table: sa.Table) -> list[tuple[object, ...]]:
        with self.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(sa.select(table)))

    def values(self) -> int:
        """Values in blocks, by the blocks themselves and by the watermark, which must agree."""
        with self.engine.connect() as connection:
            table = schema.blocks
            found = connection.execute(sa.select(sa.func.sum(table.c.readings))).scalar()
        reader = Reader(self.database)
        try:
            with reader.snapshot():
                assert reader.readings() == int(found or 0)
        finally:
            reader.close()
        return int(found or 0)


@pytest.fixture
def house(database: Database, request: pytest.FixtureRequest) -> Iterator[House]:
    ladder, count = request.param
    made = House(database, Policy(parse(ladder), (("m-3", ()),)), count)
    yield made
    close_writer(made.engine)


def ladder(text: str, count: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("house", [(text, count)], indirect=True, ids=[text])


def rising(days: int, every: int, seed: int, shift: int = 0) -> tuple[Int64s, Int64s]:
    """Times and register of a household; a zero and a reset among them."""
    times = START + shift + np.arange(days * DAY_MS // every) * every
    steps = np.random.default_rng(seed).integers(0, 12, len(times))
    values = 1_000_000 + steps.cumsum()
    values[len(values) // 3] = 0
    half = len(values) // 2
    values[half:] -= values[half] - 5
    return times, values


@ladder("raw 90 d, 15 min", 5)
def test_energy_and_days_stay_and_blocks_shrink(house: House) -> None:
    for number in range(1, 6):
        house.add(number, *rising(100, 120_000, number, 1_000 * number))
    house.seal()
    before = [house.energy(number, Step.QUARTER) for number in range(1, 6)]
    raw, days, latest = house.values(), house.table(schema.daily), house.table(schema.latest)
    third = house.readings(3)
    house.thin()
    assert house.values() < raw / 3
    assert [house.energy(number, Step.QUARTER) for number in range(1, 6)] == before
    assert house.table(schema.daily) == days
    assert house.table(schema.latest) == latest
    assert house.readings(3) == third  # its ladder keeps all
    # And there is nothing more to do.
    blocks = house.table(schema.blocks)
    house.thin()
    assert house.table(schema.blocks) == blocks


@ladder("raw 30 d, 15 min 200 d, day", 2)
def test_the_whole_ladder(house: House) -> None:
    for number in (1, 2):
        house.add(number, *rising(100, 60_000, number, 1_000 * number))
    house.seal()
    before = house.energy(1, Step.DAY)
    days = house.table(schema.daily)
    counts = []
    for age in (40, 100, 150, 260, 320, 400):
        house.thin(START + age * DAY_MS)
        counts.append(house.values())
        assert house.energy(1, Step.DAY) == before
        assert house.table(schema.daily) == days
        with house.engine.begin() as connection:
            for number in (1, 2):  # and so they are by what is left
                house.sealer.rebuild_days(connection, meters.by_number(connection, number))
        assert house.table(schema.daily) == days
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 2 * 160


@ladder("raw 30 d, none", 3)
def test_deleting_leaves_what_remains_as_it_was(house: House) -> None:
    for number in (1, 3):
        house.add(number, *rising(100, 300_000, number))
        house.add(number, *rising(100, 300_000, number), POWER_IMPORT)
    house.seal()
    kept, days = house.energy(1, Step.QUARTER), house.table(schema.daily)
    third = house.readings(3)
    house.thin(START + 100 * DAY_MS)
    # Whole months: January and February are more than 30 days old.
    first = parse_instant("2024-03-01", ZoneInfo(BERLIN))
    assert first - 300_000 <= house.readings(1)[0][0] <= first
    assert min(row[0] for row in house.readings(1, POWER_IMPORT)) >= first
    assert house.readings(3) == third
    assert house.table(schema.daily) == days
    place = edges(Step.QUARTER, ZoneInfo(BERLIN), START, first).size
    found = house.energy(1, Step.QUARTER)
    assert [column[place:] for column in found] == [column[place:] for column in kept]


@ladder("raw 30 d, 15 min", 2)
def test_what_comes_late_is_thinned_later(house: House) -> None:
    times, values = rising(60, 60_000, 7, 3_000)
    late = (times > START + 5 * DAY_MS) & (times < START + 6 * DAY_MS)
    house.add(1, times[~late], values[~late])
    house.seal()
    house.thin()
    few = house.values()
    house.add(1, times[late], values[late])
    house.seal()
    whole = house.energy(1, Step.QUARTER)
    assert house.values() > few + 1_000
    house.thin()
    assert house.values() < few + 200
    assert house.energy(1, Step.QUARTER) == whole


@ladder("raw 30 d, day", 40)
def test_meters_that_share_blocks(house: House) -> None:
    for number in range(1, 41):
        house.add(number, *rising(60, 3 * HOUR_MS, number, 1_000 * number))
        house.add(number, *rising(60, 3 * HOUR_MS, number, 1_000 * number), POWER_IMPORT)
    house.seal()
    with house.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.min(schema.blocks.c.shift))).scalar()
    before = [house.energy(number, Step.DAY) for number in range(1, 41)]
    third, many = house.readings(3), house.values()
    house.thin()
    assert house.values() < many / 2
    assert [house.energy(number, Step.DAY) for number in range(1, 41)] == before
    assert house.readings(3) == third


@ladder("raw 30 d, 15 min", 1)
def test_slices_of_a_meter_that_sends_every_second_are_short(house: House) -> None:
    for day in range(32):
        times = START + day * DAY_MS + np.arange(86_400) * 1_000
        house.add(1, times, (times - START) // 3_000)
    house.seal()
    before = house.energy(1, Step.HOUR, 32)
    house.thin()
    assert house.energy(1, Step.HOUR, 32) == before
    assert len(house.readings(1)) < 31 * 96 + 90_000
    # CPU alone, 23 and 49 ms when it was made, of some 0.9 s: whatever the machine, all of it is in
    # many slices, and none takes a large share.
    whole = sum(house.slices)
    assert sorted(house.slices)[len(house.slices) // 2] < 0.05 * whole
    assert max(house.slices) < 0.15 * whole


@ladder("raw 30 d, 15 min", 4)
def test_what_retention_does_next(house: House) -> None:
    for number in (1, 2, 3):
        house.add(number, *rising(60, 60_000, number))
    house.seal()
    policy = house.retention._policy

    def rows() -> list[tuple[Keep, int, int, int | None]]:
        with house.engine.connect() as connection:
            found = coming(connection, policy, DEFAULTS, LATER)
        return [(row.keep, row.meters, row.waiting, row.from_ms) for row in found]

    assert rows() == [(Keep.QUARTER, 2, 2, START)]
    house.thin()
    assert rows() == [(Keep.QUARTER, 2, 0, None)]
    with house.engine.connect() as connection:
        assert coming(connection, Policy(), DEFAULTS, LATER) == []


@ladder("raw 30 d, 15 min", 1)
def test_a_snapshot_sees_the_old_blocks(house: House) -> None:
    house.add(1, *rising(60, 60_000, 1))
    house.seal()
    reader = Reader(house.database)
    with reader.snapshot():
        house.thin()
        assert len(reader.series(reader.by_number(1), BY_CODE[ENERGY_IMPORT])) == 60 * 1_440
    with reader.snapshot():
        assert len(reader.series(reader.by_number(1), BY_CODE[ENERGY_IMPORT])) < 8_000
    reader.close()
