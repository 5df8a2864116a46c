"""kill -9 of the writer, the receiver or all while readings are acknowledged: none may be lost."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from benchmarks.meters import START_MS, Meters, name, value
from benchmarks.ports import free_port
from query.client import Client
from query.transport import BusError

WHO = ("writer", "receiver", "all")
CONTROLS = {"none": "cli", "early": "benchmarks.early"}  # what serves, by name of the module
TARGET = 2.0  # seconds until a new reading is acknowledged
_BACK_WITHIN = 30.0
_FINISHED_WITHIN = 180.0
_BETWEEN = 2.0  # seconds at most between being back and the next kill


class Collector(Protocol):
    """What is killed."""

    udp: tuple[str, int]

    def kill(self, who: str) -> None:
        """kill -9 of one part or of all, and have it start again."""

    def readings(self, meter: str) -> list[tuple[int, int]]:
        """Every stored reading of a meter: its instant (ms) and raw value."""

    def stored(self) -> int:
        """How many values are stored, repeats among them."""


class Serving:
    """A whole ``wattbus serve`` on free ports; ``module`` is what Python runs."""

    def __init__(self, directory: Path, module: str) -> None:
        self.udp = "127.0.0.1", free_port()
        ports = {part: free_port() for part in ("query", "live", "http")}
        self._query = f"tcp://127.0.0.1:{ports['query']}"
        flags = [f"--{part}-port={port}" for part, port in ports.items()]
        flags += [f"--udp-port={self.udp[1]}", f"--data={directory / 'data'}", "--time-zone=UTC"]
        self._command = [sys.executable, "-m", module, "serve", *flags]
        self.log = directory / "serve.log"
        self._start()

    def _start(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self, who: str) -> None:
        """kill -9 of one part or of all; what supervises starts the part, and this starts all."""
        serve = psutil.Process(self._process.pid)
        # Collected first and killed from the top, so that nobody starts what is being killed.
        victims = [serve, *serve.children()]
        if who != "all":
            victims = [process for process in victims[1:] if who in process.cmdline()]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if who == "all":
            self._process.wait()
            psutil.wait_procs(victims, 5)
            self._start()

    def stop(self) -> None:
        """Stop it cleanly."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def readings(self, meter: str) -> list[tuple[int, int]]:
        """Every stored reading of a meter: its instant (ms) and raw value."""
        rows: list[tuple[int, int]] = []
        start: int | None = None
        with Client(self._query, timeout=30) as client:
            while True:
                page = client.readings(meter, start_ms=start, most=10_000)
                rows += zip(page.time_ms, page.raw, strict=True)
                if page.next is None:
                    return rows
                start = page.next

    def stored(self) -> int:
        """How many values are stored, repeats among them."""
        with Client(self._query, timeout=30) as client:
            return client.status().readings


