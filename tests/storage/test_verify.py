"""A sound database has no differences, whatever was sealed; every damage is found and named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import sqlalchemy as sa

from storage import (
    block_store,
    blocks,
    journal,
    meters,
    schema,
    sealing,
    sealing_pass,
    verify_meters,
    watermark,
)
from storage.changes import ReplaceMeter
from storage.defaults import Defaults
from storage.engine import Database, close_writer, database_path, open_reader, open_writer
from storage.queries import Reader
from storage.sealing import Sealer
from storage.verify import Difference, Report, Totals, verify
from telemetry.readings import Readings
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT
from tests.storage.conftest import MakeDatabase, only_sqlite
from tests.storage.test_writer import NOW, Running, make_running, readings, running

__all__ = ["make_running", "running"]  # fixtures

HOUR = 3_600_000
DEFAULTS = Defaults(time_zone="Europe/Lisbon")
COUNT = 20
LAKE = 3  # the number of a meter in another zone, with a highest power


class House:
    """A database that a test fills and seals step by step."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.engine = open_writer(database)
        octets = [f"meter-{number}".encode().ljust(16, b"\0") for number in range(1, COUNT + 1)]
        with self.engine.begin() as connection:
            meters.add_all(connection, 1, octets, 0)
            lake = schema.meters.update().where(schema.meters.c.number == LAKE)
            connection.execute(lake.values(time_zone="Asia/Kolkata", max_power_w=20_000))
        self.rows = 0
        self.restart()

    def restart(self) -> None:
        self.sealer = Sealer(self.engine.begin, DEFAULTS)
        with self.engine.begin() as connection:
            self.sealer.learn(connection)

    def commit(self, values: Sequence[tuple[int, ...]]) -> None:
        """Commit rows of meter, register, time, value, status, epoch."""
        self.rows += 1
        meter, register, instant, value, status, epoch = np.array(values, np.int64).T
        zeros = np.zeros(len(values), np.uint64)
        columns = Readings(
            zeros,
            zeros,
            epoch.astype(np.uint32),
            register.astype(np.uint16),
            status.astype(np.uint16),
            instant,
            value,
        )
        batch = journal.sort(meter.astype(np.uint32), columns)
        with self.engine.begin() as connection:
            connection.execute(
                schema.journal.insert().values(
                    id=self.rows,
                    committed_ms=self.rows,
                    first_ms=int(instant.min()),
                    last_ms=int(instant.max()),
                    readings=len(batch),
                    body=journal.encode(batch),
                )
            )
        self.sealer.committed(len(values), self.rows)

    def fill(self, days: int = 4, count: int = COUNT) -> None:
        """Plain history, sealed, and a row of the journal more."""
        for day in range(days + 1):
            self.commit(
                [
                    (meter, register, NOW + at * HOUR, 10_000 + at * meter, 0, 1)
                    for meter in range(1, count + 1)
                    for at in range(24 * day, 24 * day + 24)
                    for register in (ENERGY_IMPORT, POWER_IMPORT)
                ]
            )
            if day < days:
                self.sealer.seal_all()

    def change(self, statement: str, **values: object) -> None:
        """Do damage with plain SQL."""
        with self.engine.begin() as connection:
            assert connection.execute(sa.text(statement), values).rowcount > 0

    def scalar(self, query: str) -> object:
        with self.engine.begin() as connection:
            return connection.execute(sa.text(query)).scalar_one()

    def verify(self) -> list[Difference]:
        return differences(self.database)[0]


def differences(
    database: Database, defaults: Defaults = DEFAULTS
) -> tuple[list[Difference], Totals]:
    found: list[Difference] = []
    totals = verify(database, defaults, Report(found.append))
    assert totals.differences == len(found)
    return found, totals


@pytest.fixture
def make_house(make_database: MakeDatabase) -> Iterator[Callable[[], House]]:
    made: list[House] = []

    def make() -> House:
        made.append(House(make_database()))
        return made[-1]

    yield make
    for house in made:
        close_writer(house.engine)


