"""The daily table and what is to be added to it, against whole curves, at any state of sealing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from storage import fleet, schema
from storage.defaults import Defaults
from storage.energy import energy_curve
from storage.engine import Database, close_writer, open_writer
from storage.fleet import Daily, Period, Range
from storage.queries import Reader
from tests.storage.test_writer import NOW, Running, readings

HOUR, DAY = 3_600_000, 86_400_000
ALL = Range(19000101, 22000101)
DEFAULTS = Defaults()
ZONES = {"a": "UTC", "b": "Asia/Tokyo", "c": "America/New_York", "d": None}


@pytest.fixture
def filled(database: Database) -> Database:
    """Sixty days of four meters, all of it in the journal."""
    running, rng = Running(database, DEFAULTS), random.Random(3)
    try:
        for meter, zone in ZONES.items():
            running.set(meter, time_zone=zone)
        value = dict.fromkeys(ZONES, 0)
        for number in range(60 * 8):
            sent = []
            for meter in ZONES:
                if rng.random() < 0.7:
                    value[meter] += rng.randrange(2000)
                    sent.append((meter, NOW + number * 3 * HOUR, value[meter]))
            if sent:
                running.receiver.put(readings(sent))
        running.deliver()
    finally:
        running.close()
    return database


@pytest.fixture(params=[0, 1, 2, 3])
def sealed(filled: Database, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """A reader of a database in which some of the energy is in the daily table already."""
    rng = random.Random(request.param)
    reader, engine = Reader(filled), open_writer(filled)
    with engine.begin() as connection:
        connection.execute(schema.daily.delete())
    with reader.snapshot():
        whole = fleet.unsealed(reader, DEFAULTS)
    rows = []
    columns = (getattr(whole, name).tolist() for name in Daily.__slots__)
    for day, meter, wh, covered, flags in zip(*columns, strict=True):
        part = rng.choice([0, 0.4, 1]) if request.param else 0
        if part:
            wh, covered = int(wh * part), int(covered * part)
            row = {"day": day, "meter": meter, "wh": wh, "covered_ms": covered, "flags": flags}
            rows.append(row)
    with engine.begin() as connection:
        if rows:
            connection.execute(schema.daily.insert(), rows)
    with reader.snapshot():
        yield reader
    reader.close()
    close_writer(engine)


def expected(reader: Reader, within: Range, *, months: bool) -> list[Period]:
    """From the meters' whole curves alone."""
    wh: dict[int, int] = {}
    meters: dict[int, set[int]] = {}
    flags: dict[int, int] = {}
    for meter in reader.meters(within.prefix, "", 100):
        curve = energy_curve(reader, meter)
        found = fleet.days(curve, DEFAULTS.zone(meter))
        columns = (found.day.tolist(), found.wh.tolist(), found.flags.tolist())
        for day, energy, bits in zip(*columns, strict=True):
            if within.first <= day <= within.last:
                key = day // 100 if months else day
                wh[key] = wh.get(key, 0) + energy
                meters.setdefault(key, set()).add(meter.number)
                flags[key] = flags.get(key, 0) | bits
    return [Period(key, wh[key], len(meters[key]), flags[key]) for key in sorted(wh)]


@pytest.mark.parametrize("months", [False, True])
@pytest.mark.parametrize("within", [ALL, Range(20251015, 20251103), Range(20251101, 20251231, "b")])
def test_periods(sealed: Reader, within: Range, months: bool) -> None:
    additions = fleet.unsealed(sealed, DEFAULTS)
    found = fleet.periods(sealed, additions, within, months=months)
    assert found == expected(sealed, within, months=months)
    assert found


def test_ranking(sealed: Reader) -> None:
    within = Range(20251015, 20251103)
    numbers, energy = fleet.ranking(sealed, fleet.unsealed(sealed, DEFAULTS), within)
    alone = {}
    for meter in sealed.meters("", "", 100):
        own = expected(sealed, Range(within.first, within.last, meter.id), months=False)
        alone[meter.number] = sum(period.wh for period in own)
    ranked = sorted(alone.items(), key=lambda item: (-item[1], item[0]))
    assert list(zip(numbers.tolist(), energy.tolist(), strict=True)) == ranked


def test_the_next_day_with_anything(sealed: Reader) -> None:
    additions = fleet.unsealed(sealed, DEFAULTS)
    days = [period.key for period in expected(sealed, ALL, months=False)]
    assert fleet.next_day(sealed, additions, 19000101) == days[0]
    assert fleet.next_day(sealed, additions, days[4] + 1) == days[5]
    assert fleet.next_day(sealed, additions, days[-1] + 1) is None


def test_nothing_is_known_of_nothing(database: Database) -> None:
    close_writer(open_writer(database))
    reader = Reader(database)
    with reader.snapshot():
        additions = fleet.unsealed(reader, DEFAULTS)
        assert fleet.periods(reader, additions, ALL, months=True) == []
        assert [column.tolist() for column in fleet.ranking(reader, additions, ALL)] == [[], []]
        assert fleet.next_day(reader, additions, 19000101) is None
        assert isinstance(reader.connection, sa.Connection)
    reader.close()
