"""``wattbus migrate``: bring the database to the schema of this version, without starting."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli import config
from cli.config import ConfigError
from storage import migrate, schema
from storage.engine import Database, StorageError, close_writer, look, open_writer
from storage.lock import only_writer

_NEEDED, _WRONG_INPUT, _INTERRUPTED = 1, 2, 130
_UP_TO_DATE = f"nothing to do: the database has schema {schema.VERSION}"
_EPILOG = """\
`wattbus serve` and `wattbus writer` do the same when they start; see docs/upgrading.md.
A backup is made first, beside the database (of PostgreSQL: make one yourself with pg_dump).

exit codes: 0 the database is up to date; 1 with --check, a migration is needed; 2 it cannot be done

examples:
  wattbus migrate --check                    is a migration needed?
  wattbus migrate                            migrate the database of the usual place
  wattbus migrate --data /var/lib/wattbus    migrate another one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``migrate``."""
    config.add_data_arguments(parser)
    parser.add_argument("--check", action="store_true", help="only tell whether it is needed")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Migrate, or tell whether it is needed; the exit code."""
    try:
        settings = config.load(arguments)
        number = look(settings.database)
        if arguments.check or number == 0:
            return _check(number)
        with only_writer(settings.directory):
            _migrate(settings.database)
    except (ConfigError, StorageError) as error:
        print(f"wattbus: {error}", file=sys.stderr)
        return _WRONG_INPUT
    except KeyboardInterrupt:
        print("wattbus: stopped; the database is whole: run it again to go on", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _check(number: int) -> int:
    if 0 < number < schema.VERSION:
        print(f"a migration is needed: from schema {number} to {schema.VERSION}")
        return _NEEDED
    print(_UP_TO_DATE if number else "nothing to do: the database is empty; the writer fills it")
    return 0


def _migrate(database: Database) -> None:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("backup", total=None, visible=False)

        def say(text: str) -> None:
            bar.update(task, visible=False)
            bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

        def copied(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of, visible=done < of)

        report = migrate.Report(say, copied)
        # Looked at again: only now does nobody else write.
        up_to_date = look(database) == schema.VERSION
        engine = open_writer(database, report)
        try:
            if up_to_date and not migrate.make_shrinkable(engine, report):
                print(_UP_TO_DATE)
        finally:
            close_writer(engine)
