"""Usual lines many at once: those of one shape, which have the same keys and numbers for values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from telemetry import meter_id, meter_ids
from telemetry.formats.line_admission import NO_TIME, Lines
from telemetry.formats.line_digits import MOST_DIGITS, numbers, scaled
from telemetry.formats.line_fields import BEYOND, PRECISIONS, Fields, Target
from telemetry.formats.line_marks import RETURN, Marks
from telemetry.readings import Int64s, UInt64s

FEWEST = 24  # lines for which columns pay
MOST_LONG = 1 << 16  # ids that are remembered
MOST_SHAPES = 16  # of one call, so that nobody can make it slow by many
_SHAPE = re.compile(rb"((?:\3\4)*)\2\4((?:\3\4)*)(\2?)\7?\1".replace(b"\\", b"\\x0"))


_KEPT: UInt64s = np.frombuffer(
    b"".join(b"\xff" * n + bytes(16 - n) for n in range(17)), "<u8"
).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Keys of tags and fields of a line, whether it has a time, and the kinds of its marks."""

    kinds: bytes
    tags: list[bytes]
    fields: list[bytes]
    timed: bool
    returned: bool  # it ends with a carriage return and a newline

    @classmethod
    def of(cls, marks: Marks, line: int) -> _Shape | None:
        """The shape of a line; None where it is none of the usual ones."""
        first, last = int(marks.first[line]), int(marks.newline[line]) + 1
        kinds = marks.kinds[first:last].tobytes()
        found = _SHAPE.fullmatch(kinds)
        if found is None:
            return None
        at = marks.at[first:last].tolist()
        keys = [marks.text[at[n] + 1 : at[n + 1]] for n in range(0, len(at) - 1, 2)]
        tags = len(found[1]) // 2
        keys = keys[: tags + len(found[2]) // 2 + 1]
        if len(set(keys[:tags])) < tags:
            return None
        returned = kinds[-2] == RETURN
        return cls(kinds, keys[:tags], keys[tags:], bool(found[3]), returned)


class Taken(NamedTuple):
    """The lines that were understood, how many of them named no meter, and the other lines."""

    parts: list[Lines]
    understood: Int64s
    nameless: int
    others: Int64s


def take(marks: Marks, left: Int64s, fields: Fields, precision: str, fewest: int) -> Taken:
    """What the usual ones among the lines ``left`` say, if ``fewest`` or more are alike.

    None of them may have a quote.
    """
    parts: list[Lines] = []
    understood: list[Int64s] = []
    others: list[Int64s] = []
    nameless = 0
    for _ in range(MOST_SHAPES):
        if len(left) < fewest:
            break
        example = int(left[len(left) // 2])  # whoever comes first shall not decide for all
        shape = _Shape.of(marks, example)
        rows, at = _alike(marks, left, example)
        if shape is not None:
            rows, at = _having_keys(marks, shape, rows, at)
        usual = shape is not None and len(rows) >= fewest
        rows = rows if usual else np.union1d(rows, [example])
        left = np.setdiff1d(left, rows, assume_unique=True)
        if shape is None or not usual:
            others.append(rows)
            continue
        lines, good, refused = _Values(marks, shape, fields, precision).read(rows, at)
        others.append(rows[~good])
        understood.append(rows[good])
        nameless += refused
        parts.append(lines)
    none = np.empty(0, np.int64)
    return Taken(
        parts, np.concatenate([none, *understood]), nameless, np.concatenate([left, *others])
    )


def _alike(marks: Marks, left: Int64s, line: int) -> tuple[Int64s, Int64s]:
    """Lines whose marks are those of ``line``, and where these stand: shape (n, marks)."""
    rows = left[marks.count[left] == marks.count[line]]
    which = marks.first[rows][:, None] + np.arange(int(marks.count[line]))
    own = marks.kinds[marks.first[line] : marks.newline[line] + 1]
    same = (marks.kinds[which] == own).all(axis=1)
    return rows[same], marks.at[which[same]]


def _having_keys(marks: Marks, shape: _Shape, rows: Int64s, at: Int64s) -> tuple[Int64s, Int64s]:
    """Those lines that have the keys of the shape, no gaps, and are no comments."""
    if shape.returned:
        same = at[:, -1] - at[:, -2] == 1
        rows, at = rows[same], at[same, :-1]
    start, gaps = marks.start[rows], np.diff(at, axis=1)
    keys = [*shape.tags, *shape.fields]
    same = (at[:, 0] > start) & (marks.octets[start] != ord("#")) & (gaps > 1).all(axis=1)
    same &= (gaps[:, : 2 * len(keys) : 2] == [len(key) + 1 for key in keys]).all(axis=1)
    rows, at = rows[same], at[same]
    # Only now, for what is compared must not reach behind the octets.
    same = np.ones(len(rows), np.bool_)
    for number, key in enumerate(keys):
        same &= marks.equal(at[:, 2 * number] + 1, key)
    return rows[same], at[same]


class _Values:
    """Reads the values of lines of one shape."""

    def __init__(self, marks: Marks, shape: _Shape, fields: Fields, precision: str) -> None:
        self._marks, self._shape = marks, shape
        names = [key.decode("ascii") for key in shape.tags]
        tag = fields.meter_tag(names)
        self._tag = None if tag is None else names.index(tag)
        told: dict[int, tuple[int, Target]] = {}
        for number, key in enumerate(shape.fields):
            if found := fields.target(key.decode("ascii")):
                told.pop(found.register.code, None)  # the last one counts
                told[found.register.code] = (number, found)
        self._told = list(told.values())
        self._left_out = np.ones(len(shape.fields), np.bool_)
        self._left_out[[number for number, _ in self._told]] = False
        self._unit = PRECISIONS[precision]

    def read(self, rows: Int64s, at: Int64s) -> tuple[Lines, npt.NDArray[np.bool_], int]:
        """Their columns, which could be read, and how many of these name no meter."""
        raw, good = self._raw(at)
        time, readable = self._time(at)
        high, low, named, names = self._meter(at)
        good &= readable
        taken = good & named
        lines, refused = rows[taken], int((good & ~named).sum())
        starts = self._marks.start[rows]
        codes = np.array([target.register.code for _, target in self._told], np.int64)
        columns = Lines(
            starts[taken],
            high[taken],
            low[taken],
            time[taken],
            np.full(len(lines), len(codes), np.int64),
            np.tile(codes, len(lines)),
            raw[taken].ravel(),
            {int(starts[row]): name for row, name in names.items()},
        )
        return columns, good, refused

    def _raw(self, at: Int64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        """Raw integers of the fields that are kept, shape (n, kept); which lines are in order."""
        base, count = 2 * len(self._shape.tags), len(self._shape.fields)
        start = (at[:, base + 1 : base + 2 * count : 2] + 1).ravel()
        end = at[:, base + 2 : base + 2 * count + 1 : 2].ravel()
        last = self._marks.octets[end - 1]
        unsigned = last == ord("u")
        typed = unsigned | (last == ord("i"))
        till = end - typed
        found = numbers(self._marks.octets, start, np.maximum(till, start + 1))
        fits = (till > start) & (till - start - found.negative <= MOST_DIGITS + ~found.whole)
        good = found.good & fits & (~typed | found.whole) & ~(unsigned & found.negative)
        left_out = np.tile(self._left_out, len(at))
        rest = np.flatnonzero(~good & left_out)
        if len(rest):
            good[rest] = self._marks.not_numbers(start[rest], end[rest])
        order = good.reshape(-1, count).all(axis=1)
        raw = np.empty((len(at), len(self._told)), np.int64)
        for column, (number, target) in enumerate(self._told):
            own = slice(number, None, count)
            drop = found.places[own] + (target.register.scaler - target.exponent)
            order &= drop <= MOST_DIGITS
            value = scaled(found.digits[own], np.minimum(drop, MOST_DIGITS), BEYOND)
            raw[:, column] = np.where(found.negative[own], -value, value)
        return raw, order

    def _time(self, at: Int64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        """Instants in ms, NO_TIME where lines have none; which lines are in order."""
        if not self._shape.timed:
            return np.full(len(at), NO_TIME, np.int64), np.ones(len(at), np.bool_)
        found = numbers(self._marks.octets, at[:, -2] + 1, at[:, -1])
        most = np.uint64((2**63 - 1) // self._unit)
        good = found.good & found.whole & (found.digits <= most)
        time = np.where(good, found.digits, np.uint64(0)).astype(np.int64)
        time = np.where(found.negative, -time, time)
        millisecond = PRECISIONS["ms"]
        if self._unit <= millisecond:
            return time // (millisecond // self._unit), good
        return time * (self._unit // millisecond), good

    def _meter(self, at: Int64s) -> tuple[UInt64s, UInt64s, npt.NDArray[np.bool_], dict[int, str]]:
        """Halves of the ids, which lines have one, and by their number those that are long."""
        names: dict[int, str] = {}
        if self._tag is None:
            nought = np.zeros(len(at), np.uint64)
            return nought, nought, np.zeros(len(at), np.bool_), names
        start, end = at[:, 2 * self._tag + 1] + 1, at[:, 2 * self._tag + 2]
        kept = _KEPT[np.minimum(end - start, meter_id.OCTETS)]
        words = self._marks.words
        high, low = words[start] & kept[:, 0], words[start + 8] & kept[:, 1]
        named = meter_ids.valid(high, low)
        long = np.flatnonzero(end - start > meter_id.OCTETS)
        named[long] = end[long] - start[long] <= meter_id.LONGEST_NAME
        long = long[named[long]]
        for row, first, last in zip(
            long.tolist(), start[long].tolist(), end[long].tolist(), strict=True
        ):
            found = _long(self._marks.text[first:last])
            named[row] = found is not None
            if found is not None:
                high[row], low[row], name = found
                if name:
                    names[row] = name
        return high, low, named, names


@lru_cache(MOST_LONG)
def _long(text: bytes) -> tuple[int, int, str] | None:
    """Halves of an id of many octets, and its name where they do not tell it; None: it is none."""
    name = text.decode("ascii")
    try:
        octets = meter_id.to_octets(name)
    except ValueError:
        return None
    return *meter_id.halves(octets), name if meter_id.is_long(name) else ""
