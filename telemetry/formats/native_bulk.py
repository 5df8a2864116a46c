"""Many native datagrams decoded at once, as columns: no Python loop but over the signed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from telemetry.admission import Gate
from telemetry.bounds import MAXIMA, MINIMA
from telemetry.clock import EARLIEST, FUTURE_WINDOW
from telemetry.datagrams import Datagrams, Decoded, Envelopes, Mark, Tally
from telemetry.formats.native import FLAG_ACKNOWLEDGE, HEADER, LONGEST, MAGIC, RECORD
from telemetry.formats.native_checks import Shape, Sieve, all_plain, sift
from telemetry.readings import (
    DEVICE_BITS,
    Bytes,
    Int64s,
    Readings,
    Status,
    UInt64s,
    spread_evenly,
)
from telemetry.rejects import Reason

_SHORTEST = HEADER.itemsize + RECORD.itemsize
_NUMBERED, _ACKNOWLEDGE, _SIGNED = (
    np.uint8(mark) for mark in (Mark.NUMBERED, Mark.ACKNOWLEDGE, Mark.SIGNED)
)
_COLLECTOR_TIME = np.uint16(Status.ARRIVAL_TIME)


def decode(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
    """Datagrams that arrived at ``arrival`` (ms, UTC): their readings and what was refused why.

    Agrees with ``native.decode`` on any bytes.
    """
    lengths = datagrams.lengths
    if not len(lengths):
        return Decoded.nothing(Tally())
    length = int(lengths[0])
    if _SHORTEST <= length <= LONGEST and (lengths == length).all():
        return _decode_same_length(datagrams.octets, length, datagrams.sources, arrival, gate)
    return _decode_mixed(datagrams, arrival, gate)


def _decode_mixed(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
    lengths, first = datagrams.lengths, datagrams.octets[:, 0]
    foreign = (lengths == 0) | (first != MAGIC)
    short = ~foreign & (lengths < _SHORTEST)
    oversized = ~foreign & (lengths > LONGEST)
    tally = Tally()
    for reason, refused in (
        (Reason.FOREIGN, foreign),
        (Reason.SHORT, short),
        (Reason.OVERSIZED, oversized),
    ):
        tally.refuse(reason, int(refused.sum()))
    fits = ~(foreign | short | oversized)
    # What is not of whole records is refused by its header, all in one go: of lengths there are
    # then 75, not a thousand for a hostile sender to vary.
    lengths = np.where((lengths - HEADER.itemsize) % RECORD.itemsize, _SHORTEST + 1, lengths)
    parts: list[tuple[Decoded, Int64s]] = []
    for length in np.unique(lengths[fits]).tolist():
        rows = np.flatnonzero(fits & (lengths == length))
        octets, sources = datagrams.octets[rows, :length], datagrams.sources[rows]
        parts.append((_decode_same_length(octets, length, sources, arrival, gate), rows))
    return Decoded.merge(parts, tally)


def _decode_same_length(
    octets: Bytes, length: int, sources: UInt64s, arrival: int, gate: Gate
) -> Decoded:
    """Datagrams of one length, the rows of ``octets``, of which the first ``length`` count."""
    # Close together: each field is looked at several times, and the rows lie far apart.
    octets = np.ascontiguousarray(octets[:, :length])
    shape = all_plain(octets, sources, gate)
    if shape is not None:
        return _decode_shape(shape, arrival, gate)
    tally = Tally()
    shapes = sift(octets, sources, arrival, gate, tally)
    return Decoded.merge([(_decode_shape(one, arrival, gate), one.place) for one in shapes], tally)


def _decode_shape(shape: Shape, arrival: int, gate: Gate) -> Decoded:
    """The readings of what came in; ``rows`` of the answer are those of the shape."""
    count, stride, each = shape.octets.shape[0], shape.octets.strides[0], shape.each
    header = np.ndarray((count,), HEADER, shape.octets, strides=(stride,))
    records = np.ndarray(
        (count, each),
        RECORD,
        shape.octets,
        offset=HEADER.itemsize,
        strides=(stride, RECORD.itemsize),
    )
    key_high, key_low = shape.high, shape.low
    register, value = records["register"].copy(), records["value"].copy()
    # Mostly all have the same registers: then their bounds are looked up once.
    named = register[:1] if (register == register[0]).all() else register
    code = np.minimum(named, len(MAXIMA) - 1)
    low, high = MINIMA[code], MAXIMA[code]
    wrong = (value < low) | (value > high)
    tally = Tally()
    rows: Int64s = np.arange(count, dtype=np.int64)
    if wrong.any():
        passed, meters = np.ones(count, np.bool_), gate.ring.meters(key_high, key_low)
        sieve = Sieve(gate.ring, tally, passed, meters)
        sieve.refuse(Reason.REGISTER, (high < low).any(axis=1))
        sieve.refuse(Reason.VALUE, wrong.any(axis=1))
        rows = np.flatnonzero(sieve.passed)
        if not len(rows):
            return Decoded.nothing(tally)
        header, records = header[rows], records[rows]
        key_high, key_low = key_high[rows], key_low[rows]
        register, value = register[rows], value[rows]
        count = len(rows)
    tally.accepted += count
    time, status = _times(header["base"].astype(np.int64), records, arrival)
    epoch = header["epoch"].astype(np.uint32)
    readings = Readings(
        key_high=spread_evenly(key_high, each),
        key_low=spread_evenly(key_low, each),
        epoch=spread_evenly(epoch, each),
        register=register.ravel(),
        status=status.ravel(),
        time=time.ravel(),
        value=value.ravel(),
    )
    wanted = (header["flags"] & FLAG_ACKNOWLEDGE) != 0
    marks = _NUMBERED | _SIGNED if shape.signed else _NUMBERED
    envelopes = Envelopes(
        key_high,
        key_low,
        epoch,
        header["sequence"].astype(np.uint32),
        np.full(count, each, np.uint16),
        np.where(wanted, marks | _ACKNOWLEDGE, marks),
    )
    return Decoded(readings, envelopes, rows, tally)


def _times(
    base: Int64s, records: npt.NDArray[np.void], arrival: int
) -> tuple[Int64s, npt.NDArray[np.uint16]]:
    """Instants and status bits, shape (n, k), by the rules of ``clock``."""
    latest = arrival + FUTURE_WINDOW
    status = records["status"] & np.uint16(DEVICE_BITS)
    wrong = (base < EARLIEST) | (base > latest)
    if wrong.any():
        base = np.where(wrong, arrival, base)
        status |= np.where(wrong, _COLLECTOR_TIME, np.uint16(0))[:, None]
    time = base[:, None] + records["offset"]
    ahead = time > latest
    if ahead.any():
        time[ahead] = arrival
        status[ahead] |= _COLLECTOR_TIME
    return time, status
