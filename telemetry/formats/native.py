"""The native datagram, version 1 (docs/wire-format.md): its layout, its encoder, one decoded.

``native_bulk`` decodes many at once; this decoder is the plain reading of the document, and the
two are held to agree on any bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from telemetry import meter_id
from telemetry.admission import EVERYWHERE, Allowed, Gate
from telemetry.clock import FUTURE_WINDOW, plausible
from telemetry.datagrams import halves_of
from telemetry.keys import KeyRing
from telemetry.meter_index import UNKNOWN
from telemetry.readings import DEVICE_BITS, Bytes, Status
from telemetry.registers import BY_CODE
from telemetry.rejects import Reason, RejectedError
from telemetry.security import TAG, unseal

MAGIC = 0xF5
VERSION = 1
LONGEST = 1232
FLAG_ACKNOWLEDGE = 0x01
FLAG_ENCRYPTED = 0x02
KNOWN_FLAGS = FLAG_ACKNOWLEDGE | FLAG_ENCRYPTED

HEADER = np.dtype(
    [
        ("magic", "u1"),
        ("version", "u1"),
        ("flags", "u1"),
        ("key_id", "u1"),
        ("key_high", "<u8"),
        ("key_low", "<u8"),
        ("epoch", "<u4"),
        ("sequence", "<u4"),
        ("base", "<i8"),
        ("count", "u1"),
        ("reserved", "u1", 3),
    ]
)
RECORD = np.dtype([("register", "<u2"), ("status", "<u2"), ("offset", "<i4"), ("value", "<i8")])
_KEY_ID = 3  # the octet
_HEADER = struct.Struct("<BBBB16sIIqB3s")
_RECORD = struct.Struct("<HHiq")
assert RECORD.itemsize == TAG  # so a signed datagram is as long as one of a record more
MOST_RECORDS = (LONGEST - HEADER.itemsize) // RECORD.itemsize - 1  # room for a tag
MOST_UNSIGNED = (LONGEST - HEADER.itemsize) // RECORD.itemsize


@dataclass(frozen=True, slots=True)
class Record:
    """One value: a register's code, its instant (ms, UTC), the raw integer, status bits."""

    register: int
    time: int
    value: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class Datagram:
    """A decoded datagram: who sent it, which of the sender's it is, and what it says.

    ``key_id`` names the key that signed it; 0: none.
    """

    octets: bytes
    epoch: int
    sequence: int
    acknowledge: bool
    records: tuple[Record, ...]
    key_id: int = 0


def encode(
    octets: bytes,
    epoch: int,
    sequence: int,
    records: Sequence[Record],
    *,
    acknowledge: bool = False,
) -> bytes:
    """The octets of one unsigned datagram; the first record's instant is the base time.

    Raises ValueError when there are no records, more than fit, or a number that its field does not
    hold; instants further apart than 24.8 days are one (the 32-bit offset).
    """
    if not 1 <= len(records) <= MOST_UNSIGNED:
        raise ValueError(f"a datagram carries 1 to {MOST_UNSIGNED} records, not {len(records)}")
    base = records[0].time
    flags = FLAG_ACKNOWLEDGE if acknowledge else 0
    try:
        header = _HEADER.pack(
            MAGIC, VERSION, flags, 0, octets, epoch, sequence, base, len(records), bytes(3)
        )
        body = [_RECORD.pack(r.register, r.status, r.time - base, r.value) for r in records]
    except struct.error as error:
        raise ValueError(f"a number does not fit its field: {error}") from None
    return header + b"".join(body)


def encode_same_shape(
    key_high: np.ndarray[tuple[int], np.dtype[np.uint64]],
    key_low: np.ndarray[tuple[int], np.dtype[np.uint64]],
    epoch: np.ndarray[tuple[int], np.dtype[np.uint32]],
    sequence: np.ndarray[tuple[int], np.dtype[np.uint32]],
    base: np.ndarray[tuple[int], np.dtype[np.int64]],
    records: np.ndarray[tuple[int, int], np.dtype[np.void]],
) -> Bytes:
    """n unsigned datagrams of k records each, as rows of octets of shape (n, 40 + 16 k).

    The columns have shape (n,); ``records`` is of dtype RECORD and shape (n, k).
    """
    count, each = records.shape
    rows = np.zeros((count, HEADER.itemsize + each * RECORD.itemsize), np.uint8)
    header = np.ndarray((count,), HEADER, rows, strides=(rows.shape[1],))
    header["magic"], header["version"], header["count"] = MAGIC, VERSION, each
    header["key_high"], header["key_low"] = key_high, key_low
    header["epoch"], header["sequence"], header["base"] = epoch, sequence, base
    rows[:, HEADER.itemsize :] = np.ascontiguousarray(records).view(np.uint8).reshape(count, -1)
    return rows


