"""``wattbus backup`` and ``wattbus restore``: a copy of everything, and back from it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cli import config
from cli.config import Config, ConfigError
from storage import key_file, meter_keys, meters
from storage.backup import Progress, backup
from storage.engine import StorageError, open_reader, place
from storage.inspection import Findings
from storage.key_file import KeyFileError
from storage.restore import restore, restore_database
from storage.whole_file import size_text

_WRONG_INPUT, _INTERRUPTED = 2, 130
_MOST_NAMED = 5  # damaged rows
_BACKUP_EPILOG = """\
The collector may go on: the copy is what is committed when the copying ends.

examples:
  wattbus backup /mnt/usb/wattbus-monday.sqlite3
  wattbus backup --data /var/lib/wattbus --force latest.sqlite3    write over an older one
  wattbus backup --database postgresql+psycopg://wattbus@db/wattbus monday.sqlite3
"""
_RESTORE_EPILOG = """\
Stop the collector first. With --force what was there before is kept beside the restored database;
a PostgreSQL database has to be empty.

examples:
  wattbus restore wattbus-monday.sqlite3 --data /var/lib/wattbus
  wattbus restore wattbus-monday.sqlite3 --data /tmp/look && wattbus serve --data /tmp/look
  wattbus restore monday.sqlite3 --database postgresql+psycopg://wattbus@db/wattbus
"""


def add_backup_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``backup``."""
    parser.description = "Copy everything that is stored to one file, while the collector runs."
    parser.epilog = _BACKUP_EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup to make")
    parser.add_argument("--force", action="store_true", help="write over a file of that name")
    config.add_data_arguments(parser)


def add_restore_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``restore``."""
    parser.description = "Make a backup the database of a data directory, or of a server."
    parser.epilog = _RESTORE_EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup to restore")
    parser.add_argument(
        "--force", action="store_true", help="keep a database that is there under another name"
    )
    config.add_data_arguments(parser)


def run_backup(arguments: argparse.Namespace) -> int:
    """Make a backup; the exit code."""
    return _run(arguments, _backup)


def run_restore(arguments: argparse.Namespace) -> int:
    """Restore a backup; the exit code."""
    return _run(arguments, _restore)


def _backup(arguments: argparse.Namespace, settings: Config) -> None:
    engine = open_reader(settings.database, older=True)
    try:
        with _bar() as progress:
            findings = backup(engine, arguments.file, force=arguments.force, progress=progress)
    finally:
        engine.dispose()
    _warn(findings)
    size = size_text(arguments.file.stat().st_size)
    print(f"{arguments.file}: {size}, {_contents(findings)}; checked")
    if key_file.exists(settings.directory):
        print(
            f"Without the keys: keep a copy of {key_file.path_of(settings.directory)} elsewhere, "
            "where nobody else reads it (docs/security.md)"
        )


def _restore(arguments: argparse.Namespace, settings: Config) -> None:
    if settings.database.url:
        _restore_to_server(arguments, settings)
        return
    with _bar() as progress:
        findings, kept = restore(
            arguments.file,
            settings.directory,
            force=arguments.force,
            now=datetime.now(),
            progress=progress,
        )
    _warn(findings)
    if kept is not None:
        print(f"the database that was there is now {kept}")
    print(f"{settings.directory}: restored, {_contents(findings)}. Start it with `wattbus serve`")
    _tell_keys(settings)


def _restore_to_server(arguments: argparse.Namespace, settings: Config) -> None:
    if arguments.force:
        raise StorageError("--force keeps files only: restore into an empty PostgreSQL database")
    with _bar() as progress:
        findings = restore_database(arguments.file, settings.database, progress)
    _warn(findings)
    there = place(settings.database)
    print(f"{there}: restored, {_contents(findings)}. Start it with `wattbus serve --database URL`")
    _tell_keys(settings)


def _tell_keys(settings: Config) -> None:
    """Say which meters have no key: a backup holds none."""
    engine = open_reader(settings.database, older=True)
    try:
        with engine.connect() as connection:
            names = meters.names(connection)
    finally:
        engine.dispose()
    try:
        without = meter_keys.without(settings.directory, names)
    except KeyFileError as error:
        print(f"wattbus: {error}", file=sys.stderr)
        return
    if not without:
        return
    some = ", ".join(sorted(names[octets] for octets in without)[:_MOST_NAMED])
    more = f" and {len(without) - _MOST_NAMED:,} more" if len(without) > _MOST_NAMED else ""
    print(
        f"{len(without):,} of {len(names):,} meters have no key in "
        f"{key_file.path_of(settings.directory)}: {some}{more}. If they sign, put your copy of the "
        "key file there before you start it (docs/security.md)"
    )


def _contents(findings: Findings) -> str:
    rows = findings.rows
    batches = rows.get("blocks", 0) + rows.get("journal", 0)
    return f"{rows['meters']:,} meters, {batches:,} blocks and batches of readings"


def _warn(findings: Findings) -> None:
    more = len(findings.damaged) - _MOST_NAMED
    for damage in findings.damaged[:_MOST_NAMED]:
        print(f"wattbus: copied as it is, damaged: {damage} (docs/care.md)", file=sys.stderr)
    if more > 0:
        print(f"wattbus: and {more:,} more damaged rows", file=sys.stderr)


def _run(arguments: argparse.Namespace, work: Callable[[argparse.Namespace, Config], None]) -> int:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        work(arguments, config.load(arguments))
    except (ConfigError, StorageError) as error:
        print(f"wattbus: {error}", file=sys.stderr)
        return _WRONG_INPUT
    except KeyboardInterrupt:
        print("wattbus: interrupted, nothing is left of it", file=sys.stderr)
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("opening", total=None)

        def tell(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.stage,
                completed=progress.octets,
                total=max(progress.expected, progress.octets),
            )

        yield Progress(tell)
