"""A writer's whole life on SQLite, recorded: commits, sealing, merging, checkpoints, the spool."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from storage.engine import database_path
from tests.conftest import ROOT
from tests.delivery import cuts, gate, recovery
from tests.delivery.feed import Feeder, Stored, expected
from tests.delivery.trace import FILES, SOCKETS, Call, Traced

ROUNDS = 4
_BEFORE, _SPOOLED, _AFTER = 80, 20, 40


@dataclass(frozen=True, slots=True)
class Recording:
    """What was done to a data directory, and which batches were confirmed when."""

    data: Path
    calls: list[Call]
    sent: int  # batches, numbered from 1
    tellings: list[tuple[int, int]]  # the line from which on a batch is confirmed, and its number

    @property
    def lines(self) -> list[int]:
        """The lines of the tellings."""
        return [line for line, _ in self.tellings]

    def confirmed(self, tellings: int) -> Stored:
        """What must be there after the first so many tellings."""
        return expected((number for _, number in self.tellings[:tellings]), ROUNDS)

    def everything(self) -> Stored:
        """All that was handed over."""
        return expected(range(1, self.sent + 1), ROUNDS)

    def harm(self, count: int, seed: int, work: Path) -> Iterator[cuts.Wrong]:
        """Cut the power so many times; the cuts after which the real writer finds a loss."""

        def check(left: Path, told: int) -> list[str]:
            recovery.recover(left)
            return recovery.wrong(left, self.confirmed(told), self.everything())

        at = cuts.moments(self.calls, self.data, self.lines, count, seed)
        return cuts.cut(self.calls, self.data, self.lines, at, work, check, seed)


def record(place: Path, faults: str = "small") -> Recording:
    """Run a writer under strace in a directory; ``faults`` are those of ``launch``."""
    data, endpoint = place / "data", place / "writer"
    command = [sys.executable, "-m", "tests.delivery.launch", faults, "writer"]
    command += [str(data), f"ipc://{endpoint}"]
    with Traced(command, place / "trace", f"{FILES},{SOCKETS}", cwd=ROOT) as traced:
        assert traced.first_line() == "ready\n"
        feeder = Feeder(endpoint, ROUNDS)
        _feed(feeder, _BEFORE)
        _while_read(data, feeder)
        _feed(feeder, _AFTER)
        feeder.close()
        assert traced.stop() == 0
    calls = traced.calls()
    tellings = sorted((said.at, int(said.item[1])) for said in gate.told(calls))
    assert len(tellings) == feeder.sent
    return Recording(data, calls, feeder.sent, tellings)


def _feed(feeder: Feeder, batches: int) -> None:
    for number in range(batches):
        feeder.hand(within=20.0 if number % 4 == 3 else 0.0)
    feeder.settle(20.0)


def _while_read(data: Path, feeder: Feeder) -> None:
    """Another program reads for so long that the log is full and the spool takes what comes."""
    uri = f"file:{database_path(data)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM journal").fetchone()
        deadline = time.monotonic() + 60
        while not list((data / "spool").glob("*.spool")):
            assert time.monotonic() < deadline, "it never spooled"
            feeder.hand(within=20.0)
        _feed(feeder, _SPOOLED)
        other.execute("COMMIT")
