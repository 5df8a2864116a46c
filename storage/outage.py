"""While the database takes nothing: batches to the spool, then back in order.

Of PostgreSQL that is while its server is away; of SQLite while a foreign reader keeps the log at
its limit. Any other refusal of SQLite's, a full disk above all, would hit the spool beside it too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

import sqlalchemy as sa

from storage import postgresql
from storage.database import REFUSALS, Database, HeldUpError, reason
from storage.engine import kept_number, place
from storage.group import Group
from storage.judged import Judged
from storage.kept import Kept
from storage.spool import Spool

log = logging.getLogger("writer")

_LOOK_EVERY = 0.5  # seconds between two looks whether the server is back
_SLICE = 0.1  # seconds of draining at a time, so that what arrives is not held up


class Commits(Protocol):
    """How groups get into the database."""

    def commit(self, group: Group, number: int) -> Kept:
        """Commit a group, which has this number of the spool, once."""

    def begin_ahead(self) -> bool:
        """The spool is empty: whether what it takes can be judged before it is drained."""

    def judge_ahead(self, group: Group) -> Judged:
        """Judge what the spool has just taken, as it will be judged once it is drained."""


class Cause(Protocol):
    """Why a database takes nothing for a while."""

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What a commit raises then."""

    @property
    def words(self) -> str:
        """What it is, for people."""

    def begun(self) -> None:
        """It began."""

    def over(self) -> bool:
        """Whether a commit may be tried again; does not take long."""

    def said(self, error: Exception) -> str:
        """What the database said, for people."""

    def close(self) -> None:
        """Look no more."""


class ServerAway:
    """PostgreSQL's server is away, or does not let us in."""

    refusals = REFUSALS
    words = "the database is away"

    def __init__(self, url: str) -> None:
        """``begun`` is to be called first."""
        self._url = url
        self._back = threading.Event()
        self._closed = threading.Event()
        self._looking: threading.Thread | None = None

    def begun(self) -> None:
        """Leave the server alone until it lets us in again."""
        self._back.clear()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _look(self) -> None:
        """Beside the writer's thread, since a server that is away may take seconds to ask."""
        while not self._closed.wait(_LOOK_EVERY):
            if postgresql.can_be_used(self._url):
                self._back.set()
                return

    def over(self) -> bool:
        """Whether the server let us in."""
        return self._back.is_set()

    def said(self, error: Exception) -> str:
        """Without the password."""
        return postgresql.without_password(reason(error), self._url)

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        if self._looking is not None:
            self._looking.join()


class LogHeld:
    """SQLite's log has no room."""

    refusals = (HeldUpError,)
    words = "the database is held up"

    def __init__(self, admit: Callable[[], None]) -> None:
        """``admit`` raises HeldUpError as long as there is no room."""
        self._admit = admit

    def begun(self) -> None:
        """Nothing to prepare: asking is cheap."""

    def over(self) -> bool:
        """Whether there is room; on the writer's thread, since it may fold the log in."""
        try:
            self._admit()
        except HeldUpError:
            return False
        return True

    def said(self, error: Exception) -> str:
        """As it is."""
        return reason(error)

    def close(self) -> None:
        """Nothing to end."""


class Spooling:
    """Keeps what cannot be committed for now. Belongs to the writer's thread."""

    def __init__(self, database: Database, cause: Cause) -> None:
        """Open the spool; raises StorageError."""
        self.spool = Spool(database.data, place(database))
        self.away = False
        self.trouble: str | None = None  # while it is away: why
        self._cause = cause
        # Whether all that is in the spool was judged ahead. If not, since an earlier writer filled
        # it or the database was not seen yet, nothing is acknowledged until it is empty.
        self._ahead = False

    def opened(self, connection: sa.Connection) -> None:
        """The database can be used: look what it has."""
        self.spool.opened(kept_number(connection, self.spool.key))

    def refused(self, error: Exception) -> None:
        """The database refused: leave it alone until it can be used again."""
        said = f"{self._cause.words}, keeping readings in the spool: {self._cause.said(error)}"
        log.error("%s", said)
        self.away, self.trouble = True, said
        self._cause.begun()

    def keep(self, group: Group, number: int, commits: Commits) -> Kept:
        """Make a group durable: in the database, or behind what waits in the spool.

        Raises SpoolFullError, and refusals that are not the cause to spool.
        """
        self.drain(commits)
        if not self.away and self.spool.empty:
            try:
                return commits.commit(group, number)
            except self._cause.refusals as error:
                self.refused(error)
        if self.spool.has(number):  # by a commit that was cut off
            return Kept(group.contents, {})
        if self.spool.empty:
            self._ahead = commits.begin_ahead()
        self.spool.append(number, group.pack(), group.readings)
        return Kept.of(group, commits.judge_ahead(group) if self._ahead else None)

    @property
    def draining(self) -> bool:
        """Whether there is something to drain now."""
        return not self._still_away() and not self.spool.empty

    def _still_away(self) -> bool:
        if self.away and self._cause.over():
            self.away, self.trouble = False, None
            log.info("the database is back, %d readings wait in the spool", self.spool.waiting)
        return self.away

    def drain(self, commits: Commits) -> None:
        """Commit some of what waits, if the database is back; raises as ``keep`` does."""
        if not self.draining:
            return
        deadline = time.monotonic() + _SLICE
        while (first := self.spool.first()) is not None and time.monotonic() < deadline:
            number, body = first
            try:
                commits.commit(Group.unpack(body, self.spool.version), number)
            except self._cause.refusals as error:
                self.refused(error)
                return
            self.spool.drained(number)
        if self.spool.empty:
            log.info("the spool is empty")

    def close(self) -> None:
        """Stop looking, close the spool."""
        self._cause.close()
        self.spool.close()
