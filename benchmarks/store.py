"""What a month of households costs to store and how small it becomes, beside VictoriaMetrics."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from benchmarks import terminal
from benchmarks.filling import Costs, Filler
from benchmarks.homes import STEP_MS, STEPS_A_DAY, Homes, names
from benchmarks.terminal import positive, progress
from benchmarks.victoria import BINARY, VictoriaMetrics
from storage.defaults import Defaults
from storage.engine import Database, database_path

TARGET_CPU, TARGET_SLICE, TARGET_OCTETS = 0.6, 50.0, 2.4
_VICTORIA_OCTETS = 2.6  # what the noise was chosen by
_SERIES_A_REQUEST = 100


def run(arguments: argparse.Namespace) -> None:
    """Store the month, print what it took; then have VictoriaMetrics store the same."""
    meters, rounds = arguments.meters, arguments.days * STEPS_A_DAY
    end = int(time.time() * 1000) // STEP_MS * STEP_MS
    start = end - rounds * STEP_MS
    readings = meters * rounds
    print(f"{readings:,} readings of energy and power: {meters:,} meters, {arguments.days} days")
    with tempfile.TemporaryDirectory(prefix="wattbus-bench-") as directory:
        database = Database(Path(directory))
        filler = Filler(database, Defaults())
        try:
            with progress("storing", readings) as show:
                costs = filler.fill(Homes(meters, start), rounds, show)
            filler.seal_all()
        finally:
            filler.close()
        print_costs(costs)
        _print_size(database_path(database.data), readings)
    if not arguments.no_victoria:
        _victoria(meters, start, rounds)
    print("load average", ", ".join(f"{load:.2f}" for load in os.getloadavg()))


def print_costs(costs: Costs) -> None:
    """What commits and sealing took, beside the targets."""
    print("CPU us a reading      commit    sealing       both  (target)")
    for clock in ("process", "thread"):
        print(f"  {clock:14} {costs.commits(clock):>12.3f} {costs.sealing(clock):>10.3f} ", end="")
        print(f"{costs.both(clock):>10.3f}  (at most {TARGET_CPU})")
    print(f"  limits of alerts, beside these {costs.alerts.micros(costs.readings):.3f}")
    print(f"{len(costs.seal.calls):,} slices of sealing: the longest ", end="")
    print(f"{costs.seal.slowest():.1f} ms (target {TARGET_SLICE:.0f}), ", end="")
    print(f"99 % within {costs.seal.slowest(0.99):.1f}; ", end="")
    print(f"of CPU {costs.seal.slowest_cpu():.1f} and {costs.seal.slowest_cpu(0.99):.1f} ms")


def _print_size(path: Path, readings: int) -> None:
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


def _victoria(meters: int, start: int, rounds: int) -> None:
    try:
        server = VictoriaMetrics()
    except RuntimeError as error:
        print(f"{BINARY}: {error}, so there is nothing to compare with")
        return
    values = 2 * meters * rounds
    with server:
        with progress("VictoriaMetrics", values) as show:
            sent = 0
            for lines in _lines(meters, start, rounds):
                server.load(lines)
                sent += len(lines) * rounds
                show(sent)
        server.settle()
        query = quote(f"sum(count_over_time({{meter!=''}}[{rounds * STEP_MS // 1000}s]))")
        stored = server.count(query, start + rounds * STEP_MS - 1)
        octets = server.stop()
    readings = meters * rounds
    print(f"VictoriaMetrics {octets['data'] / readings:.3f} octets a reading ", end="")
    print(f"(with the noise chosen: {_VICTORIA_OCTETS}), its index {octets['indexdb']:,} more; ")
    if stored != values:
        print(f"VictoriaMetrics counts {stored:,} of {values:,} values: do NOT compare")


def _lines(meters: int, start: int, rounds: int) -> Iterator[list[str]]:
    """The same homes' readings, series by series, in Wh and W."""
    time_ms, energy, power = Homes(meters, start).rounds(rounds)
    stamps, lines = time_ms.tolist(), []
    for number, name in enumerate(names(meters)):
        for kind, values in (("energy", energy[:, number]), ("power", power[:, number] // 10)):
            series = {
                "metric": {"__name__": kind, "meter": name.decode()},
                "values": values.tolist(),
                "timestamps": stamps,
            }
            lines.append(json.dumps(series))
        if len(lines) >= _SERIES_A_REQUEST or number == meters - 1:
            yield lines
            lines = []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--meters", type=terminal.meters, default=1_000)
    parser.add_argument("--days", type=positive, default=30)
    parser.add_argument("--no-victoria", action="store_true", help="leave VictoriaMetrics out")
