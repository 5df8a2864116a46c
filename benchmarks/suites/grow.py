"""Whether taking in, asking and starting stay as quick as the history grows."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.asking import Asking, ask, figures
from benchmarks.filling import TURN
from benchmarks.history import History, start_of
from benchmarks.peers import Peer
from benchmarks.peers.peer import QUESTIONS
from benchmarks.running import GROUP, Measure, Run, directory
from benchmarks.running import start as begin
from benchmarks.suites.start import starting

MEASURES = (
    Measure("CPU", "µs", "CPU a reading of what comes then", picture=True),
    Measure("median", "ms", "median of a question", picture=True, log=True),
    Measure("p99", "ms", "99th percentile of a question"),
    Measure("first answer", "s", "from its start to its first answer", picture=True),
    Measure("memory", "MiB", "memory of all processes, after its start", picture=True),
    Measure("process", "MiB", "memory of each process, after its start"),
)
ROUNDS = 1
_MILLION = 1_000_000
_RESTS_WITHIN = 600.0  # seconds
_SLOWEST = 10 * _MILLION  # readings, of who is too slow for more, unless there is time
_TIMES, _SECONDS = 300, 5.0  # of each question
# Minutes for each ten million: they take part up to _SLOWEST, beyond it only with --long.
_SLOW = {"influxdb"}


@dataclass(frozen=True, slots=True)
class Grown:
    """How many readings there are, in words."""

    readings: int

    @property
    def label(self) -> str:
        """A row of the table."""
        return f"{self.readings:,} readings"


@dataclass
class _Grower:
    """One peer's directory and how far it is filled."""

    peer: type[Peer]
    path: Path
    history: History
    loaded: int = 0


def run(run: Run) -> None:
    """At each size everybody in turns, each on what is there of the size before."""
    meters = 20 if run.quick else 1_000
    sizes = [400, 1_200] if run.quick else [_MILLION, 10 * _MILLION, 100 * _MILLION]
    more = 400 if run.quick else TURN
    with ExitStack() as stack:
        start_ms = start_of((sizes[-1] + more) // meters)
        growers = {
            peer: _Grower(peer, stack.enter_context(directory()), History(meters, start_ms))
            for peer in run.peers
        }
        for case, peer in run.turns([Grown(size) for size in sizes], rounds=1):
            if peer.name in _SLOW and case.readings > _SLOWEST and not run.long:
                run.note(f"{peer.title} is not filled to {case.label} without --long.")
                continue
            _measure(run, case, growers[peer], meters, more)


def _measure(run: Run, case: Grown, grower: _Grower, meters: int, more: int) -> None:
    """Fill it up to the size, start it, ask, and then take in some more."""
    peer, history = grower.peer, grower.history
    with begin(peer, grower.path) as one:
        grower.loaded += history.load(one, (case.readings - grower.loaded) // meters)
        one.rest(run.patience, _RESTS_WITHIN)
    found = starting(peer, grower.path, case.label, history.newest_ms)
    for label, some in found.items():
        run.add(label, peer.name, some)
    times, seconds = (3, 0.1) if run.quick else (_TIMES, _SECONDS)
    with begin(peer, grower.path) as one:
        for question in QUESTIONS:
            asking = Asking(one.asker(), question, meters, history.newest_ms, times, seconds)
            run.add(f"{case.label}{GROUP}{question}", peer.name, figures(ask(asking)))
        before = one.cpu()
        loaded = history.load(one, more // meters)
        one.rest(run.patience, _RESTS_WITHIN)
        run.add(case.label, peer.name, {"CPU": (one.cpu() - before) / loaded * 1e6})
        grower.loaded += loaded
