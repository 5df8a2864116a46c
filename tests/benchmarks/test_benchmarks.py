from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.homes import STEP_MS, Homes
from benchmarks.senders import SENDERS, Sender
from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.datagrams import Datagrams
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.registers import BY_CODE, Quantity

NOW = 1_795_428_900_000
ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    """What a benchmark prints, at a size at which its times mean nothing."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_writer_prints_costs_and_sizes_at_each_size(tmp_path: Path) -> None:
    small = ("--meters", "5", "--window", "0.0005", "--windows", "2")
    printed = run("writer", "--millions", "0.001", "0.003", *small, "--keep", str(tmp_path))
    for size in ("1,000", "3,000"):
        assert f"\n{size} readings of 5 meters: first answer" in printed
    assert printed.count("(target 0.6: commit") == 2
    assert printed.count("octets a reading (target 2.4)") == 2
    # A second run goes on from what is there: 3,000 readings and the windows after them.
    assert "\n4,000 readings of 5 meters" in run(
        "writer", "--millions", "0.003", *small, "--keep", str(tmp_path)
    )


def test_forged_prints_what_is_rejected_lost_and_sent_out() -> None:
    printed = run("forged", "--datagrams", "6000", "--rate", "2000")
    assert printed.count("real ones lost: 0; datagrams sent out: 0") == 3
    assert "rejected 2,000 {'unknown_key': 2000}, 0 dropped" in printed
    assert "rejected 2,000 {'forged': 2000}, 0 dropped" in printed
    assert "rejected 2,000 {'unknown_key': 1000, 'forged': 1000}, 0 dropped" in printed


def test_senders_prints_what_a_datagram_of_each_format_costs() -> None:
    printed = run("senders", "--datagrams", "2000", "--rounds", "1", "--meters", "10")
    for one in SENDERS:
        row = re.search(
            rf"^{re.escape(one.name)} +([\d.]+) +([\d.]+) +([\d.]+) +(.*)$", printed, re.M
        )
        assert row, printed
        assert float(row[1]) > 0
        assert float(row[3]) >= 1
        assert row[4].split() == ["2,000", "0", "0"]  # all sent came in


@pytest.mark.parametrize("one", SENDERS, ids=[one.name for one in SENDERS])
def test_what_is_made_is_of_its_format_and_rises(one: Sender) -> None:
    """Of each meter and turn another datagram, whose energies never fall."""
    datagrams = [one.made(meter, turn) for turn in range(30) for meter in range(4)]
    assert len(set(datagrams)) == len(datagrams)
    gate = Gate(Allowed(LOOPBACK), KeyRing.empty())
    decoded = FORMATS[one.format].decoder(Options())(Datagrams.of(datagrams), NOW, gate)
    assert not decoded.tally.refused
    last: dict[tuple[int, int, int], int] = {}
    found = decoded.readings
    columns = (found.key_high, found.key_low, found.register, found.value)
    for high, low, register, value in zip(*(one.tolist() for one in columns), strict=True):
        if BY_CODE[register].quantity is Quantity.ENERGY:
            assert value >= last.get((high, low, register), 0)
            last[high, low, register] = value
    assert len({key[:2] for key in last}) >= 4


@pytest.mark.parametrize("batch", [1, 7, 96])
def test_homes_are_the_same_in_any_batches(batch: int) -> None:
    start = 1_700_000_000_000 // STEP_MS * STEP_MS
    whole = Homes(4, start).rounds(96)
    parts, homes = [], Homes(4, start)
    for done in range(0, 96, batch):
        parts.append(homes.rounds(min(batch, 96 - done)))
    for column, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(column, np.concatenate(pieces))
