"""Sealing and merging never change an answer, whatever the order in which readings came."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import (
    block_series,
    block_store,
    blocks,
    history,
    journal,
    kept_days,
    meters,
    schema,
    sealing,
    sealing_pass,
    watermark,
)
from storage.defaults import Defaults
from storage.energy import energy_curve
from storage.engine import Database, StorageError, close_writer, open_writer
from storage.queries import Reader
from storage.sealing import Sealer
from telemetry import calendar, intervals
from telemetry.intervals import Flag
from telemetry.readings import Readings
from telemetry.registers import BY_CODE, ENERGY_IMPORT, POWER_IMPORT
from tests.examples import examples

Value = tuple[int, int, int, int]  # meter, register, time, value
ZONE = ZoneInfo("Europe/Lisbon")
NOON = 1_760_000_000_000  # an afternoon in October 2025


class Store:
    """A database that is written by hand, row by row, and what should be read from it."""

    def __init__(self, data: Path, count: int) -> None:
        self.engine = open_writer(Database(data))
        self.data = data
        octets = [f"meter-{number}".encode().ljust(16, b"\0") for number in range(1, count + 1)]
        with self.engine.begin() as connection:
            meters.add_all(connection, 1, octets, 0)
        self.defaults = Defaults(time_zone=ZONE.key)
        self.sealer = self.new_sealer()
        self.reader = Reader(Database(data))
        self.rows = 0
        self.accepted: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def new_sealer(self) -> Sealer:
        sealer = Sealer(self.engine.begin, self.defaults)
        with self.engine.begin() as connection:
            sealer.learn(connection)
        return sealer

    def close(self) -> None:
        self.reader.close()
        close_writer(self.engine)

    def commit(self, values: list[Value]) -> None:
        self.rows += 1
        columns = np.array(values, np.int64).reshape(-1, 4)
        count = len(columns)
        zeros = np.zeros(count, np.uint64)
        readings = Readings(
            zeros,
            zeros,
            np.ones(count, np.uint32),
            columns[:, 1].astype(np.uint16),
            np.zeros(count, np.uint16),
            columns[:, 2],
            columns[:, 3],
        )
        batch = journal.sort(columns[:, 0].astype(np.uint32), readings)
        with self.engine.begin() as connection:
            connection.execute(
                schema.journal.insert().values(
                    id=self.rows,
                    committed_ms=self.rows,
                    first_ms=int(batch.time.min()),
                    last_ms=int(batch.time.max()),
                    readings=count,
                    body=journal.encode(batch),
                )
            )
        self.sealer.committed(count, self.rows)
        for meter, register, time, value in values:
            self.accepted.setdefault((meter, register), []).append((time, value))

    def start_pass(self) -> None:
        if self.sealer._pass is None:
            self.sealer.begin()

    def journal_rows(self) -> int:
        with self.engine.connect() as connection:
            count = sa.select(sa.func.count()).select_from(schema.journal)
            return connection.execute(count).scalar_one()

    def check(self) -> None:
        """Every series reads as it was accepted: each instant's values, in order, once each."""
        with self.reader.snapshot():
            self.check_days()
            distinct = sum(len(set(accepted)) for accepted in self.accepted.values())
            most = sum(map(len, self.accepted.values()))
            assert distinct <= self.reader.readings() <= most
            for (number, code), accepted in self.accepted.items():
                meter = self.reader.by_number(number)
                series = self.reader.series(meter, BY_CODE[code])
                read = list(zip(series.time.tolist(), series.value.tolist(), strict=True))
                assert _settled(read) == _settled(accepted)
                assert len(read) <= len(accepted)
            for number in {number for number, _ in self.accepted}:
                self.check_kept_days(number)
                latest = {
                    (code, time, value)
                    for code, time, value, _ in self.reader.latest(self.reader.by_number(number))
                }
                assert latest == {
                    (code, *_newest(accepted))
                    for (owner, code), accepted in self.accepted.items()
                    if owner == number
                }

    def check_kept_days(self, number: int) -> None:
        """What is kept of days that are certain is what all readings say, sealed or not."""
        meter = self.reader.by_number(number)
        upto = kept_days.certain_before(self.reader, meter, ZONE)
        curve = energy_curve(self.reader, meter)
        if upto is None or len(curve.time) < 2 or upto <= curve.time[0]:
            return
        edges, dates = calendar.days(ZONE, int(curve.time[0]), upto - 1)
        kept = kept_days.slots(self.reader, meter, edges, dates)
        expected = intervals.slots(curve, edges)
        assert kept.energy.tolist() == expected.energy.tolist()
        assert kept.flags.tolist() == expected.flags.tolist()

    def check_days(self) -> None:
        """The rows of the days are those of each meter's sealed readings."""
        reader, connection = self.reader, self.reader.connection
        table = schema.daily
        rows = connection.execute(sa.select(table.c.meter, *_DAY).order_by(*table.c)).all()
        expected = []
        for number in sorted({number for number, _ in self.accepted}):
            parts = history.parts(connection, reader._watermark, number, ENERGY_IMPORT)
            curve = intervals.curve(intervals.settle(history.together(parts)))
            if len(curve.time) > 1:
                edges, dates = calendar.days(ZONE, int(curve.time[0]), int(curve.time[-1]))
                slots = intervals.slots(curve, edges)
                for at, date in enumerate(dates.tolist()):
                    start = max(int(edges[at]), int(curve.time[0]))
                    covered = min(int(edges[at + 1]), int(curve.time[-1])) - start
                    if covered > 0:
                        flags = int(slots.flags[at]) & ~Flag.PARTIAL
                        expected.append((number, date, int(slots.energy[at]), covered, flags))
        assert sorted(map(tuple, rows)) == sorted(expected)


