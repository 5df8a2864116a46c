"""Every released schema, filled with data, becomes the newest one and answers as before."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from benchmarks.ports import free_port
from cli.child import Child
from query.client import Client
from query.transport import BusError
from storage import files, migrate, schema
from storage import postgresql as engines
from storage.database import AnotherWriterError
from storage.engine import (
    Database,
    StorageError,
    close_writer,
    database_path,
    open_reader,
    open_writer,
)
from storage.queries import Reader
from telemetry.registers import ALERT_LIMIT, BY_CODE, ENERGY_EXPORT, ENERGY_IMPORT
from tests.conftest import ROOT, Stack

NOW = 1_760_000_000_000  # 2025-10-09T08:53:20Z
HOUR = 3_600_000
TODAY = date(2026, 11, 23)
RELEASED = sorted(int(path.stem) for path in (ROOT / "tests" / "storage" / "schemas").glob("*.sql"))
each_released = pytest.mark.parametrize("number", RELEASED)
each_dialect = pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])


def frozen(number: int, data: Path) -> Path:
    """The database of a released schema, in a directory for data."""
    data.mkdir(parents=True, exist_ok=True)
    dump = ROOT / "tests" / "storage" / "schemas" / f"{number}.sql"
    with closing(sqlite3.connect(database_path(data))) as connection:
        connection.executescript(dump.read_text("utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
    return database_path(data)


def dumped(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def asked(path: Path, question: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchone()[0]


@contextmanager
def opened(data: Path) -> Iterator[Engine]:
    engine = open_writer(Database(data))
    try:
        yield engine
    finally:
        close_writer(engine)


# A real PostgreSQL


MakeEngine = Callable[[], Engine]


@pytest.fixture
def empty(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeEngine]:
    """Makes engines of empty databases."""
    made: list[Engine] = []
    numbers = count()

    def sqlite() -> Engine:
        data = tmp_path / f"empty-{next(numbers)}"
        with opened(data) as engine, engine.connect() as connection:
            names = sa.inspect(connection).get_table_names()
            for name in names:
                connection.exec_driver_sql(f'DROP TABLE "{name}"')
            connection.commit()
        # The engine as the writer has it, transactions and all.
        engine.dispose()
        return engine

    def postgresql() -> Engine:
        server = request.getfixturevalue("postgresql")
        return engines.writer(server.url(server.create()))

    def make() -> Engine:
        made.append(sqlite() if dialect == "sqlite" else postgresql())
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def stepwise(engine: Engine, last: int = schema.VERSION) -> None:
    """Make a schema out of nothing by the migrations alone."""
    for number in range(1, last + 1):
        with engine.begin() as connection:
            migrate.upgrade(connection, number)
            migrate.stamp(connection, number)


@contextmanager
def reflecting(engine: Engine) -> Iterator[sa.Connection]:
    """A connection that is answered in text, as SQLAlchemy's reflection of PostgreSQL needs."""
    plain = sa.create_engine(engine.url) if engine.dialect.name == "postgresql" else engine
    with plain.connect() as connection:
        yield connection
    plain.dispose()


def _comparable(index: Any) -> dict[str, Any]:
    """An index with its condition as text."""
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return {**index, "dialect_options": options}


def layout(engine: Engine) -> dict[str, Any]:
    """All that makes up the tables, as the database tells it."""
    with reflecting(engine) as connection:
        inspector = sa.inspect(connection)
        found: dict[str, Any] = {
            table: {
                "columns": [
                    {**column, "type": str(column["type"])}
                    for column in inspector.get_columns(table)
                ],
                "key": inspector.get_pk_constraint(table),
                "indexes": sorted(map(str, map(_comparable, inspector.get_indexes(table)))),
                "unique": sorted(inspector.get_unique_constraints(table), key=str),
                "foreign": inspector.get_foreign_keys(table),
            }
            for table in inspector.get_table_names()
        }
        if engine.dialect.name == "sqlite":
            for row in connection.exec_driver_sql("PRAGMA table_list").mappings():
                if row["name"] in found:
                    found[row["name"]]["without rowid"] = row["wr"]
    return found


