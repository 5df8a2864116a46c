"""The command ``wattbus``: every program and every question under one name.

Only what a command needs is imported: a collector that was killed is to be back within two seconds,
and half of a start is imports; of a question from the shell they are nearly all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

from cli.starting import importing

Run = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]
Load = Callable[[], tuple[AddArguments, Run]]


def _serve() -> tuple[AddArguments, Run]:
    from cli import serve

    return serve.add_arguments, serve.run


def _meter() -> tuple[AddArguments, Run]:
    from cli import meter, meter_options

    return meter_options.add_arguments, meter.run


def _import() -> tuple[AddArguments, Run]:
    from cli import importing

    return importing.add_arguments, importing.run


def _export() -> tuple[AddArguments, Run]:
    from cli import exporting

    return exporting.add_arguments, exporting.run


def _repl() -> tuple[AddArguments, Run]:
    from cli import repl

    return repl.add_arguments, repl.run


def _backup() -> tuple[AddArguments, Run]:
    from cli import care

    return care.add_backup_arguments, care.run_backup


def _restore() -> tuple[AddArguments, Run]:
    from cli import care

    return care.add_restore_arguments, care.run_restore


def _watch() -> tuple[AddArguments, Run]:
    from cli import watch

    return watch.add_arguments, watch.run


def _keys() -> tuple[AddArguments, Run]:
    from cli import keys

    return keys.add_arguments, keys.run


def _part(name: str) -> tuple[AddArguments, Run]:
    from cli import config, processes

    return config.add_arguments, partial(processes.run, getattr(processes, name))


def _migrate() -> tuple[AddArguments, Run]:
    from cli import migrate

    return migrate.add_arguments, migrate.run


def _verify() -> tuple[AddArguments, Run]:
    from cli import verify

    return verify.add_arguments, verify.run


# Name, summary, and what imports its arguments and its main.
_PROGRAMS: tuple[tuple[str, str, Load], ...] = (
    ("serve", "start the whole collector", _serve),
    ("meter", "send datagrams as a meter does", _meter),
    ("import", "store the readings of files", _import),
    ("export", "write readings to a file", _export),
    ("repl", "ask questions, line by line", _repl),
    ("backup", "copy everything that is stored to one file", _backup),
    ("restore", "make a backup the database", _restore),
    ("watch", "show a meter's readings as they are stored", _watch),
    ("keys", "make and remove keys of the query bus", _keys),
    ("receiver", "start only the part that takes in datagrams", partial(_part, "receiver")),
    ("writer", "start only the part that stores readings", partial(_part, "writer")),
    ("query", "start only the query service", partial(_part, "query")),
    ("http", "start only the HTTP shim", partial(_part, "http")),
    ("migrate", "bring the database to the schema of this version", _migrate),
    ("verify", "check everything that is stored, while the collector runs", _verify),
)
_INTERRUPTED = 130
_EPILOG = """\
examples:
  wattbus serve --demo 5                     the collector, with five simulated meters
  wattbus repl                               ask it questions
  wattbus total demo-1 --json                one question, for scripts
  wattbus meter --id kitchen                 be a meter
  wattbus COMMAND --help                     more about one of them
"""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"wattbus {version('wattbus')}")
        parser.exit()


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; if it is for one command, others have no arguments."""
    parser = argparse.ArgumentParser(
        prog="wattbus",
        description="Takes in electricity meters' readings over UDP and answers for them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show program's version number and exit"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary, load in _PROGRAMS:
        program = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command in (None, name):
            add_arguments, run = load()
            add_arguments(program)
            program.set_defaults(run=run)
    if command not in [name for name, _, _ in _PROGRAMS]:
        from cli import commands

        commands.add_parsers(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = sys.argv[1:] if argv is None else argv
    command = next((word for word in given if not word.startswith("-")), "")
    try:
        with importing():
            parser = build_parser(command)
        arguments = parser.parse_args(given)
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:  # while it imports, or where nothing is to be tidied up
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
