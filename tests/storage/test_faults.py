"""Full disks, locks, damage, other programs: nothing confirmed is lost, nothing else confirmed."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from cli.config import Config
from query.client import Client
from query.messages import Status
from storage import handover, schema, sqlite
from storage import wal as wal_module
from storage.changes import ChangeMeter
from storage.defaults import Defaults
from storage.engine import Database, database_path, open_writer
from storage.queries import Reader
from storage.wal import LIMIT, WalGuard
from telemetry import intervals, meter_id
from telemetry.readings import Readings
from telemetry.registers import ENERGY_IMPORT
from tests.cli.test_serve import Stream, all_are_stored, datagram, expected, part, stored
from tests.conftest import ROOT, Stack
from tests.storage.handing import put
from tests.storage.test_writer import ENERGY, NOW, Running, readings
from tests.waiting import PATIENCE, wait_until

MakeStack = Callable[..., Stack]
MakeRunning = Callable[..., Running]


@pytest.fixture
def make_running(tmp_path: Path) -> Iterator[MakeRunning]:
    made: list[Running] = []

    def make(defaults: Defaults | None = None) -> Running:
        made.append(Running(tmp_path / "data", defaults))
        return made[-1]

    yield make
    for running in made:
        running.close()


@pytest.fixture
def running(make_running: MakeRunning) -> Running:
    return make_running()


def set_pragmas(monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    """Other settings of the connections that write."""
    pragmas = (pragma.split(" = ") for pragma in sqlite._WRITER_PRAGMAS)
    changed = (
        f"{name} = {values.get(name.removeprefix('PRAGMA '), value)}" for name, value in pragmas
    )
    monkeypatch.setattr(sqlite, "_WRITER_PRAGMAS", tuple(changed))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer waits half a second for others' locks; five is tested in test_writer.py."""
    set_pragmas(monkeypatch, busy_timeout=500)


@contextmanager
def file_limit(octets: int, pid: int = 0) -> Iterator[None]:
    """Writes beyond so many octets of any file fail; Python ignores the signal."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # killed meanwhile
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def page_limit(running: Running) -> Iterator[None]:
    """The writer's database may have no more pages: SQLite itself says that the disk is full."""

    def set_limit(pages: int) -> None:
        connection = running.writer._engine.raw_connection()
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        connection.close()

    set_limit(1)  # as many as there are
    try:
        yield
    finally:
        set_limit(2**31)


@contextmanager
def locked(data: Path, begin: str) -> Iterator[None]:
    """Another program keeps the database's lock."""
    with closing(sqlite3.connect(database_path(data), isolation_level=None)) as other:
        other.execute(begin)
        yield
        other.execute("ROLLBACK")


def said(caplog: pytest.LogCaptureFixture, name: str = "writer") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


def feed(running: Running, seconds: float, first: int) -> int:
    """Hand readings over for a while, a hundred times at least; the next number."""
    deadline, least = time.monotonic() + seconds, first + 100
    while time.monotonic() < deadline or first < least:
        batch = [("a", NOW + first, first), (f"new-{first % 50}", NOW + first, first)]
        put(running.receiver, readings(batch))
        running.receiver.tick()
        first += 1
        time.sleep(0.005)
    return first


