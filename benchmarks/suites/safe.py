"""Signed and acknowledged datagrams beside plain ones: what safety costs, how soon it is known."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass

from benchmarks.acknowledged import Load, Outcome, send, sign, wanting
from benchmarks.asking import begin
from benchmarks.load import household
from benchmarks.peers import Peer
from benchmarks.running import Measure, Run, started

MEASURES = (
    Measure("CPU", "µs", "CPU a datagram, all processes", picture=True),
    Measure("rate", "/s", "datagrams a second", more=True),
    Measure("lost", "%", "datagrams lost"),
    Measure("acknowledged", "ms", "until a meter knows, median", picture=True),
    Measure("acknowledged p99", "ms", "until a meter knows, 99th percentile"),
    Measure("transmissions", "", "transmissions a datagram"),
)
ROUNDS = 3
_KEYS_SEEN = 1.5  # seconds: receivers look once a second whether there are new keys


@dataclass(frozen=True, slots=True)
class Safe:
    """A way of sending."""

    signed: bool
    acknowledged: bool
    rate: int
    meters: int
    datagrams: int

    @property
    def label(self) -> str:
        """A row of the table."""
        words = [word for word in ("signed", "acknowledged") if getattr(self, word)]
        return f"{self.rate:,}/s, {' and '.join(words) or 'plain'}"


def run(run: Run) -> None:
    """Each way in turns."""
    ways = [(False, False), (True, False), (False, True), (True, True)]
    sizes = (
        [(1_000, 100, 500)] if run.quick else [(rate, 10_000, 300_000) for rate in (20_000, 60_000)]
    )
    cases = [Safe(*way, *size) for size in sizes for way in ways]
    for case, peer in run.turns(cases):
        with started(peer) as one:
            run.add(case.label, peer.name, _measure(run, case, one))


def _measure(run: Run, case: Safe, peer: Peer) -> dict[str, float]:
    rounds = case.datagrams // case.meters
    now = int(time.time() * 1000)
    rows = household(case.meters, rounds, now - rounds * 1000, 1000)
    if case.acknowledged:
        rows = wanting(rows)
    if case.signed:
        rows = sign(peer.directory, rows, case.meters)
        time.sleep(_KEYS_SEEN)
    load = Load(rows, case.meters, case.rate, case.acknowledged)
    before = peer.cpu()
    with multiprocessing.get_context("fork").Pool(1, begin) as pool:
        outcome: Outcome = pool.apply(send, (peer.udp, load))
    peer.rest(run.patience)
    used = peer.cpu() - before
    figures = {
        "CPU": used / len(rows) * 1e6,
        "rate": len(rows) / outcome.seconds,
        "lost": 100 * (1 - peer.stored(0, now) / len(rows)),
    }
    if case.acknowledged:
        figures |= {
            "acknowledged": outcome.p50,
            "acknowledged p99": outcome.p99,
            "transmissions": outcome.transmissions / len(rows),
        }
    return figures
