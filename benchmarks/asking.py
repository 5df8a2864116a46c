"""How long questions take: one client or several, one question after another."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool

import numpy as np

from benchmarks.datagrams import name
from benchmarks.peers.peer import Asker

_APART = 7919  # another meter each time, not in order
_ASKS_AT_LEAST = 3


@dataclass(frozen=True, slots=True)
class Asking:
    """What a client is to ask, of which meters, and until when: so often or so many seconds."""

    make: Callable[[], Asker]
    question: str
    meters: int
    newest_ms: int
    times: int
    seconds: float
    first: int = 0


def ask(asking: Asking) -> list[float]:
    """Milliseconds that each question took."""
    took: list[float] = []
    asker = asking.make()
    try:
        asker.ask("alive", "", 0)  # the connection is not what is measured
        until = time.perf_counter() + asking.seconds
        for number in range(asking.first, asking.first + asking.times):
            meter = name(number * _APART % asking.meters)
            began = time.perf_counter()
            asker.ask(asking.question, meter, asking.newest_ms)
            ended = time.perf_counter()
            took.append((ended - began) * 1000)
            if ended > until and len(took) >= _ASKS_AT_LEAST:
                break
    finally:
        asker.close()
    return took


class Clients:
    """Processes that ask at the same time."""

    def __init__(self, pool: Pool, count: int) -> None:
        self._pool, self.count = pool, count

    def ask(self, asking: Asking) -> list[float]:
        """The same of all of them, each beginning with other meters."""
        each = [replace(asking, first=n * asking.times) for n in range(self.count)]
        return [one for took in self._pool.map(ask, each, chunksize=1) for one in took]


@contextmanager
def clients(count: int) -> Iterator[Clients]:
    """So many clients, ended on leaving."""
    # Spawned: connections and their threads may not be inherited.
    with multiprocessing.get_context("spawn").Pool(count, begin) as pool:
        pool.map(_nothing, range(count), chunksize=1)  # all are there
        yield Clients(pool, count)


def begin() -> None:
    """For a process of a pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _nothing(_: int) -> None:
    time.sleep(0.05)


def figures(took: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    p50, p99 = np.percentile(took, (50, 99)).tolist()
    return {"median": p50, "p99": p99}
