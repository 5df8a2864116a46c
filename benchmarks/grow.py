"""Whether storing and asking stay as quick, and memory as small, as the history grows."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks import terminal
from benchmarks.ask import Question, questions, timed
from benchmarks.collector import Collector, first_answer, peak
from benchmarks.filling import REGISTERS, Costs, Filler
from benchmarks.homes import STEP_MS, Homes, names
from benchmarks.terminal import millions, positive, progress, wrong
from query.client import Client
from storage.defaults import Defaults
from storage.engine import Database, database_path
from storage.queries import Reader, UnknownMeterError
from telemetry.registers import ENERGY_IMPORT

TARGET_CPU, TARGET_SLICE, TARGET_SPREAD = 0.6, 50.0, 0.10
TARGET_MEMORY, TARGET_FIRST = 300, 2.0  # MiB, seconds
_TARGETS = {  # ms, the median
    "latest": 0.5,
    "one day raw": 0.6,
    "month by day": 0.7,
    "month by hour": 1.0,
    "fleet by day": 20.0,
    "top ten": 20.0,
}
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class _Size:
    """What storing took from one size on."""

    readings: int
    both: float


def run(arguments: argparse.Namespace) -> None:
    """Fill a database to each size; there ask, and then measure what more costs."""
    sizes = sorted(int(size * _MILLION) for size in arguments.millions)
    if sizes[0] < 2 * arguments.meters:
        raise wrong("--millions: at least two readings of each of the --meters")
    with _directory(arguments.keep) as data:
        stored, homes = _found(Database(data), arguments.meters, sizes[-1])
        done: list[_Size] = []
        for size in sizes:
            if size < stored and size != sizes[-1] and not done:
                print(f"{size:,} readings: left out, {stored:,} are there already")
                continue
            stored += _fill(data, homes, size - stored)
            print(f"\n{stored:,} readings of {homes.count:,} meters, ", end="")
            print(f"{database_path(data).stat().st_size / stored:.2f} octets each")
            _ask(data, homes, arguments.times)
            costs = _measure(data, homes, arguments)
            done.append(_Size(stored, statistics.median(cost.both() for cost in costs)))
            stored += sum(cost.readings for cost in costs)
        _compare(done)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="wattbus-bench-") as directory:
            yield Path(directory)
    else:
        yield keep


def _found(database: Database, meters: int, largest: int) -> tuple[int, Homes]:
    """How many readings are there, and the homes that go on from them."""
    if not database_path(database.data).exists():
        # So that the largest size ends about now.
        now = int(time.time() * 1000) // STEP_MS * STEP_MS
        return 0, Homes(meters, now - largest // meters * STEP_MS)
    reader = Reader(database)
    try:
        with reader.snapshot():
            if reader.meter_count() != meters:
                raise UnknownMeterError
            newest = [
                {code: (instant, value) for code, instant, value, _ in reader.latest(meter)}
                for meter in (reader.meter(name.decode()) for name in names(meters))
            ]
            stored = reader.readings() // REGISTERS
    except UnknownMeterError:
        raise wrong(f"{database.data} (--keep) was not filled with these --meters") from None
    finally:
        reader.close()
    energies = [registers[ENERGY_IMPORT] for registers in newest]
    instants = {instant for instant, _ in energies}
    if len(instants) != 1:
        raise wrong(f"{database.data} (--keep) was not filled by this benchmark")
    energy = np.array([value for _, value in energies], np.int64)
    return stored, Homes(meters, instants.pop() + STEP_MS, energy)


def _fill(data: Path, homes: Homes, readings: int) -> int:
    """Store so many readings, to whole rounds; how many."""
    rounds = readings // homes.count
    if rounds <= 0:
        return 0
    filler = Filler(Database(data), Defaults())
    try:
        with progress("filling", rounds * homes.count) as show:
            return filler.fill(homes, rounds, show).readings
    finally:
        filler.close()


def _measure(data: Path, homes: Homes, arguments: argparse.Namespace) -> list[Costs]:
    """Store some windows more, and print what each took."""
    rounds = max(1, int(arguments.window * _MILLION) // homes.count)
    _forget_peak()
    filler = Filler(Database(data), Defaults())
    try:
        costs = []
        for _ in range(arguments.windows):
            with progress("measuring", rounds * homes.count) as show:
                costs.append(filler.fill(homes, rounds, show))
        memory = peak(os.getpid())
    finally:
        filler.close()
    print(f"CPU us a reading, {arguments.windows} x {costs[0].readings:,} more: ", end="")
    print(", ".join(f"{cost.both():.3f}" for cost in costs), end="; ")
    commit, seal, alerts = (
        statistics.median(values)
        for values in (
            [cost.commits() for cost in costs],
            [cost.sealing() for cost in costs],
            [cost.alerts.micros(cost.readings) for cost in costs],
        )
    )
    both = statistics.median(cost.both() for cost in costs)
    print(
        f"median {both:.3f} (target {TARGET_CPU}: commit {commit:.3f}, sealing {seal:.3f}; ", end=""
    )
    print(f"limits of alerts beside these {alerts:.3f})")
    longest = max(cost.seal.slowest() for cost in costs)
    cpu = max(cost.seal.slowest_cpu() for cost in costs)
    print(f"longest slice {longest:.1f} ms (target {TARGET_SLICE:.0f}), of CPU {cpu:.1f}; ", end="")
    print(f"memory while storing at most {memory:.0f} MiB, this benchmark's with it ", end="")
    print(f"(target {TARGET_MEMORY}); load average {os.getloadavg()[0]:.2f}")
    return costs


def _forget_peak() -> None:
    """Have the most resident memory of this process counted from now on (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _ask(data: Path, homes: Homes, times: int) -> None:
    """Ask a collector on the data over its bus, and print how it was."""
    newest = homes.next_ms - STEP_MS
    first = names(homes.count)[0].decode()
    with Collector(data) as collector, collector.client() as client:
        print("question          median ms  (target)     p99 ms")
        asked = questions(newest) | _of_all(client, newest)
        for name, target in _TARGETS.items():
            if name not in asked:
                print(f"{name:16} left out: this Wattbus has no such question")
                continue
            count = times if target < 10 else max(3, times // 10)
            took = timed(client, asked[name], count, homes.count)
            print(f"{name:16} {statistics.median(took):>10.3f} {target:>9} ", end="")
            print(f"{took[int(len(took) * 0.99)]:>10.3f}")
        memory = collector.peaks()
    for name in ("writer", "query"):
        print(f"memory of {name}: at most {memory[name]:.0f} MiB (target {TARGET_MEMORY})")
    print(
        f"first answer {first_answer(data, first):.2f} s after the query service's start ", end=""
    )
    print(f"(target {TARGET_FIRST:.0f}); load average {os.getloadavg()[0]:.2f}")


def _of_all(client: Client, newest_ms: int) -> dict[str, Question]:
    """Questions about all meters in the month up to the newest reading, if there are any."""
    last = datetime.fromtimestamp(newest_ms / 1000, UTC).date()
    month = {"first": str(last - timedelta(days=29)), "last": str(last)}
    fleet, top = getattr(client, "fleet", None), getattr(client, "top", None)
    if fleet is None or top is None:
        return {}
    return {
        "fleet by day": lambda _client, _meter: fleet("day", **month),
        "top ten": lambda _client, _meter: top(10, **month),
    }


def _compare(done: list[_Size]) -> None:
    if len(done) < 2:
        return
    costs = [size.both for size in done]
    print(
        f"\ncommit and sealing, from {done[0].readings:,} to {done[-1].readings:,} readings: ",
        end="",
    )
    print(
        f"{100 * (max(costs) / min(costs) - 1):.0f} % between the cheapest and the dearest ", end=""
    )
    print(f"(target: within {100 * TARGET_SPREAD:.0f} %)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument(
        "--millions",
        type=millions,
        nargs="+",
        default=[1, 10, 100],
        help="of readings, at each size",
    )
    parser.add_argument("--meters", type=terminal.meters, default=1_000)
    parser.add_argument("--times", type=positive, default=300, help="that each question is asked")
    parser.add_argument(
        "--window",
        type=millions,
        default=2.048,
        help="millions of readings whose cost is measured: with 1,000 meters, eight passes of "
        "sealing, after which blocks are merged",
    )
    parser.add_argument("--windows", type=positive, default=3)
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the database here, and go on with what is"
    )
