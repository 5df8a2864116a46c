"""Octets of lines, and the marks between their parts: newlines, spaces, commas, equal signs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from telemetry.formats.line_text import BOOLEANS
from telemetry.readings import Bytes, Int64s, UInt64s

BEHIND = 16  # octets that must stand after the last line
NEWLINE, SPACE, COMMA, EQUALS, ODD, QUOTE, RETURN = range(1, 8)
_CHARS = {
    "\n": NEWLINE,
    " ": SPACE,
    ",": COMMA,
    "=": EQUALS,
    '"': QUOTE,
    "\r": RETURN,
}


def _kinds() -> bytes:
    """By octet: 0 where it can only be part of a name or a value."""
    kinds = bytearray(256)
    for octet in (*range(0x20), ord("\\"), *range(0x7F, 0x100)):
        kinds[octet] = ODD
    for char, kind in _CHARS.items():
        kinds[ord(char)] = kind
    return bytes(kinds)


_KINDS = _kinds()
_MASKS: UInt64s = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)
_BOOLEANS = np.array([int.from_bytes(text, "little") for text in BOOLEANS], np.uint64)
_OPENS = np.isin(np.arange(8), [EQUALS])
_CLOSES = np.isin(np.arange(8), [COMMA, SPACE, RETURN, NEWLINE])


class Marks:
    """The octets of a batch, and where lines and the marks between their parts stand.

    ROOM newlines stand before them and BEHIND after; ``start`` and ``end`` are those of lines.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.octets: Bytes = np.frombuffer(text, np.uint8)
        kinds = np.frombuffer(text.translate(_KINDS), np.uint8)
        self.at = np.flatnonzero(kinds)
        self.kinds = kinds[self.at]
        self._count()
        self.end: Int64s = self.at[self.newline]
        self.start: Int64s = np.concatenate([[0], self.end[:-1] + 1])
        self.words: UInt64s = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))

    def _count(self) -> None:
        """Which marks are the lines'."""
        self.newline = np.flatnonzero(self.kinds == NEWLINE)
        self.first: Int64s = np.concatenate([[0], self.newline[:-1] + 1])
        self.count: Int64s = self.newline - self.first + 1

    def unquoted(self) -> Int64s:
        """Drops the marks of strings, and tells the lines with quotes that may be something else.

        Strings are known where quotes stand in pairs behind the tags, after an equal sign and
        before what ends a value, and where nothing in their line is escaped. Other quotes may hide
        ends of lines.
        """
        quote = np.flatnonzero(self.kinds == QUOTE)
        if not len(quote):
            return quote
        lines, first, count = np.unique(
            np.searchsorted(self.newline, quote), return_index=True, return_counts=True
        )
        opening = (np.arange(len(quote)) - np.repeat(first, count)) % 2 == 0
        beside = quote + np.where(opening, -1, 1)  # the mark that must be the string's neighbour
        near = np.abs(self.at[beside] - self.at[quote]) == 1
        fits = near & np.where(opening, _OPENS[self.kinds[beside]], _CLOSES[self.kinds[beside]])
        spaces, odd = (np.cumsum(self.kinds == kind) for kind in (SPACE, ODD))
        whole = np.logical_and.reduceat(fits, first) & (count % 2 == 0)
        before = self.first[lines] - 1
        whole &= self.at[before + 1] > self.start[lines]
        whole &= spaces[quote[first]] > spaces[before]
        whole &= odd[self.newline[lines]] == odd[before]
        string = np.repeat(whole, count)
        depth = np.zeros(len(self.at) + 1, np.int64)
        depth[quote[string & opening]] = 1
        depth[quote[string & ~opening] + 1] -= 1
        kept = np.cumsum(depth)[:-1] == 0
        self.at, self.kinds = self.at[kept], self.kinds[kept]
        self._count()
        unusual: Int64s = lines[~whole]
        return unusual

    def not_numbers(self, start: Int64s, end: Int64s) -> npt.NDArray[np.bool_]:
        """At which places strings or booleans stand."""
        boolean = np.isin(self.words[start] & _MASKS[np.minimum(end - start, 8)], _BOOLEANS)
        # Where a value starts with a quote, it is a string: marks of others are not dropped.
        found: npt.NDArray[np.bool_] = boolean | (self.octets[start] == ord('"'))
        return found

    def equal(self, start: Int64s, key: bytes) -> npt.NDArray[np.bool_]:
        """At which places ``key`` stands."""
        same = np.ones(len(start), np.bool_)
        for at in range(0, len(key), 8):
            part = key[at : at + 8]
            word = self.words[start + at] & _MASKS[len(part)]
            same &= word == np.uint64(int.from_bytes(part, "little"))
        return same
