"""How long questions take over the bus, one client, one after another."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from zoneinfo import ZoneInfo

from benchmarks.collector import Collector
from benchmarks.load import household, send
from query.client import Client
from telemetry import calendar

_LONGEST = 10_000  # ms of one question

Question = Callable[[Client, str], object]


def run(arguments: argparse.Namespace) -> None:
    """Fill a collector, then ask each question many times."""
    rounds = arguments.datagrams // arguments.meters
    now = int(time.time() * 1000)
    step = 900_000
    rows = household(arguments.meters, rounds, now - rounds * step, step)
    with Collector() as collector, collector.client() as client:
        send(collector.udp, rows, 100_000)
        while client.status().readings < 2 * len(rows):
            time.sleep(0.05)
        print(f"{2 * len(rows):,} values of {arguments.meters:,} meters stored")
        print("question              median ms      p99 ms")
        for name, question in questions(now).items():
            took = timed(client, question, arguments.times, arguments.meters)
            worst = took[int(len(took) * 0.99)]
            print(f"{name:20} {statistics.median(took):>10.3f}  {worst:>10.3f}")


def questions(now: int) -> dict[str, Question]:
    """What to ask of a meter whose newest reading is about of ``now``, by name."""
    day, month = now - 86_400_000, now - 30 * 86_400_000
    first, last = (str(calendar.local_date(instant, ZoneInfo("UTC"))) for instant in (month, now))
    return {
        "ping": lambda client, _meter: client.ping(),
        "latest": lambda client, meter: client.latest(meter),
        "one day raw": lambda client, meter: client.history(meter, "raw", start_ms=day),
        "month by hour": lambda client, meter: client.history(meter, "hour", start_ms=month),
        "month by day": lambda client, meter: client.history(meter, "day", start_ms=month),
        "total": lambda client, meter: client.total(meter),
        "bill": lambda client, meter: client.bill(meter),
        "fleet by day": lambda client, _meter: client.fleet(first=first, last=last),
        "top ten": lambda client, _meter: client.top(10, first=first, last=last),
        "storage": lambda client, _meter: client.storage(),
    }


def timed(client: Client, question: Question, times: int, meters: int) -> list[float]:
    """Milliseconds that a question took, sorted; another meter each time."""
    took: list[float] = []
    for number in range(times):
        if sum(took) > _LONGEST:
            break
        meter = f"bench-{number * 7919 % meters:07d}"
        began = time.perf_counter()
        question(client, meter)
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--meters", type=int, default=1_000)
    parser.add_argument("--times", type=int, default=300)
