"""Batches that say themselves what must be stored of them, handed over as a receiver does."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from storage.handover import Handover
from telemetry import meter_id
from telemetry.datagrams import Envelopes
from telemetry.readings import Readings
from telemetry.registers import ENERGY_IMPORT

START = 1_760_000_000_000  # 2025-10-09T08:53:20Z
STEP = 60_000
Stored = dict[str, list[tuple[int, int]]]  # instant and value, by meter

_METERS = [f"meter-{number}" for number in range(8)]
_HALVES = np.array([meter_id.halves(meter_id.to_octets(name)) for name in _METERS], np.uint64)


def batch(number: int, rounds: int = 1) -> Readings:
    """The readings of a batch: every meter's at ``rounds`` instants that no other batch has."""
    count = len(_METERS) * rounds
    instants = np.repeat(np.arange(rounds, dtype=np.int64) + number * rounds, len(_METERS))
    halves = np.tile(_HALVES, (rounds, 1))
    return Readings(
        halves[:, 0].copy(),
        halves[:, 1].copy(),
        np.ones(count, np.uint32),
        np.full(count, ENERGY_IMPORT, np.uint16),
        np.zeros(count, np.uint16),
        START + instants * STEP,
        instants * 7,
    )


def expected(numbers: Iterable[int], rounds: int = 1) -> Stored:
    """What is stored once these batches are."""
    instants = [n * rounds + part for n in sorted(numbers) for part in range(rounds)]
    return {name: [(START + at * STEP, 7 * at) for at in instants] for name in _METERS}


class Feeder:
    """Hands batches over to a writer: those after ``sent``, which others have handed over."""

    def __init__(self, endpoint: Path, rounds: int = 1, sent: int = 0) -> None:
        self._handover = Handover(f"ipc://{endpoint}", None)
        self.rounds = rounds
        self.sent = sent

    def hand(self, within: float = 0.0) -> None:
        """Hand the next batch over, and wait so long for it and all before it to be durable."""
        self.sent += 1
        readings = batch(self.sent, self.rounds)
        starts = np.arange(len(readings), dtype=np.int64)
        self._handover.put(Envelopes.unnumbered(readings, starts), readings)
        time.sleep(0.012)  # then it is old enough to leave as a batch of its own
        self._handover.tick()
        self.settle(within)

    def settle(self, within: float) -> None:
        """Wait until all is durable; without a time do not wait."""
        deadline = time.monotonic() + within
        while self._handover.undelivered and within:
            assert time.monotonic() < deadline, "not confirmed in time"
            self._handover.tick()
            time.sleep(0.001)

    def close(self) -> None:
        self._handover.close(0.0)
