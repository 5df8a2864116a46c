"""InfluxDB's line protocol (docs/formats.md): usual lines in bulk, the others one by one."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from telemetry import meter_id
from telemetry.admission import Gate
from telemetry.datagrams import Datagrams, Decoded, Tally
from telemetry.formats.line_admission import NO_TIME, Lines, admitted
from telemetry.formats.line_bulk import FEWEST, take
from telemetry.formats.line_digits import ROOM
from telemetry.formats.line_fields import PRECISIONS, Fields
from telemetry.formats.line_marks import BEHIND, Marks
from telemetry.formats.line_text import Point, line_at
from telemetry.formats.options import Options
from telemetry.readings import Int64s
from telemetry.rejects import Reason

LONGEST = 65_507  # what UDP over IPv4 carries


def decoder(options: Options, fewest: int = FEWEST) -> Callable[..., Decoded]:
    """The decoder of a listener; it takes ``fewest`` or more lines that are alike in bulk."""
    fields, precision = Fields(options.line), options.line.precision

    def decode(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
        return _Batch(datagrams, fields, precision, fewest).decoded(arrival, gate)

    return decode


class _Batch:
    """The datagrams of one call."""

    def __init__(self, datagrams: Datagrams, fields: Fields, precision: str, fewest: int) -> None:
        self._fields, self._precision, self._fewest = fields, precision, fewest
        self._unit = PRECISIONS[precision]
        self._sources = datagrams.sources
        self._tally = Tally()
        fits = datagrams.lengths <= min(LONGEST, datagrams.octets.shape[1])
        self._tally.refuse(Reason.OVERSIZED, int((~fits).sum()))
        self._row = np.flatnonzero(fits)
        octets, lengths = datagrams.octets, datagrams.lengths[self._row]
        each = [
            octets[row, :length].data
            for row, length in zip(self._row.tolist(), lengths.tolist(), strict=True)
        ]
        text = b"\n".join([b"\n" * (ROOM - 1), *each, b"\n" * BEHIND])
        self._marks = Marks(text)
        self._end: Int64s = ROOM + np.cumsum(lengths + 1) - 1
        self._said = np.zeros(len(lengths), np.bool_)  # anything at all, per datagram
        self._single: list[tuple[int, bytes, str, int, dict[int, int]]] = []

    def decoded(self, arrival: int, gate: Gate) -> Decoded:
        marks = self._marks
        left = np.flatnonzero(marks.end > marks.start)
        left = left[~self._quoted()[left]]
        parts: list[Lines] = []
        if len(left) >= self._fewest:
            taken = take(marks, left, self._fields, self._precision, self._fewest)
            parts, left = taken.parts, taken.others
            self._said[self._owner(marks.start[taken.understood])] = True
            self._tally.refuse(Reason.METER_ID, taken.nameless)
        for start, end in zip(marks.start[left].tolist(), marks.end[left].tolist(), strict=True):
            self._line(start, end + 1)
        self._tally.refuse(Reason.NO_READING, int((~self._said).sum()))
        lines = Lines.joined([*parts, self._singles()])
        row = self._row[self._owner(lines.place)]
        return admitted(lines, row, self._sources, arrival, gate, self._tally)

    def _owner(self, place: Int64s) -> npt.NDArray[np.intp]:
        """Which of the datagrams that are looked at has the octet."""
        return np.searchsorted(self._end, place)

    def _quoted(self) -> npt.NDArray[np.bool_]:
        """Takes unusual lines with quotes, and tells which these and their strings are."""
        marks = self._marks
        done = np.zeros(len(marks.start), np.bool_)
        quoted = marks.unquoted()
        starts = marks.start[quoted]
        ends = self._end[self._owner(starts)]
        behind = 0
        for number, start, end in zip(quoted.tolist(), starts.tolist(), ends.tolist(), strict=True):
            if start >= behind:
                behind = self._line(start, end)
                done[number : int(np.searchsorted(marks.start, behind))] = True
                done[number] = True
        return done

    def _line(self, start: int, end: int) -> int:
        """Take the line at ``start`` of octets up to ``end``; where it ends."""
        line = line_at(self._marks.text, start, end)
        if line.empty:
            return line.end
        self._said[self._owner(np.array([start]))] = True
        if line.point is None:
            self._tally.refuse(Reason.MALFORMED)
        else:
            self._point(line.point, start)
        return line.end

    def _point(self, point: Point, start: int) -> None:
        time = NO_TIME
        if point.time is not None:
            nanoseconds = point.time * self._unit
            if not -(2**63) <= nanoseconds < 2**63:
                self._tally.refuse(Reason.MALFORMED)
                return
            time = nanoseconds // PRECISIONS["ms"]
        tag = self._fields.meter_tag(point.tags)
        try:
            name = "" if tag is None else point.tags[tag]
            octets = meter_id.to_octets(name)
        except ValueError:
            self._tally.refuse(Reason.METER_ID)
            return
        values: dict[int, int] = {}
        for field in point.fields:
            value, found = field.value, self._fields.target(field.key)
            if found is not None and not isinstance(value, bool | str):
                values.pop(found.register.code, None)
                values[found.register.code] = found.raw(value)
        self._single.append((start, octets, name, time, values))

    def _singles(self) -> Lines:
        """The lines that were taken one by one."""
        single = sorted(self._single, key=itemgetter(0))  # those with quotes were first
        halves = np.frombuffer(b"".join(one[1] for one in single), np.uint64).reshape(-1, 2)
        return Lines(
            np.array([one[0] for one in single], np.int64),
            halves[:, 0].copy(),
            halves[:, 1].copy(),
            np.array([one[3] for one in single], np.int64),
            np.array([len(one[4]) for one in single], np.int64),
            np.array([code for one in single for code in one[4]], np.int64),
            np.array([raw for one in single for raw in one[4].values()], np.int64),
            {one[0]: one[2] for one in single if meter_id.is_long(one[2])},
        )
