"""The table of datagram formats: a new one is a module, a row, vectors and a section of docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from telemetry.admission import Gate
from telemetry.datagrams import Datagrams, Decoded, Tally
from telemetry.formats import json_text, native, native_bulk
from telemetry.readings import Int64s
from telemetry.rejects import Reason

Decode = Callable[[Datagrams, int, Gate], Decoded]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its name in the configuration, its decoder, and how long its datagrams get.

    The decoder gets datagrams, when they arrived (ms, UTC), and the listener's gate.

    ``first`` are the first octets by which an ``auto`` listener knows it.
    """

    name: str
    decode: Decode
    longest: int
    first: bytes


_OWN = (
    Format("native", native_bulk.decode, native.LONGEST, bytes([native.MAGIC])),
    Format("json", json_text.decode, native.LONGEST, b"{ \t\r\n"),
)


# Which of _OWN claims a first octet.
_NOBODY = len(_OWN)
_CLAIMED = np.full(256, _NOBODY, np.int64)
for _index, _known in enumerate(_OWN):
    _CLAIMED[list(_known.first)] = _index


def _decode_auto(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
    """Each datagram by the format that its first octet tells; what none claims is foreign."""
    claimed = _CLAIMED[datagrams.octets[:, 0]]
    claimed[datagrams.lengths == 0] = _NOBODY
    tally = Tally()
    parts: list[tuple[Decoded, Int64s]] = []
    for index, known in enumerate(_OWN):
        chosen = claimed == index
        if chosen.all():
            return known.decode(datagrams, arrival, gate)
        rows = np.flatnonzero(chosen)
        parts.append((known.decode(datagrams.take(rows), arrival, gate), rows))
    tally.refuse(Reason.FOREIGN, int((claimed == _NOBODY).sum()))
    return Decoded.merge(parts, tally)


FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        *_OWN,
        Format("auto", _decode_auto, max(known.longest for known in _OWN), b""),
    )
}