# The steps and schema.py


def test_the_newest_schema_has_the_newest_step() -> None:
    config = Config()
    config.set_main_option("script_location", "storage:migrations")
    script = ScriptDirectory.from_config(config)
    steps = [step.revision for step in script.walk_revisions()]
    assert steps == [f"{number:04}" for number in range(schema.VERSION, 0, -1)]


@each_dialect
def test_the_steps_make_what_schema_py_says(empty: MakeEngine) -> None:
    """Who changes schema.py raises VERSION and adds a step."""
    engine = empty()
    stepwise(engine)
    with reflecting(engine) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []


@each_dialect
def test_a_new_database_is_as_one_that_was_migrated(empty: MakeEngine) -> None:
    new, migrated = empty(), empty()
    assert migrate.migrate(new, TODAY) == 0
    stepwise(migrated)
    assert layout(new) == layout(migrated)
    assert set(layout(new)) == {*schema.metadata.tables, "alembic_version"}


@each_dialect
def test_a_database_of_the_newest_schema_is_left_as_it_is(empty: MakeEngine) -> None:
    engine = empty()
    said: list[str] = []
    migrate.migrate(engine, TODAY)
    before = layout(engine)
    assert migrate.migrate(engine, TODAY, migrate.Report(said.append)) == schema.VERSION
    assert layout(engine) == before
    assert said == []


def test_the_first_step_makes_schema_1_to_the_letter(tmp_path: Path) -> None:
    path = frozen(1, tmp_path / "frozen")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'made.sqlite3'}")
    with engine.begin() as connection:
        migrate.upgrade(connection, 1)
    engine.dispose()
    question = "SELECT group_concat(sql) FROM (SELECT sql FROM sqlite_master WHERE {} ORDER BY sql)"
    own = question.format("name NOT LIKE 'alembic%' AND name NOT LIKE 'sqlite%'")
    made = asked(tmp_path / "made.sqlite3", own)
    assert "CREATE TABLE journal" in made
    assert made == asked(path, own)


@each_dialect
def test_alembics_number_follows_wattbuss(empty: MakeEngine) -> None:
    engine = empty()
    stepwise(engine, 1)
    with engine.begin() as connection:  # as released: without Alembic's table
        connection.exec_driver_sql("DROP TABLE alembic_version")
    assert migrate.migrate(engine, TODAY) == 1
    with engine.connect() as connection:
        assert migrate.found(connection) == schema.VERSION
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == f"{schema.VERSION:04}"


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_postgresql_gets_no_backup_and_is_told_so(empty: MakeEngine) -> None:
    engine = empty()
    said: list[str] = []
    stepwise(engine, 1)
    assert migrate.migrate(engine, TODAY, migrate.Report(said.append)) == 1
    assert any("pg_dump" in line for line in said)
    assert not migrate.make_shrinkable(engine, migrate.Report(said.append))


# A step that does not come to its end

SLOW = """
import sys, time
from datetime import date
from pathlib import Path
import sqlalchemy as sa
from storage import migrate, postgresql, sqlite

def slow(connection, cursor, statement, *_):
    if "CREATE TABLE daily" in statement:
        print("half", flush=True)
        time.sleep(60)

kind, where = sys.argv[1:]
if kind == "sqlite":
    it = sqlite.writer(Path(where).parent)
else:
    it = postgresql.writer(where)
sa.event.listen(it, "before_cursor_execute", slow)
migrate.migrate(it, date(2026, 11, 23))
"""


def where(engine: Engine) -> str:
    if engine.dialect.name != "sqlite":
        return engine.url.render_as_string(hide_password=False)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("PRAGMA database_list")
        return next(str(row.file) for row in rows if row.name == "main")


def wait_until_the_server_has_noticed(engine: Engine) -> None:
    """PostgreSQL holds the writer's lock until it sees that its client is gone."""
    deadline = time.monotonic() + 60
    while True:
        try:
            engine.connect().close()
            return
        except AnotherWriterError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@each_dialect
