"""Power cuts, simulated: nothing that was confirmed may be lost (needs strace)."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.delivery.cuts import memory
from tests.delivery.recording import record


def run(arguments: argparse.Namespace) -> None:
    """Record, cut, print; exit code 1 where a cut did harm."""
    if shutil.which("strace") is None:
        print("strace is not installed")
        return
    with tempfile.TemporaryDirectory(prefix="wattbus-bench-") as place:
        recorded = record(Path(place), ",".join(["small", *arguments.fault]))
        print(f"recorded    {recorded.sent:,} batches, {len(recorded.calls):,} system calls")
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="wattbus-bench-", dir=memory()) as work:
            harm = list(recorded.harm(arguments.cuts, arguments.seed, Path(work)))
    print(f"cut         {arguments.cuts:,} times in {time.perf_counter() - began:.1f} s, ", end="")
    print(f"seed {arguments.seed}: {len(harm):,} did harm")
    for wrong in harm[:5]:
        print(f"  cut {wrong.cut} at {wrong.moment}: {'; '.join(wrong.found[:2])}")
    if harm:
        sys.exit(1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--fault",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=["normal", "early", "unsynced_spool"],
        help="break the writer, to see that the cuts find it: normal, early, unsynced_spool",
    )