_DAY = [schema.daily.c[name] for name in ("day", "wh", "covered_ms", "flags")]


def _newest(accepted: list[tuple[int, int]]) -> tuple[int, int]:
    """The highest instant, of it the value accepted last."""
    time = max(time for time, _ in accepted)
    return time, [value for at, value in accepted if at == time][-1]


def _settled(accepted: list[tuple[int, int]]) -> dict[int, list[int]]:
    """Each instant's values in the order of acceptance, without immediate repeats."""
    values: dict[int, list[int]] = {}
    for time, value in accepted:
        own = values.setdefault(time, [])
        if not own or own[-1] != value:
            own.append(value)
    return values


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real rules with small figures, so that a few readings go all the way."""
    monkeypatch.setattr(sealing, "_SLICE", 6)
    monkeypatch.setattr(sealing, "_DUE_VALUES", 40)
    monkeypatch.setattr(sealing, "_MOST_VALUES", 40)
    monkeypatch.setattr(sealing, "_WIDE_VALUES", 40)
    monkeypatch.setattr(sealing_pass, "_LEAST", 4)
    monkeypatch.setattr(block_store, "_LEAST", 4)
    monkeypatch.setattr(block_store, "_LARGE", 8)
    monkeypatch.setattr(block_store, "_MERGE", 3)
    monkeypatch.setattr(block_store, "_MOST_MERGED", 30)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass is read and cleared away in several steps."""
    monkeypatch.setattr(sealing_pass, "_PART", 12)
    monkeypatch.setattr(sealing, "_CLEARED", 12)


@pytest.mark.usefixtures("small_slices", "small_parts")
@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(
        st.one_of(
            st.lists(
                st.tuples(
                    st.sampled_from([1, 1, 2, 9, 17]),
                    st.sampled_from([ENERGY_IMPORT, ENERGY_IMPORT, POWER_IMPORT]),
                    st.integers(0, 40).map(lambda at: NOON + at * 3_600_000),
                    st.integers(0, 12),
                ),
                min_size=1,
                max_size=12,
            ),
            st.sampled_from(["begin", "begin", "step", "step", "step", "all", "restart"]),
        ),
        min_size=10,
        max_size=60,
    )
)
def test_no_order_of_sealing_changes_an_answer(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[Value] | str]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"), 20)
    try:
        for step in steps:
            if isinstance(step, list):
                store.commit(step)
            elif step == "begin" and store.sealer._values:
                store.start_pass()
            elif step == "all":
                store.sealer.seal_all()
            elif step == "step":
                store.sealer.step(0)
            elif step == "restart":
                store.sealer = store.new_sealer()
                store.reader.close()
                store.reader = Reader(Database(store.data))
            store.check()
    finally:
        store.close()


