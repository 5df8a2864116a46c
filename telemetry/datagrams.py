"""What goes into a decoder and what comes out of it: datagrams as rows, readings, a tally."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntFlag
from ipaddress import ip_address
from itertools import islice
from typing import Self

import numpy as np
import numpy.typing as npt

from telemetry.readings import Bytes, Int64s, Readings, UInt16s, UInt32s, UInt64s
from telemetry.rejects import Reason


@dataclass(frozen=True, slots=True)
class Datagrams:
    """n datagrams in the order of arrival.

    ``octets`` has shape (n, room): each row starts with a datagram. ``lengths`` has shape (n,) and
    is what was sent, which may be more than the room; such a datagram is cut and must be refused.
    ``sources`` has shape (n, 2): the halves of the addresses it came from, in their IPv6 form.
    """

    octets: Bytes
    lengths: npt.NDArray[np.int64]
    sources: UInt64s

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Int64s) -> Datagrams:
        """The datagrams of the given rows, in the order of the rows."""
        return Datagrams(self.octets[rows], self.lengths[rows], self.sources[rows])

    def each(self) -> list[bytes]:
        """The datagrams one by one, for formats that are not decoded in bulk."""
        return [
            row[:length].tobytes()
            for row, length in zip(self.octets, self.lengths.tolist(), strict=True)
        ]

    @classmethod
    def of(cls, datagrams: list[bytes], source: str = "127.0.0.1") -> Datagrams:
        """Rows of the given datagrams, all from one address."""
        lengths = np.array([len(datagram) for datagram in datagrams], np.int64)
        octets = np.zeros((len(datagrams), max([64, *lengths])), np.uint8)
        for row, datagram in zip(octets, datagrams, strict=True):
            row[: len(datagram)] = np.frombuffer(datagram, np.uint8)
        return cls(octets, lengths, np.tile(halves_of(source), (len(datagrams), 1)))


def halves_of(address: str) -> UInt64s:
    """The halves of the IPv6 form of an address, IPv4 or IPv6, in text form: shape (2,)."""
    found = ip_address(address)
    number = int(found) | (0xFFFF << 32 if found.version == 4 else 0)
    return np.array([number >> 64, number & (2**64 - 1)], np.uint64)


class Mark(IntFlag):
    """What is known of a datagram beside its readings (docs/handover.md)."""

    NUMBERED = 0x01  # epoch and sequence are the meter's
    ACKNOWLEDGE = 0x02  # the meter wants to know when it is durable
    SIGNED = 0x04
    UNCOUNTED = 0x08  # its datagram was counted before, or it is of a file: the ledger skips it


@dataclass(frozen=True, slots=True)
class Envelopes:
    """What datagrams were, beside their readings; every column has shape (m,).

    ``count`` is how many readings each brought; the readings of a batch stand in the order of its
    envelopes.
    """

    key_high: UInt64s
    key_low: UInt64s
    epoch: UInt32s
    sequence: UInt32s
    count: UInt16s
    marks: Bytes

    def __len__(self) -> int:
        return len(self.marks)

    def take(self, rows: Int64s) -> Envelopes:
        """The envelopes of the given rows, in the order of the rows."""
        return Envelopes(*(getattr(self, name)[rows] for name in ENVELOPE_COLUMNS))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """The envelopes of all parts, in the order of the parts."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts] or [np.empty(0)]).astype(
                dtype, copy=False
            )
            for name, dtype in ENVELOPE_COLUMNS.items()
        }
        return cls(**columns)

    @classmethod
    def unnumbered(cls, readings: Readings, starts: Int64s, marks: int = 0) -> Self:
        """Of readings whose datagrams, which had no numbers, start at the rows ``starts``."""
        count = np.diff(starts, append=len(readings))
        return cls(
            readings.key_high[starts],
            readings.key_low[starts],
            readings.epoch[starts],
            np.zeros(len(starts), np.uint32),
            count.astype(np.uint16),
            np.full(len(starts), marks, np.uint8),
        )


# The columns' types, in the order in which they travel.
ENVELOPE_COLUMNS: dict[str, type[np.generic]] = {
    "key_high": np.uint64,
    "key_low": np.uint64,
    "epoch": np.uint32,
    "sequence": np.uint32,
    "count": np.uint16,
    "marks": np.uint8,
}


MOST_NAMES = 1 << 16  # that wait to be told; the next reading of any other tells it again


@dataclass(slots=True)
class Tally:
    """How many datagrams were accepted, and how many refused for which reason.

    ``meters`` are those of the refused that named a meter that has a key: by the halves of the
    meter's octets and the reason. ``names`` are ids of accepted ones that do not fit into a
    meter's octets, so that somebody has to tell them.
    """

    accepted: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)
    meters: Counter[tuple[int, int, Reason]] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)

    def refuse(self, reason: Reason, count: int = 1) -> None:
        """Count refused datagrams."""
        if count:
            self.refused[reason] += count

    def add(self, other: Tally) -> None:
        """Count what another tally counted."""
        self.accepted += other.accepted
        self.refused.update(other.refused)
        self.meters.update(other.meters)
        self.names.update(islice(other.names, MOST_NAMES - len(self.names)))


@dataclass(frozen=True, slots=True)
class Decoded:
    """Readings in the order of arrival, the envelopes they came in, and the tally of all.

    ``rows``, of shape (len(envelopes),) and ascending, names the datagram of each envelope.
    """

    readings: Readings
    envelopes: Envelopes
    rows: Int64s
    tally: Tally

    @classmethod
    def nothing(cls, tally: Tally) -> Decoded:
        """No readings, only what was counted."""
        return cls(Readings.empty(), Envelopes.concatenate([]), np.empty(0, np.int64), tally)

    @classmethod
    def merge(cls, parts: list[tuple[Decoded, Int64s]], tally: Tally) -> Decoded:
        """A batch decoded in parts, each with the rows of the batch it was; adds to ``tally``."""
        for part, _ in parts:
            tally.add(part.tally)
        found = [(part, rows[part.rows]) for part, rows in parts if len(part.rows)]
        if not found:
            return cls.nothing(tally)
        if len(found) == 1:
            (part, rows) = found[0]
            return cls(part.readings, part.envelopes, rows, tally)
        # Back to the order of arrival: of two values for one instant the later is the current one.
        rows = np.concatenate([rows for _, rows in found])
        order = np.argsort(rows, kind="stable")
        envelopes = Envelopes.concatenate([part.envelopes for part, _ in found])
        of_reading = np.repeat(rows, envelopes.count)
        readings = Readings.concatenate([part.readings for part, _ in found])
        return cls(
            readings.take(np.argsort(of_reading, kind="stable")),
            envelopes.take(order),
            rows[order],
            tally,
        )
