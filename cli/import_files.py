"""The files of an import: which format they have, whether they are right, what is in them."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from storage.importing import Stored
from telemetry import meter_id
from telemetry.files import FileError, csv_text, nem12
from telemetry.files.built import Intervals, merge, place
from telemetry.files.csv_values import instant_text
from telemetry.files.nem12_codes import Channel
from telemetry.readings import Readings

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_LONGEST_LINE = 1 << 20  # octets
_CHUNK = 16_384  # readings

Advance = Callable[[int], None]  # told how many octets, or readings, have been gone through


@dataclass
class Contents:
    """What the files hold, before anything is stored."""

    readings: int = 0
    keys: set[tuple[int, int]] = field(default_factory=set)
    first_ms: int | None = None
    last_ms: int | None = None
    notes: list[str] = field(default_factory=list)

    def add(self, readings: Readings) -> None:
        """Count readings."""
        if not len(readings):
            return
        self.readings += len(readings)
        pairs = np.unique(np.stack([readings.key_high, readings.key_low], axis=1), axis=0)
        self.keys.update((int(high), int(low)) for high, low in pairs)
        first, last = int(readings.time.min()), int(readings.time.max())
        self.first_ms = first if self.first_ms is None else min(first, self.first_ms)
        self.last_ms = last if self.last_ms is None else max(last, self.last_ms)


def lines(path: Path, advance: Advance) -> Iterator[str]:
    """A file's lines, plain or gzip. Raises FileError, and OSError where it cannot be read."""
    with path.open("rb") as plain:
        head = plain.read(4)
        plain.seek(0)
        if head == _ZIP:
            raise FileError("is a ZIP archive: unpack it first")
        packed = head.startswith(_GZIP)
        source = cast("BinaryIO", gzip.GzipFile(fileobj=plain)) if packed else plain
        before = count = 0
        try:
            while line := source.readline(_LONGEST_LINE):
                count += 1
                if len(line) == _LONGEST_LINE:
                    raise FileError.at(count, f"is longer than {_LONGEST_LINE:,} octets")
                if count % 1000 == 0:
                    advance(plain.tell() - before)
                    before = plain.tell()
                yield line.decode("utf-8-sig" if count == 1 else "utf-8")
        except UnicodeDecodeError:
            raise FileError.at(count, "is not UTF-8: save the file as UTF-8 text") from None
        except (EOFError, gzip.BadGzipFile) as error:
            raise FileError(f"the gzip file is damaged ({error}): fetch it again") from None
        advance(plain.tell() - before)


def format_of(path: Path) -> str:
    """``nem12`` for a file whose first line begins as NEM12's does, else ``csv``."""
    for line in lines(path, lambda _: None):
        if line.strip():
            return "nem12" if line.lstrip().startswith("100,") else "csv"
    return "csv"


def check_csv(
    path: Path, id: str | None, latest_ms: int, contents: Contents, advance: Advance
) -> None:
    """Read a CSV file to its end. Raises FileError."""
    for readings in csv_text.parse(lines(path, advance), id=id, latest_ms=latest_ms):
        contents.add(readings)


def read_nem12(
    paths: Iterable[Path], id: str | None, latest_ms: int, offset_ms: int, advance: Advance
) -> tuple[dict[Channel, list[Intervals]], list[str]]:
    """The intervals of all NEM12 files by channel, and what is to be said of them.

    Raises FileError that names the file.
    """
    channels: dict[Channel, list[Intervals]] = {}
    notes: list[str] = []
    for path in paths:
        with naming(path):
            found = nem12.parse(lines(path, advance), latest_ms=latest_ms, offset_ms=offset_ms)
        for channel, intervals in found.channels.items():
            channels.setdefault(channel, []).append(intervals)
        if found.left_out:
            notes.append(f"{path.name}: no register for {', '.join(found.left_out)}: left out")
        if found.missing:
            notes.append(f"{path.name}: {found.missing} intervals have no value: a gap")
    nmis = sorted({channel.nmi for channel in channels})
    if id is not None and len(nmis) > 1:
        raise FileError(
            f"--id names one meter, but the files are of {len(nmis)}: {', '.join(nmis[:5])}"
        )
    return channels, notes


def build(
    channels: dict[Channel, list[Intervals]], id: str | None, stored: Stored
) -> list[Readings]:
    """The readings that the channels' registers show, by what is stored. Raises FileError."""
    built = []
    for channel, parts in channels.items():
        name = channel.meter(id)
        try:
            high, low = meter_id.halves(meter_id.to_octets(name))
            points = place(
                merge(parts, instant_text), stored.points(high, low, channel.register), instant_text
            )
        except ValueError as error:  # FileError is one; another is an id too long for its /2
            raise FileError(f"meter {name}, {channel.suffix}: {error}") from None
        count = len(points)
        built.append(
            Readings(
                key_high=np.full(count, high, np.uint64),
                key_low=np.full(count, low, np.uint64),
                epoch=np.zeros(count, np.uint32),
                register=np.full(count, channel.register, np.uint16),
                status=points.status,
                time=points.time,
                value=points.value,
            )
        )
    return built


def batches(
    built: list[Readings], csv_files: list[Path], id: str | None, latest_ms: int
) -> Iterator[Readings]:
    """All readings, some thousands at a time: the built ones, then those of CSV files."""
    for readings in built:
        for first in range(0, len(readings), _CHUNK):
            yield readings.take(np.arange(first, min(first + _CHUNK, len(readings))))
    for path in csv_files:
        with naming(path):
            yield from csv_text.parse(lines(path, lambda _: None), id=id, latest_ms=latest_ms)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is said to be wrong with it, as a FileError."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{path}: {error}") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