@pytest.fixture
def house(make_house: Callable[[], House]) -> House:
    return make_house()


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real rules with small figures, so that a few readings go all the way."""
    for module, name, figure in (
        (sealing, "_SLICE", 6),
        (sealing, "_DUE_VALUES", 40),
        (sealing, "_MOST_VALUES", 40),
        (sealing, "_WIDE_VALUES", 40),
        (sealing_pass, "_PART", 12),
        (sealing, "_CLEARED", 12),
        (sealing_pass, "_LEAST", 4),
        (block_store, "_LEAST", 4),
        (block_store, "_LARGE", 8),
        (block_store, "_MERGE", 3),
        (block_store, "_MOST_MERGED", 30),
        (verify_meters, "_METERS_A_WINDOW", 7),
    ):
        monkeypatch.setattr(module, name, figure)


# What is sound


def random_values(rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Readings in any order, with repeats, drops, newer epochs and doubts."""
    return [
        (
            int(rng.choice([1, 1, 2, LAKE, LAKE, 17])),
            int(rng.choice([ENERGY_IMPORT, ENERGY_IMPORT, POWER_IMPORT])),
            NOW + int(rng.integers(0, 60)) * HOUR,
            int(rng.integers(0, 12)) * int(rng.choice([1, 1, 9000])),
            int(rng.choice([0, 0, 0, 1, 0x100])),
            int(rng.choice([1, 1, 2])),
        )
        for _ in range(rng.integers(1, 14))
    ]


