"""Who gets in: whose unsigned datagrams a listener takes, and whose must be signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from telemetry.keys import KeyRing
from telemetry.meter_id import from_halves, to_name
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.networks import EVERY_METER as EVERY_METER
from telemetry.networks import EVERYWHERE as EVERYWHERE
from telemetry.networks import LOOPBACK as LOOPBACK
from telemetry.networks import network
from telemetry.readings import UInt64s

Mask = npt.NDArray[np.bool_]

MOST_NAMES = 4096  # long ids whose verdict is kept
MOST_JUDGED = 1 << 18  # meters whose verdict is kept; then all are judged again
_MAPPED = 0xFFFF  # an IPv4 address in IPv6's form is ::ffff:a.b.c.d
_MAPPED_BITS = 96
_HALF = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class _Block:
    """A network as the halves of its IPv6 form, which mapped IPv4 addresses have too."""

    mask: tuple[np.uint64, np.uint64]
    value: tuple[np.uint64, np.uint64]
    mapped: bool

    @classmethod
    def of(cls, text: str) -> _Block:
        found = network(text)
        base, bits = int(found.network_address), found.prefixlen
        if found.version == 4:
            base, bits = _MAPPED << 32 | base, bits + _MAPPED_BITS
        mask = (1 << 128) - (1 << (128 - bits))
        return cls(
            (np.uint64(mask >> 64), np.uint64(mask & _HALF)),
            (np.uint64(base >> 64), np.uint64(base & _HALF)),
            bits >= _MAPPED_BITS,
        )

    def holds(self, sources: UInt64s) -> Mask:
        high, low = sources[:, 0], sources[:, 1]
        inside: Mask = ((low & self.mask[1]) == self.value[1]) & (
            (high & self.mask[0]) == self.value[0]
        )
        if not self.mapped:  # ``::/0`` means IPv6, not what is IPv4 in truth
            inside &= (high != 0) | (low >> np.uint64(32) != _MAPPED)
        return inside


class Allowed:
    """The networks and the meters whose unsigned datagrams a listener takes.

    ``networks`` as ``network`` reads them; ``meters`` are patterns of ids with ``*``, ``?`` and
    ``[0-9]``. Not thread-safe.
    """

    def __init__(self, networks: Sequence[str], meters: Sequence[str] = EVERY_METER) -> None:
        self.networks, self.meters = tuple(networks), tuple(meters)
        self._blocks = [_Block.of(text) for text in networks]
        self._anywhere = set(EVERYWHERE) <= set(networks)
        self._everyone = "*" in meters
        self._judged = MeterIndex()
        self._matches = lru_cache(MOST_NAMES)(self._fits)

    def takes(
        self, sources: UInt64s, high: UInt64s, low: UInt64s, names: Mapping[int, str] | None = None
    ) -> Mask:
        """Which of n unsigned datagrams are taken, by where they came from and whose they are.

        ``sources`` has shape (n, 2): the halves of the IPv6 form of the addresses. ``names`` are
        the ids, by row, of those whose octets do not tell them, which may fit a pattern, too.
        """
        taken = np.full(len(sources), self._anywhere)
        for block in self._blocks:
            if taken.all():
                break
            taken |= block.holds(sources)
        if not self._everyone:
            rows = np.flatnonzero(taken)
            near = taken.copy()
            taken[rows] = self._match(high[rows], low[rows])
            for row, name in (names or {}).items():
                taken[row] |= near[row] and self._matches(name)
        return taken

    def _fits(self, name: str) -> bool:
        return any(fnmatchcase(name, one) for one in self.meters)

    def _match(self, high: UInt64s, low: UInt64s) -> Mask:
        """Which meters' ids match a pattern; each id is looked at once."""
        if len(self._judged) >= MOST_JUDGED:
            self._judged = MeterIndex()
        verdict = self._judged.find(high, low)
        new = verdict == UNKNOWN
        if new.any():
            pairs = np.unique(np.stack([high[new], low[new]], axis=1), axis=0)
            names = [to_name(from_halves(*pair)) for pair in pairs.tolist()]
            said = [self._fits(name) for name in names]
            self._judged.add(pairs[:, 0], pairs[:, 1], np.array(said, np.int64))
            verdict = self._judged.find(high, low)
        matching: Mask = verdict == 1
        return matching


@dataclass(slots=True)
class Gate:
    """What a listener takes: signed datagrams by the ring's keys, unsigned ones as allowed.

    ``ring`` may be replaced between batches.
    """

    allowed: Allowed
    ring: KeyRing
