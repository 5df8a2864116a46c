"""NEM12, the interval file of the Australian market (AEMO, Meter Data File Format, version 2).

Records are lines of comma-separated fields, the first of which says what they are: 100 begins a
file, 200 names a channel (meter, register, unit, interval length), 300 holds a local day of it,
400 the quality of a range of that day's intervals, 500 a service order, 900 ends the file.

Days are those of the market's clock, UTC+10 all year. Quality flags: A is measured; E, F and S are
estimated or substituted (Status.ESTIMATED); N says that there is no value, and none is read; V
leaves it to the 400 records, which must then say it of every interval.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import ClassVar

import numpy as np

from telemetry import meter_id
from telemetry.calendar import DAY_MS, HOUR_MS
from telemetry.files import FileError, number
from telemetry.files.built import MICRO, Intervals
from telemetry.files.nem12_codes import QUALITIES, REGISTERS, UNITS, Channel

AEST_MS = 10 * HOUR_MS
LENGTHS = (5, 15, 30)  # minutes
MOST_WH = 10**11  # in one interval

_QUALITY = re.compile(r"([AEFNSV])([0-9]{2})?", re.ASCII)
_SUFFIX = re.compile(r"[A-Z][1-9A-Z]", re.ASCII)
_DAY = re.compile(r"[0-9]{8}", re.ASCII)
_EPOCH = date(1970, 1, 1).toordinal()
_BEGIN = "a NEM12 file begins with a line such as 100,NEM12,200405011135,MDP1,Retailer1"


@dataclass(frozen=True, slots=True)
class Nem12:
    """A file's intervals by channel, in the order of the file.

    ``left_out`` names channels of quantities that are no registers; ``missing`` counts intervals
    without a value.
    """

    channels: dict[Channel, Intervals]
    left_out: list[str]
    missing: int


def parse(lines: Iterable[str], *, latest_ms: int, offset_ms: int = AEST_MS) -> Nem12:
    """Read a file's lines; ``offset_ms`` is what its clock is ahead of UTC.

    Raises FileError; no interval may end after ``latest_ms``.
    """
    parser = _Parser(latest_ms, offset_ms)
    for parser.line, text in enumerate(lines, 1):
        if text.strip():
            parser.record(text)
    return parser.end()


@dataclass
class _Columns:
    """What has been read of one channel."""

    start: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    energy: array[int] = field(default_factory=lambda: array("q"))
    status: array[int] = field(default_factory=lambda: array("H"))


@dataclass
class _Day:
    """A 300 record whose 400 records may still come; no quality yet where they must say it."""

    line: int
    start: int
    values: list[str]
    qualities: list[str | None]


class _Parser:
    def __init__(self, latest_ms: int, offset_ms: int) -> None:
        self.line = 0
        self._latest, self._offset = latest_ms, offset_ms
        self._before = ""  # the kind of the record before
        self._channels: dict[Channel, _Columns] = {}
        self._left_out: list[str] = []
        self._missing = 0
        self._channel: Channel | None = None
        self._minutes, self._exponent = 0, 0
        self._day: _Day | None = None

    def record(self, text: str) -> None:
        try:
            (fields,) = csv.reader([text.rstrip("\r\n")], strict=True)
        except (csv.Error, ValueError):
            raise self._wrong("cannot be split at its commas: quotes must be in pairs") from None
        fields = [each.strip() for each in fields]
        kind = fields[0]
        after = self._AFTER.get(kind)
        if after is None:
            raise self._wrong(f"{kind[:20]!r} is no record of NEM12 (100 to 500, or 900)")
        if self._before not in after:
            if not self._before:
                raise self._wrong(_BEGIN)
            raise self._wrong(f"a {kind} record cannot follow a {self._before} record")
        if kind != "400":
            self._finish_day()
        getattr(self, f"_record_{kind}")(fields)
        self._before = kind

    # Which records may come before each.
    _AFTER: ClassVar[dict[str, tuple[str, ...]]] = {
        "100": ("",),
        "200": ("100", "200", "300", "400", "500"),
        "300": ("200", "300", "400", "500"),
        "400": ("300", "400"),
        "500": ("300", "400", "500"),
        "900": ("100", "200", "300", "400", "500"),
    }

    def end(self) -> Nem12:
        if not self._before:
            raise FileError(f"the file is empty: {_BEGIN}")
        if self._before != "900":
            raise self._wrong(
                "the file is cut off after it, its last line is not 900: fetch it anew"
            )
        return Nem12(
            {channel: _intervals(columns) for channel, columns in self._channels.items()},
            self._left_out,
            self._missing,
        )

    def _record_100(self, fields: list[str]) -> None:
        version = self._field(fields, 1, "the version").upper()
        if version != "NEM12":
            raise self._wrong(f"the file is {version[:20]!r}, and only NEM12 can be read")

    def _record_200(self, fields: list[str]) -> None:
        nmi, suffix = self._field(fields, 1, "the NMI"), self._field(fields, 4, "the suffix")
        unit = self._field(fields, 7, "the unit")
        suffix = suffix.upper()
        if not _SUFFIX.fullmatch(suffix):
            raise self._wrong(f"{suffix[:20]!r} is no suffix of an NMI, such as E1 or B1")
        minutes = self._field(fields, 8, "the interval's length")
        if minutes not in map(str, LENGTHS):
            raise self._wrong(f"intervals of {minutes[:20]!r} minutes: they have 5, 15 or 30")
        try:
            meter_id.to_octets(nmi)
        except ValueError as error:
            raise self._wrong(str(error)) from None
        self._minutes = int(minutes)
        self._channel = None
        register, known = REGISTERS.get(suffix[0]), UNITS.get(unit.upper())
        if register is None or known is None:
            self._left_out.append(f"{nmi} {suffix} ({unit})")
            return
        if known[0] != register.unit:
            raise self._wrong(f"{suffix} is counted in {register.unit}, not in {unit}")
        self._exponent = known[1]
        self._channel = Channel(nmi, suffix)
        self._channels.setdefault(self._channel, _Columns())

    def _record_300(self, fields: list[str]) -> None:
        count = 1440 // self._minutes
        if len(fields) < count + 3:
            raise self._wrong(
                f"has {len(fields)} fields: a day of {count} intervals of {self._minutes} minutes "
                f"and its quality are {count + 3} at least"
            )
        quality = self._quality(fields[count + 2])
        given: str | None = None if quality == "V" else quality
        start = self._start(fields[1])
        self._day = _Day(self.line, start, fields[2 : count + 2], [given] * count)

    def _record_400(self, fields: list[str]) -> None:
        day = self._day
        assert day is not None
        first, last = (self._field(fields, at, "a range of intervals") for at in (1, 2))
        count = len(day.values)
        if not (_place(first, count) and _place(last, count) and int(first) <= int(last)):
            raise self._wrong(f"{first[:20]}-{last[:20]} is no range of intervals 1 to {count}")
        quality = self._quality(self._field(fields, 3, "the quality"))
        if quality == "V":
            raise self._wrong("the quality of a range cannot itself be V")
        day.qualities[int(first) - 1 : int(last)] = [quality] * (int(last) - int(first) + 1)

    def _record_500(self, fields: list[str]) -> None:
        """A service order, which says nothing of energy."""

    def _record_900(self, fields: list[str]) -> None:
        """The end."""

    def _finish_day(self) -> None:
        day, self._day = self._day, None
        if day is None:
            return
        if None in day.qualities:
            place = day.qualities.index(None) + 1
            raise FileError.at(
                day.line,
                f"the quality is V, and no 400 record after it says that of interval {place}",
            )
        if self._channel is None:
            return
        columns = self._channels[self._channel]
        length = self._minutes * 60_000
        for place, (text, quality) in enumerate(zip(day.values, day.qualities, strict=True)):
            status = QUALITIES[quality or "N"]
            if status is None:
                self._missing += 1
                continue
            start = day.start + place * length
            if start + length > self._latest:
                raise FileError.at(
                    day.line,
                    f"interval {place + 1} ends in the future: check the date, or the clock here",
                )
            columns.start.append(start)
            columns.length.append(length)
            columns.energy.append(self._energy(text, day.line, place + 1))
            columns.status.append(status)

    def _energy(self, text: str, line: int, place: int) -> int:
        """Millionths of a Wh."""
        value = number(text)
        if value is None:
            raise FileError.at(
                line,
                f"interval {place}: {text[:40]!r} is no energy: write it as 0.25, or give it "
                "the quality N if there is none",
            )
        if value < 0:
            raise FileError.at(line, f"interval {place}: {text} is negative: energy never is")
        scaled = value.scaleb(self._exponent)
        if scaled > MOST_WH:
            raise FileError.at(
                line, f"interval {place}: {text} is beyond any meter: check the unit"
            )
        micro = scaled * MICRO
        if micro != int(micro):
            raise FileError.at(line, f"interval {place}: {text} has more decimals than a millionth")
        return int(micro)

    def _quality(self, text: str) -> str:
        found = _QUALITY.fullmatch(text.upper())
        if not found:
            raise self._wrong(f"{text[:20]!r} is no quality: A, N, V, or E, F, S with a method")
        return found[1]

    def _start(self, text: str) -> int:
        """The first instant of a local day, ms."""
        try:
            if not _DAY.fullmatch(text):
                raise ValueError
            day = date(int(text[:4]), int(text[4:6]), int(text[6:]))
        except ValueError:
            raise self._wrong(f"{text[:20]!r} is no date: write it as 20240131") from None
        if day.year < 1900:
            raise self._wrong(f"{text} is before the year 1900")
        return (day.toordinal() - _EPOCH) * DAY_MS - self._offset

    def _field(self, fields: list[str], at: int, what: str) -> str:
        if at >= len(fields) or not fields[at]:
            raise self._wrong(f"field {at + 1}, {what}, is missing")
        return fields[at]

    def _wrong(self, message: str) -> FileError:
        return FileError.at(self.line, message)


def _place(text: str, count: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= count


def _intervals(columns: _Columns) -> Intervals:
    start = np.array(columns.start, np.int64)
    return Intervals(
        start=start,
        end=start + np.array(columns.length, np.int64),
        energy=np.array(columns.energy, np.int64),
        status=np.array(columns.status, np.uint16),
    )
