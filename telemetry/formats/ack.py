"""The acknowledgement datagram (docs/wire-format.md): what a collector answers to a meter."""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from telemetry.readings import Bytes, Int64s
from telemetry.security import TAG, sign_acknowledgement

MAGIC = 0xF6
VERSION = 1
WINDOW = 64  # numbers under way at once, docs/delivery.md
_ACK = struct.Struct("<BBxB16sIIQ")

# What the writer answers for each meter of a commit.
ACK = np.dtype(
    [("key_high", "<u8"), ("key_low", "<u8"), ("epoch", "<u4"), ("next", "<u4"), ("bitmap", "<u8")]
)
_WIRE = np.dtype([("magic", "u1"), ("version", "u1"), ("zero", "u1"), ("key_id", "u1"), *ACK.descr])
LONGEST = _ACK.size + TAG


class Ack(NamedTuple):
    """Below ``next``, and where bit i of ``bitmap`` says so of next + 1 + i, all is durable."""

    octets: bytes
    epoch: int
    next: int
    bitmap: int


def encode(ack: Ack, key_id: int = 0, acknowledgement_key: bytes | None = None) -> bytes:
    """The octets, signed where there is a key."""
    octets = _ACK.pack(MAGIC, VERSION, key_id, *ack)
    if acknowledgement_key is None:
        return octets
    return octets + sign_acknowledgement(octets, acknowledgement_key)


def encode_many(
    acks: npt.NDArray[np.void], key_id: Bytes, keys: list[bytes | None]
) -> tuple[Bytes, Int64s]:
    """n acknowledgements, of dtype ACK, as rows of octets and the length of each.

    ``key_id`` has shape (n,); ``keys`` are the acknowledgement keys, None where it is 0.
    """
    rows = np.zeros((len(acks), LONGEST), np.uint8)
    header = np.ndarray((len(acks),), _WIRE, rows, strides=(LONGEST,))
    header["magic"], header["version"], header["key_id"] = MAGIC, VERSION, key_id
    for name in ACK.names or ():
        header[name] = acks[name]
    lengths = np.where(key_id, LONGEST, _ACK.size)
    for row, key in zip(rows, keys, strict=True):
        if key is not None:
            tag = sign_acknowledgement(row[: _ACK.size].tobytes(), key)
            row[_ACK.size :] = np.frombuffer(tag, np.uint8)
    return rows, lengths


def decode(datagram: bytes, acknowledgement_key: bytes | None = None) -> Ack | None:
    """What an acknowledgement says; None where it is none, or not signed with this key."""
    signed = 0 if acknowledgement_key is None else TAG
    if len(datagram) != _ACK.size + signed:
        return None
    magic, version, key_id, *fields = _ACK.unpack_from(datagram)
    if magic != MAGIC or version != VERSION or bool(key_id) != bool(signed) or datagram[2]:
        return None
    if acknowledgement_key is not None:
        tag = sign_acknowledgement(datagram[: _ACK.size], acknowledgement_key)
        if not hmac.compare_digest(tag, datagram[_ACK.size :]):
            return None
    return Ack(*fields)
