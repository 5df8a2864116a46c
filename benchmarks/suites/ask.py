"""How long questions take: one client and eight, in quiet and during ingest."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

from benchmarks.asking import Asking, Clients, ask, clients, figures
from benchmarks.datagrams import line_rows, made, name, native_rows
from benchmarks.history import History, start_of
from benchmarks.homes import STEPS_A_DAY
from benchmarks.load import Sending
from benchmarks.peers import Peer
from benchmarks.peers.peer import NATIVE, QUESTIONS
from benchmarks.running import GROUP, Measure, Run, started

MEASURES = (
    Measure("median", "ms", "median", picture=True, log=True),
    Measure("p99", "ms", "99th percentile"),
)
ROUNDS = 3
_SAME = 0.05  # by how much answers may differ: whether a slot's edges are read or interpolated
_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Ask:
    """How much is there, and how long each question is asked."""

    meters: int
    days: int
    times: int  # by one client, at most
    seconds: float
    rate: int  # of the load

    @property
    def label(self) -> str:
        """Not shown: rows are of questions."""
        return f"{self.meters:,} meters, {self.days} days"


def run(run: Run) -> None:
    """All questions to each peer in turns."""
    case = Ask(20, 30, 5, 0.2, 1_000) if run.quick else Ask(1_000, 30, 300, 3.0, 50_000)
    answers: dict[str, dict[str, float]] = {}
    with clients(2 if run.quick else _CLIENTS) as several:
        for _, peer in run.turns([case]):
            with started(peer) as one:
                run.say(f"{peer.title}, {case.label}")
                answers[peer.name] = _ask_all(run, case, one, several)
    _compare(run, answers)


def _ask_all(run: Run, case: Ask, peer: Peer, several: Clients) -> dict[str, float]:
    rounds = case.days * STEPS_A_DAY
    history = History(case.meters, start_of(rounds))
    history.load(peer, rounds)
    peer.rest(run.patience)
    answers = _answers(peer, history.newest_ms)
    for how, load in (
        ("quiet", nullcontext(None)),
        (f"{case.rate:,} readings/s coming in", _loaded(run, case, peer)),
    ):
        with load as sending:
            for question in QUESTIONS:
                asking = Asking(
                    peer.asker(), question, case.meters, history.newest_ms, case.times, case.seconds
                )
                run.add(f"one client, {how}{GROUP}{question}", peer.name, figures(ask(asking)))
                took = several.ask(asking)
                run.add(
                    f"{several.count} clients, {how}{GROUP}{question}", peer.name, figures(took)
                )
            if sending is not None and not sending.going_on:
                run.note(f"{peer.title}: the load ended before the last question.")
    return answers


@contextmanager
def _loaded(run: Run, case: Ask, peer: Peer) -> Iterator[Sending]:
    """Readings of other meters come in meanwhile."""
    seconds = 2 * len(QUESTIONS) * (case.seconds + 1.0) * 1.5
    meters = 200 if run.quick else 10_000
    make = native_rows if peer.format == NATIVE else line_rows
    rounds = int(case.rate * seconds) // meters
    start = int(time.time() * 1000) - rounds * 1000
    chunks = made(meters, rounds, start, 1000, first=1_000_000)
    rows = np.concatenate([make(chunk) for chunk in chunks])
    with Sending(peer.udp, rows, case.rate) as sending:
        time.sleep(1.0)
        yield sending


def _answers(peer: Peer, newest_ms: int) -> dict[str, float]:
    """To each question about one meter, one answer."""
    asker = peer.asker()()
    try:
        return {question: asker.ask(question, name(7), newest_ms) for question in QUESTIONS}
    finally:
        asker.close()


def _compare(run: Run, answers: dict[str, dict[str, float]]) -> None:
    """Who answers fast must also answer the same."""
    ours = answers.get("wattbus", {})
    for peer, theirs in answers.items():
        for question, figure in theirs.items():
            if question in ours and not math.isclose(figure, ours[question], rel_tol=_SAME):
                run.note(
                    f"{question}: {peer} answers {figure:,.2f} ({QUESTIONS[question]}), Wattbus "
                    f"{ours[question]:,.2f}: do NOT compare."
                )
