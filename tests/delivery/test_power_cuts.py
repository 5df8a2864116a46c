"""200 power cuts: what was confirmed before each is there after it, once, and all is sound."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.engine import database_path
from storage.spool import Spool
from tests.conftest import ROOT
from tests.delivery import cuts, spool_alone
from tests.delivery.recording import record
from tests.delivery.trace import FILES, Call, Traced, read

CUTS = 200 if os.environ.get("WATTBUS_LONG") == "1" else 60
pytestmark = pytest.mark.timeout(300)  # a machine whose disk is busy takes its time to sync


@pytest.fixture
def work() -> Iterator[Path]:
    """Where what the cuts left is looked at."""
    with tempfile.TemporaryDirectory(dir=cuts.memory()) as place:
        yield Path(place)


def test_after_200_power_cuts_all_that_was_confirmed_is_there(tmp_path: Path, work: Path) -> None:
    recorded = record(tmp_path)
    # What was recorded is all that a writer does to its disk.
    synced = {Path(call.target).name for call in recorded.calls if "sync" in call.name}
    assert {"wattbus.sqlite3", "wattbus.sqlite3-wal", "wattbus.sqlite3-journal"} < synced
    assert any(name.endswith(".spool") for name in synced)
    assert any(call.name == "unlink" and ".spool" in call.arguments for call in recorded.calls)
    with closing(sqlite3.connect(database_path(recorded.data))) as plain:
        blocks, oldest = plain.execute("SELECT count(*), min(id) FROM blocks").fetchone()
    assert blocks > 1  # sealed
    assert oldest > 1  # the first were merged
    assert list(recorded.harm(CUTS, 1, work)) == []


@pytest.mark.parametrize("fault", ["normal", "early", "unsynced_spool"])
def test_200_power_cuts_find(tmp_path: Path, work: Path, fault: str) -> None:
    harm = next(record(tmp_path, f"small,{fault}").harm(CUTS, 1, work), None)
    assert harm is not None
    assert "confirmed readings are lost" in harm.found[0] or "is damaged" in harm.found[0]


def spooled(tmp_path: Path, fault: str) -> tuple[list[Call], list[int]]:
    """The calls of a spool alone, and where it said that a batch is kept."""
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", "tests.delivery.spool_alone", fault, str(tmp_path / "data")]
    with Traced(command, tmp_path / "trace", FILES, cwd=ROOT) as traced:
        assert traced.process.wait(60) == 0
    calls = read(tmp_path / "trace")
    said = [call.entered for call in calls if call.name == "write" and call.target[:5] == "pipe:"]
    assert len(said) == spool_alone.BATCHES
    return calls, said


def kept(left: Path, told: int) -> list[str]:
    """What is wrong with a spool after a cut, with so many batches kept before."""
    spool, found = Spool(left, "postgresql+psycopg://u@h/d"), []
    while (first := spool.first()) is not None:
        found.append(first[1])
        spool.drained(first[0])
    spool.close()
    wanted = [spool_alone.body(number + 1) for number in range(spool_alone.BATCHES)]
    if found[:told] != wanted[:told] or found != wanted[: len(found)]:
        return [f"{len(found)} batches are there, {told} were kept"]
    return []


@pytest.mark.parametrize("fault", ["sound", "unsynced_spool"])
def test_the_spool_needs_no_database_to_be_durable(tmp_path: Path, work: Path, fault: str) -> None:
    calls, said = spooled(tmp_path, fault)
    data = tmp_path / "data"
    at = cuts.moments(calls, data, said, CUTS, 2)
    harm = list(cuts.cut(calls, data, said, at, work, kept, 2))
    assert (harm == []) == (fault == "sound"), harm[:3]
