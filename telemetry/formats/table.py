"""The table of datagram formats and their decoders.

A new one is a module, a row here and in ``telemetry.formats.names``, vectors and a section of docs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from telemetry.admission import Gate
from telemetry.datagrams import Datagrams, Decoded, Tally
from telemetry.formats import (
    dlms,
    json_text,
    line,
    native,
    native_bulk,
    shelly,
    speedwire,
    speedwire_bulk,
)
from telemetry.formats.options import Options
from telemetry.readings import Int64s
from telemetry.rejects import Reason

Decode = Callable[[Datagrams, int, Gate], Decoded]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its name in the configuration, how its decoder is made, how long datagrams get.

    Each listener has a decoder of its own, which may remember what it has decoded. It gets
    datagrams, when they arrived (ms, UTC), and the listener's gate.

    ``starts`` are the first octets by which an ``auto`` listener knows it; the longest that fits
    decides between formats.
    """

    name: str
    decoder: Callable[[Options], Decode]
    longest: int
    starts: tuple[bytes, ...]


def _always(decode: Decode) -> Callable[[Options], Decode]:
    """Of a format whose decoder remembers nothing and has no options."""
    return lambda _: decode


# Names may start with any of them; "{" is JSON's.
_PRINTABLE = tuple(bytes([octet]) for octet in range(0x21, 0x7F) if octet != ord("{"))
_OWN = (
    Format("native", _always(native_bulk.decode), native.LONGEST, (bytes([native.MAGIC]),)),
    Format("json", _always(json_text.decode), native.LONGEST, (b"{", b" ", b"\t", b"\r", b"\n")),
    Format("shelly", _always(shelly.decode), shelly.LONGEST, shelly.STARTS),
    Format("speedwire", lambda _: speedwire_bulk.decoder(), speedwire.LONGEST, (speedwire.MAGIC,)),
    Format("dlms", dlms.Decoder, dlms.LONGEST, dlms.STARTS),
    Format("line", line.decoder, line.LONGEST, _PRINTABLE),
)
_AUTO_LONGEST = 2047  # rows of more room would hold fewer datagrams a call

# Which of _OWN claims a first octet; and longer starts, the longest last.
_NOBODY = len(_OWN)
_REFUSED = _NOBODY + 1
_CLAIMED = np.full(256, _NOBODY, np.int64)
for _index, _known in enumerate(_OWN):
    _CLAIMED[[start[0] for start in _known.starts if len(start) == 1]] = _index
_LONGER = sorted(
    (
        (np.frombuffer(start, np.uint8), index)
        for index, known in enumerate(_OWN)
        for start in known.starts
        if len(start) > 1
    ),
    key=lambda pair: len(pair[0]),
)


# By a first octet that no longer start begins with: who alone may claim it.
_ALONE = {
    octet: int(index)
    for octet, index in enumerate(_CLAIMED)
    if index != _NOBODY and octet not in {int(start[0]) for start, _ in _LONGER}
}


def _one_claim(datagrams: Datagrams) -> int | None:
    """Which of _OWN decodes all of the datagrams, where that is told at a glance."""
    first, lengths = datagrams.octets[:, 0], datagrams.lengths
    alone = _ALONE.get(int(first[0])) if len(lengths) else None
    if alone is None or lengths.min() == 0 or lengths.max() > _AUTO_LONGEST:
        return None
    return alone if (first == first[0]).all() else None


def _claimed(datagrams: Datagrams) -> Int64s:
    """Which of _OWN decodes each datagram."""
    first = datagrams.octets[:, 0]
    claimed = _CLAIMED[first]
    for start, index in _LONGER:
        rows = np.flatnonzero((first == start[0]) & (datagrams.lengths >= len(start)))
        if len(rows):
            fits = (datagrams.octets[rows, : len(start)] == start).all(axis=1)
            claimed[rows[fits]] = index
    claimed[datagrams.lengths == 0] = _NOBODY
    return claimed


def _auto(options: Options) -> Decode:
    """Decodes each datagram by the format that its first octets tell; of none it is foreign.

    What formats of their own listeners take beyond the room of these rows would be cut here.
    """
    decoders = [known.decoder(options) for known in _OWN]

    def decode(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
        alone = _one_claim(datagrams)
        if alone is not None:
            return decoders[alone](datagrams, arrival, gate)
        claimed = _claimed(datagrams)
        tally = Tally()
        cut = (datagrams.lengths > _AUTO_LONGEST) & (claimed != _NOBODY)
        tally.refuse(Reason.OVERSIZED, int(cut.sum()))
        claimed[cut] = _REFUSED
        parts: list[tuple[Decoded, Int64s]] = []
        for index, one in enumerate(decoders):
            chosen = claimed == index
            if chosen.all():
                return one(datagrams, arrival, gate)
            rows = np.flatnonzero(chosen)
            if len(rows):
                parts.append((one(datagrams.take(rows), arrival, gate), rows))
        tally.refuse(Reason.FOREIGN, int((claimed == _NOBODY).sum()))
        return Decoded.merge(parts, tally)

    return decode


FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        *_OWN,
        Format("auto", _auto, _AUTO_LONGEST, ()),
    )
}
