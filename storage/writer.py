"""The writer: the one process that writes. Commits batches in groups, says what is durable."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from storage import handover, journal, meters, schema
from storage.changes import Change, ChangeRefusedError, DeleteMeter, ReplaceMeter, check
from storage.database import AnotherWriterError
from storage.defaults import Defaults
from storage.deletion import Deletions
from storage.engine import (
    REFUSALS,
    Database,
    StorageError,
    UnavailableError,
    close_writer,
    keep_number,
    kept_number,
    open_writer,
    prepare,
    reason,
)
from storage.inbox import Router
from storage.known import Known
from storage.ladder import KEEP_ALL, Policy
from storage.limit_watch import LimitAlert, LimitWatch
from storage.outage import Spooling
from storage.queries import Reader
from storage.retention import Retention
from storage.sealing import Sealer
from telemetry.readings import Readings

log = logging.getLogger("writer")

# A commit takes what has gathered when it is this old or this large: a reading can be asked for
# well within 200 ms, and one sync of the disk serves thousands.
OLDEST = 0.05  # seconds
_LARGEST = 65_536  # values
_IDLE = 0.1
_SETTLING = 0.005  # seconds of limit checks between two commits
_RETRY = 1.0  # seconds after a commit that failed
_CHANGES: msgspec.json.Decoder[Change] = msgspec.json.Decoder(Change)


class Publisher(Protocol):
    """Where committed readings and alerts go live; called from the writer's thread."""

    def readings(self, readings: Readings) -> None:
        """Readings that have just become durable, in the order of their arrival."""

    def alert(self, alert: LimitAlert) -> None:
        """An alert that has just been stored."""


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
        self._spooling = Spooling(database) if database.url else None
        self._engine = self._open(database)
        self._reader = Reader(database, connect=not self._away)
        self._watch = LimitWatch(self._reader, defaults)
        self._sealer = Sealer(self._begin, defaults)
        self._retention = Retention(self._begin, policy, defaults, self._sealer.look_again)
        self._deletions = Deletions(self._begin, self._engine)
        self._busy = False  # sealing: more of it is due at once
        self._publisher = publisher
        self._router = Router(endpoint)
        self._known, self._sure = Known(), False
        self._started = _now()
        self._readings = self._commits = 0
        self._durations: deque[float] = deque(maxlen=100)
        self._settle_after = 0.0
        if not self._away:
            with self._begin():
                pass

    def _open(self, database: Database) -> sa.Engine:
        """The engine; where the server is away it need not be there, if it was before."""
        try:
            return open_writer(database)
        except AnotherWriterError:
            raise
        except UnavailableError as error:
            if self._spooling is None or not self._spooling.spool.known:
                raise
            self._spooling.refused(error)
            return open_writer(database, connect=False)

    @property
    def _away(self) -> bool:
        """Whether the database's server is away."""
        return self._spooling is not None and self._spooling.away

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """A transaction; what we know of the database is then what it holds."""
        try:
            if self._spooling is not None and not self._known.next:
                prepare(self._engine)
            with self._engine.begin() as connection:
                if not self._sure or "known" not in connection.info:
                    self._catch_up(connection)
                    connection.info["known"] = self._sure = True
                yield connection
        except REFUSALS:
            self._sure = False
            raise

    def _catch_up(self, connection: sa.Connection) -> None:
        """On a new connection, or after a refusal: a commit that was cut off may have been made."""
        if self._spooling is not None:
            self._spooling.opened(connection)
        self._sealer.learn(connection)
        self._deletions.learn(connection)
        if self._known.catch_up(connection):
            try:
                self._observe_again(connection)
            except REFUSALS:
                self._known.next = 0  # all is to be learnt again
                raise

    def run(self, stop: threading.Event) -> None:
        """Commit until ``stop`` is set and nothing more comes; then close the database."""
        gathered, since = 0, 0.0
        while True:
            wait = max(0.0, since + OLDEST - time.monotonic()) if gathered else _IDLE
            looking = self._watch.waiting and not self._postponed()
            if looking or self._busy or self._draining() or self._deletions.waiting:
                wait = 0.0
            taken = self._router.receive(wait, _LARGEST - gathered)
            if taken and not gathered:
                since = time.monotonic()
            gathered += taken
            self._answer_requests()
            if gathered and (gathered >= _LARGEST or time.monotonic() - since >= OLDEST):
                if not self._commit_surely(stop):
                    break
                gathered = 0
            elif not gathered:
                self._router.committed()
                if stop.is_set() and not taken:
                    break
            if self._spooling is not None:
                self._spooling.drain(self._commit)
            self._settle_limits()
            self._seal()
        self.close()

    def _draining(self) -> bool:
        return self._spooling is not None and self._spooling.draining

    def close(self) -> None:
        """Close socket and database."""
        self._router.close()
        self._reader.close()
        close_writer(self._engine)
        if self._spooling is not None:
            self._spooling.close()

    # Committing

    def _commit_surely(self, stop: threading.Event) -> bool:
        """Commit what was taken; while the database refuses, keep it and try again.

        False when it still refused after we were told to stop: nothing of it was confirmed.
        """
        readings = self._router.take()
        assert readings is not None
        number = 0 if self._spooling is None else self._spooling.spool.number()
        refused = False
        while True:
            try:
                if self._spooling is None:
                    self._commit(readings)
                else:
                    self._spooling.keep(readings, number, self._commit)
                break
            except REFUSALS as error:
                if not refused:
                    log.error(
                        "cannot commit, keeping %d readings: %s", len(readings), reason(error)
                    )
                refused = True
                self._answer_requests()
                if stop.is_set():
                    log.error("stopping without %d readings, none of them confirmed", len(readings))
                    return False
                time.sleep(_RETRY)
        if refused:
            log.info("committing again")
        self._router.committed()
        self._publisher.readings(readings)
        return True

    def _commit(self, readings: Readings, number: int = 0) -> None:
        """Commit a batch; one with a number, which may be spooled, only once."""
        began = time.perf_counter()
        now = _now()
        with self._begin() as connection:
            if self._spooling is not None:
                if self._spooling.spool.has(number):
                    return
                keep_number(connection, self._spooling.spool.key, number)
            numbers, new = self._known.number(connection, readings, now)
            batch = journal.sort(numbers, readings)
            connection.execute(
                schema.journal.insert().values(
                    id=self._known.next,
                    committed_ms=now,
                    first_ms=int(batch.time.min()),
                    last_ms=int(batch.time.max()),
                    readings=len(batch),
                    body=journal.encode(batch),
                )
            )
            limits = self._known.new_limits(connection, batch)
            if not self._watch.waiting:
                keep_number(connection, "settled", self._known.next - 1)
        self._known.committed(new, limits)
        self._sealer.committed(len(batch), now)
        self._watch.observe(batch, first_new=self._known.next_meter - len(new.number))
        for number in limits:
            self._watch.recheck(number)
        self._readings += len(batch)
        self._commits += 1
        self._durations.append(time.perf_counter() - began)

    # Alerts

    def _settle_limits(self) -> None:
        if not self._watch.waiting or self._postponed():
            return
        try:
            with self._reader.snapshot(), self._begin() as connection:
                alerts = self._watch.work(connection, _SETTLING)
        except REFUSALS as error:
            log.error("cannot look for crossed limits, trying again: %s", reason(error))
            self._watch.failed()
            self._settle_after = time.monotonic() + _RETRY
            return
        self._watch.worked()
        for alert in alerts:
            self._publisher.alert(alert)

    def _postponed(self) -> bool:
        """Whether the database refused a moment ago."""
        return self._away or time.monotonic() < self._settle_after

    def _observe_again(self, connection: sa.Connection) -> None:
        """Look at what was committed but not settled when the last writer ended."""
        settled = kept_number(connection, "settled")
        table = schema.journal
        rows = sa.select(table.c.id, table.c.body).where(table.c.id > settled)
        for number, body in connection.execute(rows.order_by(table.c.id)):
            try:
                batch = journal.decode(body)
            except journal.DamagedError as error:
                raise StorageError(f"row {number} of the journal is damaged: {error}") from None
            self._watch.observe(batch, first_new=self._known.next_meter)
        for number in self._deletions.numbers:
            self._watch.forget(number)

    # Sealing

    def _seal(self) -> None:
        """Seal or thin a slice, if one is due, once what was deleted is out of the way."""
        if self._away:
            return
        try:
            if self._deletions.work(_SETTLING):
                with self._begin() as connection:
                    self._sealer.learn(connection)
            self._busy = not self._deletions.removing and (
                self._sealer.step(_now()) or self._retention.step(_now())
            )
        except REFUSALS as error:
            # The journal keeps what cannot be sealed: nothing is lost by waiting.
            log.error("cannot seal, trying again: %s", reason(error))
            self._busy = False
            self._sealer.postpone(_now())
            self._retention.postpone(_now())

    # Requests of the query service

    def _answer_requests(self) -> None:
        requests, self._router.requests = self._router.requests, []
        for sender, kind, tag, body in requests:
            reply = self.status() if kind == handover.STATUS else self._change(body)
            self._router.answer(sender, tag, reply)

    def status(self) -> dict[str, Any]:
        """What the writer has done since it started, and what its receivers reported."""
        return {
            "started_ms": self._started,
            "readings": self._readings,
            "commits": self._commits,
            "commit_ms": 1000 * statistics.median(self._durations) if self._durations else 0.0,
            "spooling": self._away,
            "spooled": 0 if self._spooling is None else self._spooling.spool.waiting,
            "receivers": [msgspec.Raw(report) for report in self._router.reports.values()],
        }

    def _change(self, body: bytes) -> dict[str, Any]:
        """Make a change; the answer holds the meter's number, or an error's code and message."""
        try:
            wanted = _CHANGES.decode(body)
            check(wanted)
            if self._away:
                raise UnavailableError("the database is away: try again when it is back")
            if isinstance(wanted, DeleteMeter):
                return {"found": self._delete(wanted.id)}
            with self._begin() as connection:
                if isinstance(wanted, ReplaceMeter):
                    meter = meters.replace(connection, wanted)
                else:
                    meter = meters.change(connection, wanted, self._known.next_meter, _now())
        except (msgspec.MsgspecError, ChangeRefusedError) as error:
            code = getattr(error, "code", "bad_request")
            return {"error": {"code": code, "message": str(error)}}
        except REFUSALS as error:
            return {"error": {"code": "unavailable", "message": f"the database: {reason(error)}"}}
        if meter.number == self._known.next_meter:
            self._known.registered(meter.octets)
        self._watch.recheck(meter.number)
        return {"number": meter.number}

    def _delete(self, id: str) -> bool:
        """Whether there was such a meter; from here on there is none."""
        number = self._deletions.delete(id, self._known.next_meter - 1)
        if number is None:
            return False
        self._known.deleted(number)
        self._watch.forget(number)
        return True


def _now() -> int:
    return int(time.time() * 1000)
