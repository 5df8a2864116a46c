"""Runs one benchmark, or all: ``python -m benchmarks [SUITE] [options]``."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys

from benchmarks import (
    ask,
    bus,
    cuts,
    databases,
    exact,
    forged,
    grow,
    ingest,
    kill,
    repeats,
    safe,
    senders,
    store,
)

SUITES = {
    "ingest": ingest,
    "senders": senders,
    "safe": safe,
    "forged": forged,
    "ask": ask,
    "databases": databases,
    "store": store,
    "grow": grow,
    "repeats": repeats,
}
# Proofs, too long to run unless asked for.
SOAKS = {"kill": kill, "exact": exact, "cuts": cuts, "bus": bus}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    subparsers = parser.add_subparsers(dest="suite")
    parsers = {}
    for name, suite in (SUITES | SOAKS).items():
        parsers[name] = subparsers.add_parser(name, help=suite.__doc__)
        suite.add_arguments(parsers[name])
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # long work, piped into a file
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"Python {platform.python_version()}")
    chosen = SUITES if arguments.suite is None else SUITES | SOAKS
    for name, suite in chosen.items():
        if arguments.suite in (None, name):
            print(f"\n== {name}: {(suite.__doc__ or '').strip()}")
            suite.run(arguments if arguments.suite else parsers[name].parse_args([]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
