"""Deleted meters: gone from every question at once, and their octets from the files."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from storage import blocks, deletion, journal, schema, watermark
from storage.blocks import Stored
from storage.changes import DeleteMeter, ReplaceMeter
from storage.defaults import Defaults
from storage.deletion import Deletions, Stage
from storage.engine import Database, close_writer, open_reader, open_writer
from storage.queries import UnknownMeterError
from storage.sealing import Sealer
from storage.watermark import Watermark
from telemetry.registers import ENERGY_IMPORT
from tests.storage.conftest import MakeDatabase
from tests.storage.handing import put
from tests.storage.test_verify import differences
from tests.storage.test_writer import NOW, Running, readings
from tests.waiting import seconds, undisturbed

HOUR = 3_600_000
MARK = 0x5EC2E7_0FF1CE  # a value whose octets are found in a file
NOTE = "deletion 0000000000"


@pytest.fixture
def running(database: Database) -> Iterator[Running]:
    made = Running(database)
    yield made
    made._looking.close()
    made.close()


@pytest.fixture
def in_files(make_sqlite: MakeDatabase) -> Iterator[Running]:
    made = Running(make_sqlite())
    yield made
    made._looking.close()
    made.close()


@pytest.fixture
def engine(database: Database) -> Iterator[sa.Engine]:
    opened = open_writer(database)
    yield opened
    close_writer(opened)


def found_in_files(data: Path, octets: bytes) -> list[str]:
    files = (file for file in data.rglob("*") if file.is_file())
    return [file.name for file in files if octets in file.read_bytes()]


def note(database: Database, key: str = NOTE) -> deletion.Note:
    reader = open_reader(database)
    try:
        with reader.connect() as connection:
            return deletion.notes(connection)[key]
    finally:
        reader.dispose()


def wait_for(database: Database, key: str = NOTE) -> None:
    deadline = time.monotonic() + 60
    while note(database, key).stage is not Stage.DONE:
        assert time.monotonic() < deadline, note(database, key)
        time.sleep(0.01)


def test_its_octets_are_gone_from_database_and_log(in_files: Running) -> None:
    mark = struct.pack("<q", MARK)
    for number in range(20):  # small rows, and one large enough for pages of its own
        in_files.send(readings([("kept", NOW + number, 0), ("gone", NOW + number, MARK)]))
    many = [("kept", NOW + n, n) for n in range(100, 2000)]
    in_files.send(readings([*many, *(("gone", NOW + n, MARK + n) for n in range(100, 2000))]))
    in_files.change(ReplaceMeter(id="gone", time_ms=NOW, final_wh=MARK, initial_wh=MARK))
    in_files.set("gone", name="Whatever this was")
    in_files.settled()
    kept = in_files.stored("kept")
    in_files._looking.close()
    assert found_in_files(in_files.data, mark)
    assert in_files.change(DeleteMeter(id="gone")) == {"found": True}
    wait_for(in_files.database)
    later = struct.pack("<q", MARK + 1500)
    for octets in (mark, later, b"Whatever this was", b"gone"):
        assert found_in_files(in_files.data, octets) == []
    assert in_files.stored("kept") == kept


def test_a_reader_in_the_way_only_delays_it(in_files: Running) -> None:
    mark = struct.pack("<q", MARK)
    in_files.send(readings([("gone", NOW, MARK), ("kept", NOW, 0)]))
    assert in_files.stored("gone") == [(NOW, MARK)]  # and its snapshot stays open
    in_files.change(DeleteMeter(id="gone"))
    # Commits do not wait for the reader.
    undisturbed(2, lambda: seconds(lambda: in_files.send(readings([("kept", NOW + 1, 2)]))))
    assert note(in_files.database).stage is not Stage.DONE
    assert found_in_files(in_files.data, mark)
    in_files._looking.close()
    wait_for(in_files.database)
    assert found_in_files(in_files.data, mark) == []


def test_readers_forget_it_at_once(running: Running) -> None:
    running.send(readings([("gone", NOW, 1), ("kept", NOW, 1)]))
    assert running.reader.readings() == 2
    running.change(DeleteMeter(id="gone"))
    reader = running.reader
    assert reader.readings() == 1
    assert [meter.id for meter in reader.meters("", "", 10)] == ["kept"]
    with pytest.raises(UnknownMeterError):
        reader.meter("gone")


def test_numbers_are_never_given_again(running: Running) -> None:
    first, second = running.set("first"), running.set("second")
    assert running.change(DeleteMeter(id="second")) == {"found": True}
    running.restart()
    running.send(readings([("second", NOW, 7), ("first", NOW, 3)]))
    reader = running.reader
    assert reader.meter("first").number == first
    assert reader.meter("second").number == second + 1
    assert running.stored("second") == [(NOW, 7)]


def test_a_meter_that_goes_on_sending_is_a_new_one(running: Running) -> None:
    running.send(readings([("a", NOW - 9, 1), ("b", NOW, 2), ("a", NOW + 1, 3)]))
    running.change(DeleteMeter(id="a"))
    running.send(readings([("a", NOW + 2, 4), ("b", NOW + 2, 5)]))
    assert running.stored("a") == [(NOW + 2, 4)]
    assert running.stored("b") == [(NOW, 2), (NOW + 2, 5)]
    running._looking.close()  # the log is cut off once nobody reads it
    wait_for(running.database)
    assert differences(running.database, running.defaults)[0] == []
    running.restart()
    assert running.stored("a") == [(NOW + 2, 4)]
    assert running.stored("b") == [(NOW, 2), (NOW + 2, 5)]


def test_deleted_while_its_limit_waits_to_be_looked_at(running: Running) -> None:
    for number in range(30):
        sent = [(f"m{n}", NOW + number * HOUR, number * 10**9) for n in range(50)]
        put(running.receiver, readings(sent))
        running.deliver()
        running.change(DeleteMeter(id=f"m{number}"))
    running.settled()
    assert running.failure is None
    assert {alert.meter.id for alert in running.published.alerts} >= {"m30", "m49"}


def test_it_is_taken_up_again_by_the_next_writer(engine: sa.Engine) -> None:
    fill(engine)
    with engine.begin() as connection:
        deletion.delete(connection, 1, 2)
    for _ in range(200):  # each time a new one: what it knows is what is stored
        deletions = learned(engine)
        if not deletions.waiting:
            break
        deletions.work(0)
    else:
        pytest.fail("it never ended")
    with engine.connect() as connection:
        assert journal_readings(connection) == [(0, 1), (2, 1)] * 5
        assert block_readings(connection) == [(0, 10), (2, 10), (8, 3)]
        assert watermark.read(connection).values == 23
        assert connection.execute(sa.select(schema.journal.c.readings)).scalars().all() == [2] * 5


def learned(engine: sa.Engine) -> Deletions:
    deletions = Deletions(engine.begin, engine)
    with engine.begin() as connection:
        deletions.learn(connection)
    return deletions


def fill(engine: sa.Engine) -> None:
    """Five rows of the journal and four blocks: of meters 0 to 2, of 8, and of 1 alone."""
    with engine.begin() as connection:
        for number in range(5):
            batch = journal.Batch(
                np.arange(3, dtype=np.uint32),
                np.full(3, ENERGY_IMPORT, np.uint16),
                np.zeros(3, np.uint16),
                np.ones(3, np.uint32),
                np.full(3, NOW + number),
                np.arange(3) + number,
            )
            row = {"id": number + 1, "committed_ms": NOW, "first_ms": NOW, "last_ms": NOW + 5}
            body = journal.encode(batch)
            connection.execute(schema.journal.insert().values(**row, readings=3, body=body))
        groups = [(4, 0, [0, 1, 2], 10), (2, 2, [8], 3), (0, 1, [1], 4), (0, 2, [2], 0)]
        for number, (shift, group, numbers, count) in enumerate(groups):
            if count:
                add_block(connection, number, shift, group, numbers, count)
        watermark.write(connection, Watermark(shifts=0b10101, values=10 * 3 + 3 + 4))
        add_rows(connection)


def add_block(
    connection: sa.Connection, id: int, shift: int, group: int, numbers: list[int], count: int
) -> None:
    size = len(numbers) * count
    stored = Stored(
        np.repeat(np.array(numbers, np.uint32), count),
        np.full(size, ENERGY_IMPORT, np.uint16),
        np.zeros(size, np.uint16),
        np.ones(size, np.uint32),
        np.tile(NOW - 1000 + np.arange(count, dtype=np.int64), len(numbers)),
        np.arange(size, dtype=np.int64),
        np.zeros(size, np.int64),
    )
    connection.execute(
        schema.blocks.insert().values(
            id=id,
            shift=shift,
            grp=group,
            first_ms=NOW - 1000,
            last_ms=NOW,
            readings=size,
            lasting=True,
            body=blocks.encode(stored),
        )
    )


def add_rows(connection: sa.Connection) -> None:
    days = [*range(20231230, 20231232), *range(20240101, 20240132)]
    connection.execute(
        schema.daily.insert(),
        [
            {"day": day, "meter": meter, "wh": 1, "covered_ms": 1, "flags": 0}
            for day in days
            for meter in (0, 1, 2)
        ],
    )


def journal_readings(connection: sa.Connection) -> list[tuple[int, int]]:
    rows = connection.execute(sa.select(schema.journal.c.body).order_by(schema.journal.c.id))
    return [(int(meter), 1) for (body,) in rows for meter in journal.decode(body).meter]


def block_readings(connection: sa.Connection) -> list[tuple[int, int]]:
    rows = connection.execute(sa.select(schema.blocks.c.body, schema.blocks.c.readings))
    found: list[int] = []
    for body, count in rows:
        stored = blocks.decode(body)
        assert len(stored) == count
        found += stored.meter.tolist()
    return [(meter, found.count(meter)) for meter in sorted(set(found))]


def test_sealed_and_half_sealed(running: Running) -> None:
    """Blocks, and a pass of sealing that is under way, lose the meter as the journal does."""
    mark = struct.pack("<q", MARK)
    names = [f"m{number:04d}" for number in range(3000)]
    for number in range(4):
        put(running.receiver, readings([(name, NOW + number, number) for name in names]))
        running.deliver()
    running.send(readings([("m0001", NOW + 9, MARK), ("m2999", NOW + 9, MARK)]))
    running.settled()
    kept = {name: running.stored(name) for name in ("m0000", "m0002", "m1500", "m2998")}
    gone = {running.reader.meter(name).number for name in ("m0001", "m2999")}
    running._looking.close()
    running.stop()
    engine = open_writer(running.database)
    sealer = Sealer(engine.begin, Defaults())
    with engine.begin() as connection:
        sealer.learn(connection)
    sealer._slice_values = 1000
    sealer.begin()
    sealer.step(NOW)
    reached = sealer._watermark
    assert 0 < reached.below < len(names)
    close_writer(engine)
    running.start()
    for name in ("m0001", "m2999"):
        assert running.change(DeleteMeter(id=name)) == {"found": True}
    for number in (0, 1):
        wait_for(running.database, f"deletion {number:010d}")
    if running.database.url is None:
        assert found_in_files(running.data, mark) == []
    for name, stored in kept.items():
        assert running.stored(name) == stored
    running._looking.close()
    running.stop()
    engine = open_writer(running.database)
    sealer = Sealer(engine.begin, Defaults())
    with engine.begin() as connection:
        sealer.learn(connection)
    sealer.seal_all()
    with engine.connect() as connection:
        sealed = dict(block_readings(connection))
        assert gone.isdisjoint(sealed)
        total = sum(sealed.values())
        assert total == watermark.read(connection).values == 4 * (len(names) - 2)
        assert connection.execute(sa.select(schema.journal.c.id)).all() == []
    close_writer(engine)
    running.start()
    for name, stored in kept.items():
        assert running.stored(name) == stored


def test_a_damaged_row_is_left_alone(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    fill(engine)
    with engine.begin() as connection:
        third = schema.journal.c.id == 3
        connection.execute(schema.journal.update().where(third).values(body=b"damaged"))
        deletion.delete(connection, 1, 2)
    learned(engine).work(5.0)
    assert "from row 3" in caplog.text
    with engine.connect() as connection:
        assert deletion.notes(connection)[NOTE].stage is Stage.DONE
        assert block_readings(connection) == [(0, 10), (2, 10), (8, 3)]


def test_rows_of_other_meters_stay(engine: sa.Engine) -> None:
    fill(engine)
    with engine.begin() as connection:
        deletion.delete(connection, 1, 2)
    with engine.connect() as connection:
        left = connection.execute(sa.select(schema.daily.c.meter)).scalars().all()
        assert (left.count(0), left.count(1), left.count(2)) == (33, 0, 33)
        assert deletion.highest(connection) == 2


def test_the_database_refuses_for_a_while(make_sqlite: MakeDatabase) -> None:
    database = make_sqlite()
    engine = open_writer(database)
    fill(engine)
    with engine.begin() as connection:
        deletion.delete(connection, 1, 2)
    deletions = learned(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    other = sa.create_engine(f"sqlite:///{database.data}/wattbus.sqlite3")
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        deletions.work(1.0)
        assert not deletions.waiting, "it would be tried again at once, for ever"
        connection.rollback()
    other.dispose()
    assert deletions.numbers == {1}
    time.sleep(1.1)
    deletions.work(5.0)
    assert deletions.numbers == set()
    close_writer(engine)
