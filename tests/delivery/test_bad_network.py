"""Real ``wattbus meter`` processes, real sockets, a bad network: everything is stored once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry import meter_id
from tests.delivery.collector_socket import SocketCollector

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("WATTBUS_LONG") == "1"
# 1,000,000 readings, or a shorter form.
METERS, TICKS, INTERVAL = (10_000, 100, 2.0) if LONG else (1_000, 21, 0.2)


@pytest.mark.timeout(2400)
def test_a_bad_network_loses_nothing_and_costs_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SocketCollector(seed=1, loss=0.3, repeats=0.05, jitter=0.2) as collector:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cli.main", "meter", "--id", "m", "--to", collector.to),
                *("--meters", str(METERS), "--count", str(TICKS), "--interval", str(INTERVAL)),
                *("--wait", "600", "--state", str(tmp_path / "state.db"), "--multiplier", "1e6"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            collector.wait_until_stored(METERS * TICKS, within=600)
            # All came through a bad network. The acknowledgements of the last few would take
            # minutes, as each repeat waits longer.
            collector.heal()
            out, err = process.communicate(timeout=600)
    readings = METERS * TICKS
    assert (process.returncode, err) == (0, "")
    found = re.search(r"m: ([0-9,]+) datagrams sent to .* all are acknowledged", out)
    assert found
    sent = int(found[1].replace(",", ""))
    with capsys.disabled():
        print(
            f"\n{readings:,} readings, 30 % lost each way: {sent / readings:.2f} transmissions a "
            f"reading, {dict(collector.collector.verdicts)}"
        )
    assert collector.stored == collector.collector.verdicts["unique"] == readings
    assert readings < sent <= 2.5 * readings
    width = len(str(METERS))
    for number in (1, METERS):
        energies = collector.energies(meter_id.to_octets(f"m-{number:0{width}}"))
        assert len(energies) == TICKS
        assert energies == sorted(energies)
        assert energies[-1] > 0
