"""What one commit takes: batches of receivers, as they came and as the spool keeps them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from storage import bare, batch_body
from storage.batch_body import Body
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes
from telemetry.meter_index import runs
from telemetry.readings import Int64s, Readings

RECEIVER = 16  # octets of a receiver's routing id
_HEAD = struct.Struct("<IIq")
_BATCH = struct.Struct(f"<{RECEIVER}sQI")
_NOBODY = bytes(RECEIVER)
_MOST_OF_ENVELOPE = 65_535


@dataclass(frozen=True, slots=True)
class Received:
    """A batch as a receiver handed it over."""

    receiver: bytes
    number: int
    octets: bytes
    body: Body


@dataclass(frozen=True)
class Group:
    """Batches in the order of their arrival; ``arrived_ms`` is when they were taken together."""

    arrived_ms: int
    batches: list[Received]

    @classmethod
    def of_nobody(cls, readings: Readings, arrived_ms: int) -> Group:
        """Readings of datagrams without numbers, from no receiver; not to be spooled."""
        body = Body.of(Envelopes.unnumbered(readings, envelope_starts(readings)), readings)
        return cls(arrived_ms, [Received(_NOBODY, 0, b"", body)])

    @cached_property
    def contents(self) -> Body:
        """All datagrams and all readings, in order."""
        return batch_body.together([batch.body for batch in self.batches])

    @property
    def readings(self) -> int:
        """How many readings there are."""
        return sum(len(batch.body) for batch in self.batches)

    @property
    def counts(self) -> list[Counts]:
        """What the receivers counted."""
        return [batch.body.counts for batch in self.batches if batch.body.counts is not None]

    def numbers(self) -> dict[bytes, int]:
        """The last number of each receiver."""
        return {batch.receiver: batch.number for batch in self.batches if batch.number}

    def new(self, committed: Callable[[bytes], int]) -> Group:
        """Without the batches that are committed, given each receiver's last such number."""
        new = [
            batch
            for batch in self.batches
            if not batch.number or batch.number > committed(batch.receiver)
        ]
        return self if len(new) == len(self.batches) else Group(self.arrived_ms, new)

    def by_receiver(
        self, acknowledgements: npt.NDArray[np.void], answers: Int64s
    ) -> dict[bytes, npt.NDArray[np.void]]:
        """The acknowledgements for each receiver's own datagrams, each once.

        ``answers``, of shape (m,), is the row of ``acknowledgements`` that answers each datagram of
        the group, -1 where none does.
        """
        found: dict[bytes, list[Int64s]] = {}
        if not len(acknowledgements):
            return {}
        at = 0
        for batch in self.batches:
            end = at + len(batch.body.envelopes)
            found.setdefault(batch.receiver, []).append(answers[at:end])
            at = end
        answered = {}
        for receiver, parts in found.items():
            rows = np.unique(np.concatenate(parts))
            answered[receiver] = acknowledgements[rows[rows >= 0]]
        return answered

    def pack(self) -> bytes:
        """The octets that the spool keeps (docs/spool-format.md)."""
        heads = [
            _BATCH.pack(batch.receiver, batch.number, len(batch.octets)) for batch in self.batches
        ]
        head = _HEAD.pack(self.readings, len(self.batches), self.arrived_ms)
        return b"".join([head, *heads, *(batch.octets for batch in self.batches)])

    @classmethod
    def unpack(cls, octets: bytes, version: int) -> Group:
        """What was kept by a spool of this version; ValueError where it is damaged."""
        return _OF_VERSION[version](octets)


def _of_1(octets: bytes) -> Group:
    """Bare readings: nobody knows any more from which datagrams they were, and when they came."""
    return Group.of_nobody(bare.unpack(octets), 0)


def _of_2(octets: bytes) -> Group:
    _, count, arrived_ms = _HEAD.unpack_from(octets)
    at = _HEAD.size + count * _BATCH.size
    batches = []
    for receiver, number, length in _BATCH.iter_unpack(octets[_HEAD.size : at]):
        own = octets[at : at + length]
        batches.append(Received(receiver, number, own, batch_body.unpack(own)))
        at += length
    return Group(arrived_ms, batches)


_OF_VERSION = {1: _of_1, 2: _of_2}


def envelope_starts(readings: Readings) -> npt.NDArray[np.intp]:
    """Where meters or epochs change, and often enough that an envelope can count its readings."""
    starts, _ = runs(readings.key_high, readings.key_low)
    begins = np.zeros(len(readings), np.bool_)
    begins[starts] = True
    begins[1:] |= readings.epoch[1:] != readings.epoch[:-1]
    begins[::_MOST_OF_ENVELOPE] = True
    return np.flatnonzero(begins)
