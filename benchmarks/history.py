"""Households' history for whoever is to be asked or filled: the same for everybody."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.datagrams import Chunk
from benchmarks.homes import STEP_MS, Homes
from benchmarks.peers import Peer

_EACH = 20  # readings a datagram


class History:
    """So many homes from an instant on, to be loaded part by part."""

    def __init__(self, meters: int, start_ms: int) -> None:
        self._homes, self._number = Homes(meters, start_ms), 0

    @property
    def newest_ms(self) -> int:
        """The instant of the newest reading so far."""
        return self._homes.next_ms - STEP_MS

    def load(self, peer: Peer, rounds: int) -> int:
        """Have them loaded by as many rounds more; how many readings these are."""
        count = 0
        for chunk in self.chunks(rounds):
            peer.load(chunk)
            count += chunk.readings
        peer.loaded()
        return count

    def chunks(self, rounds: int) -> Iterator[Chunk]:
        """A datagram of each home after another."""
        for done in range(0, rounds, _EACH):
            instants, energy, power = self._homes.rounds(min(_EACH, rounds - done))
            yield Chunk(0, self._number, instants, energy, power // 10)
            self._number += 1


def start_of(rounds: int) -> int:
    """The instant from which on so many rounds end about now."""
    return int(time.time() * 1000) // STEP_MS * STEP_MS - (rounds - 1) * STEP_MS
