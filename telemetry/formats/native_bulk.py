"""Many native datagrams decoded at once, as columns: no Python loop over datagrams or readings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry import meter_id
from telemetry.clock import EARLIEST, FUTURE_WINDOW
from telemetry.datagrams import Datagrams, Decoded, Envelopes, Mark, Tally
from telemetry.formats.native import (
    FLAG_ACKNOWLEDGE,
    FLAG_ENCRYPTED,
    HEADER,
    KNOWN_FLAGS,
    LONGEST,
    MAGIC,
    RECORD,
    VERSION,
)
from telemetry.readings import DEVICE_BITS, Bytes, Int64s, Readings, Status
from telemetry.registers import MAXIMA, MINIMA
from telemetry.rejects import Reason

_SHORTEST = HEADER.itemsize + RECORD.itemsize
_NUMBERED, _ACKNOWLEDGE = np.uint8(Mark.NUMBERED), np.uint8(Mark.ACKNOWLEDGE)
_COLLECTOR_TIME = np.uint16(Status.ARRIVAL_TIME)


def decode(datagrams: Datagrams, arrival: int) -> Decoded:
    """Datagrams that arrived at ``arrival`` (ms, UTC): their readings and what was refused why.

    Agrees with ``native.decode`` on any bytes.
    """
    lengths = datagrams.lengths
    if not len(lengths):
        return Decoded.nothing(Tally())
    length = int(lengths[0])
    if _SHORTEST <= length <= LONGEST and (lengths == length).all():
        return _decode_same_length(datagrams.octets, length, arrival)
    return _decode_mixed(datagrams, arrival)


def _decode_mixed(datagrams: Datagrams, arrival: int) -> Decoded:
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
        parts.append((_decode_same_length(datagrams.octets[rows, :length], length, arrival), rows))
    return Decoded.merge(parts, tally)


def _decode_same_length(octets: Bytes, length: int, arrival: int) -> Decoded:
    """Datagrams of one length, the rows of ``octets``, of which the first ``length`` count."""
    count, stride = octets.shape[0], octets.strides[0]
    header = np.ndarray((count,), HEADER, octets, strides=(stride,))
    each, remainder = divmod(length - HEADER.itemsize, RECORD.itemsize)
    records = np.ndarray(
        (count, each), RECORD, octets, offset=HEADER.itemsize, strides=(stride, RECORD.itemsize)
    )
    # Magic, version, flags and key id as one word, count and reserved as another.
    start = np.ndarray((count,), "<u4", octets, strides=(stride,))
    end = np.ndarray((count,), "<u4", octets, offset=36, strides=(stride,))
    key_high, key_low = header["key_high"].copy(), header["key_low"].copy()
    register, value = records["register"].astype(np.intp), records["value"].astype(np.int64)
    code = np.minimum(register, len(MAXIMA) - 1)
    low, high = MINIMA[code], MAXIMA[code]
    plain = (start & ~np.uint32(0x010000)) == (MAGIC | VERSION << 8)
    good = (
        plain
        & (end == each)
        & meter_id.valid(key_high, key_low)
        & ((value >= low) & (value <= high)).all(axis=1)
    )
    tally = Tally()
    place: Int64s = np.arange(count, dtype=np.int64)
    if remainder or not good.all():
        place = _accepted(header, each if not remainder else None, low, high, value, tally)
        if not len(place):
            return Decoded.nothing(tally)
        header, records = header[place], records[place]
        key_high, key_low = key_high[place], key_low[place]
        register, value = register[place], value[place]
        count = len(place)
    tally.accepted += count
    time, status = _times(header["base"].astype(np.int64), records, arrival)
    readings = Readings(
        key_high=np.repeat(key_high, each),
        key_low=np.repeat(key_low, each),
        epoch=np.repeat(header["epoch"].astype(np.uint32), each),
        register=register.astype(np.uint16).ravel(),
        status=status.ravel(),
        time=time.ravel(),
        value=value.ravel(),
    )
    wanted = (header["flags"] & FLAG_ACKNOWLEDGE) != 0
    envelopes = Envelopes(
        key_high,
        key_low,
        header["epoch"].astype(np.uint32),
        header["sequence"].astype(np.uint32),
        np.full(count, each, np.uint16),
        np.where(wanted, _NUMBERED | _ACKNOWLEDGE, _NUMBERED),
    )
    return Decoded(readings, envelopes, place, tally)


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


def _accepted(
    header: npt.NDArray[np.void],
    each: int | None,
    low: Int64s,
    high: Int64s,
    value: Int64s,
    tally: Tally,
) -> Int64s:
    """The rows that pass every check; each other one is counted under the first that it fails.

    ``each`` is how many records the length leaves room for, None when it is not a whole number.
    """
    flags = header["flags"]
    checks: tuple[tuple[Reason, Any], ...] = (
        (Reason.FOREIGN, header["magic"] != MAGIC),
        (Reason.VERSION, header["version"] != VERSION),
        (Reason.FLAGS, (flags & ~np.uint8(KNOWN_FLAGS) != 0) | header["reserved"].any(axis=1)),
        (Reason.SECURITY, (header["key_id"] != 0) | (flags & FLAG_ENCRYPTED != 0)),
        (Reason.COUNT, (header["count"] != each) | (header["count"] == 0)),
        (Reason.METER_ID, ~meter_id.valid(header["key_high"], header["key_low"])),
        (Reason.REGISTER, (high < low).any(axis=1)),
        (Reason.VALUE, ((value < low) | (value > high)).any(axis=1)),
    )
    passed = np.ones(len(header), np.bool_)
    for reason, failed in checks:
        tally.refuse(reason, int((passed & failed).sum()))
        passed &= ~failed
    return np.flatnonzero(passed)
