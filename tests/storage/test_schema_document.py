"""docs/schema.md: its tables are those of storage/schema.py, and its queries run as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine

from storage import journal, meters, schema
from storage.changes import ChangeMeter
from storage.defaults import Defaults
from storage.engine import Database, close_writer, database_path, open_writer
from storage.ledger import Ledger
from storage.sealing import Sealer
from telemetry.counts import Counts, ListenerCounts
from telemetry.datagrams import Envelopes
from telemetry.intervals import Flag
from telemetry.readings import DEVICE_BITS, Readings, Status
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT, REGISTERS
from tests.storage.conftest import MakeDatabase

DOCUMENT = (Path(__file__).parents[2] / "docs/schema.md").read_text(encoding="utf-8")
HOUR = 3_600_000
MIDNIGHT = 1_759_878_000_000  # 2025-10-08 in Lisbon, 2025-10-07 23:00 UTC
VOLTAGE = 13


def sections() -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def cells(text: str, header: str) -> list[list[str]]:
    """The rows of the table under a header."""
    lines = text.splitlines()
    at = lines.index(header) + 2
    rows = []
    while at < len(lines) and lines[at].startswith("|"):
        rows.append([cell.strip() for cell in lines[at].strip("|").split("|")])
        at += 1
    return rows


def of_table(name: str) -> str:
    return sections()[f"`{name}`"]


def test_the_document_has_all_tables_and_no_others() -> None:
    own = {heading.strip("`") for heading in sections() if heading.startswith("`")}
    overview = cells(DOCUMENT, "| table | one row is | for SQL tools |")
    assert own == set(schema.metadata.tables)
    assert {row[0].strip("`") for row in overview} == own
    assert len(overview) == len(own)


@pytest.mark.parametrize("name", list(schema.metadata.tables))
def test_columns_types_and_keys_are_those_of_the_schema(name: str) -> None:
    table = schema.metadata.tables[name]
    text = of_table(name)
    columns = cells(text, "| column | type | null | meaning |")
    said = [(column.strip("`"), kind, null) for column, kind, null, _ in columns]
    assert said == [
        (column.name, postgresql_type(column), "yes" if column.nullable else "no")
        for column in table.columns
    ]
    assert all(meaning for *_, meaning in columns)

    keys = " ".join(text.split())
    found = {
        (kind, name, tuple(re.findall(r"`(\w+)`", names)))
        for kind, name, names in re.findall(
            r"(Primary key|Unique|Index)(?: `(\w+)`)?: ((?:`\w+`(?:, )?)+)", keys
        )
    }
    unique = {(c.name,) for c in table.columns if c.unique} | {
        tuple(column.name for column in constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    }
    expected = {("Primary key", "", tuple(column.name for column in table.primary_key))}
    expected |= {("Unique", "", names) for names in unique}
    expected |= {
        ("Index", str(index.name), tuple(column.name for column in index.columns))
        for index in table.indexes
    }
    assert found == expected


def postgresql_type(column: sa.Column[Any]) -> str:
    said = column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return str(said).split(" COLLATE")[0].lower()


def test_the_types_of_sqlite_differ_only_as_the_document_says() -> None:
    differing = set()
    for table in schema.metadata.tables.values():
        for column in table.columns:
            there = str(column.type.compile(dialect=sqlite.dialect()))
            if there.lower() != postgresql_type(column):
                known = (postgresql_type(column), there) == ("bytea", "BLOB")
                differing.add("bytea" if known else f"{table.name}.{column.name} {there}")
    assert differing == {"bytea", "journal.id INTEGER", "deliveries.id INTEGER"}


def test_flags_and_status_bits_are_those_of_the_code() -> None:
    listed = {
        (int(flag), name) for flag, name, _ in cells(of_table("daily"), "| flag | name | meaning |")
    }
    # Not in daily: PARTIAL, which covered_ms tells better, and MISSING, which has no row.
    kept = set(Flag) - {Flag.PARTIAL, Flag.MISSING}
    assert listed == {(int(flag), str(flag.name).lower()) for flag in kept}
    sentence = re.search(r"Status bits: (.+?)\n\n", of_table("latest"), re.DOTALL)
    assert sentence is not None
    bits = {int(bit) for bit in re.findall(r"\d+", sentence[1])}
    assert bits == {int(bit) for bit in Status} | {DEVICE_BITS // 2 + 1, 4}


def test_the_registers_are_those_of_the_code() -> None:
    expected = [
        [str(r.code), f"`{r.obis}`", f"`{r.name}`", r.unit or "1", str(10**-r.scaler)]
        for r in REGISTERS
    ]
    header = "| code | OBIS | name | unit | divisor |"
    assert cells(sections()["Registers"], header) == expected
    values = re.findall(r"\((\d+), '(.+?)', '(.+?)', '(.+?)', (\d+)\.0\)", DOCUMENT)
    assert [[code, f"`{o}`", f"`{n}`", *rest] for code, o, n, *rest in values] == expected


# The queries

QUERIES = re.findall(r"^([^\n]+):\n\n((?:```sql\n.+?```\n+)+)", DOCUMENT, re.MULTILINE | re.DOTALL)


def queries(dialect: str) -> dict[str, str]:
    """The queries for one database, each under the sentence before it."""
    found = {}
    for sentence, fences in QUERIES:
        for query in re.findall(r"```sql\n(.+?)```", fences, re.DOTALL):
            only = re.match(r"-- (\w+)\n", query)
            if only is None or only[1] == dialect:
                found[sentence.split(";")[0]] = query
    return found


def test_no_query_is_left_out() -> None:
    used = set(queries("SQLite").values()) | set(queries("PostgreSQL").values())
    assert len(used) == DOCUMENT.count("```sql") == 14
    assert set(queries("SQLite")) == set(queries("PostgreSQL")) == set(EXPECTED)


def fill(engine: Engine) -> None:
    """Three days of a few meters that send every hour, sealed by a real sealer but for the last.

    The kitchen uses 100 Wh an hour, the workshop 250 for two days, flat n 10 n for one day. The
    garage uses 10, and starts again from zero once.
    """
    flats = [f"flat-{number:02}" for number in range(1, 11)]
    names = ["kitchen", "workshop", "garage", *flats]
    with engine.begin() as connection:
        for number, name in enumerate(names, 1):
            meters.change(connection, ChangeMeter(id=name, add=True), number, MIDNIGHT)
    values = [(1, ENERGY_IMPORT, 1, at, 5_000 + 100 * at) for at in range(73)]
    values += [(2, ENERGY_IMPORT, 1, at, 250 * at) for at in range(49)]
    values += [(3, ENERGY_IMPORT, 1, at, 10 * at) for at in range(36)]
    values += [(3, ENERGY_IMPORT, 2, at, 10 * (at - 35)) for at in range(36, 73)]
    values += [
        (number, ENERGY_IMPORT, 1, at, 10 * (number - 3) * at)
        for number in range(4, 14)
        for at in range(25)
    ]
    values += [(1, POWER_IMPORT, 1, 72, -1_234), (1, VOLTAGE, 1, 72, 230_123)]
    sealer = Sealer(engine.begin, Defaults(time_zone="Europe/Lisbon"))
    with engine.begin() as connection:
        sealer.learn(connection)
    for number, own in enumerate((values[::2], values[1::2]), 1):
        commit(engine, number, own)
        sealer.committed(len(own), MIDNIGHT)
    sealer.seal_all()
    commit(engine, 3, [(1, ENERGY_IMPORT, 1, 73, 99_999)])
    with engine.begin() as connection:
        connection.execute(
            schema.alerts.insert().values(
                number=1,
                meter=2,
                kind="limit",
                period_start_ms=MIDNIGHT,
                time_ms=MIDNIGHT + 9 * HOUR,
                energy_wh=2_250,
                limit_wh=2_000,
                late=False,
                raised_ms=MIDNIGHT + 9 * HOUR + 1,
            )
        )
    deliver(engine)


def deliver(engine: Engine) -> None:
    """The kitchen sends numbers 0 to 9, of which 3 and 4 never come and 5 comes twice."""
    ledger = Ledger(engine.begin)
    numbers = np.array([0, 1, 2, 5, 6, 7, 8, 9, 5], np.uint32)
    keys, one = np.zeros(9, np.uint64), np.ones(9, np.uint8)
    with engine.begin() as connection:
        ledger.learn(connection)
        sent = Envelopes(keys, keys, numbers // 10, numbers, one.astype(np.uint16), one)
        newest = np.full(9, MIDNIGHT, np.int64)
        ledger.judge(connection, np.ones(9, np.int64), sent, newest, MIDNIGHT)
        counted = ListenerCounts(
            "udp 127.0.0.1:5001", 9, {"type": 2, "short": 3}, "a socket", 7, back_pressure=4
        )
        ledger.count(connection, [Counts([counted])])
    ledger.committed()
    ledger.fold()


def commit(engine: Engine, number: int, values: list[tuple[int, int, int, int, int]]) -> None:
    """Add a row to the journal; a value is meter, register, epoch, hours since midnight, value."""
    columns = np.array(values, np.int64)
    nothing = np.zeros(len(values), np.uint64)
    readings = Readings(
        nothing,
        nothing,
        columns[:, 2].astype(np.uint32),
        columns[:, 1].astype(np.uint16),
        nothing.astype(np.uint16),
        MIDNIGHT + HOUR * columns[:, 3],
        columns[:, 4],
    )
    batch = journal.sort(columns[:, 0].astype(np.uint32), readings)
    with engine.begin() as connection:
        connection.execute(
            schema.journal.insert().values(
                id=number,
                committed_ms=MIDNIGHT,
                first_ms=int(batch.time.min()),
                last_ms=int(batch.time.max()),
                readings=len(batch),
                body=journal.encode(batch),
            )
        )


LAST = MIDNIGHT + 72 * HOUR
FLATS = [f"flat-{number:02}" for number in range(1, 11)]
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "Energy of a meter by day": [
        (20251008, 2.4, 24, 0),
        (20251009, 2.4, 24, 0),
        (20251010, 2.4, 24, 0),
    ],
    "Energy of the fleet by day": [
        (20251008, 13, 2.4 + 6 + 0.24 + 0.24 * 55),
        (20251009, 3, 2.4 + 6 + 0.24),
        (20251010, 2, 2.4 + 0.24),
    ],
    "The ten meters that used most in a month": [
        ("workshop", 12),
        ("kitchen", 7.2),
        *((f"flat-{number:02}", 0.24 * number) for number in range(10, 2, -1)),
    ],
    "A meter by month": [(202510, 7.2, 3)],
    "The newest readings of a meter, with the registers' OBIS codes and in their units": [
        ("1-0:1.8.0", "energy_import", 12_200, "Wh", LAST),
        ("1-0:1.7.0", "power_import", -123.4, "W", LAST),
        ("1-0:32.7.0", "voltage_l1", 230.123, "V", LAST),
    ],
    "The same instants as text, UTC": [
        ("kitchen", code, "2025-10-10 23:00:00") for code in (ENERGY_IMPORT, POWER_IMPORT, VOLTAGE)
    ],
    "Meters whose newest energy reading is more than a day older than the fleet's newest": [
        (name, MIDNIGHT + 24 * HOUR) for name in FLATS
    ],
    "Days on which a register restarted, or readings were held back (16 + 32 + 64)": [
        ("garage", 20251009, 240, 16)
    ],
    "Alerts, the last raised first": [("workshop", "limit", MIDNIGHT + 9 * HOUR, 2.25, 2)],
    "What waits to be sealed, at most (in the middle of a pass some of it is sealed already)": [
        (1, 1)
    ],
    "The ten meters that lost most datagrams, and how many of 100": [("kitchen", 2, 8, 20)],
    "All that was sent to the collector's sockets, as far as anybody can know": [(21, 9)],
    "What was refused, by reason": [("short", 3), ("type", 2)],
}


def assert_rows(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert len(row) == len(wanted)
        for cell, figure in zip(row, wanted, strict=True):
            if isinstance(figure, str):
                assert cell == figure
            else:
                assert float(cell) == pytest.approx(figure, abs=1e-9)


@pytest.fixture
def open_engines() -> Iterator[list[Engine]]:
    """Engines that are closed at the end."""
    engines: list[Engine] = []
    yield engines
    for engine in engines:
        close_writer(engine)


def filled(database: Database, open_engines: list[Engine]) -> Database:
    open_engines.append(open_writer(database))
    fill(open_engines[-1])
    return database


def test_the_queries_in_the_shell_of_sqlite(
    make_sqlite: MakeDatabase, open_engines: list[Engine]
) -> None:
    shell = shutil.which("sqlite3")
    assert shell is not None, (
        "there is no program sqlite3, with which the queries of docs/schema.md are tried: "
        "install it (apt-get install sqlite3)"
    )
    # The writer has it open, as it does while Wattbus runs.
    path = database_path(filled(make_sqlite(), open_engines).data)
    for sentence, query in queries("SQLite").items():
        done = subprocess.run(
            [shell, "-readonly", "-json", str(path)],
            input=query,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), sentence
        rows = [tuple(row.values()) for row in json.loads(done.stdout or "[]")]
        assert_rows(rows, EXPECTED[sentence])


def test_the_queries_on_postgresql(
    make_postgresql: MakeDatabase, open_engines: list[Engine]
) -> None:
    database = filled(make_postgresql(), open_engines)
    assert database.url is not None
    engine = sa.create_engine(database.url)
    try:
        for sentence, query in queries("PostgreSQL").items():
            with engine.connect() as connection:
                rows = connection.exec_driver_sql(query).all()
            assert_rows([tuple(row) for row in rows], EXPECTED[sentence])
    finally:
        engine.dispose()


def test_the_sentences_before_the_queries_differ() -> None:
    sentences = [sentence for sentence, _ in QUERIES]
    assert len(set(sentences)) == len(sentences)
    assert all(first != second for first, second in pairwise(sentences))
