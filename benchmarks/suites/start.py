"""From the program's start to its first answer, and what memory its processes then have."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datagrams import name
from benchmarks.history import History, start_of
from benchmarks.peers import Peer
from benchmarks.running import GROUP, Measure, Run, directory
from benchmarks.running import start as begin

MEASURES = (
    Measure("first answer", "s", "from its start to its first answer", picture=True),
    Measure("memory", "MiB", "memory of all processes, after it", picture=True),
    Measure("process", "MiB", "memory of each process, after it"),
)
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Start:
    """Empty, or with readings of so many meters."""

    meters: int = 0
    rounds: int = 0

    @property
    def label(self) -> str:
        """A row of the table."""
        return f"{self.meters * self.rounds:,} readings" if self.meters else "empty"


def run(run: Run) -> None:
    """Start each peer in turns."""
    filled = Start(20, 5) if run.quick else Start(10_000, 100)
    for case, peer in run.turns([Start(), filled]):
        with directory() as path:
            newest_ms = _fill(run, case, peer, path)
            for label, figures in starting(peer, path, case.label, newest_ms).items():
                run.add(label, peer.name, figures)


def _fill(run: Run, case: Start, peer: type[Peer], path: Path) -> int:
    if not case.meters:
        return 0
    with begin(peer, path) as one:
        history = History(case.meters, start_of(case.rounds))
        history.load(one, case.rounds)
        one.rest(run.patience)
    return history.newest_ms


def starting(
    peer: type[Peer], path: Path, label: str, newest_ms: int
) -> dict[str, dict[str, float]]:
    """Start it on what is there and ask it; figures by case."""
    question = "latest" if newest_ms else "alive"
    began = time.perf_counter()
    with begin(peer, path) as one:
        asker = one.asker()()
        asker.ask(question, name(0), newest_ms)
        took = time.perf_counter() - began
        asker.close()
        memory = one.memory()
    found = {label: {"first answer": took, "memory": sum(memory.values())}}
    if len(memory) > 1:
        found |= {f"{label}{GROUP}{process}": {"process": mib} for process, mib in memory.items()}
    return found
