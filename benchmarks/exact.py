"""Exact sums: every datagram sent is in one count, with the collector frozen in the middle."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.collector import Collector
from benchmarks.traffic import DUPLICATE, PLAIN, STALE, UNIQUE, Traffic
from query.client import Client
from telemetry.bulk_udp import BulkSender

_MOST_BEHIND = 0.05  # seconds; a sender that was held up does not make up for more
_SETTLED_AFTER = 5.0  # seconds without news
_TAKEN = (UNIQUE, DUPLICATE, STALE, PLAIN)


@dataclass(frozen=True, slots=True)
class Account:
    """What the collector says became of all that was sent to it."""

    taken: dict[str, int]  # unique, duplicate, stale
    rejected: dict[str, int]  # by reason
    kernel_drops: int
    back_pressure_drops: int

    @property
    def total(self) -> int:
        """All of it."""
        counted = sum(self.taken.values()) + sum(self.rejected.values())
        return counted + self.kernel_drops + self.back_pressure_drops

    @property
    def drops(self) -> int:
        """What nobody saw."""
        return self.kernel_drops + self.back_pressure_drops


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was sent, by kind, and what became of it."""

    sent: Counter[str]
    account: Account

    @property
    def wrong(self) -> list[str]:
        """Where the account differs from what was sent; nothing where it is exact."""
        found = []
        if self.account.total != self.sent.total():
            found.append(f"{self.sent.total():,} were sent, {self.account.total:,} are counted")
        sent = Counter({kind: n for kind, n in self.sent.items() if kind not in _TAKEN})
        for reason in sorted({*sent, *self.account.rejected}):
            rejected = self.account.rejected.get(reason, 0)
            # What the kernel dropped may have been of any kind.
            if not sent[reason] - self.account.drops <= rejected <= sent[reason]:
                found.append(f"{reason}: {sent[reason]:,} were sent, {rejected:,} are counted")
        return found


def account(client: Client) -> Account:
    """As the collector counts by now."""
    totals = client.loss().totals
    taken = {name: getattr(totals, name) for name in ("unique", "duplicate", "stale")}
    return Account(taken, totals.rejected, totals.kernel_drops, totals.back_pressure_drops)


def measure(collector: Collector, count: int, rate: float, frozen: float, burst: int) -> Outcome:
    """Send about so many datagrams, half of them before and half after the collector was frozen.

    For ``frozen`` seconds it is sent to at the same rate, and ``burst`` datagrams more at once.
    """
    traffic = Traffic(int(time.time() * 1000) - 10 * 86_400_000, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(collector.udp)
        sender = BulkSender(sock)
        _send(sender, traffic, count // 2, rate)
        with stopped(collector):
            _send(sender, traffic, int(frozen * rate), rate)
            _send(sender, traffic, burst, None)
        _send(sender, traffic, count - traffic.kinds.total(), rate)
    with collector.client() as client:
        return Outcome(traffic.kinds, _settled(client, traffic.kinds.total()))


@contextmanager
def stopped(collector: Collector) -> Iterator[None]:
    """No process of the collector runs."""
    pids = [process.pid for process in collector.processes.values()]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _send(sender: BulkSender, traffic: Traffic, count: int, rate: float | None) -> None:
    """Send waves of so many datagrams or a few more, at so many a second or all at once."""
    began, sent = time.perf_counter(), 0
    while sent < count:
        for rows in traffic.wave():
            if rate is not None:
                now = time.perf_counter()
                began = max(began, now - _MOST_BEHIND - sent / rate)
                time.sleep(max(0.0, began + sent / rate - now))
            assert sender.send(rows) == len(rows)  # the socket blocks, so all leave
            sent += len(rows)


def _settled(client: Client, sent: int) -> Account:
    """Once every datagram is accounted for, or nothing moves any more."""
    found, since = account(client), time.monotonic()
    while found.total < sent and time.monotonic() - since < _SETTLED_AFTER:
        time.sleep(0.05)
        before, found = found, account(client)
        if found != before:
            since = time.monotonic()
    time.sleep(1.1)  # the last report of what is counted too much
    return account(client)


def run(arguments: argparse.Namespace) -> None:
    """Send, freeze, wait, compare, print; exit code 1 where the sums differ."""
    count = int(arguments.millions * 1e6)
    with Collector() as collector:
        began = time.perf_counter()
        outcome = measure(collector, count, arguments.rate, arguments.frozen, arguments.burst)
        took = time.perf_counter() - began
    found = outcome.account
    print(f"sent        {outcome.sent.total():>12,} datagrams in {took:.1f} s, ", end="")
    print(f"the collector frozen for {arguments.frozen:g} s and more in the middle")
    for kind, number in {**found.taken, **found.rejected}.items():
        of = outcome.sent[kind]
        print(f"{kind:<12}{number:>12,}" + (f" of {of:,}" if of else ""))
    print(f"dropped     {found.kernel_drops:>12,} by the kernel")
    print(f"dropped     {found.back_pressure_drops:>12,} under back-pressure")
    print(f"total       {found.total:>12,}: " + ("; ".join(outcome.wrong) or "exact"))
    if outcome.wrong:
        sys.exit(1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--millions", type=float, default=1.0, help="datagrams (default: 1)")
    parser.add_argument("--rate", type=float, default=20_000, help="datagrams a second")
    parser.add_argument("--frozen", type=float, default=2.0, help="seconds (default: 2)")
    parser.add_argument(
        "--burst", type=int, default=200_000, help="more sent at once while frozen (200000)"
    )