def key_ids(octets: Bytes) -> Bytes:
    """Which keys signed n datagrams, the rows of ``octets``; 0: none."""
    return octets[:, _KEY_ID]


def decode(
    datagram: bytes, arrival: int, gate: Gate | None = None, source: str = "127.0.0.1"
) -> Datagram:
    """One datagram that arrived at ``arrival`` (ms, UTC), checked in the document's order.

    ``source`` is the address that it came from. Without a gate all that is unsigned is taken, and
    nothing that is signed.
    Raises RejectedError with the reason.
    """
    if not datagram or datagram[0] != MAGIC:
        raise RejectedError(Reason.FOREIGN)
    if len(datagram) < _HEADER.size + _RECORD.size:
        raise RejectedError(Reason.SHORT)
    if len(datagram) > LONGEST:
        raise RejectedError(Reason.OVERSIZED)
    _, version, flags, key_id, octets, epoch, sequence, base, count, reserved = _HEADER.unpack_from(
        datagram
    )
    if version != VERSION:
        raise RejectedError(Reason.VERSION)
    if flags & ~KNOWN_FLAGS or any(reserved) or (flags & FLAG_ENCRYPTED and not key_id):
        raise RejectedError(Reason.FLAGS)
    tag = TAG if key_id else 0
    if count == 0 or len(datagram) != _HEADER.size + count * _RECORD.size + tag:
        raise RejectedError(Reason.COUNT)
    try:
        meter_id.to_name(octets)
    except ValueError:
        raise RejectedError(Reason.METER_ID) from None
    datagram = _in_clear(
        datagram, arrival, gate or Gate(Allowed(EVERYWHERE), KeyRing.empty()), source
    )
    raw = list(_RECORD.iter_unpack(datagram[_HEADER.size :]))
    if any(register not in BY_CODE for register, *_ in raw):
        raise RejectedError(Reason.REGISTER)
    if any(not BY_CODE[r].minimum <= value <= BY_CODE[r].maximum for r, _, _, value in raw):
        raise RejectedError(Reason.VALUE)
    records = tuple(_record(fields, base, arrival) for fields in raw)
    return Datagram(octets, epoch, sequence, bool(flags & FLAG_ACKNOWLEDGE), records, key_id=key_id)


def _in_clear(datagram: bytes, arrival: int, gate: Gate, source: str) -> bytes:
    """The header and the records in clear, of a datagram that may come in."""
    key_id = datagram[_KEY_ID]
    high, low = np.frombuffer(datagram, "<u8", 2, 4)[:, None].astype(np.uint64)
    meters = gate.ring.meters(high, low)
    if not key_id:
        if not gate.allowed.takes(halves_of(source)[None], high, low)[0]:
            raise RejectedError(Reason.NOT_ALLOWED)
        if meters[0] != UNKNOWN:
            raise RejectedError(Reason.UNSIGNED)
        return datagram
    (key,) = keys = gate.ring.keys(meters, np.array([key_id], np.uint8))
    if key == UNKNOWN:
        raise RejectedError(Reason.UNKNOWN_KEY)
    if gate.ring.expired(keys, arrival)[0]:
        raise RejectedError(Reason.EXPIRED)
    clear = unseal(datagram, gate.ring.cipher(int(key)))
    if clear is None:
        raise RejectedError(Reason.FORGED)
    return clear


def _record(fields: tuple[int, int, int, int], base: int, arrival: int) -> Record:
    register, status, offset, value = fields
    trusted = plausible(base, arrival)
    time = (base if trusted else arrival) + offset
    if time > arrival + FUTURE_WINDOW:
        time, trusted = arrival, False
    status &= DEVICE_BITS
    return Record(register, time, value, status if trusted else status | Status.ARRIVAL_TIME)
