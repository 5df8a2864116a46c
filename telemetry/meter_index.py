"""From the 16 octets of many meters to their numbers at once: an open-addressed table in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from telemetry.readings import Int64s, UInt64s

UNKNOWN = -1
_SMALLEST = 1 << 12
_FULLEST = 0.5
_MULTIPLIER_HIGH = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_LOW = np.uint64(0xC2B2AE3D27D4EB4F)


class MeterIndex:
    """Meter numbers by the halves of their octets; grows, never shrinks. Not thread-safe."""

    def __init__(self) -> None:
        self._count = 0
        self._allocate(_SMALLEST)

    def __len__(self) -> int:
        return self._count

    def _allocate(self, size: int) -> None:
        self._high = np.zeros(size, np.uint64)
        self._low = np.zeros(size, np.uint64)
        self._number = np.full(size, UNKNOWN, np.int64)
        self._mask = size - 1

    def _home(self, high: UInt64s, low: UInt64s) -> Int64s:
        mixed = (high * _MULTIPLIER_HIGH) ^ (low * _MULTIPLIER_LOW)
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MULTIPLIER_HIGH
        return (mixed >> np.uint64(32)).astype(np.int64) & self._mask

    def find(self, high: UInt64s, low: UInt64s) -> Int64s:
        """The numbers of n meters, UNKNOWN where there is none; all of shape (n,)."""
        slot = self._home(high, low)
        found = self._number[slot]
        other = (self._high[slot] != high) | (self._low[slot] != low)
        pending = np.flatnonzero(other & (found != UNKNOWN))
        while len(pending):
            slot[pending] = (slot[pending] + 1) & self._mask
            at = slot[pending]
            found[pending] = self._number[at]
            other = (self._high[at] != high[pending]) | (self._low[at] != low[pending])
            pending = pending[other & (found[pending] != UNKNOWN)]
        return found

    def add(self, high: UInt64s, low: UInt64s, number: Int64s) -> None:
        """Add n meters that are distinct and not in the index yet; all of shape (n,)."""
        if self._count + len(number) > len(self._number) * _FULLEST:
            self._grow(self._count + len(number))
        self._place(high, low, number)
        self._count += len(number)

    def number(self, high: UInt64s, low: UInt64s) -> Int64s:
        """The numbers of n meters; those that are not there are added, with the next numbers."""
        found = self.find(high, low)
        new = found == UNKNOWN
        if new.any():
            pairs = np.unique(np.stack([high[new], low[new]], axis=1), axis=0)
            first = self._count
            self.add(pairs[:, 0], pairs[:, 1], np.arange(first, first + len(pairs)))
            found = self.find(high, low)
        return found

    def remove(self, number: int) -> None:
        """Remove the meter with this number, if it is there. As slow as growing."""
        kept = (self._number != UNKNOWN) & (self._number != number)
        self._rebuild(len(self._number), kept)
        self._count = int(kept.sum())

    def _grow(self, count: int) -> None:
        size = len(self._number)
        while count > size * _FULLEST:
            size *= 2
        self._rebuild(size, self._number != UNKNOWN)

    def _rebuild(self, size: int, kept: npt.NDArray[np.bool_]) -> None:
        high, low, number = self._high[kept], self._low[kept], self._number[kept]
        self._allocate(size)
        self._place(high, low, number)

    def _place(self, high: UInt64s, low: UInt64s, number: Int64s) -> None:
        slot = self._home(high, low)
        pending: npt.NDArray[np.intp] = np.arange(len(number))
        while len(pending):
            at = slot[pending]
            free = self._number[at] == UNKNOWN
            # Of several that want one free slot, the last written has it; the others move on.
            self._number[at[free]] = number[pending[free]]
            placed = self._number[at] == number[pending]
            won = pending[placed]
            self._high[slot[won]], self._low[slot[won]] = high[won], low[won]
            pending = pending[~placed]
            slot[pending] = (slot[pending] + 1) & self._mask


def runs(high: UInt64s, low: UInt64s) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where runs of equal neighbours start, and how long each is.

    The readings of one datagram stand together, so a run is looked up once.
    """
    change = np.ones(len(high), np.bool_)
    np.not_equal(high[1:], high[:-1], out=change[1:])
    change[1:] |= low[1:] != low[:-1]
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=len(high))
