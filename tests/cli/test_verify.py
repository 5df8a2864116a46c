"""``wattbus verify`` beside a running collector, and after damage."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from storage.defaults import Defaults
from storage.engine import Database, close_writer, database_path, open_writer
from storage.sealing import Sealer
from tests.cli.test_serve import START, datagram
from tests.conftest import ROOT, Stack

COUNT = 2000


def wattbus(*words: str) -> list[str]:
    return [sys.executable, "-m", "cli", "verify", *words]


def verify(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        wattbus("--data", str(data), "--time-zone", "UTC", *words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def seal(data: Path) -> None:
    engine = open_writer(Database(data))
    sealer = Sealer(engine.begin, Defaults())
    with engine.begin() as connection:
        sealer.learn(connection)
    sealer.seal_all()
    close_writer(engine)


def test_a_collector_is_verified_while_it_runs(stack: Stack) -> None:
    stack.send([datagram("kitchen", number) for number in range(COUNT)])
    stack.wait_for("kitchen", START + 1000 * (COUNT - 1))
    assert stack.stop() == 0
    seal(stack.data)
    stack.start()
    stack.send([datagram("kitchen", COUNT + number) for number in range(50)])
    stack.wait_for("kitchen", START + 1000 * (COUNT + 49))
    done = verify(stack.data)
    assert (done.returncode, done.stderr) == (0, "")
    *_, counted, last = done.stdout.splitlines()
    assert counted.startswith("2,050 readings in 1 blocks and ")
    assert last == "everything is right"

    with sqlite3.connect(database_path(stack.data)) as plain:
        plain.execute("UPDATE daily SET wh = wh + 1")
    plain.close()
    done = verify(stack.data)
    assert (done.returncode, done.stderr) == (1, "")
    wh = 3 * (COUNT - 1)
    assert done.stdout.splitlines()[0] == (
        f"daily.wh, meter kitchen (number 1), day 2025-10-09: stored {wh + 1}, computed {wh}"
    )
    assert "1 difference found; nothing was changed" in done.stdout

    done = verify(stack.data, "--json")
    assert done.returncode == 1
    difference, totals = map(json.loads, done.stdout.splitlines())
    assert (difference["what"], difference["stored"]) == ("daily.wh", str(wh + 1))
    assert (totals["differences"], totals["values"], totals["meters"]) == (1, COUNT + 50, 1)
    assert stack.process is not None
    assert stack.process.poll() is None


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    done = verify(tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no database at" in done.stderr
    database_path(tmp_path).write_bytes(b"no database" * 1000)
    done = verify(tmp_path)
    assert done.returncode == 2
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_examples() -> None:
    done = subprocess.run(wattbus("--help"), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "wattbus verify --json" in done.stdout
    assert "exit codes: 0" in done.stdout


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    """Amid SQLite's own check of a file that takes it a while."""
    close_writer(open_writer(Database(tmp_path)))
    with sqlite3.connect(database_path(tmp_path)) as plain:
        plain.execute(
            "INSERT INTO daily WITH RECURSIVE n(i) AS"
            " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000)"
            " SELECT 20250101 + i / 100000, i % 100000, 1, 1, 0 FROM n"
        )
    plain.close()
    process = subprocess.Popen(
        wattbus("--data", str(tmp_path)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = database_path(tmp_path).with_name("wattbus.sqlite3-shm")
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "wattbus: stopped before everything was looked at\n"
