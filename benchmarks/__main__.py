"""Runs one benchmark: ``python -m benchmarks NAME [options]``; without a name, all side by side."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys

from benchmarks import (
    bus,
    compare,
    cuts,
    databases,
    exact,
    forged,
    kill,
    repeats,
    report,
    senders,
    writer,
)
from benchmarks.suites import SUITES

# What is measured of Wattbus alone, and proofs that take long.
ALONE = {
    "writer": writer,
    "senders": senders,
    "forged": forged,
    "databases": databases,
    "repeats": repeats,
    "kill": kill,
    "exact": exact,
    "cuts": cuts,
    "bus": bus,
}
ALL = "all"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    subparsers = parser.add_subparsers(dest="suite")
    whole = subparsers.add_parser(ALL, help="every suite side by side, one after another")
    compare.add_arguments(whole)
    for name, suite in SUITES.items():
        compare.add_arguments(subparsers.add_parser(name, help=suite.about))
    subparsers.add_parser("report", help=report.__doc__)
    for name, module in ALONE.items():
        module.add_arguments(subparsers.add_parser(name, help=module.__doc__))
    arguments = parser.parse_args(sys.argv[1:] or [ALL])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # long work, piped into a file
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"Python {platform.python_version()}")
    name = arguments.suite
    if name == "report":
        report.write_committed()
    elif name in ALONE:
        print(f"\n== {name}: {(ALONE[name].__doc__ or '').strip()}")
        ALONE[name].run(arguments)
    else:
        compare.run(list(SUITES) if name == ALL else [name], arguments)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
        sys.exit(130)
