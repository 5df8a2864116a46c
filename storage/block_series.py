"""One meter's readings out of a block, without unpacking it for each of its meters."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from storage.block_columns import Register, throughout
from storage.blocks import Contents, Stored, contents, open_body
from storage.blocks import begins as firsts
from telemetry.readings import UInt32s

_MOST_OCTETS = 64 << 20  # of the blocks that are remembered: a month of 1,000 meters by the quarter
_HEAD = 8  # octets that tell most blocks from others: the checksum is among them
_ENTRY = 512  # octets, some, of what is remembered beside columns and body


class Unpacked:
    """What blocks have of a register, as it was unpacked, those asked for last.

    Many meters of a block are asked for, and of a meter many times. Whether a block is still what
    it was its octets say: nothing has to be told of those that are changed. Safe between threads.
    """

    def __init__(self, most: int = _MOST_OCTETS) -> None:
        """``most`` octets are kept, more or less."""
        self._most, self.octets = most, 0
        self._kept: OrderedDict[tuple[bytes, int, int], tuple[bytes, Contents | None, int]]
        self._kept = OrderedDict()
        self._lock = threading.Lock()

    def of(self, body: bytes, code: int) -> Contents | None:
        """What a block has of a register, None where nothing; raises DamagedError."""
        known, found = self.known(body, code)
        if known:
            return found
        found = _unpack(body, code)
        size = len(body) + _ENTRY + (0 if found is None else _octets(found))
        key = _key(body, code)
        with self._lock:
            replaced = self._kept.pop(key, None)
            self.octets += size - (0 if replaced is None else replaced[2])
            self._kept[key] = body, found, size
            while self.octets > self._most:
                self.octets -= self._kept.popitem(last=False)[1][2]
        return found

    def known(self, body: bytes, code: int) -> tuple[bool, Contents | None]:
        """Whether it is remembered what a block has of a register, and what that is."""
        key = _key(body, code)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept[0] != body:
                return False, None
            self._kept.move_to_end(key)
            return True, kept[1]


def _key(body: bytes, code: int) -> tuple[bytes, int, int]:
    return body[:_HEAD], len(body), code


def _unpack(body: bytes, code: int) -> Contents | None:
    registers, place = _open(body, code)
    if place is None:
        return None
    found = contents(registers, place)
    for column in found:
        column.flags.writeable = False  # parts of it are handed out
    return found


def _open(body: bytes, code: int) -> tuple[list[Register], int | None]:
    """A block's registers, packed, and the place among them of one, None where it is not there."""
    registers = open_body(body)
    places = (at for at, register in enumerate(registers) if register.code == code)
    return registers, next(places, None)


def _octets(found: Contents) -> int:
    """What the columns take, with what they are parts of; a value repeated takes room once."""
    return sum((column if column.base is None else column.base).nbytes for column in found)


_UNPACKED = Unpacked()


def series(
    body: bytes, meter: int, code: int, start_ms: int | None = None, end_ms: int | None = None
) -> Stored | None:
    """The readings of one series in a block in [start, end], None where the block has none of it.

    Raises DamagedError.
    """
    found = _UNPACKED.of(body, code)
    at = None if found is None else _place(found.meters, meter)
    if found is None or at is None:
        return None
    low, count = int(found.starts[at]), int(found.counts[at])
    high = low + count
    if start_ms is not None:
        low += int(found.time[low:high].searchsorted(start_ms))
    if end_ms is not None:
        high = low + int(found.time[low:high].searchsorted(end_ms, side="right"))
    rows = slice(low, high)
    return Stored(
        meter=throughout(found.meters[at : at + 1], high - low),
        register=throughout(np.array([code], np.uint16), high - low),
        status=found.status[rows],
        epoch=found.epoch[rows],
        time=found.time[rows],
        value=found.value[rows],
        late=found.late[rows],
    )


def begins(body: bytes, meter: int, code: int) -> int | None:
    """The instant of a series' first reading in a block, without unpacking it for that.

    None where it has none; raises DamagedError.
    """
    known, found = _UNPACKED.known(body, code)
    if not known:
        registers, place = _open(body, code)
        if place is None:
            return None
        meters, instants = firsts(registers, place)
    elif found is None:
        return None
    else:
        meters, instants = found.meters, found.time[found.starts]
    at = _place(meters, meter)
    return None if at is None else int(instants[at])


def _place(meters: UInt32s, meter: int) -> int | None:
    at = int(meters.searchsorted(meter))
    return at if at < len(meters) and meters[at] == meter else None
