"""The writer with a real database and a real endpoint: what is durable, when, and what it says."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from storage import handover, journal, schema
from storage.changes import Change, ChangeMeter, ReplaceMeter
from storage.defaults import Defaults
from storage.energy import energy_curve
from storage.engine import Database, StorageError, database_path, open_reader, open_writer
from storage.handover import Handover
from storage.limit_watch import LimitAlert
from storage.queries import Reader
from storage.writer import Writer
from telemetry import meter_id
from telemetry.datagrams import Envelopes, Mark
from telemetry.readings import Readings
from telemetry.registers import BY_CODE, ENERGY_IMPORT
from tests.storage.conftest import MakeDatabase, only_sqlite
from tests.storage.handing import put
from tests.waiting import PATIENCE, seconds, undisturbed, wait_until

ROOT = Path(__file__).parent.parent.parent
NOW = 1_760_000_000_000  # 2025-10-09T08:53:20Z
ENERGY = BY_CODE[ENERGY_IMPORT]
Sent = tuple[str, int, int]  # a meter's id, the instant, the energy register


def readings(
    sent: Sequence[Sent], *, epoch: int = 1, register: int = ENERGY_IMPORT, status: int = 0
) -> Readings:
    halves = np.array(
        [meter_id.halves(meter_id.to_octets(name)) for name, _, _ in sent], np.uint64
    ).reshape(-1, 2)
    return Readings(
        halves[:, 0].copy(),
        halves[:, 1].copy(),
        np.full(len(sent), epoch, np.uint32),
        np.full(len(sent), register, np.uint16),
        np.full(len(sent), status, np.uint16),
        np.array([time_ms for _, time_ms, _ in sent], np.int64),
        np.array([value for _, _, value in sent], np.int64),
    )


class Published:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.alerts: list[LimitAlert] = []

    def heard(self) -> bool:
        return True

    def readings(self, readings: Readings) -> None:
        self.values += readings.value.tolist()

    def alert(self, alert: LimitAlert) -> None:
        self.alerts.append(alert)


class Running:
    """A writer in a thread, a receiver's half that hands over to it, and a reader beside it."""

    def __init__(self, database: Database | Path, defaults: Defaults | None = None) -> None:
        self.database = database if isinstance(database, Database) else Database(database)
        self.data = self.database.data
        self.endpoint = f"ipc://{self.data.parent}/writer"
        self.defaults = defaults or Defaults()
        self.published = Published()
        self.receiver = Handover(self.endpoint, lambda waiting: b'{"waiting":%d}' % waiting)
        self._asking = handover.dealer(self.endpoint)
        self._reader: Reader | None = None
        self._looking = ExitStack()
        self.failure: BaseException | None = None
        self.calm = 0.0  # seconds, of the next writer
        self.start()

    def start(self) -> None:
        self.writer = Writer(self.database, self.endpoint, self.defaults, self.published)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.writer.run(self._stop, self.calm)
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        self._looking.close()  # a writer that closes waits for SQLite's readers
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self.receiver._socket.close()
        self._asking.close()
        if self._reader is not None:
            self._reader.close()

    def send(self, *batches: Readings) -> None:
        """Hand batches over, each a commit of its own, and wait until they are durable."""
        for batch in batches:
            put(self.receiver, batch)
            self.deliver()

    def deliver(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while self.receiver.undelivered:
            assert time.monotonic() < deadline, "not confirmed in time"
            assert self.failure is None
            self.receiver.tick()
            time.sleep(0.001)

    def ask(self, kind: bytes, body: bytes = b"") -> Any:
        """A question to the writer and its answer."""
        self._asking.send_multipart([kind, b"tag", body])
        assert self._asking.poll(60_000), "no answer"
        said, tag, answer = self._asking.recv_multipart()
        assert (said, tag) == (handover.ANSWER, b"tag")
        return msgspec.json.decode(answer)

    def change(self, change: Change) -> Any:
        return self.ask(handover.CHANGE, msgspec.json.encode(change))

    def set(self, id: str, **settings: Any) -> int:
        answer = self.change(ChangeMeter(id=id, add=True, **settings))
        number: int = answer["number"]
        return number

    def settled(self) -> None:
        """Wait until no meter is left to be looked at for its limit."""
        deadline = time.monotonic() + 60
        while self.writer._watch.waiting:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        self.ask(handover.STATUS)  # the same thread has finished what it was at

    @property
    def reader(self) -> Reader:
        """A reader that sees what is committed by now, until this is asked for again."""
        if self._reader is None:
            self._reader = Reader(self.database)
        self._looking.close()
        self._looking.enter_context(self._reader.snapshot())
        return self._reader

    def stored(self, id: str) -> list[tuple[int, int]]:
        """Instant and register of each reading stored of a meter, by acceptance."""
        reader = self.reader
        series = reader.series(reader.meter(id), ENERGY)
        return list(zip(series.time.tolist(), series.value.tolist(), strict=True))


@pytest.fixture
def make_running(make_database: MakeDatabase) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(defaults: Defaults | None = None) -> Running:
        made.append(Running(make_database(), defaults))
        return made[-1]

    yield make
    for running in made:
        running.close()


@pytest.fixture
def running(make_running: Callable[..., Running]) -> Running:
    return make_running()


# What is committed


def test_datagrams_of_which_nothing_is_stored_are_counted(running: Running) -> None:
    """As a thinned listener hands them over: alone, beside others, and the held reading later."""
    running.send(readings([("a", NOW, 0)]))
    commits = running.ask(handover.STATUS)["commits"]
    none, held = readings([]), readings([("a", NOW + 9, 7)])
    three = Envelopes.unnumbered(readings([("a", NOW, 0)] * 3), np.arange(3))
    empty = replace(three, count=np.zeros(3, np.uint16))
    running.receiver.put(empty, none)
    deadline = time.monotonic() + 60
    while running.ask(handover.STATUS)["commits"] == commits:
        running.receiver.tick()
        assert time.monotonic() < deadline
    uncounted = Envelopes.unnumbered(held, np.arange(1), Mark.UNCOUNTED)
    running.receiver.put(Envelopes.concatenate([empty, uncounted, empty]), held)
    running.deliver()
    running.restart()
    assert running.stored("a") == [(NOW, 0), (NOW + 9, 7)]
    assert running.published.values == [0, 7]
    totals = running.ask(handover.LOSS, b'{"number":null,"most":9,"skip":0}')["totals"]
    # The first, which was read long ago, and three times three without readings.
    assert [totals[name] for name in ("received", "unique", "late")] == [10, 10, 1]


def test_visible_within_200_ms(running: Running) -> None:
    running.send(readings([("a", NOW, 0)]))
    numbers = itertools.count(1)

    def visible() -> None:
        number = next(numbers)
        put(running.receiver, readings([("a", NOW + number, number)]))

        def there() -> bool:
            running.receiver.tick()
            return (NOW + number, number) in running.stored("a")

        wait_until(there, pause=0.002)

    undisturbed(0.2, lambda: statistics.median(seconds(visible) for _ in range(15)))


def test_what_gathers_is_one_commit(running: Running) -> None:
    batches = 20
    for number in range(batches):
        put(running.receiver, readings([("a", NOW + number, number)]))
        running.receiver._send(time.monotonic())
    running.deliver()
    assert len(running.stored("a")) == batches
    status = running.ask(handover.STATUS)
    assert status["readings"] == batches
    assert status["commits"] < batches / 2
    assert running.published.values == list(range(batches))


def test_status_counts(make_running: Callable[..., Running]) -> None:
    began = time.time() * 1000
    running = make_running()
    empty = running.ask(handover.STATUS)
    assert (empty["readings"], empty["commits"], empty["commit_ms"]) == (0, 0, 0.0)
    assert began - 1 <= empty["started_ms"] <= time.time() * 1000 + 1
    running.send(readings([("a", NOW, 1), ("b", NOW, 2)]), readings([("a", NOW, 1)]))
    status = running.ask(handover.STATUS)
    assert (status["readings"], status["commits"]) == (3, 2)
    assert 0 < status["commit_ms"] < time.time() * 1000 - began
    assert status["started_ms"] == empty["started_ms"]
    assert len(status["receivers"]) == 1
    assert set(status["receivers"][0]) == {"waiting"}


def test_a_row_of_the_journal_says_what_is_in_it(running: Running) -> None:
    running.send(readings([("b", NOW + 7, 3), ("a", NOW - 5, 1), ("b", NOW, 2)]))
    running.send(readings([("c", NOW, 9)]))
    running.stop()
    engine = open_reader(running.database)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(schema.journal).order_by(schema.journal.c.id)).all()
    engine.dispose()
    assert [row[0] for row in rows] == [1, 2]
    _, committed, first, last, count, body = rows[0]
    assert abs(committed - time.time() * 1000) < 20_000
    assert (first, last, count) == (NOW - 5, NOW + 7, 3)
    batch = journal.decode(body)
    assert len(batch) == 3
    # Of one series in the order of arrival.
    by_meter = {
        number: batch.value[batch.meter == number].tolist() for number in set(batch.meter.tolist())
    }
    assert sorted(by_meter.values()) == [[1], [3, 2]]
    running.start()


