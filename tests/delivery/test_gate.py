"""Nobody is told that something is durable before it is: the order of system calls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.delivery import gate
from tests.delivery.feed import Feeder
from tests.delivery.trace import FILES, SOCKETS, Call, Traced

BATCHES = 30


def traced_writer(tmp_path: Path, faults: str, lockstep: bool = True) -> list[Call]:
    """The calls of a writer that was handed batches, each once the one before was confirmed."""
    command = [sys.executable, "-m", "tests.delivery.launch", faults, "writer"]
    command += [str(tmp_path / "data"), f"ipc://{tmp_path}/writer"]
    with Traced(command, tmp_path / "trace", f"{FILES},{SOCKETS}", cwd=ROOT) as traced:
        assert traced.first_line() == "ready\n"
        feeder = Feeder(tmp_path / "writer")
        for _ in range(BATCHES):
            feeder.hand(within=10.0 if lockstep else 0.0)
        feeder.settle(10.0)
        feeder.close()
        assert traced.stop() == 0
    return traced.calls()


def test_a_batch_is_confirmed_once_it_is_synced(tmp_path: Path) -> None:
    calls = traced_writer(tmp_path, "sound")
    said = gate.told(calls)
    assert [item.item[1] for item in said] == list(range(1, BATCHES + 1))
    assert gate.violations(calls) == []
    assert len(gate.commits(calls)) >= BATCHES


@pytest.mark.parametrize("fault", ["normal", "early"])
def test_the_gate_sees(tmp_path: Path, fault: str) -> None:
    calls = traced_writer(tmp_path, fault)
    assert len(gate.told(calls)) == BATCHES
    assert len(gate.violations(calls)) >= BATCHES - 2
