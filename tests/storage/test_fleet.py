"""The daily table and what is to be added to it, against whole curves, at any state of sealing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import sqlalchemy as sa

from storage import fleet, kept_days, schema, unsealed
from storage.defaults import Defaults
from storage.energy import energy_curve
from storage.engine import Database, close_writer, open_writer
from storage.fleet import Period, Range
from storage.queries import Reader
from storage.sealing import Sealer
from telemetry import calendar, intervals
from telemetry.intervals import Curve, Flag
from tests.storage.handing import put
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
                put(running.receiver, readings(sent))
            if number % 80 == 79:  # several rows of the journal, so that half of them is a part
                running.deliver()
    finally:
        running.close()
    return database


def seal(engine: sa.Engine, *, slices: int | None) -> None:
    """Seal so many slices of what is in the journal, or all."""
    sealer = Sealer(engine.begin, DEFAULTS)
    with engine.begin() as connection:
        sealer.learn(connection)
    if slices is None:
        sealer.seal_all()
    else:
        sealer.begin()
        for _ in range(slices):
            sealer._slice_values = 1
            assert sealer._pass is not None
            sealer._pass.shift = 0  # a meter a slice
            sealer.step(0)


@pytest.fixture(params=["nothing", "a part of a pass", "half", "all"])
def sealed(filled: Database, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """A reader of a database of which some is sealed already."""
    reader, engine = Reader(filled), open_writer(filled)
    journal = schema.journal
    with engine.begin() as connection:
        rows = connection.execute(sa.select(journal).order_by(journal.c.id)).mappings().all()
        later = rows[len(rows) // 2 :] if request.param == "half" else []
        for row in later:
            connection.execute(journal.delete().where(journal.c.id == row["id"]))
    if request.param != "nothing":
        seal(engine, slices=2 if request.param == "a part of a pass" else None)
    with engine.begin() as connection:
        if later:
            connection.execute(journal.insert(), [dict(row) for row in later])
    with reader.snapshot():
        yield reader
    reader.close()
    close_writer(engine)


def days(curve: Curve, zone: ZoneInfo) -> list[tuple[int, int, int]]:
    """Date, energy and flags of each day of a whole curve."""
    edges, dates = calendar.days(zone, int(curve.time[0]), int(curve.time[-1]))
    slots = intervals.slots(curve, edges)
    flags = slots.flags.astype(np.int64) & ~int(Flag.PARTIAL)
    there = ~(slots.flags & Flag.MISSING).astype(np.bool_)
    columns = (column[there].tolist() for column in (dates, slots.energy, flags))
    return list(zip(*columns, strict=True))


def expected(reader: Reader, within: Range, *, months: bool) -> list[Period]:
    """From the meters' whole curves alone."""
    wh: dict[int, int] = {}
    meters: dict[int, set[int]] = {}
    flags: dict[int, int] = {}
    for meter in reader.meters(within.prefix, "", 100):
        curve = energy_curve(reader, meter)
        for day, energy, bits in days(curve, DEFAULTS.zone(meter)):
            if within.first <= day <= within.last:
                key = day // 100 if months else day
                wh[key] = wh.get(key, 0) + energy
                meters.setdefault(key, set()).add(meter.number)
                flags[key] = flags.get(key, 0) | bits
    return [Period(key, wh[key], len(meters[key]), flags[key]) for key in sorted(wh)]


@pytest.mark.parametrize("months", [False, True])
@pytest.mark.parametrize("within", [ALL, Range(20251015, 20251103), Range(20251101, 20251231, "b")])
def test_periods(sealed: Reader, within: Range, months: bool) -> None:
    additions = unsealed.additions(sealed, DEFAULTS)
    found = fleet.periods(sealed, additions, within, months=months)
    assert found == expected(sealed, within, months=months)
    assert found


def test_kept_days_of_one_meter(sealed: Reader, request: pytest.FixtureRequest) -> None:
    told = []
    for meter in sealed.meters("", "", 100):
        zone, curve = DEFAULTS.zone(meter), energy_curve(sealed, meter)
        upto = kept_days.certain_before(sealed, meter, zone)
        if upto is not None:
            edges, dates = calendar.days(zone, int(curve.time[0]), upto - 1)
            kept, slots = (
                kept_days.slots(sealed, meter, edges, dates),
                intervals.slots(curve, edges),
            )
            assert kept.energy.tolist() == slots.energy.tolist()
            assert kept.flags.tolist() == slots.flags.tolist()
            told.append(len(dates))
    assert all(count >= 20 for count in told)  # of sixty, of which half is not sealed
    assert told or "nothing" in request.node.callspec.id


def test_ranking(sealed: Reader) -> None:
    within = Range(20251015, 20251103)
    numbers, energy = fleet.ranking(sealed, unsealed.additions(sealed, DEFAULTS), within)
    alone = {}
    for meter in sealed.meters("", "", 100):
        own = expected(sealed, Range(within.first, within.last, meter.id), months=False)
        alone[meter.number] = sum(period.wh for period in own)
    ranked = sorted(alone.items(), key=lambda item: (-item[1], item[0]))
    assert list(zip(numbers.tolist(), energy.tolist(), strict=True)) == ranked


def test_the_next_day_with_anything(sealed: Reader) -> None:
    additions = unsealed.additions(sealed, DEFAULTS)
    dates = [period.key for period in expected(sealed, ALL, months=False)]
    assert fleet.next_day(sealed, additions, 19000101) == dates[0]
    assert fleet.next_day(sealed, additions, dates[4] + 1) == dates[5]
    assert fleet.next_day(sealed, additions, dates[-1] + 1) is None


def test_nothing_is_known_of_nothing(database: Database) -> None:
    close_writer(open_writer(database))
    reader = Reader(database)
    with reader.snapshot():
        additions = unsealed.additions(reader, DEFAULTS)
        assert fleet.periods(reader, additions, ALL, months=True) == []
        assert [column.tolist() for column in fleet.ranking(reader, additions, ALL)] == [[], []]
        assert fleet.next_day(reader, additions, 19000101) is None
        assert isinstance(reader.connection, sa.Connection)
    reader.close()
