"""Runs suites side by side, prints what they found, keeps it, and writes the document."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report, results
from benchmarks.peers import PEERS, Peer
from benchmarks.results import Ran, SuiteResults
from benchmarks.running import Run
from benchmarks.suites import SUITES
from benchmarks.terminal import positive, wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all suites have."""
    parser.add_argument("--rounds", type=positive, help="instead of a suite's own number")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, one round: only whether it works"
    )
    parser.add_argument(
        "--long", action="store_true", help="also what takes an hour and more (store, grow)"
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="where figures are kept; without it, unless --quick, in benchmarks/results.json, "
        "and docs/benchmarks.md is written from them",
    )


def run(names: list[str], arguments: argparse.Namespace) -> None:
    """Run the suites one after another; each one's figures are kept as soon as it is through."""
    signal.signal(signal.SIGTERM, _end)
    present = _present(arguments.peers)
    for name in names:
        found = _run(name, present, arguments)
        print(report.section(name, found))
        path = arguments.results or (None if arguments.quick else results.COMMITTED)
        if path is not None:
            kept = results.keep(path, {name: found})
            if path == results.COMMITTED:
                report.write(kept)


def _end(*_: object) -> None:
    raise KeyboardInterrupt  # as by Ctrl-C: what was started is ended


def _present(wanted: list[str]) -> list[type[Peer]]:
    if "wattbus" not in wanted:
        raise wrong("--peers: without wattbus there is nothing to compare with")
    present = []
    for name in wanted:
        if PEERS[name].version() is None:
            print(f"{PEERS[name].title} is not installed: goes on without it")
        else:
            present.append(PEERS[name])
    return present


def _run(name: str, present: list[type[Peer]], arguments: argparse.Namespace) -> SuiteResults:
    suite = SUITES[name]
    peers = [one for one in present if one.name == "wattbus"] if suite.alone else present
    rounds = arguments.rounds or (1 if arguments.quick else suite.rounds)
    going = Run(peers, rounds, quick=arguments.quick, long=arguments.long)
    load, began = os.getloadavg()[0], time.monotonic()
    print(f"\n== {name}: {suite.about}", file=sys.stderr)
    suite.run(going)
    ran = Ran(
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=_command(name, arguments),
        minutes=round((time.monotonic() - began) / 60, 1),
        load_before=round(load, 2),
        versions=results.versions(),
    )
    return SuiteResults(ran, going.figures, going.notes)


def _command(name: str, arguments: argparse.Namespace) -> str:
    words = [name]
    if arguments.rounds:
        words += ["--rounds", str(arguments.rounds)]
    words += [f"--{flag}" for flag in ("quick", "long") if getattr(arguments, flag)]
    if arguments.peers != list(PEERS):
        words += ["--peers", *arguments.peers]
    return f'make bench ARGS="{shlex.join(words)}"'
