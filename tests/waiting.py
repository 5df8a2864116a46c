"""How tests wait, and how they hold bounds in time, on a machine that does other things too.

What comes about by itself is waited for as a whole: what holds in one answer need not hold in
the next, and a part that holds says nothing of the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0  # seconds; a test may take twice that
_ATTEMPTS = 20


def wait_until(true: Callable[[], T], within: float = PATIENCE, pause: float = 0.01) -> T:
    """Ask until the answer is true in a condition; that answer."""
    deadline = time.monotonic() + within
    while not (found := true()):
        assert time.monotonic() < deadline, f"it did not become true in time: {found!r}"
        time.sleep(pause)
    return found


def undisturbed(bound: float, measure: Callable[[], float]) -> None:
    """Hold that something takes less than ``bound``, when nothing else takes the processors.

    What others take can lengthen each measurement, and nothing shortens one: the shortest of
    several counts.
    """
    took: list[float] = []
    while not took or took[-1] >= bound:
        assert len(took) < _ATTEMPTS, took
        took.append(measure())


def seconds(action: Callable[[], object]) -> float:
    """How long something takes by the clock on the wall."""
    began = time.monotonic()
    action()
    return time.monotonic() - began
