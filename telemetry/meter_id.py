"""Meter identity: the 16 octets on the wire, the name people use, the halves columns carry.

The rules stand in docs/wire-format.md ("Meter id").
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from telemetry.readings import Bytes, UInt64s

OCTETS = 16
LONGEST_NAME = 64
NAMESPACE = uuid.UUID("6b4cf0b5-8e0c-5a65-9c3e-6d1f3c1a7e01")

_MARKS = "._:-/+@#"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(_MARKS)}]*")
# Of RFC 9562's variant and versions only: the octets of any other may be a name's, or nobody's.
_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    re.ASCII | re.IGNORECASE,
)
_RULE = (
    f"a meter id is 1 to {LONGEST_NAME} letters, digits and . _ : - / + @ #, "
    "starting with a letter or digit, or a UUID"
)

# For checking many ids at once each octet becomes 0xFF if it may be in a name, 0 if it is 0, else
# 0x80; and the first one 1 if a name may begin with it, else 0.
_ALNUM = {c for c in range(128) if chr(c).isalnum()}
_CLASSES = bytes(0xFF if c in _ALNUM or chr(c) in _MARKS else 0x80 if c else 0 for c in range(256))
_BEGINNINGS = bytes(c in _ALNUM for c in range(256))
_FULL, _ONE = np.uint64(2**64 - 1), np.uint64(1)


def to_octets(name: str) -> bytes:
    """The 16 octets that ``name`` travels as.

    Raises ValueError, saying the rule, for a name that breaks it.
    """
    if _UUID.fullmatch(name):
        return uuid.UUID(name).bytes
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no meter id: {_RULE}")
    if len(name) > OCTETS:
        return uuid.uuid5(NAMESPACE, name).bytes
    return name.encode("ascii").ljust(OCTETS, b"\0")


def is_long(name: str) -> bool:
    """Whether the octets of ``name``, which is an id, do not tell it."""
    return len(name) > OCTETS and not _UUID.fullmatch(name)


def to_name(octets: bytes) -> str:
    """The name, or the UUID in text form, of 16 valid octets; ValueError for others."""
    text = octets.rstrip(b"\0").decode("latin-1")
    if _NAME.fullmatch(text):
        return text
    if octets[8] & 0xC0 == 0x80 and 1 <= octets[6] >> 4 <= 8:
        return str(uuid.UUID(bytes=octets))
    raise ValueError(f"{octets.hex()} is neither a name nor a UUID")


def to_names(octets: Sequence[bytes]) -> list[str]:
    """``to_name`` of each: names, as nearly all are, at once."""
    texts = np.frombuffer(b"".join(octets), f"S{OCTETS}")
    if not _are_names(texts.view(np.uint8).reshape(-1, OCTETS)).all():
        return [to_name(own) for own in octets]
    found: list[str] = texts.astype(f"U{OCTETS}").tolist()
    return found


def halves(octets: bytes) -> tuple[int, int]:
    """``key_high`` and ``key_low`` of 16 octets."""
    high, low = struct.unpack("<QQ", octets)
    return high, low


def from_halves(high: int, low: int) -> bytes:
    """The 16 octets of ``key_high`` and ``key_low``."""
    return struct.pack("<QQ", high, low)


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
