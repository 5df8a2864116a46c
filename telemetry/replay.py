"""Interval consumption, as utilities hand it out, turned back into a meter's register readings.

Pure: a file's octets in, readings and datagrams out. The register starts at 0 and is the exact sum
of the intervals, so that the same file always gives the same datagrams.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from itertools import accumulate

import numpy as np

from telemetry import meter_id
from telemetry.clock import EARLIEST, FUTURE_WINDOW
from telemetry.formats.native import MOST_UNSIGNED, RECORD, encode_same_shape
from telemetry.readings import Int64s
from telemetry.registers import ALERT_LIMIT, BY_CODE, ENERGY_IMPORT

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_GZIP = b"\x1f\x8b"
_MOST_DECIMALS = 18
_HIGHEST_KWH = Decimal(BY_CODE[ENERGY_IMPORT].maximum) / 1000
# Wide enough for the highest sum with the most decimals: no sum below is ever rounded.
_EXACT = Context(prec=64)
_LONGEST_OFFSET = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Replay:
    """A file's readings and what was found in it.

    ``time`` (ms of Unix time, strictly ascending) and ``energy`` (the register in Wh) have the
    same shape (n,). ``repeated`` rows said the same again; ``conflicts`` said otherwise and count.
    """

    time: Int64s
    energy: Int64s
    rows: int
    repeated: int
    conflicts: int
    intervals: int
    interval_ms: int
    gaps: int
    kwh: Decimal


@dataclass(frozen=True, slots=True)
class Packed:
    """Datagrams in the order of their readings; ``time``, of shape (n,), is each one's last."""

    datagrams: list[bytes]
    time: Int64s


def read(content: bytes, now_ms: int) -> Replay:
    """The replay of a CSV file, plain or gzip, with the columns ``start`` and ``value`` (kWh).

    ``start`` is ISO 8601, UTC where it has no offset. Raises ValueError that says the line, what
    is wrong and what to do.
    """
    values: dict[int, Decimal] = {}
    rows = repeated = conflicts = 0
    for start, value in _rows(_text(content)):
        rows += 1
        if start in values:
            repeated += values[start] == value
            conflicts += values[start] != value
        values[start] = value
    if len(values) < 2:
        raise ValueError(
            f"there are {rows} rows and {len(values)} starts: give at least two intervals, "
            "their distance tells how long each is"
        )
    starts = np.array(sorted(values), np.int64)
    lengths = np.diff(starts)
    distances, counts = np.unique(lengths, return_counts=True)
    interval_ms = int(distances[counts.argmax()])
    ends = starts + np.minimum(np.append(lengths, interval_ms), interval_ms)
    if ends[-1] > now_ms + FUTURE_WINDOW:
        raise ValueError(
            f"the last interval ends at {_iso(int(ends[-1]))}, in the future, where a collector "
            "believes no reading: check the years and offsets of the times"
        )
    sums = list(accumulate((values[start] for start in starts.tolist()), _EXACT.add))
    registers = np.array([_watt_hours(total) for total in sums], np.int64)
    time, energy = _readings(starts, ends, registers)
    return Replay(
        time=time,
        energy=energy,
        rows=rows,
        repeated=repeated,
        conflicts=conflicts,
        intervals=len(starts),
        interval_ms=interval_ms,
        gaps=int((starts[1:] > ends[:-1]).sum()),
        kwh=sums[-1],
    )


