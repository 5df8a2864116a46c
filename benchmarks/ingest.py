"""Datagrams of one reading (energy and power) into a whole collector: loss, CPU, visibility."""

from __future__ import annotations

import argparse
import multiprocessing
import time

from benchmarks.collector import Collector
from benchmarks.load import Sent, household, send
from query.client import Client
from query.messages import Status, WriterStatus


def run(arguments: argparse.Namespace) -> None:
    """Send, wait, ask for everything, print."""
    rounds = arguments.datagrams // arguments.meters
    now = int(time.time() * 1000)
    rows = household(arguments.meters, rounds, now - rounds * 1000, 1000)
    with Collector() as collector, collector.client() as client:
        before = collector.cpu()
        context = multiprocessing.get_context("fork")
        with context.Pool(1) as pool:  # the sender on a core of its own
            sent = pool.apply(send, (collector.udp, rows, arguments.rate))
        finished = time.perf_counter()
        _wait_settled(client, len(rows))
        settled = time.perf_counter() - finished
        after = collector.cpu()
        status = client.status()
        _print(sent, status, settled, {name: after[name] - before[name] for name in after})
        if arguments.check:
            _check(client, arguments.meters, rounds)
        print("memory", {name: f"{mib:.0f} MiB" for name, mib in collector.memory().items()})


def _writer(status: Status) -> WriterStatus:
    assert status.writer is not None
    return status.writer


def _wait_settled(client: Client, datagrams: int) -> None:
    """Until every datagram is accounted for, or nothing moves for two seconds."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 2.5:
        readings = _writer(client.status()).readings
        if readings == 2 * datagrams:
            return
        if readings != last:
            last, since = readings, time.monotonic()
        time.sleep(0.02)


def _print(sent: Sent, status: Status, settled: float, cpu: dict[str, float]) -> None:
    time.sleep(0)
    listener = _writer(status).receivers[0].listeners[0]
    stored = _writer(status).readings // 2
    print(f"sent      {sent.datagrams:>10,} datagrams in {sent.seconds:.2f} s: ", end="")
    print(f"{sent.datagrams / sent.seconds:,.0f} a second; ", end="")
    print(f"the sender's CPU {sent.cpu / sent.datagrams * 1e6:.2f} us each")
    print(f"stored    {stored:>10,} datagrams, {sent.datagrams - stored:,} lost; ", end="")
    print(f"durable {settled:.2f} s after the last was sent")
    print(f"refused   {sum(listener.refused.values()):>10,} {listener.refused}")
    print(f"kernel    {listener.kernel_drops:>10,} dropped")
    total = sum(cpu.values())
    print(f"CPU       {total / sent.datagrams * 1e6:>10.2f} us a datagram, all processes: ", end="")
    print(", ".join(f"{n} {s / sent.datagrams * 1e6:.2f}" for n, s in sorted(cpu.items())))


def _check(client: Client, meters: int, rounds: int) -> None:
    """Ask for every reading of every meter, one by one."""
    began, found = time.perf_counter(), 0
    for number in range(meters):
        values = client.readings(f"bench-{number:07d}", most=10_000)
        found += len(values.raw)
    took = time.perf_counter() - began
    print(f"asked     {found:>10,} readings back from {meters:,} meters in {took:.1f} s: ", end="")
    print("all there" if found == meters * rounds else f"{meters * rounds - found:,} MISSING")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--meters", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100_000, help="datagrams a second")
    parser.add_argument("--no-check", dest="check", action="store_false")