@dataclass
class Outcome:
    """What the rounds have shown."""

    backs: dict[str, list[float]] = field(default_factory=dict)
    readings: int = 0
    acknowledged: int = 0
    transmissions: int = 0
    stored: int = 0
    finished: bool = False
    faults: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing acknowledged is lost, and all that was sent is stored once."""
        return self.finished and not self.faults and self.stored == self.readings


def play(
    collector: Collector,
    *,
    rounds: int,
    rate: float,
    meters: int,
    who: str,
    seed: int,
    tell: Callable[[str], None],
) -> Outcome:
    """Kill so many times under load, let the meters finish, and look at every reading."""
    chance, outcome = random.Random(seed), Outcome()
    fleet = Meters(collector.udp, meters, rate, seed)
    fleet.watch()
    fleet.start()
    alive = fleet.back(_BACK_WITHIN) is not None
    if not alive:
        tell("nothing was acknowledged: does this collector acknowledge?")
    for number in range(rounds if alive else 0):
        time.sleep(chance.uniform(0.0, _BETWEEN))
        victim = chance.choice(WHO) if who == "any" else who
        collector.kill(victim)
        fleet.watch()
        back = fleet.back(_BACK_WITHIN)
        if back is None:
            tell(f"round {number + 1}: no reading was acknowledged after {victim} was killed")
            break
        outcome.backs.setdefault(victim, []).append(back)
        if number % 10 == 9:
            tell(f"{number + 1} rounds, {fleet.readings:,} readings sent")
    outcome.finished = fleet.finish(_FINISHED_WITHIN if alive else 0.0)
    outcome.readings, outcome.transmissions = fleet.readings, fleet.transmissions
    outcome.took = fleet.took
    _look(collector, fleet, outcome)
    return outcome


def _look(collector: Collector, fleet: Meters, outcome: Outcome) -> None:
    """Hold what is stored to what was sent, reading by reading."""
    for meter in fleet.meters:
        try:
            rows = collector.readings(name(meter.number))
        except BusError:  # nobody knows the meter: nothing of it is stored
            rows = []
        times = Counter(instant for instant, _ in rows)
        held = dict(rows)
        outcome.acknowledged += sum(meter.acknowledged)
        for number in range(meter.sent):
            instant = START_MS + 1000 * number
            found = held.pop(instant, None)
            if found is None:
                outcome.faults["acknowledged and lost"] += meter.acknowledged[number]
            elif found != value(meter.number, number):
                outcome.faults["of another value"] += 1
            outcome.faults["stored twice"] += max(0, times[instant] - 1)
        outcome.faults["never sent"] += len(held)
    outcome.faults = +outcome.faults
    outcome.stored = collector.stored()


def report(outcome: Outcome, tell: Callable[[str], None]) -> None:
    """Say what the rounds have shown."""
    every = [back for backs in outcome.backs.values() for back in backs]
    rows = outcome.backs | ({"together": every} if len(outcome.backs) > 1 else {})
    for victim, backs in rows.items():
        low, middle, high, most = np.percentile(backs, [0, 50, 90, 100])
        late = sum(back > TARGET for back in backs)
        tell(
            f"back after kill -9 of {victim:<9} {len(backs):>4} times: least {low:.2f} s, median "
            f"{middle:.2f}, p90 {high:.2f}, most {most:.2f} (target {TARGET:g}: {late} later)"
        )
    if outcome.took:
        p50, p99 = np.percentile(outcome.took, [50, 99])
        tell(
            f"acknowledged after: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, kills included"
        )
    repeated = outcome.transmissions / max(1, outcome.readings)
    tell(f"sent {outcome.readings:,} readings, {repeated:.2f} transmissions each")
    tell(f"acknowledged {outcome.acknowledged:,}; stored {outcome.stored:,}")
    for fault, count in outcome.faults.items():
        tell(f"FAULT: {count:,} {fault}")
    if not outcome.finished:
        tell("FAULT: not everything was acknowledged in the end")
    if outcome.stored != outcome.readings:
        tell(f"FAULT: {outcome.readings - outcome.stored:+,} sent beyond what is stored")
    tell("all is well" if outcome.good else "NOT well")


def run(arguments: argparse.Namespace) -> None:
    """Kill a collector of its own; exit code 1 when something is lost."""
    directory = Path(tempfile.mkdtemp(prefix="wattbus-kill-"))
    collector = Serving(directory, CONTROLS[arguments.control])
    print(f"seed {arguments.seed}; log in {collector.log}")
    try:
        outcome = play(
            collector,
            rounds=arguments.rounds,
            rate=arguments.rate,
            meters=arguments.meters,
            who=arguments.who,
            seed=arguments.seed,
            tell=print,
        )
    finally:
        collector.stop()
    report(outcome, print)
    if not outcome.good:
        sys.exit(1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--rounds", type=int, default=100, help="how many times to kill")
    parser.add_argument("--rate", type=float, default=10_000, help="readings a second in all")
    parser.add_argument("--meters", type=int, default=1000)
    parser.add_argument("--who", choices=["any", *WHO], default="any", help="whom, each time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--control", choices=CONTROLS, default="none", help="early: acknowledge before the commit"
    )