def _fill(store: Store, count: int, rounds: int) -> None:
    rng = np.random.default_rng(1)
    energy = np.zeros(count, np.int64)
    for start in range(0, rounds, 20):
        values: list[Value] = []
        for at in range(start, min(rounds, start + 20)):
            energy += rng.integers(0, 900, count)
            for meter in range(count):
                values.append((meter + 1, ENERGY_IMPORT, NOON + at * 900_000, int(energy[meter])))
                values.append(
                    (meter + 1, POWER_IMPORT, NOON + at * 900_000, int(rng.integers(0, 9000)))
                )
        store.commit(values)


def test_history_ends_in_few_full_blocks_of_single_meters(tmp_path: Path) -> None:
    store = Store(tmp_path, 20)
    _fill(store, 20, 3000)
    store.sealer.seal_all()
    store.check()
    with store.engine.connect() as connection:
        rows = connection.execute(
            sa.select(schema.blocks.c.shift, schema.blocks.c.readings, schema.blocks.c.body)
        ).all()
    assert sum(row.readings for row in rows) == 20 * 3000 * 2
    assert max(row.readings for row in rows) <= 2 * block_store._LARGE
    assert len(rows) < 40, "20 meters of 6,000 values: a few blocks, however many commits"
    assert sum(len(row.body) for row in rows) < 20 * 3000 * 3.5
    store.close()


