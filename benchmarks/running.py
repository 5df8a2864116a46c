"""How suites run: everybody in turns, round by round, each on a directory of its own."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks.peers import Peer, Wattbus
from benchmarks.peers.peer import GATHERS, NATIVE
from benchmarks.results import Figure

GROUP = ": "  # what a case begins with up to here is drawn on its own


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of figures; less is better of all but ``more``.

    ``picture``: drawn, in bars; ``log``: their axis is logarithmic.
    """

    name: str
    unit: str
    title: str
    picture: bool = False
    log: bool = False
    more: bool = False


class Case(Protocol):
    """What is measured at once; its label is a row of the tables."""

    @property
    def label(self) -> str:
        """A few words."""


Some = TypeVar("Some", bound=Case)


@dataclass
class Run:
    """One run of one suite: who takes part, how often, and what was found so far."""

    peers: Sequence[type[Peer]]
    rounds: int
    quick: bool = False
    long: bool = False
    notes: list[str] = field(default_factory=list)
    _values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def turns(
        self, cases: Sequence[Some], rounds: int | None = None
    ) -> Iterator[tuple[Some, type[Peer]]]:
        """Each case of each peer in each round; who is first changes from round to round."""
        rounds = rounds or self.rounds
        total, done, began = rounds * len(cases) * len(self.peers), 0, time.monotonic()
        for number in range(rounds):
            first = number % len(self.peers)
            order = [*self.peers[first:], *self.peers[:first]]
            for case in cases:
                for peer in order:
                    left = (time.monotonic() - began) / done * (total - done) if done else 0.0
                    self.say(f"[{done + 1}/{total}, {left / 60:.0f} min left] ", end="")
                    yield case, peer
                    done += 1

    @property
    def patience(self) -> float:
        """Seconds without work after which somebody who was filled has come to rest."""
        return 0.2 if self.quick else GATHERS

    def add(self, case: str, peer: str, figures: Mapping[str, float]) -> None:
        """Keep what a turn found, and show it."""
        for measure, value in figures.items():
            self._values.setdefault((case, measure, peer), []).append(value)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.say(f"{case}: {peer}: {shown}")

    def note(self, text: str) -> None:
        """Something that the figures do not say, for the document; the same only once."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)

    def say(self, text: str, end: str = "\n") -> None:
        """Show how far it is."""
        sys.stderr.write(text + end)
        sys.stderr.flush()

    @property
    def figures(self) -> list[Figure]:
        """All that was found, by case and measure in the order of the first round."""
        return [
            Figure(*key, [float(f"{one:.5g}") for one in values])
            for key, values in self._values.items()
        ]


@contextmanager
def started(peer: type[Peer], format: str = NATIVE) -> Iterator[Peer]:
    """A peer on a fresh directory, which is removed afterwards."""
    with directory() as path, start(peer, path, format) as one:
        yield one


def start(peer: type[Peer], path: Path, format: str = NATIVE) -> Peer:
    """A peer on a directory; who else's format is line protocol anyway."""
    return Wattbus(path, format) if peer is Wattbus else peer(path)  # type: ignore[call-arg]


@contextmanager
def directory() -> Iterator[Path]:
    """A directory of its own, on the disk of temporary files."""
    with tempfile.TemporaryDirectory(prefix="wattbus-bench-", ignore_cleanup_errors=True) as path:
        yield Path(path)
