"""The writer: the one process that writes. Commits batches in groups, says what is durable."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import numpy as np
import sqlalchemy as sa

from storage import handover, journal, meters, schema
from storage.changes import Change, ChangeMeter, ChangeRefusedError, ReplaceMeter, check
from storage.defaults import Defaults
from storage.engine import (
    Database,
    close_writer,
    database_path,
    keep_number,
    kept_number,
    open_writer,
)
from storage.inbox import Router
from storage.limit_watch import LimitAlert, LimitWatch
from storage.meter_index import UNKNOWN, MeterIndex, runs
from storage.queries import Reader
from storage.trouble import REFUSALS, Trouble, plain
from storage.wal import WalGuard
from telemetry import meter_id
from telemetry.readings import Readings, UInt64s
from telemetry.registers import ALERT_LIMIT

log = logging.getLogger("writer")

# A commit takes what has gathered when it is this old or this large: a reading can be asked for
# well within 200 ms, and one sync of the disk serves thousands.
OLDEST = 0.05  # seconds
_LARGEST = 262_144  # readings
_IDLE = 0.1
_SETTLING = 0.005  # seconds of limit checks between two commits
_RETRY = 1.0  # seconds after a commit that failed
_LOOKING = "looking for crossed limits"
_CHANGES: msgspec.json.Decoder[Change] = msgspec.json.Decoder(ChangeMeter | ReplaceMeter)


class Publisher(Protocol):
    """Where committed readings and alerts go live; called from the writer's thread."""

    def readings(self, readings: Readings) -> None:
        """Readings that have just become durable, in the order of their arrival."""

    def alert(self, alert: LimitAlert) -> None:
        """An alert that has just been stored."""


