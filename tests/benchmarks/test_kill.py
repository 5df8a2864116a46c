"""The harness that kills: it finds nothing wrong with an honest collector, and each fault there is.

It does not need Wattbus for that: a small collector of its own does what the document says.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks import kill
from benchmarks.meters import START_MS, Meters, name, value
from benchmarks.ports import free_port
from telemetry import meter_id
from telemetry.formats import ack, native
from tests.conftest import ROOT
from tests.waiting import wait_until


class Honest:
    """The small collector as a process."""

    def __init__(self, directory: Path, fault: str) -> None:
        self.udp = "127.0.0.1", free_port()
        self._file = directory / "honest.sqlite3"
        program = str(Path(__file__).with_name("honest.py"))
        self._command = [sys.executable, program, str(self.udp[1]), str(self._file), fault]
        self.process = self._start()
        wait_until(self._begun)

    def _begun(self) -> bool:
        """Whether it has made its table: a test may stop it for good at once."""
        with suppress(sqlite3.OperationalError):
            return self.stored() == 0
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def kill(self, who: str) -> None:
        assert who in kill.WHO
        self.stop()
        self.process = self._start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _ask(self, question: str, *values: str) -> list[tuple[int, int]]:
        with closing(sqlite3.connect(self._file)) as database:
            return database.execute(question, values).fetchall()

    def readings(self, meter: str) -> list[tuple[int, int]]:
        return self._ask("SELECT time, value FROM r WHERE meter = ?", meter)

    def stored(self) -> int:
        return self._ask("SELECT count(*), 0 FROM r")[0][0]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[list[Honest]]:
    made: list[Honest] = []
    yield made
    for collector in made:
        collector.stop()


def play(collector: Honest, rounds: int = 3) -> tuple[kill.Outcome, str]:
    said: list[str] = []
    outcome = kill.play(
        collector, rounds=rounds, rate=500, meters=50, who="any", seed=3, tell=said.append
    )
    kill.report(outcome, said.append)
    return outcome, "\n".join(said)


def test_an_honest_collector_loses_nothing(tmp_path: Path, make: list[Honest]) -> None:
    make.append(Honest(tmp_path, "none"))
    outcome, said = play(make[0])
    assert outcome.good, said
    assert outcome.acknowledged == outcome.readings == outcome.stored > 500
    assert sum(map(len, outcome.backs.values())) == 3
    assert "3 times" in said
    assert said.endswith("all is well")


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("early", "acknowledged and lost"),
        ("twice", "stored twice"),
        ("wrong", "of another value"),
    ],
)
def test_a_fault_is_found(fault: str, complaint: str, tmp_path: Path, make: list[Honest]) -> None:
    make.append(Honest(tmp_path, fault))
    outcome, said = play(make[0])
    assert outcome.faults[complaint] > 0, said
    assert f"{complaint}\n" in said
    assert said.endswith("NOT well")


def test_a_collector_that_stays_away_is_told(
    tmp_path: Path, make: list[Honest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill, "_BACK_WITHIN", 1.5)
    monkeypatch.setattr(kill, "_FINISHED_WITHIN", 1.0)
    make.append(Honest(tmp_path, "none"))
    monkeypatch.setattr(make[0], "kill", lambda _: make[0].stop())
    outcome, said = play(make[0])
    assert not outcome.good
    assert "round 1: no reading was acknowledged" in said
    assert "FAULT: not everything was acknowledged in the end" in said


# The meters of the harness are held to the document's rules


class Ear:
    """A collector's socket in the test's own hands."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.where: tuple[str, int] = ("", 0)

    def hear(self, seconds: float) -> list[tuple[float, bytes, int]]:
        """When, the octets, and the number of each datagram that comes."""
        heard, end = [], time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                octets, self.where = self.sock.recvfrom(2048)
            except TimeoutError:
                break
            number = native.decode(octets, START_MS).sequence
            heard.append((time.monotonic(), octets, number))
        return heard

    def say(self, following: int, bitmap: int = 0, epoch: int = 1, meter: int = 0) -> None:
        said = ack.Ack(meter_id.to_octets(name(meter)), epoch, following, bitmap)
        self.sock.sendto(ack.encode(said), self.where)


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    yield made
    made.sock.close()


def test_the_meters_keep_to_the_rules(ear: Ear) -> None:
    fleet = Meters(ear.sock.getsockname(), 1, 200.0, seed=1)
    fleet.start()
    first = ear.hear(0.9)
    # A window of 64, in order, each once until a second or nearly has gone by.
    assert [number for _, _, number in first] in (list(range(64)), [*range(64), 0])
    one = native.decode(first[5][1], START_MS)
    assert one.acknowledge
    assert (one.records[0].time, one.records[0].value) == (START_MS + 5000, value(0, 5))
    # While nothing is heard only the oldest is repeated: the same octets, later and later.
    probes = first[64:] + ear.hear(3.5)
    assert [number for _, _, number in probes] == [0, 0]
    assert {octets for _, octets, _ in probes} == {first[0][1]}
    waits = np.diff([first[0][0], *(when for when, _, _ in probes)])
    assert 0.66 < waits[0] < 1.2
    assert 1.33 < waits[1] < 2.2
    # What says nothing true changes nothing.
    ear.say(64, epoch=2)
    ear.say(65)
    ear.sock.sendto(b"?", ear.where)
    assert all(number == 0 for _, _, number in ear.hear(0.2))
    # The first acknowledgement opens the window: what is overdue and not named, then what is new.
    ear.say(1, bitmap=0b101)  # 0, 2 and 4
    numbers = [number for _, _, number in ear.hear(0.3)]
    assert numbers[:62] == [1, 3, *range(5, 64), 64]
    assert max(numbers) == 64  # 1 + 63: the window is of the oldest
    ear.say(65)
    ear.hear(0.2)
    assert not fleet.finish(0.0)
    assert list(fleet.meters[0].acknowledged[:65]) == [1] * 65


def test_back_is_when_a_new_reading_is_acknowledged(ear: Ear) -> None:
    fleet = Meters(ear.sock.getsockname(), 1, 50.0, seed=1)
    fleet.start()
    known = len(ear.hear(0.3))
    fleet.watch()
    ear.say(known)  # all that was sent before
    assert fleet.back(0.15) is None
    fleet.watch()
    began = time.monotonic()
    heard = ear.hear(0.3)
    ear.say(heard[-1][2] + 1)
    back = fleet.back(1.0)
    assert back is not None
    assert 0.3 <= back < time.monotonic() - began + 0.01
    fleet.finish(0.0)
