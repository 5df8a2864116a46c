"""Readings in columns: the one shape in which they travel from the decoder to the answer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
UInt32s = npt.NDArray[np.uint32]
UInt16s = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]


class Status(IntFlag):
    """Status bits of a reading. The low byte is the device's, the high byte the collector's."""

    ESTIMATED = 0x0001  # the device itself estimated or substituted the value
    SUSPECT = 0x0002  # the device doubts the value (clock adjusted, self-test failed)
    ARRIVAL_TIME = 0x0100  # the device's time was missing or implausible: this is the arrival's
    THINNED = 0x0200  # not sent: made on an edge where the readings around it were thinned


DEVICE_BITS = 0x00FF


@dataclass(frozen=True, slots=True)
class Readings:
    """Decoded readings of many meters, in the order of arrival; every column has shape (n,).

    ``key_high`` and ``key_low`` are the two halves of the meter's 16 octets (see ``meter_id``),
    ``time`` is in milliseconds of Unix time, UTC; ``value`` is the raw integer of ``register``.
    """

    key_high: UInt64s
    key_low: UInt64s
    epoch: UInt32s
    register: UInt16s
    status: UInt16s
    time: Int64s
    value: Int64s

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: Int64s) -> Readings:
        """The readings of the given rows, in the order of the rows."""
        return Readings(*(getattr(self, name)[rows] for name in COLUMNS))

    @classmethod
    def empty(cls) -> Self:
        """No readings."""
        return cls.concatenate([])

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """The readings of all parts, in the order of the parts."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts] or [np.empty(0)]).astype(
                dtype, copy=False
            )
            for name, dtype in COLUMNS.items()
        }
        return cls(**columns)


def spread(column: npt.NDArray[Any], counts: UInt16s) -> npt.NDArray[Any]:
    """Each value of m datagrams as often as ``counts``, of shape (m,), says."""
    if len(counts) and (most := int(counts.max())) == counts.min():
        return spread_evenly(column, most)
    return np.repeat(column, counts)


def spread_evenly(column: npt.NDArray[Any], each: int) -> npt.NDArray[Any]:
    """Each value of m datagrams ``each`` times: what is usual, in a fifth of the time."""
    return np.broadcast_to(column[:, np.newaxis], (len(column), each)).reshape(-1)


# The columns' types, in the order in which they travel and are kept.
COLUMNS: dict[str, type[np.generic]] = {
    "key_high": np.uint64,
    "key_low": np.uint64,
    "epoch": np.uint32,
    "register": np.uint16,
    "status": np.uint16,
    "time": np.int64,
    "value": np.int64,
}
assert tuple(COLUMNS) == tuple(field.name for field in fields(Readings))


@dataclass(frozen=True, slots=True)
class Series:
    """The readings of one register of one meter; every column has shape (n,).

    ``time`` in milliseconds of Unix time, UTC; ``value`` the raw integer.
    """

    time: Int64s
    value: Int64s
    epoch: UInt32s
    status: UInt16s

    def __len__(self) -> int:
        return len(self.time)
