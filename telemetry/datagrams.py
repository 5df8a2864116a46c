"""What goes into a decoder and what comes out of it: datagrams as rows, readings, a tally."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from telemetry.readings import Bytes, Int64s, Readings
from telemetry.rejects import Reason


@dataclass(frozen=True, slots=True)
class Datagrams:
    """n datagrams in the order of arrival.

    ``octets`` has shape (n, room): each row starts with a datagram. ``lengths`` has shape (n,) and
    is what was sent, which may be more than the room; such a datagram is cut and must be refused.
    """

    octets: Bytes
    lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Int64s) -> Datagrams:
        """The datagrams of the given rows, in the order of the rows."""
        return Datagrams(self.octets[rows], self.lengths[rows])

    def each(self) -> list[bytes]:
        """The datagrams one by one, for formats that are not decoded in bulk."""
        return [
            row[:length].tobytes()
            for row, length in zip(self.octets, self.lengths.tolist(), strict=True)
        ]

    @classmethod
    def of(cls, datagrams: list[bytes]) -> Datagrams:
        """Rows of the given datagrams."""
        lengths = np.array([len(datagram) for datagram in datagrams], np.int64)
        octets = np.zeros((len(datagrams), max([64, *lengths])), np.uint8)
        for row, datagram in zip(octets, datagrams, strict=True):
            row[: len(datagram)] = np.frombuffer(datagram, np.uint8)
        return cls(octets, lengths)


@dataclass(slots=True)
class Tally:
    """How many datagrams were accepted, and how many refused for which reason."""

    accepted: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)

    def refuse(self, reason: Reason, count: int = 1) -> None:
        """Count refused datagrams."""
        if count:
            self.refused[reason] += count

    def add(self, other: Tally) -> None:
        """Count what another tally counted."""
        self.accepted += other.accepted
        self.refused.update(other.refused)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Readings in the order of arrival, and the tally of the datagrams they came in.

    ``rows``, of shape (len(readings),), names the datagram of each reading.
    """

    readings: Readings
    rows: Int64s
    tally: Tally

    @classmethod
    def nothing(cls, tally: Tally) -> Decoded:
        """No readings, only what was counted."""
        return cls(Readings.empty(), np.empty(0, np.int64), tally)

    @classmethod
    def merge(cls, parts: list[tuple[Decoded, Int64s]], tally: Tally) -> Decoded:
        """A batch decoded in parts, each with the rows of the batch it was; adds to ``tally``."""
        for part, _ in parts:
            tally.add(part.tally)
        found = [(part.readings, rows[part.rows]) for part, rows in parts if len(part.rows)]
        if not found:
            return cls.nothing(tally)
        if len(found) == 1:
            return cls(*found[0], tally)
        # Back to the order of arrival: of two values for one instant the later is the current one.
        rows = np.concatenate([rows for _, rows in found])
        order = np.argsort(rows, kind="stable")
        readings = Readings.concatenate([readings for readings, _ in found])
        return cls(readings.take(order), rows[order], tally)
