"""A commit: receivers' batches become a row of the journal, and verdicts on datagrams, once."""

from __future__ import annotations

import time
from functools import reduce
from typing import Any

import numpy as np
import sqlalchemy as sa

from storage import arrival, journal, meters
from storage.batch_body import Body
from storage.database import Begin
from storage.group import Group
from storage.info import keep_number
from storage.judged import Judged
from storage.kept import Kept
from storage.known import Known
from storage.ledger import Ledger
from storage.limit_watch import LimitWatch
from storage.prepared import many
from storage.receivers import Receivers
from storage.spool import Spool
from storage.tally import Tally
from storage.upkeep import Upkeep
from telemetry.readings import Int64s

_ADD_ROW = (
    "INSERT INTO journal (id, committed_ms, first_ms, last_ms, readings, body) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_FEW = 16  # readings in a datagram


class Committing:
    """What the writer knows of the database, and how a group gets into it. Of its one thread."""

    def __init__(
        self, begin: Begin, spool: Spool, watch: LimitWatch, upkeep: Upkeep, now_ms: int
    ) -> None:
        """``begin`` makes transactions in which ``catch_up`` was called when it was due."""
        self.known = Known()
        self.ledger = Ledger(begin, now_ms)
        self.receivers = Receivers(now_ms)
        self._tally = Tally(now_ms)
        self._begin, self._spool = begin, spool
        self._watch, self._upkeep = watch, upkeep

    def catch_up(self, connection: sa.Connection) -> bool:
        """Learn what is in the database; whether its readings are not those we knew of."""
        self.receivers.learn(connection)
        self.ledger.learn(connection)
        return self.known.catch_up(connection)

    def begin_ahead(self) -> bool:
        """The spool is empty: what it takes from now on can be judged ahead of the database.

        False while nothing is known of the database.
        """
        self.ledger.drained()
        return self.known.next > 0

    def judge_ahead(self, group: Group) -> Judged:
        """Judge what the spool has just taken, as it will be judged once it is drained."""
        body = group.contents
        numbers = self.known.find(body.envelopes.key_high, body.envelopes.key_low)
        newest = _newest(body, group.arrived_ms)
        return self.ledger.judge(None, numbers, body.envelopes, newest, group.arrived_ms)

    def status(self) -> dict[str, Any]:
        """What was committed, how quickly, and what was lost."""
        return {**self._tally.status(), "loss": self.ledger.status()}

    def commit(self, group: Group, number: int) -> Kept:
        """Commit a group, which may come from the spool, and of it no batch that is committed."""
        began = time.perf_counter()
        now = int(time.time() * 1000)
        with self._begin() as connection:
            if self._spool.has(number):
                return Kept(group.contents, {})
            keep_number(connection, self._spool.key, number)
            group = group.new(self.receivers.number)
            self.receivers.keep(connection, group.numbers(), now)
            body = group.contents
            envelopes = body.envelopes
            numbers, new = self.known.number(connection, envelopes.key_high, envelopes.key_low, now)
            judged = self.ledger.judge(
                connection,
                numbers,
                envelopes,
                _newest(body, group.arrived_ms),
                group.arrived_ms,
            )
            self.ledger.count(connection, group.counts)
            meters.name(connection, {name for counts in group.counts for name in counts.names})
            kept = Kept.of(group, judged)
            batch = arrival.sort(numbers[judged.stored].astype(np.uint32), kept.body)
            rows = self._add_row(connection, batch, now)
            limits = self.known.new_limits(connection, batch)
            self._watch.keep_settled(connection)
        self.receivers.committed()
        self.ledger.committed()
        row, first_new = self.known.next, self.known.next_meter
        self.known.committed(new, limits, rows)
        if rows:
            self._upkeep.sealer.committed(len(batch), now)
            self._watch.observe(batch, first_new, row)
        for meter in limits:
            self._watch.recheck(meter)
        self._tally.committed(len(batch), time.perf_counter() - began)
        return kept

    def close(self) -> None:
        """Leave to the next writer what it need not find out: it is to begin quickly."""
        self.ledger.fold()
        with self._begin() as connection:
            self._watch.keep_settled(connection)

    def _add_row(self, connection: sa.Connection, batch: journal.Batch, now: int) -> int:
        """Add the journal's row, if there is anything to be in it; how many that makes."""
        if not len(batch):
            return 0
        first, last = int(batch.time.min()), int(batch.time.max())
        row = (self.known.next, now, first, last, len(batch), journal.encode(batch))
        many(connection, _ADD_ROW, [row])
        return 1


def _newest(body: Body, otherwise: int) -> Int64s:
    """The newest reading of each datagram, or another instant of those without any."""
    counts, time = body.envelopes.count, body.time
    if 0 < body.each <= _FEW:
        return reduce(np.maximum, time.reshape(-1, body.each).T)
    ends = np.cumsum(counts, dtype=np.int64)
    starts = ends - counts
    newest = np.full(len(counts), otherwise)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return newest
    most = int(counts.max())
    if most > _FEW:
        newest[filled] = np.maximum.reduceat(time, starts[filled])
        return newest
    newest[filled] = time[starts[filled]]
    for place in range(1, most):  # in a datagram: much quicker than reduceat for so few
        rows = np.flatnonzero(counts > place)
        newest[rows] = np.maximum(newest[rows], time[starts[rows] + place])
    return newest