def test_a_kill_half_way_leaves_the_old_schema(empty: MakeEngine, dialect: str) -> None:
    engine = empty()
    stepwise(engine, 1)
    before = layout(engine)
    place = where(engine)
    engine.dispose()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, dialect, place], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    wait_until_the_server_has_noticed(engine)
    assert layout(engine) == before
    with engine.connect() as connection:
        assert migrate.found(connection) == 1
    assert migrate.migrate(engine, TODAY) == 1
    assert "daily" in layout(engine)


@each_dialect
def test_a_step_that_fails_changes_nothing(empty: MakeEngine) -> None:
    engine = empty()
    stepwise(engine, 1)
    with engine.begin() as connection:  # in the way of the step's last table
        connection.exec_driver_sql("CREATE TABLE daily (x INTEGER)")
    before = layout(engine)
    with pytest.raises(StorageError, match=r"still has schema 1, whole: .*daily.* already exists"):
        migrate.migrate(engine, TODAY)
    assert layout(engine) == before
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE daily")
    assert migrate.migrate(engine, TODAY) == 1


@each_dialect
def test_tables_of_somebody_else(empty: MakeEngine) -> None:
    engine = empty()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE meters (x INTEGER)")
    with pytest.raises(StorageError, match="is not Wattbus's, or was damaged"):
        migrate.migrate(engine, TODAY)


# The released schemas, with data in them


def series(reader: Reader, id: str, register: int = ENERGY_IMPORT) -> list[tuple[int, int]]:
    """Hours since NOW and values by time, as sealed ones are, then in the order of acceptance."""
    found = reader.series(reader.meter(id), BY_CODE[register])
    hours = ((found.time - NOW) / HOUR).tolist()
    return by_time(zip(hours, found.value.tolist(), strict=True))


