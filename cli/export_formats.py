"""The formats of an export: pages of readings in, octets out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, Protocol

from cli import values
from query import messages as m
from telemetry.files.csv_text import HEADER
from telemetry.files.csv_values import instant_text, status_text
from telemetry.registers import Register

_ROW_GROUP = 100_000  # readings, at least, of a row group of Parquet


@dataclass(frozen=True, slots=True)
class Page:
    """Readings of one register of one meter."""

    register: Register
    values: m.Values


class Sink(Protocol):
    """Where pages are written."""

    def write(self, page: Page) -> None:
        """Write a page, or keep it for the next row group."""

    def close(self) -> None:
        """Write what is left; the file stays open."""


_status = cache(status_text)


class CsvSink:
    """The columns of ``csv_text.HEADER``, a line a reading."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write((",".join(HEADER) + "\n").encode())

    def write(self, page: Page) -> None:
        """Write a page."""
        # Nothing in a field needs quotes: ids and names have no commas.
        register, found = page.register, page.values
        lead = f"{found.id},{register.name},{register.obis},"
        middle = f",{register.scaler},{register.unit},"
        rows = zip(found.time_ms, found.raw, found.status, found.epoch, strict=True)
        lines = [
            f"{lead}{instant_text(time)},{raw}{middle}{_status(status)},{epoch}\n"
            for time, raw, status, epoch in rows
        ]
        self._file.write("".join(lines).encode())

    def close(self) -> None:
        """Nothing is left."""


class ParquetSink:
    """The same columns with types, see docs/import-export.md ("Parquet")."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises InputError where pyarrow is not installed."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise values.InputError(
                "Parquet needs pyarrow: install it with `pip install 'wattbus[parquet]'`, or write "
                "--format csv"
            ) from None
        self._arrow: Any = pyarrow
        text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        types = {
            "id": text,
            "register": text,
            "obis": text,
            "time": pyarrow.timestamp("ms", tz="UTC"),
            "raw": pyarrow.int64(),
            "scaler": pyarrow.int8(),
            "unit": text,
            "status": text,
            "epoch": pyarrow.uint32(),
        }
        self._schema: Any = pyarrow.schema(
            [pyarrow.field(name, types[name], nullable=False) for name in HEADER]
        )
        self._writer: Any = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._pages: list[Page] = []
        self._waiting = 0

    def write(self, page: Page) -> None:
        """Keep a page; write a row group when there are enough."""
        self._pages.append(page)
        self._waiting += len(page.values.raw)
        if self._waiting >= _ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._pages:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        columns: dict[str, list[object]] = {name: [] for name in HEADER}
        for page in self._pages:
            register, found = page.register, page.values
            count = len(found.raw)
            columns["id"] += [found.id] * count
            columns["register"] += [register.name] * count
            columns["obis"] += [register.obis] * count
            columns["time"] += found.time_ms
            columns["raw"] += found.raw
            columns["scaler"] += [register.scaler] * count
            columns["unit"] += [register.unit] * count
            columns["status"] += map(_status, found.status)
            columns["epoch"] += found.epoch
        table = self._arrow.Table.from_pydict(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(table))
        self._pages, self._waiting = [], 0


SINKS: dict[str, Callable[[BinaryIO], Sink]] = {"csv": CsvSink, "parquet": ParquetSink}
