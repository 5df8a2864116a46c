"""A-XDR (IEC 62056-6-2, IEC 61334-6): the data of COSEM objects, read from untrusted octets.

What is read is exact: raw integers, octets as they came. Depth and number of the parts are bounded.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from telemetry.rejects import Reason, RejectedError

DEEPEST = 8
MOST = 500  # parts of one message; the longest list known has 200


class Datum(NamedTuple):
    """A value and its type: ``u32``, ``octets``, … (``_NUMBERS``, ``_STRINGS``), or a container.

    Containers, ``array`` and ``structure``, hold a tuple of Datum, ``octets`` bytes, strings of
    text str, numbers int or float, ``null`` None.
    """

    type: str
    value: object


NULL = Datum("null", None)

_NUMBERS = {
    0x03: ("bool", ">B"),
    0x05: ("i32", ">i"),
    0x06: ("u32", ">I"),
    0x0D: ("bcd", ">B"),
    0x0F: ("i8", ">b"),
    0x10: ("i16", ">h"),
    0x11: ("u8", ">B"),
    0x12: ("u16", ">H"),
    0x14: ("i64", ">q"),
    0x15: ("u64", ">Q"),
    0x16: ("enum", ">B"),
    0x17: ("f32", ">f"),
    0x18: ("f64", ">d"),
}
NUMBERS = {tag: (name, struct.Struct(code)) for tag, (name, code) in _NUMBERS.items()}
_STRINGS = {0x09: "octets", 0x0A: "vstring", 0x0C: "utf8"}
_FIXED = {0x19: 12, 0x1A: 5, 0x1B: 4}  # date-time, date, time
_CONTAINERS = {0x01: "array", 0x02: "structure"}
_NULL, _BITS, _COMPACT, _DO_NOT_CARE = 0x00, 0x04, 0x13, 0xFF


def damaged() -> RejectedError:
    """What is raised where octets are missing, or say what cannot be."""
    return RejectedError(Reason.MALFORMED)


class Cursor:
    """A place in untrusted octets; every step raises ``damaged()`` rather than leave them."""

    __slots__ = ("at", "octets", "parts")

    def __init__(self, octets: bytes) -> None:
        self.octets, self.at, self.parts = octets, 0, 0

    def left(self) -> int:
        """How many octets are still to be read."""
        return len(self.octets) - self.at

    def take(self, count: int) -> bytes:
        """The next ``count`` octets."""
        end = self.at + count
        if end > len(self.octets):
            raise damaged()
        taken = self.octets[self.at : end]
        self.at = end
        return taken

    def unsigned(self, count: int) -> int:
        """A big-endian number of ``count`` octets."""
        return int.from_bytes(self.take(count))

    def octet(self) -> int:
        """The next octet."""
        at = self.at
        if at >= len(self.octets):
            raise damaged()
        self.at = at + 1
        return self.octets[at]

    def length(self) -> int:
        """A length as A-XDR writes it: one octet, or how many octets follow that tell it."""
        first = self.octet()
        if first < 0x80:
            return first
        if not 1 <= first & 0x7F <= 4:
            raise damaged()
        return self.unsigned(first & 0x7F)

    def datum(self, depth: int = 0) -> Datum:
        """The next value with its type."""
        return self._of(self.octet(), depth)

    def _of(self, tag: int, depth: int) -> Datum:
        """A value whose type ``tag`` has been read."""
        self.parts += 1
        if self.parts > MOST or depth > DEEPEST:
            raise damaged()
        if tag in (_NULL, _DO_NOT_CARE):
            return NULL
        if tag in NUMBERS:
            name, form = NUMBERS[tag]
            begin = self.at
            self.at = begin + form.size
            if self.at > len(self.octets):
                self.at = begin
                raise damaged()
            return Datum(name, form.unpack_from(self.octets, begin)[0])
        if tag in _STRINGS:
            return _string(_STRINGS[tag], self.take(self.length()))
        if tag in _CONTAINERS:
            count = self._count()
            return Datum(_CONTAINERS[tag], tuple([self.datum(depth + 1) for _ in range(count)]))
        if tag in _FIXED:
            return Datum("octets", self.take(_FIXED[tag]))
        if tag == _BITS:
            return Datum("bits", self.take((self.length() + 7) // 8))
        if tag == _COMPACT:
            return self._compact(depth)
        raise damaged()

    def _count(self) -> int:
        """A number of elements, of which each takes an octet at least."""
        count = self.length()
        if count > min(self.left(), MOST):
            raise damaged()
        return count

    def _compact(self, depth: int) -> Datum:
        """An array that tells the type of its elements once, and then only their contents."""
        begin = self.at
        self._skip_type(depth + 1)
        described = self.octets[begin : self.at]
        contents = Cursor(self.take(self.length()))
        contents.parts = self.parts
        found = []
        while contents.left():
            before = contents.at
            found.append(contents._content(Cursor(described), depth + 1))
            if contents.at == before:
                raise damaged()  # of nothing there would be endlessly many
        self.parts = contents.parts
        return Datum("array", tuple(found))

    def _skip_type(self, depth: int) -> None:
        """Go beyond a description of a type."""
        self.parts += 1
        if depth > DEEPEST or self.parts > MOST:
            raise damaged()
        tag = self.unsigned(1)
        if tag == 0x01:
            self.unsigned(2)
            self._skip_type(depth + 1)
        elif tag == 0x02:
            for _ in range(self._count()):
                self._skip_type(depth + 1)

    def _content(self, described: Cursor, depth: int) -> Datum:
        """A value of the type that ``described`` tells next, itself without its tag."""
        self.parts += 1
        if depth > DEEPEST or self.parts > MOST:
            raise damaged()
        tag = described.unsigned(1)
        if tag == 0x02:
            count = described.length()
            return Datum(
                "structure", tuple([self._content(described, depth + 1) for _ in range(count)])
            )
        if tag == 0x01:
            count, start = described.unsigned(2), described.at
            found = []
            for _ in range(count):
                described.at = start
                found.append(self._content(described, depth + 1))
            if not count:
                described._skip_type(depth + 1)
            return Datum("array", tuple(found))
        return self._of(tag, depth)


def _string(name: str, octets: bytes) -> Datum:
    """Text where the type says so and the octets are ASCII or UTF-8; else octets."""
    if name == "octets":
        return Datum(name, octets)
    try:
        return Datum(name, octets.decode())
    except UnicodeDecodeError:
        return Datum("octets", octets)
