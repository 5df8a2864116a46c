"""Writers on SQLite, recorded: commits, sealing, merging, checkpoints, a kill, the spool."""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from storage.engine import database_path
from tests.conftest import ROOT
from tests.delivery import cuts, gate, recovery
from tests.delivery.feed import Feeder, expected
from tests.delivery.trace import FILES, SOCKETS, Call, Traced, read
from tests.waiting import wait_until

ROUNDS = 4
_BEFORE, _SPOOLED, _AFTER = 40, 20, 40


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

    def confirmed(self, tellings: int) -> set[int]:
        """The batches that must be there after the first so many tellings."""
        return {number for _, number in self.tellings[:tellings]}

    def harm(self, count: int, seed: int, work: Path) -> Iterator[cuts.Wrong]:
        """Cut the power so many times; the cuts after which something is lost.

        After each the real writer starts, and is handed one more batch.
        """

        def go_on(endpoint: Path) -> None:
            feeder = Feeder(endpoint, ROUNDS, self.sent)
            feeder.hand(within=60.0)
            feeder.close()

        def check(left: Path, told: int) -> list[str]:
            recovery.recover(left, go_on)
            confirmed = expected(self.confirmed(told) | {self.sent + 1}, ROUNDS)
            return recovery.wrong(left, confirmed, expected(range(1, self.sent + 2), ROUNDS))

        at = cuts.moments(self.calls, self.data, self.lines, count, seed)
        return cuts.cut(self.calls, self.data, self.lines, at, work, check, seed)


def record(place: Path, faults: str = "small") -> Recording:
    """Run a writer under strace in a directory, kill it, and run another one.

    ``faults`` are those of ``launch``.
    """
    sent = _live(place, "first", faults, 0, _first_life, signal.SIGKILL)
    before = sent
    sent = _live(place, "second", faults, sent, _second_life, signal.SIGTERM)
    calls = read(place / "first", place / "second")
    told = gate.told(calls)
    (first, _), (second, _) = (told[0].item[:2], told[-1].item[:2])
    offsets = {first: 0, second: before}  # each life has a connection of its own
    tellings = sorted((said.at, offsets[said.item[0]] + int(said.item[1])) for said in told)
    assert [number for _, number in tellings] == list(range(1, sent + 1))
    return Recording(place / "data", calls, sent, tellings)


def _live(
    place: Path,
    trace: str,
    faults: str,
    sent: int,
    life: Callable[[Path, Feeder], None],
    how: signal.Signals,
) -> int:
    """Run a writer for a life; how many batches were handed over by its end."""
    command = [sys.executable, "-m", "tests.delivery.launch", faults, "writer"]
    command += [str(place / "data"), f"ipc://{place}/writer"]
    with Traced(command, place / trace, f"{FILES},{SOCKETS}", cwd=ROOT) as traced:
        assert traced.first_line() == "ready\n"
        feeder = Feeder(place / "writer", ROUNDS, sent)
        life(place / "data", feeder)
        feeder.close()
        traced.stop(how)
    return feeder.sent


def _first_life(_data: Path, feeder: Feeder) -> None:
    _feed(feeder, _BEFORE)


def _second_life(data: Path, feeder: Feeder) -> None:
    _feed(feeder, _BEFORE)
    _while_read(data, feeder)
    _feed(feeder, _AFTER)
    _until_sealed(data, feeder)


def _feed(feeder: Feeder, batches: int) -> None:
    for number in range(batches):
        feeder.hand(within=60.0 if number % 4 == 3 else 0.0)
    feeder.settle(60.0)


def _while_read(data: Path, feeder: Feeder) -> None:
    """Another program reads for so long that the log is full and the spool takes what comes."""
    uri = f"file:{database_path(data)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM journal").fetchone()
        deadline = time.monotonic() + 60
        while not list((data / "spool").glob("*.spool")):
            assert time.monotonic() < deadline, "it never spooled"
            feeder.hand(within=60.0)
        _feed(feeder, _SPOOLED)
        other.execute("COMMIT")


def _until_sealed(data: Path, feeder: Feeder) -> None:
    """Go on until the spool is drained, and blocks of sealed readings and merged ones are there."""
    uri = f"file:{database_path(data)}?mode=ro"

    def sealed() -> bool:
        with closing(sqlite3.connect(uri, uri=True)) as plain:
            blocks, oldest = plain.execute("SELECT count(*), min(id) FROM blocks").fetchone()
        if not list((data / "spool").glob("*.spool")) and blocks > 1 and oldest > 1:
            return True
        feeder.hand(within=60.0)
        return False

    wait_until(sealed)
