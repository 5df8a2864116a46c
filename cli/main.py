"""The command ``wattbus``: every program and every question under one name."""

from __future__ import annotations

import argparse
import sys

from cli import (
    care,
    commands,
    exporting,
    importing,
    keys,
    meter,
    meter_options,
    migrate,
    processes,
    repl,
    serving,
    verify,
    watch,
)
from cli.serving import Program

_PROGRAMS: tuple[Program, ...] = (
    serving.SERVE,
    ("meter", "send datagrams as a meter does", meter_options.add_arguments, meter.run),
    ("import", "store the readings of files", importing.add_arguments, importing.run),
    ("export", "write readings to a file", exporting.add_arguments, exporting.run),
    ("repl", "ask questions, line by line", repl.add_arguments, repl.run),
    (
        "backup",
        "copy everything that is stored to one file",
        care.add_backup_arguments,
        care.run_backup,
    ),
    ("restore", "make a backup the database", care.add_restore_arguments, care.run_restore),
    ("watch", "show a meter's readings as they are stored", watch.add_arguments, watch.run),
    ("keys", "make and remove keys of the query bus", keys.add_arguments, keys.run),
    *serving.PARTS,
    (
        "migrate",
        "bring the database to the schema of this version",
        migrate.add_arguments,
        migrate.run,
    ),
    (
        "verify",
        "check everything that is stored, while the collector runs",
        verify.add_arguments,
        verify.run,
    ),
)
_EPILOG = """\
examples:
  wattbus serve --demo 5                     the collector, with five simulated meters
  wattbus repl                               ask it questions
  wattbus total demo-1 --json                one question, for scripts
  wattbus meter --id kitchen                 be a meter
  wattbus COMMAND --help                     more about one of them
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = serving.build_parser()
    parser.epilog = _EPILOG
    parser.add_argument("--version", action="version", version=f"wattbus {processes.version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for program in _PROGRAMS:
        serving.add(subparsers, program)
    commands.add_parsers(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = build_parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
