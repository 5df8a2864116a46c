"""How small a history becomes, and what it costs to take it in."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.history import History, start_of
from benchmarks.homes import STEPS_A_DAY
from benchmarks.peers import Peer
from benchmarks.running import Measure, Run, started

MEASURES = (
    Measure("octets", "B", "octets a reading on disk, index and all", picture=True),
    Measure("without index", "B", "octets a reading on disk, without an index of its own"),
    Measure("CPU", "µs", "CPU a reading, until it has settled", picture=True),
    Measure("taking in", "µs", "CPU a reading, until all can be asked for"),
    Measure("rate", "/s", "readings taken in a second", more=True),
)
ROUNDS = 3
_QUIET = 25.0  # seconds


@dataclass(frozen=True, slots=True)
class Store:
    """So many meters and days."""

    meters: int
    days: int

    @property
    def label(self) -> str:
        """A row of the table."""
        return f"{self.meters:,} meters, {self.days} days"


def run(run: Run) -> None:
    """Fill each peer in turns; a year only once, and only where there is time for it."""
    for case, peer in run.turns([Store(5, 2) if run.quick else Store(1_000, 30)]):
        with started(peer) as one:
            run.add(case.label, peer.name, _fill(run, case, one))
    if run.long:
        for case, peer in run.turns([Store(10_000, 365)], rounds=1):
            with started(peer) as one:
                run.add(case.label, peer.name, _fill(run, case, one))


def _fill(run: Run, case: Store, peer: Peer) -> dict[str, float]:
    rounds = case.days * STEPS_A_DAY
    start_ms = start_of(rounds)
    before, began = peer.cpu(), time.perf_counter()
    history = History(case.meters, start_ms)
    readings = history.load(peer, rounds)
    took = time.perf_counter() - began
    taking_in = peer.cpu() - before
    stored = peer.stored(start_ms, history.newest_ms)
    if stored != readings:
        run.note(f"{peer.title} has {stored:,} of {readings:,} readings: do NOT compare.")
    settling = peer.settle(1.0 if run.quick else _QUIET)
    octets = peer.octets()
    return {
        "octets": octets["all"] / readings,
        "without index": octets["readings"] / readings,
        "CPU": (taking_in + settling) / readings * 1e6,
        "taking in": taking_in / readings * 1e6,
        "rate": readings / took,
    }
