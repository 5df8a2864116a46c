"""``wattbus import``: files of readings, or of interval energies, into the running collector."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cli import config, values
from cli.config import Config, ConfigError
from cli.connecting import complain
from cli.import_files import (
    Contents,
    batches,
    build,
    check_csv,
    format_of,
    naming,
    read_nem12,
)
from storage.engine import StorageError
from storage.importing import Delivery, Stored, WriterAwayError, require_writer
from storage.queries import Reader
from telemetry.clock import FUTURE_WINDOW
from telemetry.files import FileError
from telemetry.files.csv_values import instant_text
from telemetry.files.nem12 import AEST_MS
from telemetry.readings import Readings

_EPILOG = """\
examples:
  wattbus import january.csv february.csv        NEM12 files of a meter, in any order
  wattbus import readings.csv --id kitchen       a CSV file without a column id
  wattbus import readings.csv --dry-run          check the file, say what would be stored
The formats are described in docs/import-export.md.
"""
_OFFSET = re.compile(r"([+-])([0-9]{2}):([0-9]{2})", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the description and the options of ``wattbus import``."""
    parser.description = (
        "Store the readings of files: CSV, or NEM12 of the Australian market. All files are "
        "checked before anything is stored; what is stored already is recognised, so an import "
        "can be repeated."
    )
    parser.epilog = _EPILOG
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="plain or gzip")
    parser.add_argument(
        "--format",
        choices=("auto", "csv", "nem12"),
        default="auto",
        help="auto (the default) looks at the first line",
    )
    parser.add_argument(
        "--id",
        type=values.meter,
        metavar="ID",
        help="the meter's id: where a CSV file has no column for it, or instead of the NMI",
    )
    parser.add_argument(
        "--utc-offset",
        type=_offset,
        default=AEST_MS,
        metavar="+HH:MM",
        help="the clock of NEM12 files (default: +10:00, the market's)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check and count, store nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    config.add_data_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import the files; the exit code.

    0: all is durable. 1: the writer has gone on the way. 2: wrong input, nothing is stored.
    130: interrupted.
    """
    try:
        settings = config.load(arguments)
        return _Import(arguments, settings).run()
    except (ConfigError, StorageError, FileError) as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain("interrupted before anything was stored", 130)


class _Import:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace, settings: Config) -> None:
        self._arguments, self._settings = arguments, settings
        self._latest = time.time_ns() // 1_000_000 + FUTURE_WINDOW
        self._contents = Contents()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=console,
            disable=arguments.quiet or not console.is_terminal,
        )

    def run(self) -> int:
        arguments = self._arguments
        with self._bar:
            nem12_files, csv_files = self._by_format()
            if not arguments.dry_run:
                try:
                    require_writer(self._settings.writer_endpoint)
                except WriterAwayError:
                    return complain(
                        f"no collector is running on {self._settings.directory}: start "
                        "`wattbus serve` first, or say with --data or --config which one is meant",
                        2,
                    )
            with self._stored() as stored:
                built = self._check(nem12_files, csv_files, stored)
                parts = batches(built, csv_files, arguments.id, self._latest)
                if arguments.dry_run:
                    there = sum(int(stored.has(part).sum()) for part in parts)
                    return self._say("would be stored", self._contents.readings - there, there)
                return self._store(parts, stored)

    def _by_format(self) -> tuple[list[Path], list[Path]]:
        found: dict[str, list[Path]] = {"nem12": [], "csv": []}
        for path in self._arguments.files:
            with naming(path):
                looks = format_of(path)
            wanted = self._arguments.format
            found[looks if wanted == "auto" else wanted].append(path)
        return found["nem12"], found["csv"]

    def _check(
        self, nem12_files: list[Path], csv_files: list[Path], stored: Stored
    ) -> list[Readings]:
        """Read every file to its end; the readings of the NEM12 files."""
        arguments = self._arguments
        total = sum(path.stat().st_size for path in arguments.files)
        task = self._bar.add_task("checking", total=total)

        def advance(octets: int) -> None:
            self._bar.advance(task, octets)

        channels, self._contents.notes = read_nem12(
            nem12_files, arguments.id, self._latest, arguments.utc_offset, advance
        )
        built = build(channels, arguments.id, stored)
        for readings in built:
            self._contents.add(readings)
        for path in csv_files:
            with naming(path):
                check_csv(path, arguments.id, self._latest, self._contents, advance)
        return built

    @contextmanager
    def _stored(self) -> Iterator[Stored]:
        try:
            reader = Reader(self._settings.database)
        except StorageError:
            if not self._arguments.dry_run:
                raise
            self._contents.notes.append("there is no database: compared with nothing")
            yield Stored(None)
            return
        try:
            yield Stored(reader)
        finally:
            reader.close()

    def _store(self, parts: Iterator[Readings], stored: Stored) -> int:
        task = self._bar.add_task("storing", total=self._contents.readings)
        delivery = Delivery(self._settings.writer_endpoint)
        there = 0
        try:
            for part in parts:
                has = stored.has(part)
                there += int(has.sum())
                delivery.put(part.take(np.flatnonzero(~has)))
                self._bar.update(task, completed=there + delivery.stored)
            for done in delivery.finish():
                self._bar.update(task, completed=there + done)
        except KeyboardInterrupt:
            delivery.close()
            return self._cut_short("interrupted", delivery, 130)
        except (WriterAwayError, FileError) as error:
            delivery.close(0)
            return self._cut_short(str(error), delivery, 1)
        delivery.close()
        return self._say("stored", delivery.stored, there)

    def _cut_short(self, why: str, delivery: Delivery, code: int) -> int:
        return complain(
            f"{why}: {delivery.stored:,} readings are stored, {delivery.given - delivery.stored:,} "
            "more may be. Run the same command again: what is stored is recognised",
            code,
        )

    def _say(self, verb: str, new: int, there: int) -> int:
        self._bar.stop()
        if self._arguments.quiet:
            return 0
        contents = self._contents
        for note in contents.notes:
            print(note)
        if contents.first_ms is None or contents.last_ms is None:
            print("there are no readings in the files: nothing to store")
            return 0
        meters = len(contents.keys)
        print(
            f"{contents.readings:,} readings of {meters:,} meter{'s' if meters > 1 else ''} from "
            f"{instant_text(contents.first_ms)} to {instant_text(contents.last_ms)}: {new:,} "
            f"{verb}, {there:,} were there already",
            flush=True,
        )
        return 0


def _offset(text: str) -> int:
    found = _OFFSET.fullmatch(text)
    if not found or int(found[2]) > 14 or int(found[3]) > 59:
        raise argparse.ArgumentTypeError(f"{text!r} is no offset from UTC: write it as +10:00")
    minutes = int(found[2]) * 60 + int(found[3])
    return (minutes if found[1] == "+" else -minutes) * 60_000