# Nothing is lost


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("file limit", "the disk takes no more, or fails: make room, or look at the disk"),
        ("page limit", "the disk is full: make room (database or disk is full)"),
        ("BEGIN IMMEDIATE", "another program keeps the database locked: end it"),
        ("BEGIN EXCLUSIVE", "another program keeps the database locked: end it"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_database_that_refuses(
    make_running: MakeRunning, caplog: pytest.LogCaptureFixture, fault: str, words: str
) -> None:
    caplog.set_level(logging.INFO)
    running = make_running()
    running.send(*(readings([("a", NOW + n, n)]) for n in range(20)))
    # Not in the writer's way: it would keep the log from being begun anew.
    running._looking.close()
    faults = {"file limit": lambda: file_limit(4096), "page limit": lambda: page_limit(running)}
    with faults.get(fault, lambda: locked(running.data, fault))():
        begun, deadline = feed(running, 1.0, 20), time.monotonic() + PATIENCE
        while not running.ask(handover.STATUS)["trouble"]:  # a little may fit into free pages
            assert time.monotonic() < deadline
            begun = feed(running, 0.2, begun)
        begun = feed(running, 1.0, begun)  # and is confirmed meanwhile
        confirmed = running.stored("a")
        waiting, published = running.receiver.undelivered, len(running.published.values)
        assert waiting == 2 * (begun - len(confirmed)) > 100
        last = feed(running, 3.0, begun)
        assert running.receiver.undelivered == waiting + 2 * (last - begun)
        assert running.stored("a") == confirmed
        assert len(running.published.values) == published == len(confirmed) * 2 - 20
        running._looking.close()
        assert words in running.ask(handover.STATUS)["trouble"]
        if fault != "page limit":  # there a little fits
            refused = running.change(ChangeMeter(id="b", add=True))["error"]
            assert refused["code"] == "unavailable"
            assert words in refused["message"]
    running.deliver(20)
    assert running.stored("a") == [(NOW + n, n) for n in range(last)]
    assert running.ask(handover.STATUS)["trouble"] is None
    assert sum(len(running.stored(f"new-{n}")) for n in range(50)) == last - 20
    lines = said(caplog)
    assert [words in line for line in lines] == [True, False]  # once
    assert lines[0].startswith("cannot commit, keeping ")
    assert lines[1] == "committing again"
    assert running.set("b")
    running.restart()
    assert len(running.stored("a")) == last


def test_a_disk_full_for_the_writer_of_a_collector(make_stack: MakeStack) -> None:
    """And memory stays bounded: what is not taken waits at the receiver."""
    stack = make_stack()
    stream = Stream(stack, "a", 2000)
    stack.wait_until(lambda client: client.status().readings > 1000)
    writer = part(stack, "writer")
    with file_limit(4096, writer.pid):
        stack.wait_until(lambda client: getattr(client.status().writer, "trouble", None))
        with stack.client() as client:
            before = client.status().readings
        memory = writer.memory_info().rss

        def many_wait(client: Client) -> Status | None:
            status = client.status()
            reports = status.writer.receivers if status.writer else []
            return status if any(report.waiting > 6000 for report in reports) else None

        status = stack.wait_until(many_wait)
        assert status is not None
        assert status.readings == before
        assert status.writer is not None
        assert "the disk takes no more" in (status.writer.trouble or "")
        assert status.writer.receivers[0].waiting > 4000
        assert "the disk takes no more" in stack.cli("status").stdout
        assert writer.memory_info().rss - memory < 8 * 2**20
    sent = stream.stop()
    all_are_stored(stack, "a", sent)
    assert stack.log.read_text().count("cannot commit") == 1
    assert "Traceback" not in stack.log.read_text()


def test_killed_while_the_disk_is_full(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.send([datagram("a", number) for number in range(100)])
    all_are_stored(stack, "a", 100)
    writer = part(stack, "writer")
    with file_limit(4096, writer.pid):
        stack.send([datagram("a", number) for number in range(100, 200)])
        said_so = "cannot commit, keeping "
        wait_until(lambda: said_so in stack.log.read_text())
        writer.kill()
        writer.wait(60)
    all_are_stored(stack, "a", 200)


def test_what_is_turned_away_does_not_gather(running: Running) -> None:
    """A receiver without answers repeats its oldest batch each second: forgotten each time."""
    running.send(readings([("a", NOW, 0)]))
    with page_limit(running):
        large = readings([("a", NOW + n, n) for n in range(1, 16_001)])
        put(running.receiver, large)
        feed(running, 1.0, 20_000)
        before = psutil.Process().memory_info().rss
        for _ in range(300):
            running.receiver._send_from(1)
            running.receiver.tick()
            time.sleep(0.005)
        time.sleep(1.5)
        assert psutil.Process().memory_info().rss - before < 60 * 2**20  # of 300 x 0.6 MB and more
    running.deliver(20)
    assert len(running.stored("a")) > 16_000


# Limit alerts


def test_a_disk_full_at_the_commit_of_an_alert(
    make_running: MakeRunning, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = make_running(Defaults(limit_wh=1000))
    running.writer._settle_after = float("inf")
    running.send(readings([("a", NOW, 0)]), readings([("a", NOW + 60_000, 5000)]))
    reached: list[str] = []
    event.listen(running.writer._engine, "commit", lambda _: reached.append("commit"))
    with file_limit(4096):
        running.writer._settle_after = 0.0
        wait_until(lambda: len(reached) >= 2)  # it came as far as that, and tried again
        wait_until(lambda: running.ask(handover.STATUS)["trouble"])
        assert running.published.alerts == []
        assert running.reader.alerts(None, None, 10) == []
        assert "cannot look for crossed limits" in running.ask(handover.STATUS)["trouble"]
    wait_until(lambda: running.published.alerts)
    running.settled()
    assert len(running.published.alerts) == 1
    assert [row.energy_wh for row in running.reader.alerts(None, None, 10)] == [5000]
    lines = said(caplog)
    assert [line.startswith("cannot look for crossed limits: ") for line in lines] == [True, False]
    assert lines[1] == "looking for crossed limits again"


@pytest.mark.parametrize("where", ["statement", "commit"])
def test_the_connection_is_sound_after_a_failure(tmp_path: Path, where: str) -> None:
    """No transaction is left open, none of its rows is there, and the next one works."""
    engine = open_writer(Database(tmp_path))
    table = schema.info
    # More than the cache holds is written out before the commit.
    size = 40 * 2**20 if where == "statement" else 10
    row = {"id": 1, "committed_ms": 0, "first_ms": 0, "last_ms": 0, "readings": 0}
    failed = ""
    with file_limit(200_000 if where == "statement" else 4096):
        try:
            with engine.begin() as connection:
                connection.execute(table.insert().values(key="x", value="y"))
                connection.execute(schema.journal.insert().values(**row, body=bytes(size)))
                failed = "commit"
        except sa.exc.OperationalError:
            failed = failed or "statement"
    assert failed == where
    raw = engine.raw_connection()
    assert raw.dbapi_connection is not None
    assert not raw.dbapi_connection.in_transaction
    raw.close()
    with engine.begin() as connection:
        assert connection.execute(sa.select(table.c.key)).scalars().all() == ["schema"]
        connection.execute(schema.journal.insert().values(**row, body=b"z"))
    engine.dispose()
    with closing(sqlite3.connect(database_path(tmp_path))) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert plain.execute("SELECT body FROM journal").fetchall() == [(b"z",)]


# The write-ahead log


def wal(data: Path) -> int:
    return Path(f"{database_path(data)}-wal").stat().st_size


def test_the_log_stays_small_in_normal_work(running: Running) -> None:
    """And is cut when it has been large, though a reader looks all the time."""
    done = threading.Event()

    def look() -> None:
        query = "SELECT count(*) FROM journal"
        with closing(sqlite3.connect(database_path(running.data))) as other:
            while not done.is_set():
                other.execute(query).fetchall()

    thread = threading.Thread(target=look)
    thread.start()
    largest = 0
    try:
        for number in range(40):
            running.send(readings([("a", NOW + number * 20_000 + n, n) for n in range(20_000)]))
            largest = max(largest, wal(running.data))
    finally:
        done.set()
        thread.join()
    assert largest < 20 * 2**20


@contextmanager
def snapshot(data: Path) -> Iterator[sqlite3.Connection]:
    """Another program holds a read transaction open, so that the log cannot begin anew."""
    with closing(sqlite3.connect(database_path(data), isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM journal").fetchall()
        yield other


LARGE = 60_000  # readings of one batch, which the log takes a quarter of a megabyte for
# The log's limit, and what it is cut to: in proportion, and small, so that little fills it.
SMALL_LIMIT, SMALL_TIDY = 6 * 2**20, 4 * 2**20


def in_turn(count: int, first: int) -> Readings:
    """So many readings of meter a: instants and registers from ``first`` on."""
    numbers = np.arange(first, first + count)
    high, low = meter_id.halves(meter_id.to_octets("a"))
    return Readings(
        np.full(count, high, np.uint64),
        np.full(count, low, np.uint64),
        np.ones(count, np.uint32),
        np.full(count, ENERGY_IMPORT, np.uint16),
        np.zeros(count, np.uint16),
        NOW + numbers,
        numbers - first,
    )


def fill_log(running: Running, total: int, limit: int) -> int:
    """Hand readings over until the writer spools; the number of the next."""
    deadline = time.monotonic() + 90
    while not running.ask(handover.STATUS)["spooling"]:
        running.send(in_turn(LARGE, total))
        total += LARGE
        assert wal(running.data) <= limit
        assert time.monotonic() < deadline
    return total


def drained(running: Running) -> None:
    """Wait until the spool is empty, and the writer says of nothing any more that it is wrong."""
    wait_until(lambda: not running.ask(handover.STATUS)["spooled"])
    wait_until(lambda: not running.ask(handover.STATUS)["spooling"])


def whole(running: Running, sent: int) -> None:
    """Each reading is stored once, in the order in which it was sent."""
    running._looking.close()
    reader = running.reader
    assert (reader.series(reader.meter("a"), ENERGY).time == NOW + np.arange(sent)).all()
    assert reader.readings() == sent


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """The log's limit, a small one; the log is cut to less, too."""
    monkeypatch.setattr(WalGuard.__init__, "__defaults__", (SMALL_LIMIT,))
    monkeypatch.setattr(wal_module, "_TIDY", SMALL_TIDY)
    set_pragmas(monkeypatch, journal_size_limit=SMALL_TIDY)
    return SMALL_LIMIT


def test_a_reader_that_holds_a_snapshot(
    limit: int, make_running: MakeRunning, caplog: pytest.LogCaptureFixture
) -> None:
    """The log grows up to its limit, then the spool takes over until the reader is gone."""
    caplog.set_level(logging.INFO)
    running = make_running()
    running.send(readings([("a", NOW, 0)]))
    with snapshot(running.data) as other:
        total = fill_log(running, 1, limit)
        assert wal(running.data) > limit / 2  # and not long before
        for n in range(total, total + 100):
            running.send(readings([("a", NOW + n, n)]))
        total += 100
        status = running.ask(handover.STATUS)
        assert "another program has been reading the database for so long" in status["trouble"]
        assert status["spooled"] >= LARGE + 100
        assert running.stored("a")[-1] < (NOW + total - status["spooled"], 0)
        refused = running.change(ChangeMeter(id="b", add=True))["error"]
        assert refused["code"] == "unavailable"
        assert "another program has been reading" in refused["message"]
        assert wal(running.data) <= limit
        running._looking.close()
        assert other.execute("SELECT count(*) FROM journal").fetchone() == (1,)
    drained(running)
    whole(running, total)
    status = running.ask(handover.STATUS)
    assert not status["spooling"]
    assert status["trouble"] is None
    running._looking.close()
    running.send(readings([("a", NOW + total, 1)]))
    assert wal(running.data) <= SMALL_TIDY + 2**20
    lines = [line for line in said(caplog) if "spool" in line]
    assert ["its log has" in line for line in lines] == [True, False, False]  # once
    assert lines[-1] == "the spool is empty"
    assert running.set("b")


@pytest.mark.usefixtures("impatient")
def test_writers_that_end_while_the_log_is_held(limit: int, make_running: MakeRunning) -> None:
    """The next one starts, goes on spooling, and drains all once the reader is gone."""
    running = make_running()
    running.send(readings([("a", NOW, 0)]))
    with snapshot(running.data):
        total = fill_log(running, 1, limit)
        for _ in range(3):
            running.send(readings([("a", NOW + total, 1)]))
            total += 1
            running.restart()
        assert running.ask(handover.STATUS)["spooling"]
        running.send(readings([("a", NOW + total, 1)]))
        total += 1
    drained(running)
    whole(running, total)


_SMALL_LOG = f"""
import sys
from storage import wal
wal.WalGuard.__init__.__defaults__ = ({SMALL_LIMIT},)
wal._TIDY = {SMALL_TIDY}
from cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_writer_that_is_killed_while_the_log_is_held(tmp_path: Path) -> None:
    """What it had confirmed is in the spool or in the database, and is stored once."""
    data = tmp_path / "data"
    command = [sys.executable, "-c", _SMALL_LOG, "writer", "--data", str(data), "--live-port", "0"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    receiver = handover.Handover(Config(data=str(data)).writer_endpoint, lambda _: b"{}")
    total = 0

    def send(count: int) -> None:
        nonlocal total
        put(receiver, in_turn(count, total))
        total += count

    def deliver() -> None:
        deadline = time.monotonic() + 60
        while receiver.undelivered:
            assert time.monotonic() < deadline
            receiver.tick()
            time.sleep(0.001)

    writer = start()
    send(1)
    deliver()
    spool = data / "spool"
    with snapshot(data):
        while not list(spool.glob("*.spool")):
            send(LARGE)
            deliver()
        for number in range(5):
            send(16_384)
            receiver.tick()
            time.sleep(0.03 * number)
            writer.kill()
            writer.wait()
            writer = start()
            send(10)
            deliver()
    # And amid draining.
    for number in range(4):
        time.sleep(0.3 + 0.15 * number)
        writer.kill()
        writer.wait()
        writer = start()
    send(1)
    deliver()
    deadline = time.monotonic() + 60
    while list(spool.glob("*.spool")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    writer.terminate()
    assert writer.wait(60) == 0
    receiver._socket.close()
    reader = Reader(Database(data))
    with reader.snapshot():
        series = reader.series(reader.meter("a"), ENERGY)
        # What a killed writer had kept but not confirmed was sent again, and is stored once.
        assert reader.readings() == total
    settled = intervals.settle(series)
    assert (settled.time == NOW + np.arange(total)).all()
    assert not settled.flags.any()
    reader.close()


def test_work_that_can_wait_stops_early(tmp_path: Path) -> None:
    engine = open_writer(Database(tmp_path))
    guard = WalGuard(engine, database_path(tmp_path))
    pressing = [guard.pressing]
    log = Path(f"{database_path(tmp_path)}-wal")
    os.truncate(log, LIMIT // 4)
    pressing.append(guard.pressing)
    assert pressing == [False, True]
    engine.dispose()


# The place


def test_a_database_that_is_moved_away(make_stack: MakeStack) -> None:
    """What would be written to a file without a name is not confirmed, but kept for the next."""
    stack = make_stack()
    stack.send([datagram("a", 0), datagram("a", 1)])
    all_are_stored(stack, "a", 2)
    stack.data.rename(stack.data.with_name("elsewhere"))
    stack.send([datagram("b", number) for number in range(3)])
    all_are_stored(stack, "b", 3)
    assert "was moved, removed or replaced while the writer had it open" in stack.log.read_text()
    assert "Traceback" not in stack.log.read_text()
    with stack.client() as client:
        assert [meter.id for meter in client.all_meters()] == ["b"]


def wattbus(*words: object) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, words), "--live-port", "0"]


_LIBC = ctypes.CDLL(None, use_errno=True)
_DROP_CAPABILITY = 24  # of prctl(2): from the bounding set, so from what is executed next
_OVERRIDE = (1, 2)  # capabilities(7): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def bound_by_permissions() -> None:
    """Let the permissions of files count for root too."""
    if os.geteuid() == 0:
        for capability in _OVERRIDE:
            assert _LIBC.prctl(_DROP_CAPABILITY, capability, 0, 0, 0) == 0, ctypes.get_errno()


def refusal(data: Path, part: str = "writer") -> str:
    """What a part says that cannot start."""
    done = subprocess.run(
        wattbus(part, "--data", data),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=bound_by_permissions,
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("wattbus: ")
    return line


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    """A directory with a database, closed."""
    data = tmp_path / "data"
    open_writer(Database(data)).dispose()
    yield data
    data.chmod(0o755)


def test_a_directory_that_may_only_be_read(made: Path) -> None:
    made.chmod(0o555)
    assert refusal(made).startswith(f"wattbus: cannot write to {made}")


def test_a_database_that_may_only_be_read(made: Path) -> None:
    database_path(made).chmod(0o444)
    assert "the database may not be written to" in refusal(made)
    database_path(made).chmod(0o000)
    assert "the database cannot be opened" in refusal(made)


def test_a_writer_that_starts_while_the_database_is_locked(tmp_path: Path) -> None:
    open_writer(Database(tmp_path)).dispose()
    with locked(tmp_path, "BEGIN IMMEDIATE"):
        assert "another program keeps the database locked: end it" in refusal(tmp_path)


# Damage


def spoil(data: Path, row: int) -> None:
    with closing(sqlite3.connect(database_path(data))) as connection:
        query = "UPDATE journal SET body = CAST('x' || substr(body, 2) AS BLOB) WHERE id = ?"
        assert connection.execute(query, (row,)).rowcount == 1
        connection.commit()


def test_a_damaged_row_of_the_journal(make_stack: MakeStack) -> None:
    """It is left out, counted and said; all else is answered, and written."""
    stack = make_stack()
    for number in range(3):
        stack.send(datagram("a", number))
        all_are_stored(stack, "a", number + 1)
    stack.stop()
    with closing(sqlite3.connect(database_path(stack.data))) as connection:
        connection.execute("UPDATE info SET value = '0' WHERE key = 'settled'")
        connection.commit()
    spoil(stack.data, 2)
    again = make_stack(data=stack.data)
    again.send(datagram("a", 3))
    again.wait_for("a", 0)
    wanted = [row for number, row in enumerate(expected(4)) if number != 1]
    again.wait_until(lambda client: stored(client, "a") == wanted)
    with again.client() as client:
        assert client.status().damaged_rows == 1
        assert client.total("a").wh == 9
    assert "rows, left out (docs/care.md)" in again.cli("status").stdout
    log = again.log.read_text()
    assert "row 2 of the journal is damaged (the body starts with b'xBJ2'" in log
    assert "Traceback" not in log


def scribble(data: Path) -> None:
    """Octets in the middle of the file are not what was written."""
    with database_path(data).open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(os.path.getsize(file.name) - 4096))


def test_a_damaged_file(tmp_path: Path) -> None:
    open_writer(Database(tmp_path)).dispose()
    scribble(tmp_path)
    assert "the database is damaged: restore a backup" in refusal(tmp_path)


@pytest.mark.parametrize("command", ["writer", "serve"])
def test_a_newer_schema_is_refused(tmp_path: Path, command: str) -> None:
    newer(tmp_path)
    done = subprocess.run(
        [*wattbus(command, "--data", tmp_path), *Stack(tmp_path).ports[:4]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("has schema 99, newer than this Wattbus knows") == 1
    assert "Traceback" not in done.stderr


def newer(data: Path) -> None:
    engine = open_writer(Database(data))
    with engine.begin() as connection:
        key = schema.info.c.key == "schema"
        connection.execute(schema.info.update().where(key).values(value="99"))
    engine.dispose()


def test_a_query_service_refuses_a_newer_schema(tmp_path: Path) -> None:
    newer(tmp_path)
    stack = Stack(tmp_path)
    service = subprocess.Popen(
        [sys.executable, "-m", "cli", "query", "--data", str(tmp_path), *stack.ports],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        for words in (["meters"], ["total", "a"], ["latest", "a"], ["alerts"]):
            done = stack.cli(*words)
            assert done.returncode != 0
            assert "has schema 99, newer than this Wattbus knows" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(60)
