"""What datagrams a commit had, as the table ``deliveries`` keeps it until it is in ``ledger``.

A body is a header, the counts of all meters after the commit, and columns (storage/columns.py) of
the datagrams by meter, those of one in the order of arrival.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.columns import DamagedError, pack, unpack
from telemetry.datagrams import Mark
from telemetry.readings import Bytes, Int64s, UInt32s

MOST = 1 << 20  # datagrams in a commit
LATE = 0x80  # beside the bits of Mark
COUNTS = ("uniques", "duplicates", "stale", "out_of_order", "late", "lost")

_MAGIC = b"WBD1"
_HEAD = struct.Struct(f"<4sII{len(COUNTS)}q")
_CHECKED = 8  # from here on the checksum reaches
_TYPES = (np.uint32, np.uint32, np.uint32, np.uint8)
_KEPT = np.uint8(Mark.NUMBERED | LATE)


@dataclass(frozen=True, slots=True)
class Delivery:
    """n datagrams, ascending by ``meter``; every column has shape (n,).

    ``marks`` are the bit NUMBERED of Mark, and LATE.
    """

    meter: UInt32s
    epoch: UInt32s
    sequence: UInt32s
    marks: Bytes

    def __len__(self) -> int:
        return len(self.meter)

    @classmethod
    def empty(cls) -> Delivery:
        """No datagrams."""
        none = np.empty(0, np.uint32)
        return cls(none, none, none, none.astype(np.uint8))

    def take(self, rows: npt.NDArray[np.bool_]) -> Delivery:
        """Some of the datagrams."""
        return Delivery(self.meter[rows], self.epoch[rows], self.sequence[rows], self.marks[rows])


def encode(delivery: Delivery, totals: Int64s) -> bytes:
    """The body; ``totals``, of shape (6,), are COUNTS of all meters after it."""
    columns = pack((delivery.meter, delivery.epoch, delivery.sequence, delivery.marks & _KEPT))
    head = bytearray(_HEAD.pack(_MAGIC, 0, len(delivery), *totals.tolist()))
    checksum = zlib.crc32(columns, zlib.crc32(head[_CHECKED:]))
    struct.pack_into("<I", head, 4, checksum)
    return bytes(head) + columns


def decode(body: bytes) -> tuple[Delivery, Int64s]:
    """What ``encode`` was given; DamagedError where it is not whole."""
    if len(body) < _HEAD.size:
        raise DamagedError(f"a body of {len(body)} octets is too short for a header")
    magic, checksum, count, *totals = _HEAD.unpack_from(body)
    if magic != _MAGIC:
        raise DamagedError(f"the body starts with {magic!r}, not {_MAGIC!r}")
    if zlib.crc32(memoryview(body)[_CHECKED:]) != checksum:
        raise DamagedError("the body's checksum does not match its octets")
    if count > MOST:
        raise DamagedError(f"the body says that it has {count} datagrams")
    columns = unpack(body, _HEAD.size, count, _TYPES)
    return Delivery(*columns), np.array(totals, np.int64)
