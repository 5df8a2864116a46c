"""A batch's body (docs/handover.md): datagrams, readings and counts on their way to the writer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from telemetry.counts import Counts
from telemetry.datagrams import ENVELOPE_COLUMNS, Envelopes, Mark
from telemetry.readings import COLUMNS, Int64s, Readings, UInt16s, spread

_HEAD = struct.Struct("<III")
# What a reading does not have of its datagram's envelope, in the order in which it travels.
_READING_COLUMNS = {name: COLUMNS[name] for name in ("register", "status", "time", "value")}
_MARKS = sum(Mark)
_COUNTS = msgspec.json.Decoder(Counts)


def _width(columns: dict[str, type[np.generic]]) -> int:
    return sum(np.dtype(dtype).itemsize for dtype in columns.values())


_ENVELOPE, _READING = _width(ENVELOPE_COLUMNS), _width(_READING_COLUMNS)


@dataclass(frozen=True, slots=True)
class Body:
    """m envelopes, their n readings in columns of shape (n,), and what was counted beside them."""

    envelopes: Envelopes
    register: UInt16s
    status: UInt16s
    time: Int64s
    value: Int64s
    counts: Counts | None

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def of(cls, envelopes: Envelopes, readings: Readings) -> Body:
        """Of readings that stand in the order of their envelopes; nothing was counted."""
        columns = {name: getattr(readings, name) for name in _READING_COLUMNS}
        return cls(envelopes, **columns, counts=None)

    @property
    def each(self) -> int:
        """How many readings every datagram brought, if they are as many of all, else 0."""
        counts = self.envelopes.count
        return int(counts[0]) if len(counts) and (counts == counts[0]).all() else 0

    @property
    def readings(self) -> Readings:
        """The readings with what the envelopes say of them."""
        envelopes = self.envelopes
        repeated = {
            name: spread(getattr(envelopes, name), envelopes.count)
            for name in ("key_high", "key_low", "epoch")
        }
        return Readings(**repeated, **{name: getattr(self, name) for name in _READING_COLUMNS})

    def of_datagrams(self, chosen: npt.NDArray[np.bool_]) -> Body:
        """Only what the chosen datagrams brought; ``chosen`` has shape (m,)."""
        rows = np.flatnonzero(np.repeat(chosen, self.envelopes.count))
        columns = {name: getattr(self, name)[rows] for name in _READING_COLUMNS}
        return Body(self.envelopes.take(np.flatnonzero(chosen)), **columns, counts=self.counts)


def pack(parts: Sequence[tuple[Envelopes, Readings]], counts: Counts | None = None) -> bytes:
    """The body of all parts, in their order; ValueError where readings lack their datagrams."""
    datagrams = sum(len(envelopes) for envelopes, _ in parts)
    readings = sum(len(part) for _, part in parts)
    said = b"" if counts is None else msgspec.json.encode(counts)
    columns = [
        getattr(envelopes, name).astype(dtype, copy=False).tobytes()
        for name, dtype in ENVELOPE_COLUMNS.items()
        for envelopes, _ in parts
    ]
    columns += [
        getattr(part, name).astype(dtype, copy=False).tobytes()
        for name, dtype in _READING_COLUMNS.items()
        for _, part in parts
    ]
    return b"".join([_HEAD.pack(datagrams, readings, len(said)), *columns, said])


def unpack(octets: bytes) -> Body:
    """A batch's body, as views of its octets; ValueError where it is none."""
    if len(octets) < _HEAD.size:
        raise ValueError(f"{len(octets)} octets are too short for a batch")
    datagrams, readings, length = _HEAD.unpack_from(octets)
    end = _HEAD.size + datagrams * _ENVELOPE + readings * _READING
    if len(octets) != end + length:
        raise ValueError(
            f"a batch of {datagrams} datagrams, {readings} readings and {length} octets of counts "
            f"has {len(octets)} octets"
        )
    middle = _HEAD.size + datagrams * _ENVELOPE
    envelopes = Envelopes(**_views(octets, ENVELOPE_COLUMNS, datagrams, _HEAD.size))
    if (brought := int(envelopes.count.sum(dtype=np.int64))) != readings:
        raise ValueError(f"a batch of {readings} readings has datagrams that brought {brought}")
    if (envelopes.marks & ~np.uint8(_MARKS)).any():
        raise ValueError("a batch has datagrams with unknown marks")
    columns = _views(octets, _READING_COLUMNS, readings, middle)
    return Body(envelopes, **columns, counts=_counts(octets[end:]))


def _views(
    octets: bytes, columns: dict[str, type[np.generic]], count: int, offset: int
) -> dict[str, npt.NDArray[Any]]:
    found = {}
    for name, dtype in columns.items():
        found[name] = np.frombuffer(octets, dtype, count, offset)
        offset += found[name].nbytes
    return found


def _counts(octets: bytes) -> Counts | None:
    try:
        return _COUNTS.decode(octets) if octets else None
    except msgspec.MsgspecError as error:
        raise ValueError(f"a batch's counts cannot be read: {error}") from None


def together(bodies: Sequence[Body]) -> Body:
    """All datagrams and readings in their order, without what was counted."""
    envelopes = Envelopes.concatenate([body.envelopes for body in bodies])
    columns = {
        name: np.concatenate([getattr(body, name) for body in bodies] or [np.empty(0, dtype)])
        for name, dtype in _READING_COLUMNS.items()
    }
    return Body(envelopes, **columns, counts=None)
