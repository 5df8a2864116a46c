"""Keeps SQLite's write-ahead log small, and within a limit whatever other programs do.

A log can only begin anew once no reader needs it. Our own never hold a snapshot for long; another
program may, for hours. Then the log grows with each commit, and at the limit commits have to wait.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import Engine

from storage.database import HeldUpError, StorageError
from storage.sqlite import identity

LIMIT = 256 * 2**20  # octets; the log never becomes larger
_ROOM = 64 * 2**20  # what the largest transaction may add
_PRESSING = 64 * 2**20  # from here on only commits are worth their room
_TIDY = 16 * 2**20  # storage/sqlite.py cuts the log to this each time it begins anew
_TIDY_EVERY = 1.0  # seconds
_WAIT_MS = 20  # for readers that are just at work


class WalGuard:
    """Belongs to the writer's thread, and looks at the log of its database before each write."""

    def __init__(self, engine: Engine, path: Path, limit: int = LIMIT) -> None:
        """Watch the log of the SQLite database at ``path``, which ``engine`` has open."""
        self._engine = engine
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._identity = identity(path)
        self._full = limit - min(_ROOM, limit // 4)
        self._pressing = min(_PRESSING, limit // 4)
        self._tidied = 0.0

    @property
    def octets(self) -> int:
        """The size of the log."""
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    @property
    def pressing(self) -> bool:
        """Whether work that can wait, sealing and retention, has to leave the room to commits."""
        return self.octets >= self._pressing

    def admit(self) -> None:
        """Ask before a transaction.

        Raises HeldUpError where the log has no room for it, StorageError where the database is
        no longer at its place, so that what is written would be lost.
        """
        if identity(self._path) != self._identity:
            raise StorageError(
                f"{self._path} was moved, removed or replaced while the writer had it open: "
                "what was not confirmed is kept; put it back, or begin with a new one"
            )
        octets = self.octets
        if octets > _TIDY and time.monotonic() - self._tidied >= _TIDY_EVERY:
            self._tidied = time.monotonic()
            with suppress(sqlite3.OperationalError):  # the commit itself may still find room
                self.fold()
            octets = self.octets
        if octets >= self._full:
            raise HeldUpError(
                f"another program has been reading the database for so long that its log has "
                f"{octets / 2**20:.0f} MiB: end it (`fuser {self._path}` names it)"
            )

    def fold(self) -> None:
        """Move the log into the database and begin it anew, as far as readers let us."""
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            (patience,) = cursor.execute("PRAGMA busy_timeout").fetchone()
            cursor.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {patience}")
                cursor.close()
        finally:
            connection.close()
