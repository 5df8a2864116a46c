"""Datagrams of energy and power at fixed rates: CPU, losses, time until they can be asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from benchmarks.datagrams import Chunk, line_rows, made, name, native_rows
from benchmarks.load import Sending
from benchmarks.peers import Peer, Wattbus
from benchmarks.peers.peer import NATIVE
from benchmarks.running import Measure, Run, started
from telemetry.readings import Bytes

MEASURES = (
    Measure("CPU", "µs", "CPU a datagram that was stored, all processes", picture=True),
    Measure("CPU a value", "µs", "CPU a field value that was stored"),
    Measure("lost", "%", "readings lost", picture=True),
    Measure("stored", "/s", "readings stored a second of sending", more=True),
    Measure("memory", "MiB", "memory of all processes, after it"),
    Measure("seen", "ms", "time until a reading can be asked for, median", picture=True, log=True),
    Measure("seen at worst", "ms", "the same, the slowest"),
)
ROUNDS = 3
_STEP_MS = 1000
_RATES, _PROBED = (25_000, 50_000, 100_000, 200_000, None), 50_000
_SENDER_CAN = {1: 300_000, 20: 90_000}  # datagrams a second, to prepare enough of them
_PROBES = 20
_PROBE_WITHIN = 10.0  # seconds
_LONGER = 5  # a load while probing
_HOUR_MS = 3_600_000
_PROBE = 9_999_999  # the meter


@dataclass(frozen=True, slots=True)
class Ingest:
    """Meters, datagrams a second (None: all the sender can) and for how long."""

    meters: int
    rate: int | None
    seconds: float
    new: bool = False
    probes: int = 0
    each: int = 1

    @property
    def label(self) -> str:
        """A row of the table."""
        rate = f"{self.rate:,}/s" if self.rate else "all it can"
        new = ", all new" if self.new else ""
        return f"{rate}, {self.meters:,} meters{new}"

    @property
    def rounds(self) -> int:
        """Datagrams of each meter."""
        wanted = (self.rate or _SENDER_CAN[self.each]) * self.seconds
        return max(1, round(wanted / self.meters))


def _cases(quick: bool, each: int, format: str) -> list[Ingest]:
    if quick:
        known = Ingest(200, 4_000, 0.3, probes=2, each=each)
        return [known, replace(known, rate=2_000, new=True, probes=0)]
    share = 1 if each == 1 else 10  # of 20 readings a datagram, a tenth of the datagrams
    cases = [
        Ingest(
            10_000, rate and rate // share, 5, probes=_PROBES if rate == _PROBED else 0, each=each
        )
        for rate in _RATES
    ]
    if each == 1 and format == NATIVE:
        cases += [Ingest(meters, 100_000, 5) for meters in (100_000, 1_000_000)]
        cases += [Ingest(meters, 100_000, 5, new=True) for meters in (10_000, 100_000, 1_000_000)]
    return cases


def run(run: Run, each: int, format: str) -> None:
    """Each case of each peer in turns."""
    for case, peer in run.turns(_cases(run.quick, each, format)):
        with started(peer, format) as one:
            try:
                figures = measure(case, one, run.patience)
            except RuntimeError as error:
                if peer is Wattbus:
                    raise
                run.note(f"{peer.title} gave up at {case.label}: {error}")
            else:
                run.add(case.label, peer.name, figures)


def measure(case: Ingest, peer: Peer, patience: float) -> dict[str, float]:
    """Send it all, wait until it has come to rest, and count."""
    make = native_rows if peer.format == NATIVE else line_rows
    span = case.rounds * case.each * _STEP_MS
    start = int(time.time() * 1000) - 12 * span - _HOUR_MS
    known = 0 if case.new else case.meters
    if known:
        for chunk in made(known, 1, start - _STEP_MS, _STEP_MS):
            peer.load(chunk)
        peer.loaded()
        peer.rest(patience)
    chunks = made(case.meters, case.rounds, start, _STEP_MS, each=case.each, number=1)
    rows = np.concatenate([make(chunk) for chunk in chunks])
    before = peer.cpu()
    with Sending(peer.udp, rows, case.rate) as sending:
        sent = sending.done()
    peer.rest()
    used = peer.cpu() - before
    stored = peer.stored(start - _STEP_MS, start + span) - known
    figures = {
        "CPU": used * case.each / max(1, stored) * 1e6,
        "lost": 100 * (1 - stored / (sent.datagrams * case.each)),
        "stored": stored / sent.seconds,
        "memory": sum(peer.memory().values()),
    }
    if case.each > 1:
        figures["CPU a value"] = figures["CPU"] / (2 * case.each)
    if case.probes:
        seen = _probe(case, peer, start + span, make)
        figures["seen"], figures["seen at worst"] = median(seen), max(seen)
    return figures


def _probe(case: Ingest, peer: Peer, start_ms: int, make: Callable[[Chunk], Bytes]) -> list[float]:
    """ms from sending a reading of one meter until an answer has it, under the same load."""
    case = replace(case, seconds=case.seconds * _LONGER)
    number = case.rounds + 1
    chunks = made(case.meters, case.rounds, start_ms, _STEP_MS, each=case.each, number=number)
    rows = np.concatenate([make(chunk) for chunk in chunks])
    took: list[float] = []
    asker = peer.asker()()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        Sending(peer.udp, rows, case.rate) as sending,
    ):
        sock.connect(peer.udp)
        for probe in range(case.probes + 1):
            time.sleep(0.05 * (probe % 4))  # not in step with anything
            now = int(time.time() * 1000)
            (chunk,) = made(1, 1, now, _STEP_MS, first=_PROBE, number=probe)
            wanted = int(chunk.energy[0, 0]) + probe
            octets = make(replace(chunk, energy=np.full((1, 1), wanted))).tobytes()
            began = time.perf_counter()
            sock.send(octets)
            while asker.ask("latest", name(_PROBE), now) != wanted:
                if time.perf_counter() - began > _PROBE_WITHIN:
                    break  # lost, and shown as that long
                time.sleep(0.002)
            if len(took) > 1 and not sending.going_on:
                break
            took.append((time.perf_counter() - began) * 1000)
    asker.close()
    return took[1:] or took  # the first made the meter known
