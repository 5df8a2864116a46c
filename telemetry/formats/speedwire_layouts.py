"""Speedwire datagrams of equal layout decoded at once: what a device sends looks alike each time.

Of a new layout one datagram is walked; the others, and all that come later, are compared with it
where it says how it is built, and read at the places it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telemetry.datagrams import Datagrams, Tally
from telemetry.formats.speedwire import (
    AVERAGE,
    COUNTER,
    HEAD,
    NO_VALUE,
    REGISTERS,
    WS_OF_WH,
    Telegram,
    walk,
)
from telemetry.readings import Bytes, Int64s, UInt64s
from telemetry.rejects import RejectedError

# How many layouts of one length are remembered, and of how many lengths; it takes a sender of its
# own for each, and one who varies them makes no more work than walking what he sends.
MOST_OF_A_LENGTH = 4
MOST_LENGTHS = 64


class Layout:
    """Where the values of datagrams that are built like one stand, and which registers they are."""

    def __init__(self, datagram: bytes, found: Telegram) -> None:
        octets = np.frombuffer(datagram, np.uint8)
        self._read = np.concatenate([np.arange(*part) for part in found.read])
        self._agree = octets[self._read].copy()
        self._head = found.head
        # A register that is said twice counts once, the last time.
        kept = {
            code: entry
            for entry in found.entries
            if (code := REGISTERS.get(entry.obis)) is not None
        }
        self.codes = np.array(list(kept), np.int64)
        self._columns = {
            type_: [place for place, entry in enumerate(kept.values()) if entry.size == type_]
            for type_ in (AVERAGE, COUNTER)
        }
        self._octets = {
            type_: np.array([entry.at for entry in kept.values() if entry.size == type_], np.int64)
            for type_ in (AVERAGE, COUNTER)
        }

    def fits(self, octets: Bytes) -> npt.NDArray[np.bool_]:
        """Which of n datagrams of the layout's length are built like it."""
        same: npt.NDArray[np.bool_] = (np.take(octets, self._read, axis=1) == self._agree).all(
            axis=1
        )
        return same

    def heads(self, octets: Bytes) -> npt.NDArray[np.void]:
        """SUSy id, serial number and ticker of n datagrams: fields of those names."""
        head = np.ascontiguousarray(octets[:, self._head : self._head + HEAD])
        return head.view(_HEAD)[:, 0]

    def values(self, octets: Bytes) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        """The registers' raw integers, of shape (n, k), and where there is none."""
        raw = np.empty((len(octets), len(self.codes)), np.int64)
        absent = np.zeros(raw.shape, np.bool_)
        for type_, columns in self._columns.items():
            at = self._octets[type_][:, None] + np.arange(type_)
            said = np.take(octets, at, axis=1).view(f">u{type_}")[:, :, 0].astype(np.uint64)
            for none in NO_VALUE[type_]:
                absent[:, columns] |= said == np.uint64(none)
            raw[:, columns] = said if type_ == AVERAGE else _in_hours(said)
        return raw, absent


_HEAD = np.dtype([("susy", ">u2"), ("serial", ">u4"), ("ticker", ">u4")])


def _in_hours(seconds: UInt64s) -> Int64s:
    """Ws as Wh, rounded half to even."""
    whole, rest = np.divmod(seconds, np.uint64(WS_OF_WH))
    half = np.uint64(WS_OF_WH // 2)
    up = (rest > half) | ((rest == half) & (whole & np.uint64(1) == 1))
    hours: Int64s = whole.astype(np.int64) + up
    return hours


@dataclass(frozen=True, slots=True)
class Alike:
    """Datagrams of one layout: which of a batch they are, ascending, and their octets."""

    layout: Layout
    rows: Int64s
    octets: Bytes


class Layouts:
    """The layouts that were seen last. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[int, list[Layout]] = {}

    def sort(self, datagrams: Datagrams, tally: Tally) -> Iterator[Alike]:
        """Those of a batch that can be read; each other one is counted in ``tally``."""
        lengths = datagrams.lengths
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            yield from self._sort(datagrams.octets, length, rows, tally)

    def _sort(self, octets: Bytes, length: int, rows: Int64s, tally: Tally) -> Iterator[Alike]:
        """Those of one length."""
        room = octets.shape[1]
        for layout in tuple(self._known.get(length, ())):
            if len(rows):
                fits = layout.fits(octets[rows])
                yield from _alike(layout, rows[fits], octets)
                rows = rows[~fits]
        tries = MOST_OF_A_LENGTH
        while len(rows):
            first, rows = rows[:1], rows[1:]
            # What does not fit into the row is longer than any datagram of the format.
            datagram = octets[first[0], : min(length, room)].tobytes()
            try:
                layout = Layout(datagram, walk(datagram))
            except RejectedError as rejected:
                tally.refuse(rejected.reason)
                continue
            if tries:
                tries -= 1
                self._remember(length, layout)
                fits = layout.fits(octets[rows])
                first, rows = np.concatenate([first, rows[fits]]), rows[~fits]
            yield from _alike(layout, first, octets)

    def _remember(self, length: int, layout: Layout) -> None:
        known = self._known.pop(length, [])
        if len(self._known) >= MOST_LENGTHS:
            del self._known[next(iter(self._known))]
        self._known[length] = [layout, *known[: MOST_OF_A_LENGTH - 1]]


def _alike(layout: Layout, rows: Int64s, octets: Bytes) -> Iterator[Alike]:
    if len(rows):
        yield Alike(layout, rows, octets[rows])
