"""Columns of whole numbers, kept short: each as what is above its least value."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_WIDTH_AND_LEAST = struct.Struct("<Bq")
_UNSIGNED = {0: "<u1", 1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


class DamagedError(ValueError):
    """Stored octets that are not what was written."""


def pack(columns: Iterable[npt.NDArray[Any]]) -> bytes:
    """Width and least value of each column, then the offsets of each."""
    widths, parts = [], []
    for column in columns:
        width, least, offsets = _shorten(column)
        widths.append(_WIDTH_AND_LEAST.pack(width, least))
        parts.append(offsets)
    return b"".join([*widths, *parts])


def _shorten(column: npt.NDArray[Any]) -> tuple[int, int, bytes]:
    """The octets an offset needs, the least value, and all values' offsets from it."""
    if not len(column):
        return 0, 0, b""
    least, most = int(column.min()), int(column.max())
    width = next(width for width in _UNSIGNED if most - least < 1 << 8 * width)
    if width == 0:
        return width, least, b""
    # Subtracted in so few octets it wraps, and so comes to the same in a fraction of the time.
    offsets = column.astype(_UNSIGNED[width])
    offsets -= np.int64(least).astype(_UNSIGNED[width])
    return width, least, offsets.tobytes()


def unpack(
    body: bytes, offset: int, count: int, types: Sequence[type[np.generic]]
) -> list[npt.NDArray[Any]]:
    """The columns of ``count`` rows that a body holds from an offset on; DamagedError."""
    start = offset + len(types) * _WIDTH_AND_LEAST.size
    if len(body) < start:
        raise DamagedError(f"a body of {len(body)} octets is too short for its columns")
    heads = list(_WIDTH_AND_LEAST.iter_unpack(body[offset:start]))
    if any(width not in _UNSIGNED for width, _ in heads):
        raise DamagedError("the body has offsets of a width that there is not")
    if len(body) != start + count * sum(width for width, _ in heads):
        raise DamagedError(f"the body of {count} rows has {len(body)} octets")
    columns = []
    for dtype, (width, least) in zip(types, heads, strict=True):
        limits = np.iinfo(np.dtype(dtype))
        if not limits.min <= least <= limits.max:
            raise DamagedError(f"the least value of a column is {least}")
        if width == 0:
            columns.append(np.full(count, least, dtype))
        else:
            column = np.frombuffer(body, _UNSIGNED[width], count, start).astype(dtype)
            column += np.array(least, dtype)
            columns.append(column)
        start += width * count
    return columns
