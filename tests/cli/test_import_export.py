"""`wattbus import` and `export` against whole collectors (docs/import-export.md)."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from telemetry.files.csv_text import HEADER
from telemetry.files.csv_values import status_text
from tests.conftest import ROOT, Stack
from tests.query.feeding import running
from tests.shell import wattbus
from tests.telemetry.files.nem12_text import days

DATA = ROOT / "tests" / "data"
EXAMPLES = [str(path) for path in sorted(DATA.glob("nem12_*.csv"))]
MakeStack = Callable[..., Stack]
COUNTS = re.compile(r"([\d,]+) (?:would be )?stored, ([\d,]+) were there already")


def bring(stack: Stack | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``wattbus import`` on a collector's data, in this process; a warning is an error."""
    data = stack if isinstance(stack, Path) else stack.data
    return wattbus("import", *arguments, "--data", str(data))


def brought(stack: Stack, *arguments: str) -> tuple[int, int]:
    """How many readings were new, and how many were there."""
    done = bring(stack, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found = COUNTS.search(done.stdout)
    assert found, done.stdout
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def asked(stack: Stack, *words: str) -> Any:
    done = stack.cli(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout, parse_float=Decimal)


def exported(stack: Stack, *arguments: str) -> str:
    done = stack.cli("export", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A collector of all tests that store nothing."""
    with running(tmp_path_factory.mktemp("empty")) as one:
        yield one


def stored(stack: Stack) -> int:
    with stack.client() as client:
        return client.status().readings


def test_nem12_twice(stack: Stack) -> None:
    assert brought(stack, *EXAMPLES, "--dry-run") == (1305, 0)
    assert stored(stack) == 0
    assert brought(stack, *EXAMPLES) == (1305, 0)
    before = exported(stack, "--all")
    assert brought(stack, *EXAMPLES) == (0, 1305)
    assert brought(stack, *reversed(EXAMPLES), "--dry-run") == (0, 1305)
    assert exported(stack, "--all") == before
    assert stored(stack) == 1305

    asked(stack, "meters", "set", "VABD000163", "--time-zone", "Australia/Brisbane")
    (day,) = asked(stack, "history", "VABD000163")
    assert day == {
        "start": "2004-02-01T00:00:00+10:00",
        "end": "2004-02-02T00:00:00+10:00",
        "kwh": "53.328",
        "flags": [],
    }
    assert asked(stack, "total", "NCDE001111")["kwh"] == "1.920"
    assert asked(stack, "total", "NCDE001111/2")["kwh"] == "19.200"

    asked(stack, "meters", "set", "CCCC123456", "--time-zone", "Australia/Brisbane")
    hours = asked(stack, "history", "CCCC123456", "--step", "hour")
    assert len(hours) == 24
    assert hours[0]["kwh"] == "37.173"
    # Intervals 21 to 24 are measured; the first of them begins at an estimated reading.
    assert [hour["flags"] for hour in hours] == [["device"]] * 11 + [[]] + [["device"]] * 12
    # No importing process is left among the receivers.
    with stack.client() as client:
        status = client.status()
        assert status.writer is not None
        assert len(status.writer.receivers) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_months_in_both_orders(stack: Stack, tmp_path: Path, order: tuple[int, int]) -> None:
    months = [tmp_path / "02.csv", tmp_path / "03.csv"]
    months[0].write_text(days("202402", 29, "0.5"))
    months[1].write_text(days("202403", 31, "0.25"))
    assert brought(stack, str(months[order[0]])) == ((29, 31)[order[0]] * 48 + 1, 0)
    assert brought(stack, str(months[order[1]])) == ((29, 31)[order[1]] * 48, 1)
    asked(stack, "meters", "set", "NMI0000001", "--time-zone", "Australia/Brisbane")
    found = asked(stack, "history", "NMI0000001", "--step", "month")
    assert [(slot["start"][:10], slot["kwh"], slot["flags"]) for slot in found] == [
        ("2024-02-01", "696.000", []),
        ("2024-03-01", "372.000", []),
    ]
    halves = asked(stack, "history", "NMI0000001", "--step", "raw")
    assert [half["kwh"] for half in halves] == ["0.500"] * 29 * 48 + ["0.250"] * 31 * 48


def test_round_trip_into_a_second_collector(make_stack: MakeStack, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = make_stack(data=tmp_path / "one" / "data")
    assert brought(first, *EXAMPLES) == (1305, 0)
    more = tmp_path / "more.csv"
    more.write_text(
        "id,time,register,value,status,epoch\n"
        "kitchen,1969-12-31T23:59:59.999Z,energy_import,10,,0\n"
        "kitchen,2024-03-01T00:00:00Z,energy_import,12,suspect 0x0040,4294967295\n"
        "0d9d9ff0-6f0c-4c50-8e53-3a4f8a9e8a05,1700000000.5,voltage_l1,230.123,arrival_time,7\n"
        "a-name-of-more-than-16-letters,1700000000,power,-1.5,,7\n"
    )
    assert brought(first, str(more)) == (4, 0)
    text = exported(first, "--all")
    assert len(text.splitlines()) == 1 + 1309

    (tmp_path / "two").mkdir()
    second = make_stack(data=tmp_path / "two" / "data")
    packed = tmp_path / "all.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert brought(second, str(packed)) == (1309, 0)
    assert exported(second, "--all") == text
    assert brought(second, str(packed)) == (0, 1309)


def test_export_of_a_part(stack: Stack, tmp_path: Path) -> None:
    brought(stack, EXAMPLES[0])
    arguments = ("VABD000163", "--register", "1.8.0")
    day = ("--from", "2004-02-01T00:00+10:00", "--to", "2004-02-01T01:00+10:00")
    rows = list(csv.DictReader(io.StringIO(exported(stack, *arguments, *day))))
    assert [(row["register"], row["time"]) for row in rows] == [
        ("energy_import", "2004-01-31T14:00:00Z"),
        ("energy_import", "2004-01-31T14:30:00Z"),
    ]
    path = tmp_path / "out.csv"
    assert exported(stack, *arguments, *day, "-o", str(path)) == ""
    assert list(csv.DictReader(io.StringIO(path.read_text()))) == rows
    assert [each.name for each in tmp_path.glob("out*")] == ["out.csv"]


def test_export_of_pages_and_row_groups(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    lines = (f"{1_600_000_000 + n},{n}\n" for n in range(110_001))
    path.write_text("time,energy_import\n" + "".join(lines))
    assert brought(stack, str(path), "--id", "long") == (110_001, 0)
    rows = list(csv.reader(io.StringIO(exported(stack, "long"))))
    assert [int(row[4]) for row in rows[1:]] == list(range(110_001))
    target = tmp_path / "long.parquet"
    exported(stack, "--all", "--format", "parquet", "-o", str(target))
    file = pyarrow.parquet.ParquetFile(target)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [
        100_000,
        10_001,
    ]
    assert file.schema_arrow.names == list(HEADER)
    table = file.read().to_pylist()
    assert [(row["raw"], row["id"], row["status"]) for row in table] == [
        (n, "long", "") for n in range(110_001)
    ]
    assert table[0]["time"].timestamp() == 1_600_000_000
    file.close()


def test_parquet_tells_the_same_as_csv(stack: Stack, tmp_path: Path) -> None:
    brought(stack, *EXAMPLES)
    target = tmp_path / "all.parquet"
    exported(stack, "--all", "--format", "parquet", "-o", str(target))
    rows = pyarrow.parquet.read_table(target).to_pylist()
    lines = list(csv.DictReader(io.StringIO(exported(stack, "--all"))))
    for row in rows:
        row["time"] = row["time"].strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [{name: str(value) for name, value in row.items()} for row in rows] == lines
    assert {row["status"] for row in rows} == {"", status_text(1)}


def test_a_file_with_a_gap(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "gap.csv"
    text = days("202403", 3, "0.5").splitlines(keepends=True)
    path.write_text("".join([*text[:3], *text[4:]]))
    done = bring(stack, str(path))
    assert "98 readings" in done.stdout
    asked(stack, "meters", "set", "NMI0000001", "--time-zone", "Australia/Brisbane")
    found = asked(stack, "history", "NMI0000001")
    assert [(slot["kwh"], slot["flags"]) for slot in found] == [
        ("24.000", []),
        ("0.000", ["device"]),
        ("24.000", ["device"]),
    ]


WRONG = days("202403", 2).replace("300,20240302,0.5,0.5", "300,20240302,0.5,oops")


WRONG_FILES = [
    (WRONG, "line 4: interval 2: 'oops' is no energy"),
    (days("202403", 2)[:-5], "line 4: the file is cut off after it"),
    ("time,energy_import\n1700000000,1\n1700000001,one\n", "line 3: 'one' is no value"),
    ("time,energy_import\n1700000000,1\n\ufffe\x00\n", "line 3: "),
    ("", "line 1: there is no header"),
    ("PK\x03\x04", "is a ZIP archive: unpack it first"),
]


def test_a_wrong_file_stores_nothing(shared: Stack, tmp_path: Path) -> None:
    good, wrong = tmp_path / "good.csv", tmp_path / "wrong.csv"
    good.write_text(days("202402", 2))
    for content, message in WRONG_FILES:
        wrong.write_text(content)
        done = bring(shared, str(good), str(wrong), "--id", "kitchen")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"wattbus: {wrong}: {message}" in done.stderr
        assert "Traceback" not in done.stderr
    done = bring(shared, str(good), str(wrong), "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    wrong.write_bytes(b"time,power\n1700000000,1\n1700000000,\xff\n")
    assert "line 3: is not UTF-8" in bring(shared, str(wrong), "--id", "x").stderr
    wrong.write_bytes(gzip.compress(days("202403", 2).encode())[:-20])
    assert "the gzip file is damaged" in bring(shared, str(wrong)).stderr
    assert stored(shared) == 0


def test_files_that_disagree_store_nothing(stack: Stack, tmp_path: Path) -> None:
    first, revised = tmp_path / "first.csv", tmp_path / "revised.csv"
    first.write_text(days("202403", 2, "0.5"))
    revised.write_text(days("202403", 2, "0.75"))
    done = bring(stack, str(first), str(revised))
    assert done.returncode == 2
    assert "meter NMI0000001, E1: the interval from 2024-02-29T14:00:00Z has two" in done.stderr
    assert brought(stack, str(first)) == (97, 0)
    done = bring(stack, str(revised))
    assert done.returncode == 2
    assert "but 1,000,000,500 is stored there" in done.stderr
    assert stored(stack) == 97
    assert brought(stack, str(revised), "--id", "other") == (97, 0)


def test_no_collector(tmp_path: Path) -> None:
    done = bring(tmp_path / "none", EXAMPLES[0])
    assert done.returncode == 2
    assert "start `wattbus serve` first" in done.stderr
    done = bring(tmp_path / "none", EXAMPLES[0], "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "98 would be stored" in done.stdout


def test_wrong_arguments_of_import(shared: Stack) -> None:
    for arguments, message in (
        (["/no/such/file"], "cannot read /no/such/file: No such file"),
        ([str(DATA)], f"cannot read {DATA}: Is a directory"),
        ([EXAMPLES[1], "--id", "x"], "--id names one meter, but the files are of 2"),
        ([EXAMPLES[1], "--id", "x"], "NCDE001111, NDDD001888"),
        ([EXAMPLES[1], "--utc-offset", "ten"], "'ten' is no offset from UTC"),
        ([EXAMPLES[1], "--format", "csv", "--id", "x"], "line 1: "),
    ):
        done = bring(shared, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert stored(shared) == 0


def test_wrong_arguments_of_export(stack: Stack, tmp_path: Path) -> None:
    brought(stack, EXAMPLES[0])
    for arguments, code, message in (
        ([], 2, "say which meters: their ids, or --all"),
        (["--all", "x"], 2, "say which meters"),
        (["nobody"], 2, "there is no meter 'nobody'"),
        (["VABD000163", "--register", "energy"], 2, "'energy' is no register"),
        (["VABD000163", "--from", "soon"], 2, "--from: "),
        (["VABD000163", "-o", str(tmp_path / "no" / "file")], 2, "cannot write"),
        (["nobody", "-o", str(tmp_path / "kept")], 2, "there is no meter"),
    ):
        done = stack.cli("export", *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert message in done.stderr
    assert not list(tmp_path.glob("kept*"))


def test_parquet_says_what_to_install(shared: Stack, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cli", "export", "--all"),
            *("--format", "parquet", "--query", shared.query),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'wattbus[parquet]'" in done.stderr


def test_ctrl_c_says_what_is_stored_and_running_it_again_is_safe(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "many.csv"
    count = 400_000
    with path.open("w") as file:
        file.write("time,energy_import\n")
        file.writelines(f"{1_600_000_000 + n},{n}\n" for n in range(count))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "cli", "import", str(path)),
            *("--id", "many", "--data", str(stack.data)),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not stored(stack):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    found = re.search(r"interrupted: ([\d,]+) readings are stored", said)
    assert found, said
    durable = int(found[1].replace(",", ""))
    assert 0 < durable < count
    new, there = brought(stack, str(path), "--id", "many")
    assert new + there == count
    assert there >= durable
    with stack.client() as client:
        assert client.total("many").wh == count - 1
    assert stored(stack) == count
