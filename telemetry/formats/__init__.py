"""The table of datagram formats: a new one is a module, a row, vectors and a section of docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from telemetry.datagrams import Datagrams, Decoded, Tally
from telemetry.formats import json_text, native, native_bulk
from telemetry.readings import Readings
from telemetry.rejects import Reason

Decode = Callable[[Datagrams, int], Decoded]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its name in the configuration, its decoder, and how long its datagrams get.

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


def _decode_auto(datagrams: Datagrams, arrival: int) -> Decoded:
    """Each datagram by the format that its first octet tells; what none claims is foreign."""
    first = datagrams.octets[:, 0]
    if len(first) and bool((first == first[0]).all() and (datagrams.lengths > 0).all()):
        claimed = _CLAIMED[int(first[0])]
        if claimed is not None:
            return claimed.decode(datagrams, arrival)
    tally = Tally()
    parts: list[Readings] = []
    rest = np.ones(len(first), np.bool_)
    for known in _OWN:
        chosen = np.isin(first, list(known.first)) & (datagrams.lengths > 0)
        rest &= ~chosen
        decoded = known.decode(datagrams.where(chosen), arrival)
        parts.append(decoded.readings)
        tally.add(decoded.tally)
    tally.refuse(Reason.FOREIGN, int(rest.sum()))
    return Decoded(Readings.concatenate(parts), tally)


_CLAIMED: list[Format | None] = [
    next((known for known in _OWN if octet in known.first), None) for octet in range(256)
]

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        *_OWN,
        Format("auto", _decode_auto, max(known.longest for known in _OWN), b""),
    )
}
