"""A real ``wattbus meter``, a real collector, a bad network between them: all is stored once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import ROOT, Stack
from tests.delivery.network import Network, Weather

LONG = os.environ.get("WATTBUS_LONG") == "1"
# 1,000,000 readings, or a shorter form.
METERS, TICKS, INTERVAL = (10_000, 100, 2.0) if LONG else (20, 250, 0.05)
BAD = Weather(loss=0.3, repeats=0.05, jitter=0.2)


@pytest.mark.timeout(2400)
def test_a_bad_network_loses_nothing_and_costs_little(
    make_stack: Callable[..., Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    stack = make_stack()
    readings = METERS * TICKS
    with Network(stack.udp, BAD, BAD, seed=1) as network:
        host, port = network.address
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cli", "meter", "--id", "m", "--to", f"{host}:{port}"),
                *("--meters", str(METERS), "--count", str(TICKS), "--interval", str(INTERVAL)),
                *("--wait", "900", "--state", str(stack.data.parent / "state.db")),
                *("--multiplier", "1e6"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            stack.wait_until(lambda client: client.loss().totals.unique == readings, 900)
            # All came through a bad network. The acknowledgements of the last few would take
            # minutes, as each repeat waits longer.
            network.up = network.down = Weather()
            out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        # With so much lost, the last few may take the collector for gone for a while.
        assert all("no acknowledgement comes" in s or "is back" in s for s in err.splitlines()), err
        assert network.sent.lost > 0.25 * readings
        assert network.answered.lost > 0.25 * network.answered.taken
    found = re.search(r"m: ([0-9,]+) datagrams sent to .* all are acknowledged", out)
    assert found
    sent = int(found[1].replace(",", ""))
    with stack.client() as client:
        totals = client.loss().totals
        with capsys.disabled():
            print(
                f"\n{readings:,} readings, 30 % lost each way: {sent / readings:.2f} transmissions "
                f"a reading; duplicate {totals.duplicate:,}, out of order {totals.out_of_order:,}"
            )
        assert (totals.unique, totals.lost) == (readings, 0)
        assert totals.stale < 0.01 * readings  # copies that were late on the way
        assert totals.duplicate > 0 < totals.out_of_order
        assert readings < sent <= 2.5 * readings
        width = len(str(METERS))
        for number in (1, METERS):
            values = client.readings(f"m-{number:0{width}}", most=10_000)
            assert len(values.raw) == TICKS
            assert values.raw == sorted(values.raw)
            assert values.raw[-1] > 0
