"""Starts a writer, or a whole collector, perhaps with a fault: what the proofs must see.

Faults are made here and never in the product: ``python -m tests.delivery.launch FAULT ...``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli import main, serve
from cli.child import Child
from storage import block_store, sealing, spool_segment, sqlite, wal, writer
from storage.defaults import Defaults
from storage.engine import Database
from storage.group import Group
from storage.kept import Kept
from storage.limit_watch import LimitAlert
from telemetry.datagrams import Tally
from telemetry.readings import Readings
from telemetry.rejects import Reason


class Nobody:
    """Nobody watches live."""

    def heard(self) -> bool:
        """Always, if there is anybody."""
        return True

    def readings(self, readings: Readings) -> None: ...

    def alert(self, alert: LimitAlert) -> None: ...


def sound() -> None:
    """As it is."""


def normal() -> None:
    """Commits are not synced: SQLite's ``synchronous=NORMAL``."""
    pragmas = sqlite._WRITER_PRAGMAS
    wrong = tuple(pragma.replace("= FULL", "= NORMAL") for pragma in pragmas)
    assert wrong != pragmas
    setattr(sqlite, "_WRITER_PRAGMAS", wrong)  # noqa: B010 - longer than the tuple's type says


def early(pause: float = 0.0) -> None:
    """What was taken is confirmed and acknowledged first, and committed then."""
    commit = writer.Writer._commit_surely

    def confirmed_first(self: writer.Writer, stop: threading.Event) -> bool:
        group = Group(0, list(self._router.batches))
        judged = self._committing.judge_ahead(group)
        self._router.committed(Kept.of(group, judged).acknowledgements)
        time.sleep(pause)
        return commit(self, stop)

    writer.Writer._commit_surely = confirmed_first  # type: ignore[method-assign]


def dawdling() -> None:
    """The same, but long enough before that a receiver has told meters by then."""
    early(pause=0.1)


def unsynced_spool() -> None:
    """What is spooled is not synced."""

    class System:
        """The module ``os``, whose fdatasync does nothing."""

        def __getattr__(self, name: str) -> Any:
            return (lambda _fd: None) if name == "fdatasync" else getattr(os, name)

    spool_segment.os = System()  # type: ignore[attr-defined, assignment]


def miscount() -> None:
    """Datagrams that are too short are refused without being counted."""
    refuse = Tally.refuse

    def forgetful(self: Tally, reason: Reason, count: int = 1) -> None:
        if reason != Reason.SHORT:
            refuse(self, reason, count)

    Tally.refuse = forgetful  # type: ignore[method-assign]


def small() -> None:
    """Seals, merges and folds its log in after few readings, and soon has no room in the log."""
    sealing._DUE_VALUES = 600
    sealing._SLICE = 200
    block_store._MERGE = 3
    pragmas = (*sqlite._WRITER_PRAGMAS, "PRAGMA wal_autocheckpoint = 40")
    setattr(sqlite, "_WRITER_PRAGMAS", pragmas)  # noqa: B010
    wal.WalGuard.__init__.__defaults__ = (1 << 20,)
    wal._TIDY, wal._TIDY_EVERY = 1 << 18, 0.1


FAULTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (sound, normal, early, dawdling, unsynced_spool, miscount, small)
}


def run_writer(data: Path, endpoint: str) -> None:
    """A writer until SIGTERM; says so when it is ready."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    part = writer.Writer(Database(data), endpoint, Defaults(), Nobody())
    print("ready", flush=True)
    part.run(stop)


def run_part(faults: str, words: list[str]) -> int:
    """A part of a collector, or all of it, whose parts have the faults too."""
    children = serve._children

    def faulty(*arguments: Any) -> dict[str, Child]:
        found = children(*arguments)
        for child in found.values():
            plain = child.command.index("cli")
            child.command[plain : plain + 1] = ["tests.delivery.launch", faults, "wattbus"]
        return found

    serve._children = faulty  # type: ignore[assignment]
    return main.main(words)


if __name__ == "__main__":
    wanted, what, *rest = sys.argv[1:]
    for name in wanted.split(","):
        FAULTS[name]()
    if what == "wattbus":
        sys.exit(run_part(wanted, rest))
    run_writer(Path(rest[0]), rest[1])