@pytest.mark.usefixtures("small_figures")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("make_database", "seed"),
    # A step on PostgreSQL takes four times as long, for the same code.
    [*(("sqlite", seed) for seed in range(6)), ("postgresql", 6), ("postgresql", 7)],
    indirect=["make_database"],
)
def test_no_order_of_sealing_is_a_difference(
    house: House, seed: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether meters are looked at together, or each by parts of its time."""
    if large:
        monkeypatch.setattr(verify_meters, "_VALUES_A_WINDOW", 5)
    rng = np.random.default_rng(seed)
    for _ in range(25):
        match int(rng.integers(0, 8)):
            case 0 | 1 | 2:
                house.commit(random_values(rng))
            case 3 | 4 | 5:
                for _ in range(3):
                    house.sealer.step(0)
            case 6:
                if house.sealer._pass is None and house.sealer._values:
                    house.sealer.begin()
            case _:
                house.restart() if rng.integers(0, 2) else house.sealer.seal_all()
        assert house.verify() == []
    house.sealer.seal_all()
    found, totals = differences(house.database)
    assert found == []
    assert totals.blocks > 0
    assert totals.meters == COUNT


def test_the_sums_are_what_a_reader_counts(house: House) -> None:
    house.fill()
    found, totals = differences(house.database)
    assert found == []
    reader = Reader(house.database)
    with reader.snapshot():
        assert totals.values == reader.readings() == 5 * 24 * 2 * COUNT
    reader.close()
    assert (totals.rows, totals.meters) == (1, COUNT)
    assert totals.days == house.scalar("SELECT count(*) FROM daily") == 5 * COUNT


def test_an_empty_database_is_right(house: House) -> None:
    assert house.verify() == []


def test_days_computed_again_after_a_setting_are_right(house: House) -> None:
    house.fill()
    with house.engine.begin() as connection:
        meters.replace(connection, ReplaceMeter("meter-2", NOW + 30 * HOUR, 10_070, 100))
        house.sealer.rebuild_days(connection, meters.by_number(connection, 2))
    assert house.verify() == []


def plain(hours: range) -> list[tuple[int, ...]]:
    """Readings of the first meter that nothing can make not count, once there are five."""
    return [(1, ENERGY_IMPORT, NOW + at * HOUR, 9 + 9 * at, 0, 1) for at in hours]


def sealed_one_by_one(house: House, *commits: Sequence[tuple[int, ...]]) -> None:
    for values in commits:
        house.commit(values)
        house.sealer.seal_all()
        assert house.verify() == []


def test_a_repeat_that_doubts_still_does_once_merged(house: House) -> None:
    """Its status is the instant's too: the day's flags stay as they were before merging."""
    repeats = ([(1, ENERGY_IMPORT, NOW + 8 * HOUR, 81, status, 1)] for status in (1, 0))
    sealed_one_by_one(house, plain(range(9)), *repeats)
    assert house.scalar("SELECT flags FROM daily") == 0x400
    sealed_one_by_one(house, *([value] for value in plain(range(9, 30))))
    assert house.scalar("SELECT min(id) FROM blocks") != 1, "merged by now"
    assert house.scalar("SELECT flags FROM daily WHERE day = 20251009") == 0x401


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 0)])
def test_doubts_of_the_newest_instant_go_on_to_the_next_day(
    house: House, count: int, value: int, status: int
) -> None:
    *_, last = plain(range(count))
    repeat = [(1, ENERGY_IMPORT, last[2], last[3] + value, status, 1)]
    back = [(1, ENERGY_IMPORT, last[2], last[3] + value, 0, 1)]
    sealed_one_by_one(house, plain(range(count)), repeat, back, plain(range(40, 41)))
    assert house.scalar("SELECT flags FROM daily WHERE day = 20251010") == (9 if value else 0x401)


def test_another_value_of_the_newest_instant_changes_its_day(house: House) -> None:
    """That reading may be the one that settles the rest, and its interval lies before it."""
    sealed_one_by_one(house, plain(range(9)), [(1, ENERGY_IMPORT, NOW + 8 * HOUR, 90, 0, 1)])
    assert house.scalar("SELECT wh FROM daily") == 81


def test_a_first_reading_need_not_count_once_there_are_earlier_ones(house: House) -> None:
    """What then goes on from it does not count either, until it is confirmed."""
    single = ((at, value) for at, value in ((5, 3), (0, 500), (6, 4), (2, 510), (7, 505)))
    sealed_one_by_one(
        house, *([(1, ENERGY_IMPORT, NOW + at * HOUR, value, 0, 1)] for at, value in single)
    )


def test_a_writer_that_seals_meanwhile(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, passes and merges while verifying again and again."""
    monkeypatch.setattr(sealing, "_DUE_VALUES", 2000)
    monkeypatch.setattr(sealing, "_MOST_VALUES", 2000)
    monkeypatch.setattr(sealing, "_WIDE_VALUES", 2000)
    monkeypatch.setattr(sealing, "_SLICE", 300)
    monkeypatch.setattr(sealing_pass, "_LEAST", 64)
    monkeypatch.setattr(block_store, "_LEAST", 64)
    running.settled()
    ended = threading.Event()
    rounds: list[Totals] = []
    found: list[Difference] = []

    def look() -> None:
        while not ended.is_set() or len(rounds) < 3:
            more, totals = differences(running.database, running.defaults)
            found.extend(more)
            rounds.append(totals)

    looking = threading.Thread(target=look)
    looking.start()
    names = [f"m-{number}" for number in range(40)]
    try:
        for at in range(150):
            batch = [(name, NOW + at * 900_000, at * 7 + n) for n, name in enumerate(names)]
            if at % 50 == 30:  # late, and other values
                batch += [(names[at % 7], NOW + (at - 3) * 900_000, at * 7 - 5)]
            running.send(readings(batch))
    finally:
        ended.set()
        looking.join(60)
    assert found == []
    assert len(rounds) >= 3
    found, totals = differences(running.database, running.defaults)
    assert found == []
    assert totals.blocks > 3
    assert totals.values == 150 * 40 + 3


# What is damaged

WHERE = "WHERE meter = 2 AND day = 20251011"
TIP = f"WHERE meter = 2 AND register = {ENERGY_IMPORT}"
DAY = "meter meter-2 (number 2), day 2025-10-11"
BLOCK = "id = (SELECT min(id) FROM blocks)"
DAMAGES = {
    "block first_ms": (
        f"UPDATE blocks SET first_ms = first_ms + 1 WHERE {BLOCK}",
        "blocks.first_ms",
    ),
    "block last_ms": (f"UPDATE blocks SET last_ms = last_ms - 1 WHERE {BLOCK}", "blocks.last_ms"),
    "block readings": (f"UPDATE blocks SET readings = 7 WHERE {BLOCK}", "blocks.readings"),
    "block group": (f"UPDATE blocks SET grp = grp + 1 WHERE {BLOCK}", "blocks.grp"),
    "block shift": (f"UPDATE blocks SET shift = 40 WHERE {BLOCK}", "blocks.shift"),
    "block deleted": (f"DELETE FROM blocks WHERE {BLOCK}", "watermark.values"),
    "journal first_ms": ("UPDATE journal SET first_ms = 1", "journal.first_ms"),
    "journal last_ms": ("UPDATE journal SET last_ms = 1", "journal.last_ms"),
    "journal readings": ("UPDATE journal SET readings = 1", "journal.readings"),
    "journal sealed": ("UPDATE journal SET id = 1", "journal.id"),
    "latest value": (f"UPDATE latest SET value = value + 1 {TIP}", "latest.value"),
    "latest time": (f"UPDATE latest SET time_ms = time_ms - 1 {TIP}", "latest.time_ms"),
    "latest status": (f"UPDATE latest SET status = 1 {TIP}", "latest.status"),
    "latest missing": (f"DELETE FROM latest {TIP}", "latest"),
    "latest extra": ("INSERT INTO latest VALUES (2, 999, 1, 1, 0, false)", "latest"),
    "latest settled": (
        f"UPDATE latest SET settled = true WHERE register = {POWER_IMPORT}",
        "latest.settled",
    ),
    "day's energy": (f"UPDATE daily SET wh = wh + 1 {WHERE}", "daily.wh"),
    "day's time": (f"UPDATE daily SET covered_ms = 5 {WHERE}", "daily.covered_ms"),
    "day's flags": (f"UPDATE daily SET flags = 4 {WHERE}", "daily.flags"),
    "day missing": (f"DELETE FROM daily {WHERE}", "daily"),
    "day extra": ("INSERT INTO daily VALUES (20240229, 2, 1, 1, 0)", "daily"),
    "day of nobody": ("INSERT INTO daily VALUES (20240229, 99, 1, 1, 0)", "daily"),
    "newest of nobody": ("INSERT INTO latest VALUES (0, 1, 1, 1, 0, false)", "latest"),
    "exchange of nobody": ("INSERT INTO replacements VALUES (99, 1, 1, 1)", "replacements"),
    "zone of the days": (
        "UPDATE meters SET daily_zone = 'Asia/Tokyo' WHERE number = 2",
        "meters.daily_zone",
    ),
    "no zone of the days": (
        "UPDATE meters SET daily_zone = 'Mars/Base' WHERE number = 2",
        "meters.daily_zone",
    ),
    "id of a meter": ("UPDATE meters SET id = 'other' WHERE number = 2", "meters.octets"),
    "no id of a meter": ("UPDATE meters SET id = 'a b' WHERE number = 2", "meters.id"),
    "meter deleted": ("DELETE FROM meters WHERE number = 2", "latest"),
    "watermark shifts": (
        "UPDATE info SET value = '4 0 0 0 1920' WHERE key = 'sealed'",
        "watermark.shifts",
    ),
    "watermark values": (
        "UPDATE info SET value = '4 0 0 31 1919' WHERE key = 'sealed'",
        "watermark.values",
    ),
    "watermark passing": (
        "UPDATE info SET value = '4 3 2 31 1920' WHERE key = 'sealed'",
        "watermark.passing",
    ),
    "no watermark": ("UPDATE info SET value = 'x' WHERE key = 'sealed'", "watermark"),
    "alert of nobody": (
        "INSERT INTO alerts VALUES (1, 99, 'limit', 1, 2, 501, 500, false, 3)",
        "alerts.meter",
    ),
    "alert without cause": (
        "INSERT INTO alerts VALUES (1, 2, 'limit', 1, 2, 500, 500, false, 3)",
        "alerts.energy_wh",
    ),
    "alert before its period": (
        "INSERT INTO alerts VALUES (1, 2, 'limit', 5, 5, 501, 500, false, 3)",
        "alerts.time_ms",
    ),
}


def test_every_damage_is_named(make_house: Callable[[], House]) -> None:
    """Each in a transaction that is taken back; what is found is only what was damaged."""
    house = make_house()
    house.fill()
    assert house.verify() == []
    tables = {table.name: table for table in schema.metadata.tables.values()}
    for name, (statement, what) in DAMAGES.items():
        with house.engine.begin() as connection:
            before = {
                table.name: [dict(row._mapping) for row in connection.execute(sa.select(table))]
                for table in tables.values()
            }
        house.change(statement)
        found = house.verify()
        assert what in {difference.what for difference in found}, name
        with house.engine.begin() as connection:
            for table in tables.values():
                connection.execute(table.delete())
                if before[table.name]:
                    connection.execute(table.insert(), before[table.name])
    assert house.verify() == []


@pytest.mark.parametrize("name", ["day's energy", "day's time", "day's flags", "day missing"])
def test_a_wrong_day_is_one_difference(house: House, name: str) -> None:
    house.fill()
    stored = {key: house.scalar(f"SELECT {key} FROM daily {WHERE}") for key in ("wh", "flags")}
    house.change(DAMAGES[name][0])
    (found,) = house.verify()
    assert (found.what, found.where) == (DAMAGES[name][1], DAY)
    if name == "day's energy":
        wh = int(str(stored["wh"]))
        assert str(found) == f"daily.wh, {DAY}: stored {wh + 1}, computed {wh}"
    if name == "day missing":
        assert found.stored == "no row"
        assert found.computed == f"wh={stored['wh']} covered_ms=86400000 flags={stored['flags']}"


@pytest.mark.parametrize("table", ["blocks", "journal"])
def test_octets_that_changed(house: House, table: str) -> None:
    """Of meters whose readings cannot be read nothing more is said."""
    house.fill()
    number = house.scalar(f"SELECT max(id) FROM {table}")
    body = house.scalar(f"SELECT body FROM {table} WHERE id = {number}")
    assert isinstance(body, bytes)
    octets = body[:-1] + bytes([body[-1] ^ 1])
    house.change(f"UPDATE {table} SET body = :body WHERE id = {number}", body=octets)
    (found,) = house.verify()
    place = "block" if table == "blocks" else "journal row"
    assert (found.what, found.where) == (f"{table}.body", f"{place} {number}")
    assert "checksum does not match" in str(found)


def test_a_block_of_other_readings(house: House) -> None:
    """Its octets are whole, but not those that were sealed."""
    house.fill()
    with house.engine.begin() as connection:
        number, body = connection.execute(
            sa.select(schema.blocks.c.id, schema.blocks.c.body).order_by(schema.blocks.c.id)
        ).first() or (0, b"")
        stored = blocks.decode(body)
        stored.value[stored.register == ENERGY_IMPORT] += 1
        stored.late[-1] = 77
        swapped = np.arange(len(stored))
        swapped[:2] = 1, 0
        other = blocks.encode(stored.take(swapped))
        update = schema.blocks.update().where(schema.blocks.c.id == number)
        connection.execute(update.values(body=other))
    found = house.verify()
    order, late = (one for one in found if one.what == "blocks.body")
    assert (order.stored, order.computed) == ("out of order", "sorted")
    assert late.stored == "readings of the journal's row 77"


def test_an_energy_reading_that_is_held_back_is_not_settled(house: House) -> None:
    house.commit([(1, ENERGY_IMPORT, NOW + at * HOUR, 100 + at, 0, 1) for at in range(9)])
    house.commit([(1, ENERGY_IMPORT, NOW + 9 * HOUR, 0, 0, 1)])
    house.sealer.seal_all()
    assert house.verify() == []
    house.change("UPDATE latest SET settled = true")
    (found,) = house.verify()
    assert (found.what, found.where) == ("latest.settled", "meter meter-1 (number 1), register 1")


def test_a_meter_that_alone_is_large(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_meters, "_VALUES_A_WINDOW", 30)
    house.fill()
    assert house.verify() == []
    for name in ("day's energy", "day extra", "latest settled"):
        house.change(DAMAGES[name][0])
    whats = [found.what for found in house.verify()]
    assert sorted(set(whats)) == ["daily", "daily.wh", "latest.settled"]
    assert whats.count("daily.wh") == whats.count("daily") == 1


def test_the_zone_is_that_of_the_collector(house: House) -> None:
    house.fill()
    found, _ = differences(house.database, Defaults(time_zone="UTC"))
    assert {one.what for one in found} == {"meters.daily_zone"}
    assert len(found) == COUNT - 1  # one has a zone of its own


@only_sqlite
def test_a_damaged_file(house: House) -> None:
    house.fill()
    close_writer(house.engine)
    path = database_path(house.database.data)
    octets = bytearray(path.read_bytes())
    page = int.from_bytes(octets[16:18], "big")
    with open_reader(house.database).connect() as connection:
        root = connection.exec_driver_sql(
            "SELECT rootpage FROM sqlite_master WHERE name = 'daily'"
        ).scalar_one()
    octets[(root - 1) * page : root * page] = b"\xff" * page
    path.write_bytes(octets)
    found = house.verify()
    assert found[0].what == "quick_check"
    assert "meters" in {one.what for one in found}
    assert "malformed" in str(found[-1])


def test_nothing_is_written(house: House) -> None:
    house.fill()
    with house.engine.begin() as connection:
        before = watermark.read(connection)
    house.verify()
    with house.engine.begin() as connection:
        assert watermark.read(connection) == before