def pack(
    octets: bytes, replay: Replay, *, most: int = MOST_UNSIGNED, alert_limit_wh: int | None = None
) -> Packed:
    """Native datagrams of the readings, as many records in each as fit but at most ``most``.

    ``octets`` are the meter's id. The limit, if one is given, goes before the first reading.
    """
    time, value = replay.time, replay.energy
    register = np.full(len(time), ENERGY_IMPORT, np.uint16)
    if alert_limit_wh is not None:
        time = np.insert(time, 0, time[0])
        value = np.insert(value, 0, alert_limit_wh)
        register = np.insert(register, 0, ALERT_LIMIT)
    bounds = [0]
    while (first := bounds[-1]) < len(time):
        in_range = int(time.searchsorted(time[first] + _LONGEST_OFFSET, side="right"))
        bounds.append(min(first + most, in_range))
    firsts, counts = np.array(bounds[:-1], np.int64), np.diff(bounds)

    high, low = meter_id.halves(octets)
    datagrams = np.empty(len(firsts), object)
    for count in np.unique(counts).tolist():
        chosen = np.flatnonzero(counts == count)
        index = firsts[chosen][:, np.newaxis] + np.arange(count)
        base = time[firsts[chosen]]
        records = np.zeros((len(chosen), count), RECORD)
        records["register"] = register[index]
        records["offset"] = time[index] - base[:, np.newaxis]
        records["value"] = value[index]
        rows = encode_same_shape(
            np.full(len(chosen), high, np.uint64),
            np.full(len(chosen), low, np.uint64),
            np.zeros(len(chosen), np.uint32),
            chosen.astype(np.uint32),
            base,
            records,
        )
        datagrams[chosen] = [row.tobytes() for row in rows]
    return Packed(datagrams.tolist(), time[firsts + counts - 1])


def _text(content: bytes) -> str:
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"the gzip file is damaged ({error}): fetch it again") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8: save the file as UTF-8 text") from None


def _rows(text: str) -> Iterator[tuple[int, Decimal]]:
    """Each row's start in ms and its kWh."""
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if not header:
            raise ValueError("the file is empty: it needs the header start,value and rows")
        for column in ("start", "value"):
            if column not in header:
                raise ValueError(
                    f"line 1 has no column {column!r}, only {','.join(header)[:80]!r}: "
                    "the header must be start,value"
                )
        start, value = header.index("start"), header.index("value")
        for row in lines:
            if row:
                if len(row) != len(header):
                    raise ValueError(
                        f"line {lines.line_num} has {len(row)} fields where the header has "
                        f"{len(header)}: write decimals with a point"
                    )
                yield _start(row[start], lines.line_num), _kwh(row[value], lines.line_num)
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num} is not CSV: {error}") from None


def _start(text: str, line: int) -> int:
    try:
        start = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"line {line}: cannot read the time {text[:40]!r}: "
            "write it as 2026-11-23T10:15:00+00:00"
        ) from None
    if start.tzinfo is None:
        start = start.replace(tzinfo=UTC)
    milliseconds = (start - _EPOCH) // _MILLISECOND
    if milliseconds < EARLIEST:
        raise ValueError(
            f"line {line}: {text!r} is before the year 2000, "
            "which a collector takes for a clock that was never set: leave the row out"
        )
    return milliseconds


def _kwh(text: str, line: int) -> Decimal:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(
            f"line {line}: {text[:40]!r} is no number of kWh: write it as 0.25, "
            "or leave the row out if there is no value"
        ) from None
    if not value.is_finite():
        raise ValueError(f"line {line}: {text!r} is no consumption: leave the row out")
    if value < 0:
        raise ValueError(
            f"line {line}: {text!r} is negative, and an import register never falls: "
            "leave the row out"
        )
    exponent = value.as_tuple().exponent
    if value > _HIGHEST_KWH or (isinstance(exponent, int) and exponent < -_MOST_DECIMALS):
        raise ValueError(
            f"line {line}: {text[:40]!r} is beyond any meter: "
            f"at most {_HIGHEST_KWH:,f} kWh and {_MOST_DECIMALS} decimals"
        )
    return value


def _watt_hours(kwh: Decimal) -> int:
    if kwh > _HIGHEST_KWH:
        raise ValueError(f"the sum of all rows exceeds {_HIGHEST_KWH:,f} kWh: are they in kWh?")
    return int(kwh.scaleb(3, _EXACT).to_integral_value(ROUND_HALF_UP))


def _readings(starts: Int64s, ends: Int64s, registers: Int64s) -> tuple[Int64s, Int64s]:
    """The register at each end, and at each start that is not the end of the one before."""
    apart = np.append(True, starts[1:] != ends[:-1])
    before = np.append(0, registers[:-1])
    where = np.flatnonzero(apart)
    return np.insert(ends, where, starts[apart]), np.insert(registers, where, before[apart])


def _iso(milliseconds: int) -> str:
    return (_EPOCH + milliseconds * _MILLISECOND).isoformat()
