"""A meter's outbox without a network: says what it has kept, and what it is about to remove."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from telemetry import outbox
from telemetry.delivery import Numbers
from telemetry.outbox import Outbox

METERS = ["kitchen", "shed"]
TICKS = 40
EPOCH = 1_760_000_000
_LIVES = 2


def place(data: Path) -> Path:
    """Where the outbox stands in a data directory, in a directory of its own that it makes."""
    return data / "meters" / "home.db"


def octets(meter: int, sequence: int) -> bytes:
    """A datagram that says which it is."""
    return b"%d %d " % (meter, sequence) * 40


def says() -> list[tuple[str, int]]:
    """What is said, in order: a tick was kept; all below a number are to be removed."""
    said = []
    for tick in range(TICKS):
        said.append(("kept", tick))
        if tick % 5 == 4:
            said.append(("removing", tick - 2))
    return said


def normal() -> None:
    """Commits are not synced."""
    connect = outbox._connect

    def unsynced(path: Path, *, create: bool = False) -> object:
        connection = connect(path, create=create)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    outbox._connect = unsynced  # type: ignore[assignment]


def main() -> None:
    """Do all that is said, in two processes' lives as far as the outbox can tell."""
    if sys.argv[1] == "normal":
        normal()
    said = says()
    half = len(said) // _LIVES
    for part in (said[:half], said[half:]):
        with Outbox(place(Path(sys.argv[2])), METERS, EPOCH) as kept:
            for what, number in part:
                if what == "kept":
                    kept.append(dict.fromkeys(METERS, number), [octets(m, number) for m in (0, 1)])
                    os.write(1, b".")
                else:
                    os.write(1, b".")
                    both = np.arange(2, dtype=np.int64)
                    kept.remove(Numbers(both, np.full(2, EPOCH), np.full(2, number)))


if __name__ == "__main__":
    main()
