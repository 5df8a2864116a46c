"""One meter's readings out of a block, without unpacking it for each of its meters."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from storage.blocks import Contents, Stored, contents, open_body

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
        key = body[:_HEAD], len(body), code
        with self._lock:
            known = self._kept.get(key)
            if known is not None and known[0] == body:
                self._kept.move_to_end(key)
                return known[1]
        found = _unpack(body, code)
        size = len(body) + _ENTRY + (0 if found is None else _octets(found))
        with self._lock:
            replaced = self._kept.pop(key, None)
            self.octets += size - (0 if replaced is None else replaced[2])
            self._kept[key] = body, found, size
            while self.octets > self._most:
                self.octets -= self._kept.popitem(last=False)[1][2]
        return found


def _unpack(body: bytes, code: int) -> Contents | None:
    registers = open_body(body)
    codes = [register.code for register in registers]
    if code not in codes:
        return None
    found = contents(registers, codes.index(code))
    for column in found:
        column.flags.writeable = False  # parts of it are handed out
    return found


def _octets(found: Contents) -> int:
    """What the columns take, with what they are parts of; a value repeated takes room once."""
    return sum((column if column.base is None else column.base).nbytes for column in found)


_UNPACKED = Unpacked()


def series(body: bytes, meter: int, code: int) -> Stored | None:
    """The readings of one series in a block, None where it has none; raises DamagedError."""
    found = _UNPACKED.of(body, code)
    if found is None:
        return None
    at = int(found.meters.searchsorted(meter))
    if at == len(found.meters) or found.meters[at] != meter:
        return None
    start, count = int(found.starts[at]), int(found.counts[at])
    rows = slice(start, start + count)
    return Stored(
        meter=np.full(count, meter, np.uint32),
        register=np.full(count, code, np.uint16),
        status=found.status[rows],
        epoch=found.epoch[rows],
        time=found.time[rows],
        value=found.value[rows],
        late=found.late[rows],
    )
