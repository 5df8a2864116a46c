"""Simulated power cuts: what was recorded, cut off at chosen moments, and looked at each time."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.delivery.disk import Disk, put
from tests.delivery.trace import Call

# Looks at a directory after a cut, told how many of the tellings came before it; what is wrong.
Check = Callable[[Path, int], list[str]]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A cut that did harm."""

    cut: int
    moment: int
    found: list[str]


def memory() -> Path | None:
    """Where files need no disk, if there is such a place: what a cut left is looked at there."""
    place = Path("/dev/shm")
    return place if place.is_dir() else None


def moments(
    calls: Sequence[Call], root: Path, tellings: Sequence[int], count: int, seed: int
) -> list[int]:
    """Seeded moments to cut at, rising: half while anything is done, half when somebody is told.

    ``tellings`` are lines of the trace, see ``gate.Told.at``.
    """
    chance = random.Random(seed)
    doing = [call.entered for call in calls if str(root) in call.arguments]
    found = [chance.randrange(2 * min(doing), 2 * max(doing)) for _ in range(count - count // 2)]
    found += [2 * chance.choice(tellings) for _ in range(count // 2)]
    return sorted(found)


def cut(
    calls: Sequence[Call],
    root: Path,
    tellings: Sequence[int],
    at: Sequence[int],
    work: Path,
    check: Check,
    seed: int | None = None,
) -> Iterator[Wrong]:
    """Cut at each moment, and check what is left in a directory below ``work``; what did harm.

    Every fourth cut leaves only what was synced, as all do without a seed; the others leave more,
    by chance.
    """
    disk, chance = Disk(calls, root), None if seed is None else random.Random(seed)
    for number, moment in enumerate(at):
        disk.advance(moment)
        image = disk.image(None if number % 4 == 0 else chance)
        before = sum(2 * line <= moment for line in tellings)
        place = work / f"cut-{number}"
        put(image, place)
        try:
            found = check(place, before)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        shutil.rmtree(place)
        if found:
            yield Wrong(number, moment, found)
