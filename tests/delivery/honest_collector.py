"""A small honest collector: the window of docs/delivery.md in plain Python, and a bad network.

It is written from the document, not from the code that it tests.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

WINDOW = 64
T = TypeVar("T")


@dataclass
class Window:
    """Of one meter: the newest epoch, its highest number, and which of 64 have come."""

    epoch: int
    highest: int
    come: set[int]

    def acknowledgement(self) -> tuple[int, int, int]:
        """Epoch, next and bitmap."""
        low = max(0, self.highest - WINDOW + 1)
        missing = next((n for n in range(low, self.highest + 1) if n not in self.come), None)
        if missing is None:
            return self.epoch, self.highest + 1, 0
        come = (n for n in range(missing + 1, self.highest + 1) if n in self.come)
        bits = sum(1 << (n - missing - 1) for n in come)
        return self.epoch, missing, bits


@dataclass
class HonestCollector:
    """Takes datagrams by (meter, epoch, sequence), stores what is unique, acknowledges."""

    windows: dict[Hashable, Window] = field(default_factory=dict)
    stored: dict[tuple[Hashable, int, int], object] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)

    def take(self, meter: Hashable, epoch: int, sequence: int, content: object) -> bool:
        """Whether it is to be acknowledged."""
        verdict = self._verdict(meter, epoch, sequence)
        self.verdicts[verdict] += 1
        if verdict == "unique":
            assert (meter, epoch, sequence) not in self.stored
            self.stored[meter, epoch, sequence] = content
        elif verdict == "duplicate":
            assert self.stored[meter, epoch, sequence] == content, "one number, two datagrams"
        return verdict != "stale"

    def _verdict(self, meter: Hashable, epoch: int, sequence: int) -> str:
        window = self.windows.get(meter)
        if window is None or epoch > window.epoch:
            self.windows[meter] = Window(epoch, sequence, {sequence})
            return "unique"
        if epoch < window.epoch or sequence <= window.highest - WINDOW:
            return "stale"
        if sequence in window.come:
            return "duplicate"
        window.highest = max(window.highest, sequence)
        window.come.add(sequence)
        if len(window.come) > 2 * WINDOW:
            window.come = {n for n in window.come if n > window.highest - WINDOW}
        return "unique"


class BadNetwork(Generic[T]):
    """One way: what is put in comes out later, in another order, twice, or not at all. Seeded."""

    def __init__(self, seed: int, *, loss: float, repeats: float, delay: float, jitter: float):
        self._random = random.Random(seed)
        self._loss, self._repeats, self._delay, self._jitter = loss, repeats, delay, jitter
        self._flying: list[tuple[float, int, T]] = []
        self._count = 0

    def put(self, now: float, thing: T) -> None:
        """Send it at this instant."""
        copies = 2 if self._random.random() < self._repeats else 1
        for _ in range(copies):
            if self._random.random() >= self._loss:
                self._count += 1
                at = now + self._delay + self._random.random() * self._jitter
                heapq.heappush(self._flying, (at, self._count, thing))

    def heal(self) -> None:
        """From now on nothing is lost."""
        self._loss = 0.0

    def out(self, now: float) -> list[T]:
        """What has arrived by now."""
        found = []
        while self._flying and self._flying[0][0] <= now:
            found.append(heapq.heappop(self._flying)[2])
        return found

    def next(self) -> float:
        """When the next one arrives; infinite if nothing is under way."""
        return self._flying[0][0] if self._flying else float("inf")