def test_a_restart_goes_on_where_the_last_writer_ended(running: Running) -> None:
    running.send(readings([("a", NOW, 1), ("b", NOW, 2)]))
    numbers = {name: running.reader.meter(name).number for name in "ab"}
    running.restart()
    running.send(readings([("c", NOW, 3), ("b", NOW + 1, 4), ("a", NOW + 1, 5)]))
    assert running.stored("a") == [(NOW, 1), (NOW + 1, 5)]
    assert running.stored("b") == [(NOW, 2), (NOW + 1, 4)]
    assert {name: running.reader.meter(name).number for name in "ab"} == numbers
    assert running.reader.meter("c").number == 3


def test_a_batch_that_is_committed_twice_counts_once(running: Running) -> None:
    batch = readings([("a", NOW + 60_000 * n, 100 * n) for n in range(50)])
    running.send(batch)
    running.restart()
    running.send(batch)
    assert len(running.stored("a")) == 100
    reader = running.reader
    curve = energy_curve(reader, reader.meter("a"))
    assert len(curve.time) == 50
    assert curve.energy[-1] == 4900


def test_many_new_meters_in_one_commit(running: Running) -> None:
    names = [f"fleet-{n}" for n in range(5000)]
    running.send(readings([(name, NOW, n) for n, name in enumerate(names + names[::-1])]))
    reader = running.reader
    assert reader.meter_count() == 5000
    assert running.stored("fleet-17") == [(NOW, 17), (NOW, 10_000 - 1 - 17)]
    assert sorted(meter.number for meter in reader.meters("", "", 10_000)) == list(range(1, 5001))


