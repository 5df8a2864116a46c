"""What the writer's own code costs as the history grows: commits, sealing, its slices, octets."""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks import terminal
from benchmarks.collector import first_answer, peak
from benchmarks.datagrams import name, names
from benchmarks.filling import REGISTERS, TURN, Costs, Filler
from benchmarks.homes import STEP_MS, Homes
from benchmarks.terminal import millions, positive, progress, wrong
from storage.defaults import Defaults
from storage.engine import Database, database_path
from storage.queries import Reader, UnknownMeterError
from telemetry.registers import ENERGY_IMPORT

TARGET_CPU, TARGET_SLICE, TARGET_SPREAD = 0.6, 50.0, 0.10
TARGET_OCTETS, TARGET_MEMORY, TARGET_FIRST = 2.4, 300, 2.0  # a reading; MiB; seconds
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class _Size:
    """What storing took from one size on."""

    readings: int
    both: float


def run(arguments: argparse.Namespace) -> None:
    """Fill a database to each size, and there measure what more costs."""
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
            print(f"\n{stored:,} readings of {homes.count:,} meters: ", end="")
            first = first_answer(data, name(0))
            print(f"first answer {first:.2f} s after the query service's start ", end="")
            print(f"(target {TARGET_FIRST:.0f})")
            costs = _measure(data, homes, arguments)
            done.append(_Size(stored, statistics.median(cost.both() for cost in costs)))
            stored += sum(cost.readings for cost in costs)
            _print_size(data, stored)
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
    print(f"99 % within {max(cost.seal.slowest(0.99) for cost in costs):.1f}; ", end="")
    print(f"memory while storing at most {memory:.0f} MiB, this benchmark's with it ", end="")
    print(f"(target {TARGET_MEMORY}); load average {os.getloadavg()[0]:.2f}")
    return costs


def _forget_peak() -> None:
    """Have the most resident memory of this process counted from now on (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _print_size(data: Path, readings: int) -> None:
    """How large the database is once everything is sealed."""
    filler = Filler(Database(data), Defaults())
    try:
        filler.seal_all()
    finally:
        filler.close()
    path = database_path(data)
    size = path.stat().st_size
    parts = _parts(path, size)
    print(
        f"database      {size / readings:.3f} octets a reading (target {TARGET_OCTETS}): ", end=""
    )
    print(", ".join(f"{name} {octets / readings:.3f}" for name, octets in parts.items()))
    used = (size - parts["free"]) / readings
    print(f"              {used:.3f} without the pages that are free for what comes next")


def _parts(path: Path, size: int) -> dict[str, int]:
    """The file's octets by what is in its pages."""
    parts = {"blocks": 0, "daily": 0, "other": 0}
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        tables = "SELECT m.tbl_name, sum(s.pgsize) FROM dbstat s JOIN sqlite_master m USING (name)"
        try:
            rows = connection.execute(f"{tables} GROUP BY m.tbl_name").fetchall()
        except sqlite3.OperationalError:  # an SQLite without dbstat
            rows = connection.execute("SELECT 'blocks', sum(length(body)) FROM blocks").fetchall()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    for table, octets in rows:
        parts[table if table in parts else "other"] += octets
    parts["free"] = free * page
    parts["other"] += size - sum(parts.values())  # pages of no table
    return parts


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
    parser.add_argument(
        "--window",
        type=millions,
        default=TURN / _MILLION,
        help="millions of readings whose cost is measured: with 1,000 meters, eight passes of "
        "sealing, after which blocks are merged",
    )
    parser.add_argument("--windows", type=positive, default=3)
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the database here, and go on with what is"
    )
