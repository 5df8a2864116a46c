"""``wattbus verify``: computes again what is derived from readings, and tells every difference."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli import config
from cli.config import ConfigError
from storage.engine import REFUSALS, StorageError, reason
from storage.verify import Difference, Report, Totals, verify

_DIFFERENT, _CANNOT, _INTERRUPTED = 1, 2, 130
_ADVICE = """\
{count} found; nothing was changed. What to do:
  damaged, missing or wrong blocks, journal rows or meters: restore a backup
  only daily, latest or the watermark: no reading is lost; keep this list and report it
docs/verify.md says more."""
_EPILOG = """\
Only reads, and may run while the collector does. Give it the collector's --config, or the same
--time-zone: the days of meters that have no zone of their own are those of that zone.

exit codes: 0 everything is right; 1 there are differences, one a line; 2 it cannot be done

examples:
  wattbus verify                             the database of the usual place
  wattbus verify --data /var/lib/wattbus     another one
  wattbus verify --config wattbus.toml       the one of a configuration, PostgreSQL too
  wattbus verify --json                      for scripts: an object a line, the last one sums up
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``verify``."""
    parser.description = (
        "Check every block and journal row, and compute newest readings, days and sums again from "
        "the readings. Tells what is stored otherwise; changes nothing."
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a TOML file, see docs/config.md"
    )
    parser.add_argument("--data", metavar="DIR", help="the directory for all data")
    parser.add_argument("--database", metavar="URL", help="a PostgreSQL database, see docs")
    parser.add_argument("--time-zone", metavar="ZONE", help="of meters that have none of their own")
    parser.add_argument("--json", action="store_true", help="print JSON, an object a line")
    unused = ("address", "udp_port", *(f"{service}_port" for service in config.PORTS))
    parser.set_defaults(**dict.fromkeys(unused))
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Verify, tell what was found; the exit code."""
    try:
        totals = _verify(arguments)
    except (ConfigError, StorageError, *REFUSALS) as error:
        print(f"wattbus: {reason(error)}", file=sys.stderr)
        return _CANNOT
    except KeyboardInterrupt:
        print("wattbus: stopped before everything was looked at", file=sys.stderr)
        return _INTERRUPTED
    return _DIFFERENT if totals.differences else 0


def _verify(arguments: argparse.Namespace) -> Totals:
    settings = config.load(arguments)
    began = time.monotonic()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("")

        def found(difference: Difference) -> None:
            print(json.dumps(asdict(difference)) if arguments.json else difference, flush=True)

        def reached(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=max(done, of))

        totals = verify(settings.database, settings.defaults, Report(found, reached))
    seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps(totals.as_dict() | {"seconds": round(seconds, 3)}))
        return totals
    print(
        f"{totals.values:,} readings in {totals.blocks:,} blocks and {totals.rows:,} rows of the "
        f"journal, {totals.meters:,} meters, {totals.days:,} days: {seconds:.1f} s"
    )
    count = totals.differences
    if count:
        print(_ADVICE.format(count="1 difference" if count == 1 else f"{count:,} differences"))
    else:
        print("everything is right")
    return totals
