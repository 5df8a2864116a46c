"""Numbers of a few bits each, written one behind the other (docs/block-format.md, ``low``)."""

from __future__ import annotations

import numpy as np

from storage.journal import DamagedError
from telemetry.readings import Int64s, UInt64s

MOST_BITS = 48  # of a number: with those before it in its first octet it fits a word

_WORD = np.dtype("<u8")
_MASKS: UInt64s = (np.uint64(1) << np.arange(MOST_BITS + 1, dtype=np.uint64)) - np.uint64(1)


def pack(numbers: Int64s, widths: Int64s, firsts: Int64s) -> tuple[bytes, Int64s]:
    """The ``widths`` lowest bits of each number, and how many octets each meter's take.

    Shapes (n,); ``firsts``, of shape (m,), is where each meter's begin, each at a new octet.
    """
    lengths = (np.add.reduceat(widths, firsts) + 7) >> 3
    begins = _begins(widths, firsts, lengths)
    size = int(lengths.sum())
    words = np.zeros(size // _WORD.itemsize + 2, _WORD)
    masked = numbers.view(np.uint64) & _MASKS[widths]
    word, bit = begins >> 6, (begins & 63).astype(np.uint64)
    starts = np.flatnonzero(np.append(True, word[1:] != word[:-1]))
    words[word[starts]] = np.bitwise_or.reduceat(masked << bit, starts)
    over = np.flatnonzero((begins & 63) + widths > 64)
    words[word[over] + 1] |= masked[over] >> (np.uint64(64) - bit[over])
    return words.tobytes()[:size], lengths


def unpack(octets: bytes, widths: Int64s, firsts: Int64s, lengths: Int64s) -> Int64s:
    """The numbers; DamagedError where the octets of a meter are not as many as they need."""
    if (lengths != (np.add.reduceat(widths, firsts) + 7) >> 3).any():
        raise DamagedError("the block's low bits are not as many as the widths say")
    begins = _begins(widths, firsts, lengths)
    padded = octets + bytes(_WORD.itemsize)
    # A word from each octet on: a number's lies in the one from its first octet on.
    words = np.ndarray(len(octets) + 1, _WORD, padded, strides=(1,))
    numbers: UInt64s = words.take(begins >> 3)  # copies them to where words begin: much quicker
    numbers >>= (begins & 7).view(np.uint64)
    numbers &= _MASKS[widths]
    return numbers.view(np.int64)


def _begins(widths: Int64s, firsts: Int64s, lengths: Int64s) -> Int64s:
    """The bit with which each number begins."""
    begins = widths.cumsum() - widths
    if len(firsts) > 1:
        shift = 8 * (lengths.cumsum() - lengths) - begins[firsts]
        begins += np.repeat(shift, np.diff(firsts, append=len(widths)))
    return begins
