"""Decimal numbers in text, many at once: eight digits a step, in 64-bit words, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telemetry.readings import Bytes, Int64s, UInt64s

ROOM = 24  # octets that must stand before the first number
MOST_DIGITS = 18  # of a number with a point or without; of a whole one 19
_U = np.uint64
POWERS: UInt64s = np.array([10**n for n in range(20)], np.uint64)
_TENS, _HIGH = _U(0x7676767676767676), _U(0x8080808080808080)
_LOW, _POINT, _ZEROS = _U(0x7F7F7F7F7F7F7F7F), _U(0x1E1E1E1E1E1E1E1E), 0x30
_QUADS = _U(0x000000FF000000FF)
_FIRST, _SECOND = _U(0x000F424000000064), _U(0x0000271000000001)


def _kept() -> UInt64s:
    """By length: the bits of the last octets of three words that belong to a number."""
    rows = [bytes(ROOM - n) + b"\xff" * n for n in range(ROOM + 1)]
    return np.frombuffer(b"".join(rows), "<u8").reshape(-1, 3).astype(np.uint64)


_KEPT = _kept()
_ASCII_ZEROS = _U(int.from_bytes(bytes([_ZEROS]) * 8, "little"))


@dataclass(frozen=True, slots=True)
class Numbers:
    """n numbers: ``digits`` without sign and point, ``places`` of them behind the point.

    ``good`` says which are numbers that could be read; ``whole`` which had no point.
    """

    digits: UInt64s
    places: Int64s
    negative: npt.NDArray[np.bool_]
    whole: npt.NDArray[np.bool_]
    good: npt.NDArray[np.bool_]


def numbers(octets: Bytes, start: Int64s, end: Int64s) -> Numbers:
    """The numbers from ``start`` up to ``end``: a sign perhaps, digits, among them one point."""
    negative = octets[start] == ord("-")
    length = end - start - negative
    fits = (length >= 1) & (length <= MOST_DIGITS + 1)
    length = np.where(fits, length, 1)
    used = -(-int(length.max(initial=1)) // 8)
    words = np.ndarray((len(octets) - ROOM + 1,), f"V{8 * used}", octets, strides=(1,))
    found = words[end - 8 * used].view("<u8").reshape(-1, used)
    kept = _KEPT[:, 3 - used :][length]
    found = ((found & kept) | (_ASCII_ZEROS & ~kept)) ^ _ASCII_ZEROS
    points = ~((found ^ _POINT) + _LOW) & _HIGH
    wrong = ((found + _TENS) & _HIGH) != points
    good = fits & ~wrong.any(axis=1)
    count = np.bitwise_count(points).sum(axis=1)
    good &= (count <= 1) & (length > count)
    whole = count == 0
    values = _eights(found & ~((points >> _U(7)) * _U(0xFF)))
    digits = values[:, 0]
    for word in range(1, used):
        digits = digits * POWERS[8] + values[:, word]
    places = np.zeros(len(digits), np.int64)
    if not whole.all():
        at = np.flatnonzero(~whole & good)
        places[at] = _behind(points[at])
        digits[at] = _closed(digits[at], places[at])
    return Numbers(digits, places, negative, whole, good)


def _eights(words: UInt64s) -> UInt64s:
    """What eight digits, an octet each, the first one lowest, amount to."""
    words = words * _U(10) + (words >> _U(8))
    first = (words & _QUADS) * _FIRST
    value: UInt64s = (first + ((words >> _U(16)) & _QUADS) * _SECOND) >> _U(32)
    return value


def _behind(points: UInt64s) -> Int64s:
    """How many octets follow the point; a row of words has a single one."""
    after = np.bitwise_count(_HIGH & ~(points | (points - _U(1)))).astype(np.int64)
    words = np.arange(points.shape[1])[::-1] * 8
    places: Int64s = np.where(points != 0, after + words, 0).sum(axis=1)
    return places


def _closed(digits: UInt64s, places: Int64s) -> UInt64s:
    """The digits without the nought that stands for the point."""
    before = digits // POWERS[places + 1]
    return before * POWERS[places] + (digits - before * POWERS[places + 1])


def scaled(digits: UInt64s, drop: Int64s, most: int) -> Int64s:
    """``digits / 10**drop``, halves to even, at most ``most``; ``drop`` is -18 to 18."""
    up, down = POWERS[np.maximum(-drop, 0)], POWERS[np.maximum(drop, 0)]
    whole = digits
    if (drop > 0).any():
        whole = digits // down
        rest, half = digits - whole * down, down >> _U(1)
        above = (rest > half) | ((rest == half) & ((whole & _U(1)) == 1))
        whole = whole + (above & (drop > 0))
    return np.where(whole > _U(most) // up, _U(most), whole * up).astype(np.int64)
