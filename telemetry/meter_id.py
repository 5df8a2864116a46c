"""Meter identity: the 16 octets on the wire, the name people use, the halves columns carry.

The rules stand in docs/wire-format.md ("Meter id").
"""

from __future__ import annotations

import re
import struct
import uuid

OCTETS = 16
LONGEST_NAME = 64
NAMESPACE = uuid.UUID("6b4cf0b5-8e0c-5a65-9c3e-6d1f3c1a7e01")

MARKS = "._:-/+@#"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(MARKS)}]*")
# Of RFC 9562's variant and versions only: the octets of any other may be a name's, or nobody's.
_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    re.ASCII | re.IGNORECASE,
)
_RULE = (
    f"a meter id is 1 to {LONGEST_NAME} letters, digits and . _ : - / + @ #, "
    "starting with a letter or digit, or a UUID"
)


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


def halves(octets: bytes) -> tuple[int, int]:
    """``key_high`` and ``key_low`` of 16 octets."""
    high, low = struct.unpack("<QQ", octets)
    return high, low


def from_halves(high: int, low: int) -> bytes:
    """The 16 octets of ``key_high`` and ``key_low``."""
    return struct.pack("<QQ", high, low)