class Writer:
    """Commits what receivers hand over; everything happens on the thread that calls ``run``."""

    def __init__(
        self, database: Database, endpoint: str, defaults: Defaults, publisher: Publisher
    ) -> None:
        """Open the database and the socket; raises StorageError or zmq.ZMQError."""
        self._engine = open_writer(database)
        self._reader = Reader(database)
        self._watch = LimitWatch(self._reader, defaults)
        self._publisher = publisher
        self._router = Router(endpoint)
        self._index = MeterIndex()
        self._limits: dict[int, int] = {}  # what meters said of themselves, by number
        self._started = _now()
        self._readings = self._commits = 0
        self._durations: deque[float] = deque(maxlen=100)
        self._settle_after = 0.0
        self._wal = WalGuard(self._engine, database_path(database.data))
        self._trouble = Trouble()
        self._load()
        self._observe_again()

    def _load(self) -> None:
        with self._engine.connect() as connection:
            known = list(meters.numbered(connection))
            newest = sa.select(sa.func.max(schema.journal.c.id))
            self._next = (connection.execute(newest).scalar() or 0) + 1
        if known:
            keys = np.frombuffer(b"".join(octets for _, octets, _ in known), np.uint64)
            numbers = np.array([number for number, *_ in known], np.int64)
            self._index.add(keys[0::2].copy(), keys[1::2].copy(), numbers)
        self._limits = {number: limit for number, _, limit in known if limit is not None}
        self._next_meter = 1 + max((number for number, *_ in known), default=0)

    def run(self, stop: threading.Event) -> None:
        """Commit until ``stop`` is set and nothing more comes; then close the database."""
        gathered, since = 0, 0.0
        while True:
            wait = max(0.0, since + OLDEST - time.monotonic()) if gathered else _IDLE
            if self._watch.waiting and not self._postponed():
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
            self._settle_limits()
        self.close()

    def close(self) -> None:
        """Close socket and database."""
        self._router.close()
        self._reader.close()
        close_writer(self._engine)

    # Committing

    def _commit_surely(self, stop: threading.Event) -> bool:
        """Commit what was taken; while the database refuses, keep it and try again.

        False when it still refused after we were told to stop: nothing of it was confirmed.
        """
        readings = self._router.take()
        assert readings is not None
        while True:
            try:
                self._commit(readings)
                break
            except REFUSALS as error:
                kept = f"cannot commit, keeping {len(readings)} readings"
                self._trouble.met("committing", kept, error)
                if not self._wait(stop):
                    log.error("stopping without %d readings, none of them confirmed", len(readings))
                    return False
        self._trouble.over("committing")
        self._router.committed()
        self._publisher.readings(readings)
        return True

    def _wait(self, stop: threading.Event) -> bool:
        """Answer requests until it is time to try again; False when told to stop."""
        deadline = time.monotonic() + _RETRY
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            self._router.turn_away(min(left, _IDLE))
            self._answer_requests()
        return not stop.is_set()

    def _commit(self, readings: Readings) -> None:
        self._wal.admit()
        began = time.perf_counter()
        now = _now()
        starts, lengths = runs(readings.key_high, readings.key_low)
        high, low = readings.key_high[starts], readings.key_low[starts]
        numbers = self._index.find(high, low)
        unknown = numbers == UNKNOWN
        first_new = self._next_meter
        new_high, new_low = _distinct(high[unknown], low[unknown])
        new_numbers = np.arange(first_new, first_new + len(new_high))
        with self._engine.begin() as connection:
            if len(new_high):
                octets = np.stack([new_high, new_low], axis=1).tobytes()
                own = [octets[at : at + 16] for at in range(0, len(octets), 16)]
                meters.add_all(connection, first_new, own, now)
                trial = MeterIndex()
                trial.add(new_high, new_low, new_numbers)
                numbers[unknown] = trial.find(high[unknown], low[unknown])
            batch = journal.sort(np.repeat(numbers, lengths).astype(np.uint32), readings)
            connection.execute(
                schema.journal.insert().values(
                    id=self._next,
                    committed_ms=now,
                    first_ms=int(batch.time.min()),
                    last_ms=int(batch.time.max()),
                    readings=len(batch),
                    body=journal.encode(batch),
                )
            )
            limits = self._new_limits(connection, batch)
            if not self._watch.waiting:
                keep_number(connection, "settled", self._next - 1)
        # Only now is it true: the index must not know meters of a transaction that failed.
        self._index.add(new_high, new_low, new_numbers)
        self._next_meter += len(new_high)
        self._next += 1
        self._limits.update(limits)
        self._watch.observe(batch, first_new)
        for number in limits:
            self._watch.recheck(number)
        self._readings += len(batch)
        self._commits += 1
        self._durations.append(time.perf_counter() - began)

    def _new_limits(self, connection: sa.Connection, batch: journal.Batch) -> dict[int, int]:
        """The limits that meters say they have, where they are news; kept in the registry."""
        rows = np.flatnonzero(batch.register == ALERT_LIMIT)
        said = dict(zip(batch.meter[rows].tolist(), batch.value[rows].tolist(), strict=True))
        news = {number: wh for number, wh in said.items() if self._limits.get(number) != wh}
        for number, limit in news.items():
            meters.report_limit(connection, number, limit)
        return news

    # Alerts

    def _settle_limits(self) -> None:
        if not self._watch.waiting or self._postponed():
            return
        try:
            self._wal.admit()
            with self._reader.snapshot(), self._engine.begin() as connection:
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
        return time.monotonic() < self._settle_after

    def _observe_again(self) -> None:
        """Look at what was committed but not settled when the last writer ended."""
        with self._engine.connect() as connection:
            settled = kept_number(connection, "settled")
            table = schema.journal
            rows = sa.select(table.c.id, table.c.body).where(table.c.id > settled)
            for _, body in connection.execute(rows.order_by(table.c.id)):
                with suppress(journal.DamagedError):  # the reader says so
                    self._watch.observe(journal.decode(body), first_new=self._next_meter)

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
            "trouble": self._trouble.text,
            "receivers": [msgspec.Raw(report) for report in self._router.reports.values()],
        }

    def _change(self, body: bytes) -> dict[str, Any]:
        """Make a change; the answer holds the meter's number, or an error's code and message."""
        try:
            wanted = _CHANGES.decode(body)
            check(wanted)
            self._wal.admit()
            with self._engine.begin() as connection:
                if isinstance(wanted, ReplaceMeter):
                    meter = meters.replace(connection, wanted)
                else:
                    meter = meters.change(connection, wanted, self._next_meter, _now())
        except (msgspec.MsgspecError, ChangeRefusedError) as error:
            code = getattr(error, "code", "bad_request")
            return {"error": {"code": code, "message": str(error)}}
        except REFUSALS as error:
            return {"error": {"code": "unavailable", "message": f"the database: {plain(error)}"}}
        if meter.number == self._next_meter:
            high, low = (np.array([half], np.uint64) for half in meter_id.halves(meter.octets))
            self._index.add(high, low, np.array([meter.number], np.int64))
            self._next_meter += 1
        self._watch.recheck(meter.number)
        return {"number": meter.number}


def _distinct(high: UInt64s, low: UInt64s) -> tuple[UInt64s, UInt64s]:
    """Each pair once."""
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    new = np.ones(len(high), np.bool_)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return high[new], low[new]


def _now() -> int:
    return int(time.time() * 1000)