def test_merging_that_fell_behind_catches_up_eight_blocks_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While readings come as fast as they can be committed and sealed, nothing is merged."""
    store = Store(tmp_path, 3)
    group = (0, 1)
    for row in range(30):
        store.commit([(1, ENERGY_IMPORT, NOON + row, row)])
        store.start_pass()
        assert store.sealer._pass is not None
        store.sealer._slice(store.sealer._pass)
    assert len(store.sealer._store._small[group]) == 30
    merged = []
    merge = block_store.BlockStore.merge

    def noting(self: block_store.BlockStore, *arguments: Any) -> watermark.Watermark:
        before = len(self._small[group])
        found = merge(self, *arguments)
        merged.append(before - len(self._small[group]))
        return found

    monkeypatch.setattr(block_store.BlockStore, "merge", noting)
    store.sealer.seal_all()
    assert merged == [8, 8, 8, 8]
    assert len(store.sealer._store._small[group]) == 30 - 4 * 7
    store.check()
    store.close()


def test_a_failed_slice_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, 3)
    store.commit([(1, 1, 5, 7), (2, 1, 5, 7), (1, 1, 6, 8)])

    def fails(*_: object) -> None:
        raise sa.exc.OperationalError("", {}, Exception("disk full"))

    with monkeypatch.context() as broken:
        broken.setattr(watermark, "write", fails)
        with pytest.raises(sa.exc.OperationalError):
            store.sealer.seal_all()
    store.sealer = store.new_sealer()
    store.check()
    assert store.journal_rows() == 1
    store.sealer.seal_all()
    store.check()
    assert store.journal_rows() == 0
    store.close()


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, 1)
    store.commit([(1, 1, 5, 7)])
    store.sealer.seal_all()
    with store.engine.begin() as connection:
        body = connection.execute(sa.select(schema.blocks.c.body)).scalar_one()
        damaged = body[:-1] + bytes([body[-1] ^ 1])
        connection.execute(schema.blocks.update().values(body=damaged))
    with store.reader.snapshot():
        meter = store.reader.by_number(1)
        with pytest.raises(StorageError, match="block 1 is damaged"):
            store.reader.series(meter, BY_CODE[1])
    store.close()


def test_a_repeat_is_kept_when_its_epoch_is_older() -> None:
    def stored(*epochs: int) -> blocks.Stored:
        ones = np.ones(len(epochs), np.int64)
        return blocks.Stored(
            ones.astype(np.uint32),
            ones.astype(np.uint16),
            ones.astype(np.uint16),
            np.array(epochs, np.uint32),
            ones,
            ones,
            np.arange(len(epochs)),
        )

    assert blocks.arrange(stored(1, 2, 1)).epoch.tolist() == [1, 1]
    assert blocks.arrange(stored(2, 2)).late.tolist() == [0]
    assert blocks.arrange(stored(2, 1)).epoch.tolist() == [2, 1]


@settings(max_examples=examples(200), deadline=None)
@given(
    data=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from([1, 3]),
            st.integers(-(2**62), 2**62),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**16 - 1),
            st.integers(1, 2**40),
        ),
        min_size=1,
        max_size=60,
    ),
    cut=st.integers(0, 10_000),
    flip=st.integers(0, 10_000),
)
def test_blocks_give_back_what_was_put_in(
    data: list[tuple[int, int, int, int, int, int, int]], cut: int, flip: int
) -> None:
    columns = [np.array(column) for column in zip(*data, strict=True)]
    meter, register, time, value, epoch, status, late = columns
    stored = blocks.arrange(
        blocks.Stored(
            meter.astype(np.uint32),
            register.astype(np.uint16),
            status.astype(np.uint16),
            epoch.astype(np.uint32),
            time.astype(np.int64),
            value.astype(np.int64),
            late.astype(np.int64),
        )
    )
    body = blocks.encode(stored)
    again = blocks.decode(body)
    for name in blocks.Stored.__slots__:
        assert (getattr(again, name) == getattr(stored, name)).all()
    with pytest.raises(journal.DamagedError):
        blocks.decode(body[: cut % len(body)])
    place = flip % len(body)
    with pytest.raises(journal.DamagedError):
        blocks.decode(body[:place] + bytes([body[place] ^ 0x10]) + body[place + 1 :])


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    meters=st.integers(1, 4),
    rounds=st.integers(150, 500),
    usual=st.sampled_from([0.4, 30.0, 5e5, 1e12]),
    step_ms=st.sampled_from([1, 60_000, 900_000, 7_200_000]),
    ragged=st.booleans(),
    start=st.integers(-(2**41), 2**41),
)
def test_blocks_of_habits_give_back_what_was_put_in(
    seed: int, meters: int, rounds: int, usual: float, step_ms: int, ragged: bool, start: int
) -> None:
    """What is told by the hour and by energy, low bits apart: whole, and meter by meter."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(1, meters + 1):
        count = rounds - number * 7 * ragged
        time = start + np.arange(count) * step_ms + rng.integers(0, 1 + ragged * step_ms, count)
        time.sort()
        habit = usual * rng.lognormal(0, 2, 24)[time // 3_600_000 % 24]
        used = np.rint(habit * rng.lognormal(0, 0.3, count)).astype(np.int64)
        power = np.rint(used * 4 * rng.lognormal(0, 0.2, count)).astype(np.int64) * 10
        net = np.rint(habit * rng.normal(0.5, 1, count)).astype(np.int64)
        for code, value in ((1, used.cumsum()), (3, power), (5, net)):
            parts.append(
                blocks.Stored(
                    np.full(count, number, np.uint32),
                    np.full(count, code, np.uint16),
                    np.zeros(count, np.uint16),
                    np.ones(count, np.uint32),
                    time,
                    value,
                    np.zeros(count, np.int64),
                )
            )
    stored = blocks.arrange(blocks.Stored.concatenate(parts))
    body = blocks.encode(stored)
    again = blocks.decode(body)
    for name in blocks.Stored.__slots__:
        assert (getattr(again, name) == getattr(stored, name)).all()
    for number in range(1, meters + 1):
        for code in (1, 3, 5):
            found = block_series.series(body, number, code)
            own = stored.take((stored.meter == number) & (stored.register == code))
            assert found is not None
            assert (found.time == own.time).all()
            assert (found.value == own.value).all()


def test_empty_pages_are_given_back_once_nothing_comes(tmp_path: Path) -> None:
    store = Store(tmp_path, 20)
    _fill(store, 20, 600)
    now = store.sealer._oldest + sealing._DUE_AGE
    store.sealer._newest = now
    while store.sealer._values:
        store.sealer.step(now)
    while store.sealer.step(now):
        pass

    def pages(name: str) -> int:
        with store.engine.connect() as connection:
            found: int = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        return found

    before, empty = pages("page_count"), pages("freelist_count")
    assert empty > before // 512, "the next pass needs them again"
    while store.sealer.step(now + sealing._QUIET):
        pass
    assert pages("freelist_count") <= pages("page_count") // 512
    assert pages("page_count") < before
    assert not store.sealer.step(now + 2 * sealing._QUIET)
    store.check()
    store.close()


@pytest.mark.usefixtures("small_slices")
def test_readings_count_once_amid_a_pass(tmp_path: Path) -> None:
    store = Store(tmp_path, 6)
    for at in range(3):
        store.commit([(meter, ENERGY_IMPORT, NOON + at * 1000, at) for meter in range(1, 7)])
    store.start_pass()
    store.sealer.step(0)
    with store.reader.snapshot():
        assert store.reader._watermark.values > 0
        assert store.reader.readings() == 18
    store.close()


DAY = 86_400_000
MIDNIGHT = 1_759_964_400_000  # in Lisbon, 9 October 2025


@pytest.mark.parametrize(
    ("sealed", "later"),
    [
        # A lower value that only later ones confirm: the days before it change with them.
        ([(0, 100), (DAY, 150), (3 * DAY, 50)], [(4 * DAY, 60), (5 * DAY, 70)]),
        # Another value for the newest instant, which closes the day before.
        ([(0, 100), (DAY, 150)], [(DAY, 160)]),
        ([(0, 100), (DAY, 150), (2 * DAY, 200), (3 * DAY, 250)], [(DAY + 1, 160)]),
    ],
)
def test_days_are_not_certain_where_later_readings_change_them(
    tmp_path: Path, sealed: list[tuple[int, int]], later: list[tuple[int, int]]
) -> None:
    store = Store(tmp_path, 1)
    store.commit([(1, ENERGY_IMPORT, MIDNIGHT + time, value) for time, value in sealed])
    store.sealer.seal_all()
    store.check()
    store.commit([(1, ENERGY_IMPORT, MIDNIGHT + time, value) for time, value in later])
    store.check()
    with store.reader.snapshot():
        assert kept_days.certain_before(store.reader, store.reader.by_number(1), ZONE) is None
    store.sealer.seal_all()
    store.check()
    store.close()


def test_the_oldest_reading_of_a_register_may_be_in_a_later_block(tmp_path: Path) -> None:
    store = Store(tmp_path, 1)
    for day in range(4):  # a block each; energy comes with the third, and then what is older
        code = ENERGY_IMPORT if day == 2 else POWER_IMPORT
        store.commit([(1, code, MIDNIGHT + day * DAY, 10 * day)])
        store.sealer.seal_all()
    energy = BY_CODE[ENERGY_IMPORT]
    for older in (None, 1, 3 * DAY // 2):
        if older is not None:
            store.commit([(1, ENERGY_IMPORT, MIDNIGHT + 2 * DAY - older, 5)])
            store.sealer.seal_all()
        with store.reader.snapshot():
            meter = store.reader.by_number(1)
            assert store.reader.oldest(meter, energy) == MIDNIGHT + 2 * DAY - (older or 0)
            assert store.reader.oldest(meter, BY_CODE[POWER_IMPORT]) == MIDNIGHT
            assert store.reader.oldest(meter, BY_CODE[2]) is None
    store.close()


@pytest.mark.parametrize("between", [True, False])
def test_a_repeat_stays_where_another_value_may_lie_between(tmp_path: Path, between: bool) -> None:
    """5, then 0 in a block of another shift, then 5 again, which is the value that counts."""
    came = [(4, 5, 1), (2, 0, 2), (4, 5, 3)] if between else [(4, 5, 1), (4, 5, 3)]
    store = Store(tmp_path, 20)
    try:
        with store.engine.begin() as connection:
            blocks_, reached = block_store.BlockStore(connection), watermark.Watermark()
            for shift, value, late in came:
                own = blocks.Stored(
                    meter=np.array([1], np.uint32),
                    register=np.array([ENERGY_IMPORT], np.uint16),
                    status=np.array([0], np.uint16),
                    epoch=np.array([1], np.uint32),
                    time=np.array([NOON], np.int64),
                    value=np.array([value], np.int64),
                    late=np.array([late], np.int64),
                )
                reached = blocks_.add(connection, [own], shift, reached)
            blocks_.accept()
            blocks_.merge(connection, (4, 0), reached)
            bodies = connection.execute(sa.select(schema.blocks.c.body)).scalars()
            kept = blocks.Stored.concatenate([blocks.decode(body) for body in bodies])
    finally:
        store.close()
    found = sorted(zip(kept.late.tolist(), kept.value.tolist(), strict=True))
    assert found == ([(1, 5), (2, 0), (3, 5)] if between else [(1, 5)])


@pytest.mark.parametrize(
    ("count", "values"),
    [
        (0, 1_048_576),
        (8_192, 1_048_576),
        (10_000, 1_280_000),
        (262_144, 2_097_152),
        (1_000_000, 8_000_000),
        (2_000_000, 8_388_608),
    ],
)
def test_a_pass_waits_for_values_of_each_meter(tmp_path: Path, count: int, values: int) -> None:
    sealer = Store(tmp_path, 1).sealer
    sealer._meters = count
    assert sealer._enough == values
