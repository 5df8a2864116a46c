"""200 power cuts of a meter: what may have been sent is still in its outbox, its numbers taken."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from telemetry.delivery import Numbers
from telemetry.outbox import Outbox
from tests.conftest import ROOT
from tests.delivery import cuts
from tests.delivery.outbox_alone import EPOCH, METERS, octets, place, says
from tests.delivery.trace import FILES, Call, Traced, read

CUTS = 200 if os.environ.get("WATTBUS_LONG") == "1" else 60


def recorded(tmp_path: Path, fault: str) -> tuple[list[Call], list[int]]:
    """The calls of an outbox alone, and where it said something."""
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", "tests.delivery.outbox_alone", fault, str(tmp_path / "data")]
    with Traced(command, tmp_path / "trace", FILES, cwd=ROOT) as traced:
        assert traced.process.wait(60) == 0
    calls = read(tmp_path / "trace")
    said = [call.entered for call in calls if call.name == "write" and call.target[:5] == "pipe:"]
    assert len(said) == len(says())
    return calls, said


def wrong(left: Path, told: int) -> list[str]:
    """What is wrong with an outbox after a cut, once so much was said."""
    said = says()[:told]
    kept = [number for what, number in said if what == "kept"]
    removed = max((number for what, number in said if what == "removing"), default=0)
    with Outbox(place(left), METERS, EPOCH) as outbox:
        if (outbox.epoch != EPOCH).any() or (outbox.next < len(kept)).any():
            return [f"numbers of datagrams that may have been sent are free again: {outbox.next}"]
        spans = {
            (meter, epoch): range(first, end)
            for numbers, ends in outbox.waiting()
            for meter, epoch, first, end in zip(
                numbers.meter.tolist(),
                numbers.epoch.tolist(),
                numbers.sequence.tolist(),
                ends.tolist(),
                strict=True,
            )
        }
        for meter in range(len(METERS)):
            wanted = [number for number in kept if number >= removed]
            missing = set(wanted) - set(spans.get((meter, EPOCH), ()))
            if missing:
                return [f"{METERS[meter]}: {sorted(missing)} are lost"]
            count = len(wanted)
            numbers = Numbers(
                np.full(count, meter), np.full(count, EPOCH), np.array(wanted, np.int64)
            )
            if outbox.octets(numbers) != [octets(meter, number) for number in wanted]:
                return [f"{METERS[meter]}: other octets"]
    return []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["sound", "normal"])
def test_a_meter_whose_power_is_cut_keeps_what_it_sent(tmp_path: Path, fault: str) -> None:
    calls, said = recorded(tmp_path, fault)
    data = tmp_path / "data"
    at = cuts.moments(calls, data, said, CUTS, 1)
    with tempfile.TemporaryDirectory(dir=cuts.memory()) as work:
        harm = list(cuts.cut(calls, data, said, at, Path(work), wrong, 1))
    assert (harm == []) == (fault == "sound"), harm[:3]
