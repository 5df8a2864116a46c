"""Many meters' ids at once, in columns; the rules are ``meter_id``'s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from telemetry.meter_id import MARKS, OCTETS, to_name
from telemetry.readings import Bytes, UInt64s

# For checking ids each octet becomes 0xFF if it may be in a name, 0 if it is 0, else
# 0x80; and the first one 1 if a name may begin with it, else 0.
_ALNUM = {c for c in range(128) if chr(c).isalnum()}
_CLASSES = bytes(0xFF if c in _ALNUM or chr(c) in MARKS else 0x80 if c else 0 for c in range(256))
_BEGINNINGS = bytes(c in _ALNUM for c in range(256))
_FULL, _ONE = np.uint64(2**64 - 1), np.uint64(1)


def to_names(octets: Sequence[bytes]) -> list[str]:
    """``to_name`` of each: names, as nearly all are, at once."""
    texts = np.frombuffer(b"".join(octets), f"S{OCTETS}")
    if not _are_names(texts.view(np.uint8).reshape(-1, OCTETS)).all():
        return [to_name(own) for own in octets]
    found: list[str] = texts.astype(f"U{OCTETS}").tolist()
    return found


def valid(high: UInt64s, low: UInt64s) -> npt.NDArray[np.bool_]:
    """Which of n ids are names or UUIDs; the arguments and the answer have shape (n,)."""
    octets = _octets(high, low)
    names = _are_names(octets)
    if names.all():
        return names
    version = octets[:, 6] >> 4
    uuids = ((octets[:, 8] & 0xC0) == 0x80) & (version >= 1) & (version <= 8)
    names |= uuids
    return names


def _are_names(octets: Bytes) -> npt.NDArray[np.bool_]:
    """Which of n ids, of shape (n, 16), are names."""
    first, second = np.frombuffer(octets.tobytes().translate(_CLASSES), np.uint64).reshape(-1, 2).T
    # Of octets that are 0xFF up to some place and 0 behind it (little-endian: towards the higher
    # bits), and of no others, the number is a row of ones.
    rows = (first & (first + _ONE)) | (second & (second + _ONE))
    names: npt.NDArray[np.bool_] = (rows == 0) & ((first == _FULL) | (second == 0))
    names &= np.frombuffer(octets[:, 0].tobytes().translate(_BEGINNINGS), np.bool_)
    return names


def _octets(high: UInt64s, low: UInt64s) -> Bytes:
    pairs = np.empty((len(high), 2), np.uint64)
    pairs[:, 0] = high
    pairs[:, 1] = low
    return pairs.view(np.uint8)