def by_time(readings: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """An exact repeat counts once: sealing drops it."""
    return list(dict.fromkeys(sorted(readings, key=lambda reading: reading[0])))


def check_answers(data: Path) -> None:
    """What was stored with the released code answers as it did then."""
    reader = Reader(Database(data))
    with reader.snapshot():
        check_meters(reader)
        check_readings(reader)
        check_alerts(reader)
    reader.close()


def check_meters(reader: Reader) -> None:
    assert [(meter.number, meter.id) for meter in reader.meters("", "", 10)] == [
        (4, "00000000-0000-4000-8000-00000000002a"),
        (5, "attic"),
        (3, "cellar"),
        (1, "kitchen"),
        (2, "shed"),
    ]
    kitchen, shed, cellar, attic = map(reader.meter, ("kitchen", "shed", "cellar", "attic"))
    assert (kitchen.name, kitchen.time_zone) == ("Kitchen, ground floor", "Europe/Berlin")
    assert (kitchen.limit_wh, kitchen.price) == (6_000, Decimal("0.3125"))
    assert (kitchen.max_power_w, kitchen.modulus_wh, kitchen.reported_limit_wh) == (
        9000,
        None,
        None,
    )
    assert kitchen.created_ms == 1_795_444_795_171
    assert (shed.name, shed.time_zone, shed.limit_wh, shed.price) == (None, None, None, None)
    assert shed.modulus_wh == 1_000_000
    assert (cellar.name, cellar.reported_limit_wh) == ("""Größe "o'Neil\"""", 2_000)
    assert [
        tuple(getattr(exchange, name) for name in exchange.__slots__)
        for exchange in reader.replacements(attic)
    ] == [(NOW, 50, 3)]
    assert reader.replacements(kitchen) == []


def check_readings(reader: Reader) -> None:
    assert reader.readings() in (29, 28)  # an exact repeat is dropped when it is sealed
    first = [(hour, 1_000 + 700 * hour) for hour in range(6)]
    later = [(hour, 1_000 + 700 * hour) for hour in range(6, 12)]
    assert series(reader, "kitchen") == by_time([*first, (2, 2_400), (3, 3_111), *later])
    assert series(reader, "kitchen", ENERGY_EXPORT) == [(0, 500), (1, 501), (2, 502)]
    assert series(reader, "shed") == [(0, 999_000), (1, 999_400), (2, 999_800), (3, 200)]
    assert series(reader, "cellar") == [(hour, 10 + 900 * hour) for hour in range(4)]
    assert series(reader, "cellar", ALERT_LIMIT) == [(0, 2_000)]
    assert series(reader, "attic") == [(-1, 7), (1, 13)]
    long = reader.meter("00000000-0000-4000-8000-00000000002a")
    assert reader.latest(long) == [(ENERGY_IMPORT, NOW + 5, 42, 0)]
    assert reader.latest(reader.meter("cellar")) == [
        (ENERGY_IMPORT, NOW + 3 * HOUR, 2_710, 1),
        (ALERT_LIMIT, NOW, 2_000, 0),
    ]


def check_alerts(reader: Reader) -> None:
    told = [
        (row.number, row.id, row.time_ms, row.energy_wh, row.limit_wh, row.late, row.raised_ms)
        for row in reader.alerts(None, None, 10)
    ]
    assert told == [
        (2, "kitchen", NOW + 9 * HOUR, 6_300, 6_000, False, 1_795_444_795_650),
        (1, "cellar", NOW + 3 * HOUR, 2_700, 2_000, False, 1_795_444_795_514),
    ]


def test_there_is_a_dump_of_each_released_schema() -> None:
    assert list(range(1, schema.VERSION)) == RELEASED


@each_released
def test_a_released_schema_becomes_the_newest_and_answers_as_before(
    number: int, tmp_path: Path
) -> None:
    path = frozen(number, tmp_path)
    with opened(tmp_path) as engine, opened(tmp_path / "new") as new:
        assert layout(engine) == layout(new)
    check_answers(tmp_path)
    assert asked(path, "SELECT value FROM info WHERE key = 'schema'") == str(schema.VERSION)
    assert asked(path, "PRAGMA integrity_check") == "ok"


@each_released
def test_the_backup_is_the_database_as_it_was(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = frozen(number, tmp_path)
    path.chmod(0o640)
    before = dumped(path)
    with caplog.at_level(logging.INFO), opened(tmp_path):
        pass
    backup = tmp_path / f"wattbus-schema{number}-{date.today():%Y%m%d}.sqlite3"
    said = [record.getMessage() for record in caplog.records if record.name == "migrate"]
    assert said[0] == f"the database has schema {number}, this Wattbus uses {schema.VERSION}"
    assert said[1] == f"making a backup first: {backup}"
    assert "to go back: stop Wattbus" in said[2]
    assert said[-1].startswith(f"the database has schema {schema.VERSION} now")
    assert not [record for record in caplog.records if record.name.startswith("alembic")]
    assert dumped(backup) == before
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    # The way back, as the log says it, and forward again on the same day.
    for name in ("wattbus.sqlite3-wal", "wattbus.sqlite3-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    backup.rename(path)
    assert dumped(path) == before
    with opened(tmp_path):
        assert dumped(backup) == before
    check_answers(tmp_path)
    assert not list(tmp_path.glob("*.partial*"))


def test_a_backup_replaces_the_one_of_the_same_day(tmp_path: Path) -> None:
    path = frozen(1, tmp_path)
    copy = tmp_path / "copy"
    (tmp_path / "copy.partial").write_bytes(b"of a kill")
    seen: list[tuple[int, int]] = []
    for name in ("a", "b"):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("INSERT INTO info VALUES (?, '')", (name,))
            files.back_up(connection, copy, lambda done, of: seen.append((done, of)))
        assert asked(copy, f"SELECT count(*) FROM info WHERE key = '{name}'") == 1
        assert seen[-1][0] == seen[-1][1] > 5
    assert not list(tmp_path.glob("*.partial*"))


# Room on the disk


def test_without_room_for_the_backup_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = frozen(1, tmp_path)
    before = dumped(path)
    monkeypatch.setattr(files, "_SPARE", 1 << 60)
    with pytest.raises(StorageError, match=r"still has schema 1.* MiB too little free.*Make room"):
        open_writer(Database(tmp_path))
    assert dumped(path) == before
    assert sorted(file.name for file in tmp_path.glob("*schema1*")) == []


def test_a_new_file_can_shrink_and_so_can_a_migrated_one(tmp_path: Path) -> None:
    path = frozen(1, tmp_path / "old")
    assert asked(path, "PRAGMA auto_vacuum") == 0
    for data in (tmp_path / "old", tmp_path / "new"):
        with opened(data):
            pass
        assert asked(database_path(data), "PRAGMA auto_vacuum") == 2  # incremental
        assert asked(database_path(data), "PRAGMA journal_mode") == "wal"


def test_without_room_the_file_stays_as_it_is_until_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(database_path(tmp_path))) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    said: list[str] = []
    with opened(tmp_path) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(files, "_SPARE", 1 << 60)
            assert not migrate.make_shrinkable(engine, migrate.Report(said.append))
        assert re.search(r"cannot be written anew \(the disk of .* too little free\)", said[0])
        assert asked(database_path(tmp_path), "PRAGMA auto_vacuum") == 0
        assert migrate.make_shrinkable(engine, migrate.Report(said.append))
    assert asked(database_path(tmp_path), "PRAGMA auto_vacuum") == 2


SMALL = """
import resource, sys
from pathlib import Path
from storage.engine import Database, close_writer, database_path, open_writer
from storage.migrate import Report

data = Path(sys.argv[1])
size = database_path(data).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 131072, size + 131072))
close_writer(open_writer(Database(data), Report(print)))
"""


def test_a_disk_that_is_full_all_the_same_does_not_undo_the_migration(tmp_path: Path) -> None:
    """Files may grow to a size that the backup and the steps keep to, and the log does not."""
    path = frozen(1, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE filling (x)")
        connection.executemany("INSERT INTO filling VALUES (randomblob(4000))", [()] * 2000)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "the file cannot be written anew (" in done.stdout
    assert "now, after" in done.stdout
    assert asked(path, "PRAGMA integrity_check") == "ok"
    check_answers(tmp_path)


# Readers of an older schema


def test_a_reader_says_who_migrates(tmp_path: Path) -> None:
    frozen(1, tmp_path)
    with pytest.raises(StorageError, match=r"has schema 1.*start the writer, or run `wattbus mig"):
        open_reader(Database(tmp_path))
    open_reader(Database(tmp_path), older=True).dispose()


def wattbus(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_query_service_recovers_when_the_database_is_migrated(tmp_path: Path) -> None:
    frozen(1, tmp_path)
    port = str(free_port())
    command = [sys.executable, "-m", "cli", "query", "--data", str(tmp_path)]
    service = subprocess.Popen([*command, "--query-port", port], cwd=ROOT)
    try:
        with Client(f"tcp://127.0.0.1:{port}", timeout=60) as client:
            with pytest.raises(BusError, match="has schema 1, this Wattbus uses"):
                client.latest("kitchen")
            assert wattbus("migrate", "--data", str(tmp_path)).returncode == 0
            assert client.latest("kitchen").registers[0].time_ms == NOW + 11 * HOUR
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0


# The programs


def test_serve_migrates(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    frozen(1, tmp_path / "data")
    stack = make_stack()
    log = stack.log.read_text()
    assert re.search(r"migrate +making a backup first: ", log)
    assert "Traceback" not in log
    assert "alembic" not in log
    stack.wait_for("kitchen", NOW + 11 * HOUR)
    assert stack.stop() == 0
    check_answers(tmp_path / "data")


@pytest.mark.parametrize(("says", "ready"), [("p.say_slow()", True), ("0", False)])
def test_serve_waits_for_a_part_that_says_it_is_slow(
    says: str, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.child._READY_WITHIN", 4.0)  # of which Python itself takes some
    program = f"import time; from cli import processes as p; {says}; time.sleep(6); p.say_ready()"
    child = Child("part", [sys.executable, "-c", program])
    child.start()
    assert child.wait_ready(threading.Event()) == ready
    child.stop()


@pytest.mark.parametrize(("older", "says"), [(True, b"s1"), (False, b"1")])
def test_a_writer_that_migrates_says_that_it_is_slow(
    older: bool, says: bytes, tmp_path: Path
) -> None:
    if older:
        frozen(1, tmp_path)
    command = [sys.executable, "-m", "cli", "writer", "--data", str(tmp_path)]
    child = Child("writer", [*command, "--live-port", "0"])
    child.start()
    said = b""
    while not said.endswith(b"1") and (one := os.read(child.ready_fd, 1)):
        said += one
    child.stop()
    assert said == says


def test_migrate_without_starting(tmp_path: Path) -> None:
    frozen(1, tmp_path)
    data = ("--data", str(tmp_path))
    done = wattbus("migrate", "--check", *data)
    assert (done.returncode, done.stdout) == (1, "a migration is needed: from schema 1 to 3\n")
    assert not list(tmp_path.glob("*schema1*"))
    done = wattbus("migrate", *data)
    assert done.returncode == 0
    backup = tmp_path / f"wattbus-schema1-{date.today():%Y%m%d}.sqlite3"
    assert f"making a backup first: {backup}\n" in done.stderr
    check_answers(tmp_path)
    for words in (data, (*data, "--check")):
        done = wattbus("migrate", *words)
        assert (done.returncode, done.stdout) == (0, "nothing to do: the database has schema 3\n")
        assert done.stderr == ""
    assert len(list(tmp_path.glob("*schema*"))) == 1


@pytest.mark.parametrize("flags", [(), ("--check",)])
def test_an_empty_file_is_left_to_the_writer(tmp_path: Path, flags: tuple[str, ...]) -> None:
    database_path(tmp_path).touch()
    done = wattbus("migrate", *flags, "--data", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing to do: the database is empty; the writer fills it\n"
    assert database_path(tmp_path).stat().st_size == 0


def test_migrate_takes_the_data_directory_of_a_file(tmp_path: Path) -> None:
    frozen(1, tmp_path / "data")
    file = tmp_path / "wattbus.toml"
    file.write_text(f'data = "{tmp_path / "data"}"\n')
    assert wattbus("migrate", "--check", "--config", str(file)).returncode == 1
    file.write_text("date = 1\n")
    done = wattbus("migrate", "--check", "--config", str(file))
    assert done.returncode == 2
    assert "unknown key 'date'" in done.stderr


def test_migrate_refuses_while_a_writer_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "writer", "--data", str(tmp_path)]
    writer = subprocess.Popen(
        [*command, "--live-port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert writer.stderr is not None
    try:
        assert "writing to" in writer.stderr.readline()
        done = wattbus("migrate", "--data", str(tmp_path))
        assert done.returncode == 2
        assert f"another wattbus writes to {tmp_path} already: stop it" in done.stderr
        assert wattbus("migrate", "--check", "--data", str(tmp_path)).returncode == 0
    finally:
        writer.send_signal(signal.SIGTERM)
        assert writer.wait(60) == 0
        writer.stderr.close()


@pytest.mark.parametrize("flags", [(), ("--check",)])
def test_what_cannot_be_migrated(tmp_path: Path, flags: tuple[str, ...]) -> None:
    def refusal() -> str:
        done = wattbus("migrate", *flags, "--data", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("wattbus: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "there is no database at" in refusal()
    assert not list(tmp_path.iterdir())
    database_path(tmp_path).write_bytes(b"no database" * 1000)
    assert "file is not a database" in refusal()
    database_path(tmp_path).unlink()
    path = frozen(1, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE info SET value = '99' WHERE key = 'schema'")
        connection.commit()
    assert "has schema 99, newer than this Wattbus knows" in refusal()


def test_the_package_brings_its_migrations(tmp_path: Path) -> None:
    """Built as for a wheel, and run from there."""
    source, built = tmp_path / "source", tmp_path / "built"
    for name in ("telemetry", "storage", "query", "cli"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()"]
    subprocess.run(
        [*build, "-q", "build", "--build-lib", str(built)], cwd=source, check=True, timeout=60
    )
    frozen(1, tmp_path / "data")
    shutil.rmtree(source)
    program = (
        "import sys, storage; from cli.main import main; print(storage.__file__); sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "migrate", "--data", str(tmp_path / "data")],
        cwd=built,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"{built / 'storage' / '__init__.py'}\n"
    check_answers(tmp_path / "data")
