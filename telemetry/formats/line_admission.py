"""Lines of the line protocol as columns, and which of them come in: each is one message."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from telemetry.admission import Gate
from telemetry.bounds import MAXIMA, MINIMA
from telemetry.clock import EARLIEST, FUTURE_WINDOW
from telemetry.datagrams import Decoded, Envelopes, Tally
from telemetry.formats.native_checks import Sieve
from telemetry.meter_index import UNKNOWN
from telemetry.readings import Int64s, Readings, Status, UInt64s
from telemetry.rejects import Reason

NO_TIME = -(2**63)


@dataclass(frozen=True, slots=True)
class Lines:
    """m lines in order that named a meter, and their n values.

    ``place`` is where a line starts among the octets, ``time`` what it said, in ms, or NO_TIME;
    ``count`` says how many of ``code`` and ``raw`` are its own. ``names`` are long ids, by place.
    """

    place: Int64s
    high: UInt64s
    low: UInt64s
    time: Int64s
    count: Int64s
    code: Int64s
    raw: Int64s
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: list[Lines]) -> Lines:
        """The lines of all parts, in the order of their places."""
        if len(parts) == 1:
            return parts[0]
        columns = ("place", "high", "low", "time", "count", "code", "raw")
        place, high, low, time, count, code, raw = (
            np.concatenate([getattr(part, name) for part in parts]) for name in columns
        )
        order = np.argsort(place)
        of_value = np.argsort(np.repeat(place, count), kind="stable")
        names = {at: name for part in parts for at, name in part.names.items()}
        place, high, low, time, count = (
            column[order] for column in (place, high, low, time, count)
        )
        return cls(place, high, low, time, count, code[of_value], raw[of_value], names)


def admitted(
    lines: Lines, row: Int64s, sources: UInt64s, arrival: int, gate: Gate, tally: Tally
) -> Decoded:
    """The readings of the lines that come in; each other one is counted in ``tally``.

    ``row`` names the datagram of each line, ``sources`` has where the datagrams came from.
    """
    total = len(row)
    wrong = (lines.raw < MINIMA[lines.code]) | (lines.raw > MAXIMA[lines.code])
    passed = np.ones(total, np.bool_)
    sieve = Sieve(gate.ring, tally, passed, gate.ring.meters(lines.high, lines.low))
    sieve.refuse(Reason.NOT_ALLOWED, ~gate.allowed.takes(sources[row], lines.high, lines.low))
    sieve.refuse(Reason.UNSIGNED, sieve.meters != UNKNOWN)
    sieve.refuse(Reason.NO_READING, lines.count == 0)
    if wrong.any():
        beyond = np.zeros(total, np.bool_)
        beyond[np.repeat(np.arange(total), lines.count)[wrong]] = True
        sieve.refuse(Reason.VALUE, beyond)
    high, low, time, count = lines.high, lines.low, lines.time, lines.count
    code, raw, place = lines.code, lines.raw, lines.place
    if not sieve.passed.all():
        taken = np.repeat(sieve.passed, count)
        code, raw = code[taken], raw[taken]
        kept = sieve.passed
        high, low, time, count = high[kept], low[kept], time[kept], count[kept]
        place, row = place[kept], row[kept]
    tally.accepted += len(row)
    if lines.names:
        names = lines.names
        tally.names |= {names[at] for at in place.tolist() if at in names}
    unlikely = (time < EARLIEST) | (time > arrival + FUTURE_WINDOW)
    status = np.where(unlikely, np.uint16(Status.ARRIVAL_TIME), np.uint16(0))
    time = np.where(unlikely, arrival, time)
    nought = np.zeros(len(row), np.uint32)
    readings = Readings(
        key_high=np.repeat(high, count),
        key_low=np.repeat(low, count),
        epoch=np.zeros(len(code), np.uint32),
        register=code.astype(np.uint16),
        status=np.repeat(status, count),
        time=np.repeat(time, count),
        value=raw,
    )
    envelopes = Envelopes(
        high, low, nought, nought, count.astype(np.uint16), np.zeros(len(row), np.uint8)
    )
    return Decoded(readings, envelopes, row, tally)