# Changes of the registry


def test_a_meter_that_is_added_first_keeps_its_number(running: Running) -> None:
    number = running.set("kitchen", name="The kitchen")
    running.send(readings([("other", NOW, 1), ("kitchen", NOW, 2)]))
    meter = running.reader.meter("kitchen")
    assert (meter.number, meter.name) == (number, "The kitchen")
    assert running.stored("kitchen") == [(NOW, 2)]
    assert running.set("kitchen", name=None) == number
    assert running.reader.meter("kitchen").name is None


LONG = "the-meter-in-the-cellar-of-the-house-at-the-corner"


def test_a_long_name_that_came_as_its_uuid_first(running: Running) -> None:
    running.send(readings([(LONG, NOW, 1)]))
    shown = running.reader.meter(LONG)
    assert shown.id == meter_id.to_name(meter_id.to_octets(LONG))
    assert running.set(LONG) == shown.number
    assert running.reader.meter(shown.id).id == LONG
    # Asked for by its UUID it keeps its name.
    assert running.set(shown.id.upper(), name="x") == shown.number
    assert running.reader.meter(shown.id).id == LONG


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (ChangeMeter(id="nobody", name="x"), "unknown_meter", "there is no meter 'nobody'"),
        (ReplaceMeter("nobody", NOW, 1, 1), "unknown_meter", "there is no meter 'nobody'"),
        (ChangeMeter(id="b\xe4d", add=True), "bad_request", "is no meter id"),
        (ReplaceMeter("", NOW, 1, 1), "bad_request", "is no meter id"),
        (ChangeMeter(id="a", time_zone="Mars/Base"), "bad_request", "is no IANA time zone"),
        (ChangeMeter(id="a", limit_wh=-1), "bad_request", "limit_wh is 0 to"),
        (ChangeMeter(id="a", modulus_wh=0), "bad_request", "modulus_wh is 1 to"),
        (ReplaceMeter("a", NOW, -1, 1), "bad_request", "final is 0 to"),
    ],
)
def test_a_change_that_is_refused(running: Running, change: Change, code: str, said: str) -> None:
    running.set("a")
    error = running.change(change)["error"]
    assert error["code"] == code
    assert said in error["message"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"type":"change_meter"}', b"\xff"])
def test_a_change_that_is_none(running: Running, body: bytes) -> None:
    assert running.ask(handover.CHANGE, body)["error"]["code"] == "bad_request"
    running.set("a")


@pytest.mark.parametrize("version", [0, 4])
def test_a_uuid_that_no_device_has(running: Running, version: int) -> None:
    """It is a name like any other; registering it again and again harms nobody."""
    name = f"00000000-0000-{version}000-0000-000000000000"
    for _ in range(3):
        assert running.set(name) == 1
    assert running.reader.meter(name).id == name
    assert running.set("a") == 2


def test_every_change_may_be_repeated(running: Running) -> None:
    for _ in range(3):
        assert running.set("a", limit_wh=5, price="0.25", max_power_w=7) == 1
        assert running.change(ReplaceMeter("a", NOW, 10, 2)) == {"number": 1}
    reader = running.reader
    meter = reader.meter("a")
    assert (meter.limit_wh, str(meter.price), meter.max_power_w) == (5, "0.25", 7)
    assert len(reader.replacements(meter)) == 1


