"""Which of many native datagrams come in: their headers, and then their signatures.

The order of the checks is that of docs/wire-format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry import meter_ids
from telemetry.admission import Gate, Mask
from telemetry.datagrams import Tally
from telemetry.formats.native import FLAG_ENCRYPTED, HEADER, KNOWN_FLAGS, MAGIC, RECORD, VERSION
from telemetry.keys import KeyRing
from telemetry.meter_index import UNKNOWN
from telemetry.readings import Bytes, Int64s, UInt64s
from telemetry.rejects import Reason
from telemetry.security import TAG, unseal

_ACKNOWLEDGE_OF_WORD = np.uint32(0x010000)


@dataclass(frozen=True, slots=True)
class Shape:
    """Datagrams that came in, of one shape: header, ``each`` records in clear, what does not count.

    ``octets`` has a row for each, ``high`` and ``low``, of shape (n,), are the halves of the meters
    and ``place`` the datagrams of the rows.
    """

    octets: Bytes
    high: UInt64s
    low: UInt64s
    each: int
    place: Int64s
    signed: bool


@dataclass(slots=True)
class Sieve:
    """n datagrams through one check after the other; each counts under the first that it fails.

    ``meters`` are the ring's numbers of their meters, as far as these are known by then.
    """

    ring: KeyRing
    tally: Tally
    passed: Mask
    meters: Int64s

    def refuse(self, reason: Reason, failed: Any) -> None:
        """Count those that have passed all so far and fail now; ``failed`` has shape (n,)."""
        failed = self.passed & failed
        count = int(failed.sum())
        if not count:
            return
        self.tally.refuse(reason, count)
        meters, counts = np.unique(self.meters[failed], return_counts=True)
        for meter, of_meter in zip(meters.tolist(), counts.tolist(), strict=True):
            if meter != UNKNOWN:
                self.tally.meters[*self.ring.owner(meter), reason] += of_meter
        self.passed &= ~failed


def all_plain(octets: Bytes, sources: UInt64s, gate: Gate) -> Shape | None:
    """The datagrams of one length if all are unsigned and come in: the way that must be short."""
    count, length = octets.shape
    stride = octets.strides[0]
    each, remainder = divmod(length - HEADER.itemsize, RECORD.itemsize)
    # Magic, version, flags and key id as one word, count and reserved as another.
    start = np.ndarray((count,), "<u4", octets, strides=(stride,))
    end = np.ndarray((count,), "<u4", octets, offset=36, strides=(stride,))
    plain = ((start & ~_ACKNOWLEDGE_OF_WORD) == (MAGIC | VERSION << 8)) & (end == each)
    if remainder or not plain.all():
        return None
    high, low = (np.ndarray((count,), "<u8", octets, at, (stride,)).copy() for at in (4, 12))
    if not meter_ids.valid(high, low).all() or not gate.allowed.takes(sources, high, low).all():
        return None
    if len(gate.ring) and (gate.ring.meters(high, low) != UNKNOWN).any():
        return None
    return Shape(octets, high, low, each, np.arange(count, dtype=np.int64), signed=False)


def sift(octets: Bytes, sources: UInt64s, arrival: int, gate: Gate, tally: Tally) -> list[Shape]:
    """Of datagrams of one length those that come in; each other one is counted in ``tally``."""
    count, length = octets.shape
    stride = octets.strides[0]
    header = np.ndarray((count,), HEADER, octets, strides=(stride,))
    each, remainder = divmod(length - HEADER.itemsize, RECORD.itemsize)
    flags, key_id = header["flags"], header["key_id"].copy()
    signed = key_id != 0
    encrypted = flags & FLAG_ENCRYPTED != 0
    high, low = header["key_high"].copy(), header["key_low"].copy()
    nobody: Int64s = np.full(count, UNKNOWN, np.int64)
    sieve = Sieve(gate.ring, tally, np.ones(count, np.bool_), nobody)
    unknown = (flags & ~np.uint8(KNOWN_FLAGS)) != 0
    reserved = header["reserved"].any(axis=1)
    fits = header["count"] == each - signed.astype(np.int64)  # a tag is as long as a record
    sieve.refuse(Reason.FOREIGN, header["magic"] != MAGIC)
    sieve.refuse(Reason.VERSION, header["version"] != VERSION)
    sieve.refuse(Reason.FLAGS, unknown | reserved | (encrypted & ~signed))
    sieve.refuse(Reason.COUNT, ~fits | (header["count"] == 0) | bool(remainder))
    sieve.refuse(Reason.METER_ID, ~meter_ids.valid(high, low))
    if not sieve.passed.any():
        return []
    sieve.meters = gate.ring.meters(high, low)
    rows = np.flatnonzero(sieve.passed & ~signed)
    taken = np.ones(count, np.bool_)
    taken[rows] = gate.allowed.takes(sources[rows], high[rows], low[rows])
    sieve.refuse(Reason.NOT_ALLOWED, ~taken)
    sieve.refuse(Reason.UNSIGNED, ~signed & (sieve.meters != UNKNOWN))
    keys = gate.ring.keys(sieve.meters, key_id)
    sieve.refuse(Reason.UNKNOWN_KEY, signed & (keys == UNKNOWN))
    sieve.refuse(Reason.EXPIRED, signed & gate.ring.expired(keys, arrival))
    shapes = []
    plain = np.flatnonzero(sieve.passed & ~signed)
    if len(plain):
        own = high[plain], low[plain]
        shapes.append(Shape(octets[plain], *own, each, plain, signed=False))
    rows = np.flatnonzero(sieve.passed & signed)
    if len(rows):
        clear, forged = _opened(octets[rows], keys[rows], gate.ring)
        failed = np.zeros(count, np.bool_)
        failed[rows] = forged
        sieve.refuse(Reason.FORGED, failed)
        rows = rows[~forged]
        if len(rows):
            shapes.append(Shape(clear, high[rows], low[rows], each - 1, rows, signed=True))
    return shapes


def _opened(octets: Bytes, keys: Int64s, ring: KeyRing) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Those of n signed datagrams that are not forged, in clear, without tags; which are forged."""
    count, length = octets.shape
    flat = octets.tobytes()
    cipher = ring.cipher
    opened = [
        unseal(flat[at : at + length], cipher(key))
        for at, key in zip(range(0, count * length, length), keys.tolist(), strict=True)
    ]
    forged = np.array([one is None for one in opened], np.bool_)
    clear = np.frombuffer(b"".join(one for one in opened if one is not None), np.uint8)
    return clear.reshape(-1, length - TAG), forged
