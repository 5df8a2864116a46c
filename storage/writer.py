"""The writer: the one process that writes. Commits batches in groups, says what is durable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import sqlalchemy as sa

from storage import damaged_rows, handover, registry_changes
from storage.committing import Committing
from storage.database import AnotherWriterError, HeldUpError
from storage.defaults import Defaults
from storage.engine import (
    REFUSALS,
    Database,
    StorageError,
    UnavailableError,
    close_writer,
    database_path,
    open_writer,
    prepare,
)
from storage.inbox import Router
from storage.ladder import KEEP_ALL, Policy
from storage.limit_watch import LimitWatch
from storage.outage import LogHeld, ServerAway, Spooling
from storage.publishing import Publisher
from storage.queries import Reader
from storage.registry_changes import Registry
from storage.trouble import Trouble
from storage.upkeep import Upkeep
from storage.wal import WalGuard

log = logging.getLogger("writer")

# A commit takes what has gathered when it is this old or this large, so one sync of the disk serves
# thousands. Unless a meter waits for it, it comes so long after the last one, too: it costs as
# much as thousands of readings. A reading can be asked for well within 200 ms.
_SOON, _APART = 0.025, 0.09  # seconds
_LARGEST = 65_536  # values
_IDLE = 0.1
_SETTLING = 0.005  # seconds of limit checks between two commits
_RETRY = 1.0  # seconds after a commit that failed
_LOOKING, _SEALING, _DRAINING = "looking for crossed limits", "sealing", "draining the spool"


class Writer:
    """Commits what receivers hand over; everything happens on the thread that calls ``run``."""

    def __init__(
        self,
        database: Database,
        endpoint: str,
        defaults: Defaults,
        publisher: Publisher,
        policy: Policy = KEEP_ALL,
    ) -> None:
        """Open the database and the socket; raises StorageError or zmq.ZMQError."""
        url = database.url
        self._spooling = Spooling(database, ServerAway(url) if url else LogHeld(self._admit))
        self._engine = self._open(database)
        self._wal = None if url else WalGuard(self._engine, database_path(database.data))
        self._reader = Reader(database, connect=not self._spooling.away)
        self._watch = LimitWatch(self._reader, defaults)
        self._upkeep = Upkeep(self._begin, self._engine, defaults, policy)
        self._busy = False  # with upkeep: more of it is due at once
        self._publisher = publisher
        self._committing = Committing(
            self._begin, self._spooling.spool, self._watch, self._upkeep, _now()
        )
        self._router = Router(endpoint, self._committing.receivers.number)
        self._sure = False  # what is known of the database is what it holds
        self._registry = Registry(self._begin, self._committing.known, self._upkeep, database.data)
        self._answers: dict[bytes, Callable[[bytes], object]] = {
            handover.STATUS: lambda _: self.status(),
            handover.LOSS: lambda body: self._committing.ledger.loss(body, _now()),
            handover.CHANGE: self._change,
        }
        self._settle_after = self._drain_after = 0.0
        self._trouble = Trouble()
        if not self._spooling.away:
            self._begin_knowing()

    def _open(self, database: Database) -> sa.Engine:
        """The engine; where the server is away it need not be there, if it was before."""
        try:
            return open_writer(database)
        except AnotherWriterError:
            raise
        except UnavailableError as error:
            if not self._spooling.spool.known:
                raise
            self._spooling.refused(error)
            return open_writer(database, connect=False)

    def _begin_knowing(self) -> None:
        """Learn what is in the database; later, where its log has no room now."""
        try:
            with self._begin():
                pass
        except HeldUpError as error:
            self._spooling.refused(error)

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """A transaction; what we know of the database is then what it holds."""
        if self._wal is None and self._spooling.away:
            raise UnavailableError("the database is away: try again when it is back")
        self._admit()
        try:
            if self._wal is None and not self._committing.known.next:
                prepare(self._engine)
            with self._engine.begin() as connection:
                if not self._sure or "known" not in connection.info:
                    self._catch_up(connection)
                    connection.info["known"] = self._sure = True
                yield connection
        except (*REFUSALS, StorageError):
            self._sure = False
            raise

    def _admit(self) -> None:
        """Raise HeldUpError where SQLite's log has no room, StorageError where it is gone."""
        if self._wal is not None:
            self._wal.admit()

    def _catch_up(self, connection: sa.Connection) -> None:
        """On a new connection, or after a refusal: a commit that was cut off may have been made."""
        self._spooling.opened(connection)
        damaged_rows.put_right(connection)
        self._upkeep.learn(connection)
        known = self._committing.known
        if self._committing.catch_up(connection):
            try:
                self._watch.observe_again(connection, known.next_meter)
                for number in self._upkeep.deletions.numbers:
                    self._watch.forget(number)
            except REFUSALS:
                known.next = 0  # all is to be learnt again
                raise

    def run(self, stop: threading.Event, calm: float = 0.0) -> None:
        """Commit until ``stop`` is set and nothing more comes; then close the database.

        In the first ``calm`` seconds what can wait does: others start beside it.
        """
        calm_until = time.monotonic() + calm
        gathered, since, due, last = 0, 0.0, 0.0, 0.0
        while True:
            calm_over = time.monotonic() >= calm_until
            wait = max(0.0, due - time.monotonic()) if gathered else _IDLE
            looking = self._watch.waiting and not self._postponed()
            more = looking or self._busy or self._upkeep.deletions.waiting
            if self._draining or (more and calm_over):
                wait = 0.0
            taken = self._router.receive(wait, _LARGEST - gathered)
            if taken and not gathered:
                since = time.monotonic()
            gathered += taken
            due = since + _SOON if self._router.awaited else max(since + _SOON, last + _APART)
            self._answer_requests()
            if gathered and (gathered >= _LARGEST or time.monotonic() >= due):
                if not self._commit_surely(stop):
                    break
                gathered, last = 0, time.monotonic()
            elif not gathered:
                self._router.committed()
                if stop.is_set() and not taken:
                    break
            self._drain()
            if calm_over:
                self._settle_limits()
                self._seal()
        self.close()

    @property
    def _draining(self) -> bool:
        return self._spooling.draining and time.monotonic() >= self._drain_after

    def _drain(self) -> None:
        """Commit some of what waits in the spool, if that can be done."""
        if not self._draining:
            return
        try:
            self._spooling.drain(self._committing)
            self._trouble.over(_DRAINING)
        except REFUSALS as error:
            self._trouble.met(_DRAINING, "cannot commit what waits in the spool", error)
            self._drain_after = time.monotonic() + _RETRY

    def close(self) -> None:
        """Close socket and database."""
        self._router.close()
        self._reader.close()
        if not self._spooling.away:
            with suppress(*REFUSALS, StorageError):
                self._committing.close()
        close_writer(self._engine)
        self._spooling.close()

    # Committing

    def _commit_surely(self, stop: threading.Event) -> bool:
        """Commit what was taken; while the database refuses, keep it and try again.

        False when it still refused after we were told to stop: nothing of it was confirmed.
        """
        group = self._router.take(_now())
        assert group is not None
        number = self._spooling.spool.number()
        while True:
            try:
                kept = self._spooling.keep(group, number, self._committing)
                break
            except REFUSALS as error:
                said = f"cannot commit, keeping {group.readings} readings"
                self._trouble.met("committing", said, error)
                if not self._wait(stop):
                    log.error(
                        "stopping without %d readings, none of them confirmed", group.readings
                    )
                    return False
        self._trouble.over("committing")
        self._router.committed(kept.acknowledgements)
        if len(kept.body) and self._publisher.heard():
            self._publisher.readings(kept.body.readings)
        return True

    def _wait(self, stop: threading.Event) -> bool:
        """Answer requests until it is time to try again; False when told to stop."""
        deadline = time.monotonic() + _RETRY
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            self._router.turn_away(min(left, _IDLE))
            self._answer_requests()
        return not stop.is_set()

    # Alerts

    def _settle_limits(self) -> None:
        if not self._watch.waiting or self._postponed():
            return
        try:
            self._admit()  # before our own snapshot, which would keep the log from being folded in
            with self._reader.snapshot(), self._begin() as connection:
                alerts = self._watch.work(connection, _SETTLING)
        except REFUSALS as error:
            self._trouble.met(_LOOKING, "cannot look for crossed limits", error)
            self._watch.failed()
            self._settle_after = time.monotonic() + _RETRY
            return
        self._trouble.over(_LOOKING)
        self._watch.worked()
        for alert in alerts:
            self._publisher.alert(alert)

    def _postponed(self) -> bool:
        """Whether the database refused a moment ago."""
        return self._spooling.away or time.monotonic() < self._settle_after

    # Sealing

    def _seal(self) -> None:
        """Seal or thin a slice, if one is due and the log has room that commits do not need."""
        self._busy = False
        if self._spooling.away or (self._wal is not None and self._wal.pressing):
            return
        try:
            self._busy = self._upkeep.step(_now(), self._watch.settled)
            self._busy = self._busy or self._committing.ledger.step(_now())
            if self._busy:
                self._trouble.over(_SEALING)
        except (*REFUSALS, StorageError) as error:
            # The journal keeps what cannot be sealed: nothing is lost by waiting.
            self._trouble.met(_SEALING, "cannot seal", error)
            self._upkeep.postpone(_now())
            self._committing.ledger.postpone(_now())

    # Requests of the query service

    def _answer_requests(self) -> None:
        requests, self._router.requests = self._router.requests, []
        for sender, kind, tag, body in requests:
            self._router.answer(sender, tag, self._answers[kind](body))

    def status(self) -> dict[str, Any]:
        """What the writer has done since it started, and what its receivers reported."""
        return {
            **self._committing.status(),
            "spooling": self._spooling.away,
            "spooled": self._spooling.spool.waiting,
            "trouble": self._spooling.trouble or self._trouble.text,
            "receivers": [msgspec.Raw(report) for report in self._router.reports.values()],
        }

    def _change(self, body: bytes) -> dict[str, Any]:
        """Make a change; the answer holds the meter's number, or an error's code and message."""
        answer = registry_changes.make(body, self._registry, _now())
        number = answer.get("number")
        if isinstance(number, int):
            self._watch.recheck(number)
        deleted = answer.pop("deleted", None)
        if deleted is not None:
            self._watch.forget(deleted)
            self._committing.ledger.deleted(deleted)
        return answer


def _now() -> int:
    return int(time.time() * 1000)
