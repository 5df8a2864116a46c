"""The suites that ``make bench`` runs, one module each; several may share one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.peer import LINE, NATIVE
from benchmarks.running import Measure, Run
from benchmarks.suites import ask, grow, ingest, limits, safe, start, store


@dataclass(frozen=True, slots=True)
class Suite:
    """What is run under a name; ``alone``: Wattbus has nobody beside it."""

    about: str
    run: Callable[[Run], None]
    measures: tuple[Measure, ...]
    rounds: int
    alone: bool = False


def _ingest(about: str, each: int, format: str) -> Suite:
    run = functools.partial(ingest.run, each=each, format=format)
    return Suite(about, run, ingest.MEASURES, ingest.ROUNDS)


SUITES: dict[str, Suite] = {
    "limits": Suite(
        "What the sender can do, and what a bare kernel takes that looks at nothing: the physical "
        "line. `recvmmsg` into a buffer of 32 MiB, naps of 2 ms, everything discarded.",
        limits.run,
        limits.MEASURES,
        limits.ROUNDS,
        alone=True,
    ),
    "ingest-1": _ingest(
        "One reading (energy and power) a datagram: native for Wattbus, line protocol for the "
        "others. Each meter is known from a reading before, unless the row says that all are new.",
        1,
        NATIVE,
    ),
    "ingest-20": _ingest(
        "The same with 20 readings of one meter a datagram; rates are of datagrams.", 20, NATIVE
    ),
    "ingest-same-bytes": _ingest(
        "Line protocol for everyone, byte for byte the same, one reading a datagram.", 1, LINE
    ),
    "ingest-safe": Suite(
        "Signed and encrypted, acknowledged once it is durable, and both, beside Wattbus's own "
        "plain path, 10,000 meters. The others have no such mode.",
        safe.run,
        safe.MEASURES,
        safe.ROUNDS,
        alone=True,
    ),
    "store": Suite(
        "Energy and power every 15 minutes (households of `homes.py`), until everything has "
        "settled: octets on disk and CPU. Wattbus gets datagrams of 20 readings, the others the "
        "same readings as line protocol over HTTP in large bodies.",
        store.run,
        store.MEASURES,
        store.ROUNDS,
    ),
    "ask": Suite(
        "Questions to 1,000 meters' last 30 days, over a connection that is kept open (ZeroMQ; "
        "HTTP), by one client and by eight at once, in quiet and while 50,000 readings of "
        "other meters come in each second.",
        ask.run,
        ask.MEASURES,
        ask.ROUNDS,
    ),
    "grow": Suite(
        "What four million readings more cost, a whole turn of merging; how long questions take "
        "(one client, quiet), and what a start takes at each size; 1,000 meters.",
        grow.run,
        grow.MEASURES,
        grow.ROUNDS,
    ),
    "start": Suite(
        "From starting the program to its first answer, and the memory of each process after "
        "it; empty, and with readings of 10,000 meters.",
        start.run,
        start.MEASURES,
        start.ROUNDS,
    ),
}