# The database; SQLite's own here, PostgreSQL's own in test_postgresql.py


def test_what_makes_a_commit_durable(tmp_path: Path) -> None:
    engine = open_writer(Database(tmp_path))
    with engine.connect() as connection:
        for pragma, value in (
            ("journal_mode", "wal"),
            ("synchronous", 2),  # FULL
            ("busy_timeout", 5000),
        ):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
        assert engine.pool.status().startswith("Pool size: 1 ")  # it alone also checkpoints
    engine.dispose()


def test_a_reader_cannot_write(running: Running) -> None:
    engine = open_reader(running.database)
    with (
        engine.connect() as connection,
        pytest.raises(sa.exc.DBAPIError, match=r"readonly|read-only"),
    ):
        connection.execute(schema.info.insert().values(key="x", value="y"))
    engine.dispose()


def test_there_is_no_reader_before_there_is_a_database(database: Database) -> None:
    with pytest.raises(StorageError, match="start the writer first"):
        open_reader(database)


def hold(running: Running, seconds: float) -> threading.Thread:
    """Another program keeps the SQLite database's write lock."""
    locked = threading.Event()

    def keep() -> None:
        connection = sqlite3.connect(database_path(running.data), isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        locked.set()
        time.sleep(seconds)
        connection.execute("ROLLBACK")
        connection.close()

    thread = threading.Thread(target=keep)
    thread.start()
    assert locked.wait(PATIENCE)
    return thread


@pytest.mark.parametrize("seconds", [3.0, 6.5])  # within the busy timeout, and beyond it
@only_sqlite
def test_a_locked_database(
    running: Running, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL has no lock of the whole database."""
    running.send(readings([("a", NOW, 1)]))
    began = time.monotonic()
    other = hold(running, seconds)
    sent = 0
    while other.is_alive():
        sent += 1
        put(running.receiver, readings([("a", NOW + sent, 1 + sent), (f"b-{sent}", NOW, sent)]))
        running.receiver.tick()
        found = running.receiver.undelivered, len(running.stored("a"))
        if time.monotonic() - began < seconds:  # it was locked all along
            assert found == (2 * sent, 1)
        time.sleep(0.02)
    other.join()
    running.deliver()
    assert running.stored("a") == [(NOW + n, 1 + n) for n in range(sent + 1)]
    assert all(running.stored(f"b-{n}") == [(NOW, n)] for n in range(1, sent + 1))
    said = [record.getMessage() for record in caplog.records if record.name == "writer"]
    if seconds > 5:
        assert said[0].startswith("cannot commit, keeping ")
        assert "database is locked" in said[0]


# The program


def wattbus(data: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "cli", *words, "--data", str(data), "--live-port", "0"]


def refusal(data: Path) -> str:
    """What ``wattbus writer`` says when it ends with 2."""
    done = subprocess.run(
        wattbus(data, "writer"), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    said = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert said.startswith("wattbus: ")
    return said


def test_a_second_writer(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = subprocess.Popen(wattbus(data, "writer"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert first.stderr is not None
        assert f"writing to {data}" in first.stderr.readline()
        assert refusal(data) == (
            f"wattbus: another wattbus writes to {data} already: stop it, or choose another --data"
        )
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(PATIENCE) == 0
        if first.stderr is not None:
            first.stderr.close()


def test_a_database_of_a_newer_schema(tmp_path: Path) -> None:
    engine = open_writer(Database(tmp_path))
    with engine.begin() as connection:
        newer = schema.info.update().where(schema.info.c.key == "schema").values(value="99")
        connection.execute(newer)
        connection.execute(sa.text("drop table alerts"))
    engine.dispose()
    said = refusal(tmp_path)
    assert "has schema 99, newer than this Wattbus knows" in said
    assert "install the newer Wattbus again, or restore a backup" in said
    with pytest.raises(StorageError, match="schema 99"):
        open_reader(Database(tmp_path))
    with sqlite3.connect(database_path(tmp_path)) as plain:  # nothing was changed
        assert not plain.execute("select 1 from sqlite_master where name = 'alerts'").fetchall()
    plain.close()


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refusal(tmp_path / "file")
    assert "(--data): " in refusal(tmp_path / "file" / "below")


def test_a_directory_that_only_reads() -> None:
    """Root may write anywhere but here."""
    assert "cannot write to /sys/wattbus (--data): " in refusal(Path("/sys/wattbus"))


def test_what_is_no_database(tmp_path: Path) -> None:
    database_path(tmp_path).write_bytes(b"no database" * 1000)
    assert "file is not a database" in refusal(tmp_path)
    database_path(tmp_path).unlink()
    database_path(tmp_path).mkdir()
    assert "unable to open database file" in refusal(tmp_path)
