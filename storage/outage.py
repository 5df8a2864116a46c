"""While the database's server is away: batches to the spool, then back in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from storage import postgresql
from storage.database import REFUSALS, Database, reason
from storage.engine import kept_number, place
from storage.handover import pack, unpack
from storage.spool import Spool
from telemetry.readings import Readings

log = logging.getLogger("writer")

_LOOK_EVERY = 0.5  # seconds between two looks whether the server is back
_SLICE = 0.1  # seconds of draining at a time, so that what arrives is not held up

Commit = Callable[[Readings, int], None]


class Spooling:
    """Keeps what a server that is away cannot commit. Belongs to the writer's thread."""

    def __init__(self, database: Database) -> None:
        """Open the spool; raises StorageError."""
        assert database.url is not None
        self._url = database.url
        self.spool = Spool(database.data, place(database))
        self.away = False
        self._back = threading.Event()
        self._closed = threading.Event()
        self._looking: threading.Thread | None = None

    def opened(self, connection: sa.Connection) -> None:
        """The database can be used: look what it has."""
        self.spool.opened(kept_number(connection, self.spool.key))

    def refused(self, error: Exception) -> None:
        """The database refused: leave it alone until it lets us in again."""
        log.error("the database is away, keeping readings in the spool: %s", self._said(error))
        self.away = True
        self._back.clear()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _said(self, error: Exception) -> str:
        return postgresql.without_password(reason(error), self._url)

    def _look(self) -> None:
        """Beside the writer's thread, since a server that is away may take seconds to ask."""
        while not self._closed.wait(_LOOK_EVERY):
            if postgresql.can_be_used(self._url):
                self._back.set()
                return

    def keep(self, readings: Readings, number: int, commit: Commit) -> None:
        """Make readings durable: in the database, or behind what waits in the spool.

        Raises SpoolFullError.
        """
        self.drain(commit)
        if not self.away and not self.spool.waiting:
            try:
                commit(readings, number)
                return
            except REFUSALS as error:
                self.refused(error)
        if not self.spool.has(number):
            self.spool.append(number, pack(readings), len(readings))

    @property
    def draining(self) -> bool:
        """Whether there is something to drain now."""
        return bool(self.spool.waiting) and (not self.away or self._back.is_set())

    def drain(self, commit: Commit) -> None:
        """Commit some of what waits, if the server is back."""
        if self.away:
            if not self._back.is_set():
                return
            self.away = False
            log.info("the database is back, %d readings wait in the spool", self.spool.waiting)
        if not self.spool.waiting:
            return
        deadline = time.monotonic() + _SLICE
        while (first := self.spool.first()) is not None and time.monotonic() < deadline:
            number, body = first
            try:
                commit(unpack(body), number)
            except REFUSALS as error:
                self.refused(error)
                return
            self.spool.drained(number)
        if not self.spool.waiting:
            log.info("the spool is empty")

    def close(self) -> None:
        """Stop looking, close the spool."""
        self._closed.set()
        if self._looking is not None:
            self._looking.join()
        self.spool.close()
