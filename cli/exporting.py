"""``wattbus export``: settled readings as CSV or Parquet, page by page in bounded memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli import export_formats, values
from cli.connecting import connect, connection_arguments, guarded
from cli.export_formats import Page, Sink
from cli.parsing import add
from query import messages as m
from query.client import Client
from storage import own_files
from telemetry.registers import BY_NAME, Register

_EPILOG = """\
examples:
  wattbus export kitchen > kitchen.csv                      all that is stored of a meter
  wattbus export kitchen --from 2024-03-01 --to 2024-04-01 --register energy_import
  wattbus export --all --format parquet -o all.parquet
`wattbus import` reads the CSV files again. The columns are described in docs/import-export.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the description and the options of ``wattbus export``."""
    parser.description = (
        "Write the readings of meters as they are settled: one value an instant, the newest that "
        "was accepted, as the raw integer with its scaler, unit, status and epoch."
    )
    parser.epilog = _EPILOG
    at = "a local time of each meter, such as 2024-03-31T18:00, or one with an offset"
    parser.add_argument("ids", nargs="*", type=values.meter, metavar="ID", help="these meters")
    parser.add_argument("--all", action="store_true", help="all meters")
    parser.add_argument("--from", metavar="TIME", help=f"from this time on: {at}")
    parser.add_argument("--to", metavar="TIME", help="up to this time, which is not included")
    parser.add_argument(
        "--register",
        action="append",
        type=values.register,
        metavar="NAME",
        help="this register only, by name or OBIS code; may be given several times",
    )
    parser.add_argument("--format", choices=tuple(export_formats.SINKS), default="csv")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write to this file (default: to stdout)"
    )
    for argument in connection_arguments():
        add(parser, argument)


def run(arguments: argparse.Namespace) -> int:
    """Write the readings; the exit code, as of every client command."""

    def export() -> None:
        if arguments.all == bool(arguments.ids):
            raise values.InputError("say which meters: their ids, or --all")
        with connect(arguments) as client, _sink(arguments) as sink:
            _export(client, arguments, sink)

    return guarded(export)


@contextmanager
def _sink(arguments: argparse.Namespace) -> Iterator[Sink]:
    """Where pages go. A file appears under its name only when it is whole."""
    make = export_formats.SINKS[arguments.format]
    path: Path | None = arguments.output
    if path is None:
        if arguments.format != "csv" and sys.stdout.isatty():
            raise values.InputError("Parquet is not for terminals: name a file with -o FILE")
        sink = make(sys.stdout.buffer)
        yield sink
        sink.close()
        sys.stdout.buffer.flush()
        return
    if own_files.precious(path):
        raise values.InputError(f"{path} is a database, or a collector's own: choose another name")
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            sink = make(file)
            yield sink
            sink.close()
        part.replace(path)
    except OSError as error:
        raise values.InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _export(client: Client, arguments: argparse.Namespace, sink: Sink) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("meters, {task.fields[readings]:,} readings"),
    )
    # No bar where the readings themselves are shown.
    shown = console.is_terminal and (arguments.output is not None or not sys.stdout.isatty())
    total = client.status().meters if arguments.all else len(arguments.ids)
    meters = client.all_meters() if arguments.all else map(client.meter, arguments.ids)
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task("exporting", total=total, readings=0)
        written = 0
        for meter in meters:
            for page in _pages(client, arguments, meter):
                sink.write(page)
                written += len(page.values.raw)
                bar.update(task, readings=written)
            bar.advance(task)


def _pages(client: Client, arguments: argparse.Namespace, meter: m.MeterInfo) -> Iterator[Page]:
    zone = ZoneInfo(meter.time_zone_in_force)
    begin = values.instant(getattr(arguments, "from"), zone, "--from") if _from(arguments) else None
    end = values.instant(arguments.to, zone, "--to") if arguments.to is not None else None
    for register in _registers(client, arguments, meter):
        start = begin
        while True:
            found = client.readings(
                meter.id, register.obis, start_ms=start, end_ms=end, most=m.MOST_ROWS
            )
            if found.raw:
                yield Page(register, found)
            if found.next is None:
                break
            start = found.next


def _from(arguments: argparse.Namespace) -> bool:
    return getattr(arguments, "from") is not None


def _registers(client: Client, arguments: argparse.Namespace, meter: m.MeterInfo) -> list[Register]:
    names = arguments.register or [found.obis for found in client.latest(meter.id).registers]
    return list({BY_NAME[name].code: BY_NAME[name] for name in names}.values())
