"""The ledger and the windows of all meters (docs/delivery.md): judged at each commit, and kept.

Belongs to the writer's thread; what it says of a commit is true once that is made. A commit writes
one row to ``deliveries``, whatever its meters; ``step`` writes the rows of ``ledger`` from memory,
a slice at a time, and then drops the deliveries that are in them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from storage import accounts, deletion, deliveries, intake, loss, schema
from storage.accounts import DELETED, Accounts, Assessed
from storage.ahead import Ahead
from storage.database import Begin
from storage.deliveries import Delivery
from storage.judged import Judged, answers_of
from storage.order import by_meter
from storage.prepared import many
from telemetry import windows
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats.ack import ACK
from telemetry.readings import Int64s

_LEDGER, _DELIVERIES = schema.ledger, schema.deliveries
_EVERY = 60_000  # ms from one pass over the rows to the next
_RETRY = 1_000  # ms
_LARGE = 16 << 20  # octets of deliveries after which it does not wait so long
_SLICE_SECONDS = 0.02  # between two commits
_LEAST, _MOST = 50, 20_000  # rows in a slice
_OCTETS_A_SLICE = 1 << 20  # of deliveries that go at a time
_NAMES = ", ".join(column.name for column in _LEDGER.c)
_ADD = "INSERT INTO deliveries (id, committed_ms, body) VALUES (?, ?, ?)"
_WRITE = (
    f"INSERT INTO ledger ({_NAMES}) VALUES ({', '.join('?' * len(_LEDGER.c))}) "
    "ON CONFLICT (meter) DO UPDATE SET "
    + ", ".join(
        f"{column.name} = excluded.{column.name}" for column in _LEDGER.c if column.name != "meter"
    )
)


@dataclass(slots=True)
class _Pass:
    """Writing what has changed: of ``meters`` those from ``at`` on are still to be written."""

    meters: Int64s
    last: int  # all deliveries up to this one will be in the rows
    deleted: list[int]  # meters whose rows go at the end
    at: int = 0


class Ledger:
    """Windows and counts by meter number."""

    def __init__(self, begin: Begin, since_ms: int = 0) -> None:
        """``begin`` makes the writer's transactions for ``step``; ``learn`` comes first.

        Rows are written a while after ``since_ms`` for the first time.
        """
        self._begin = begin
        self._accounts = Accounts()
        self._intake = intake.Intake()
        self._ahead = Ahead()
        self._known = False
        self._pending: tuple[Assessed, int, int] | None = None  # with id, and octets
        self._kept: list[tuple[int, int]] = []  # ids and octets of deliveries in the table
        self._octets = 0  # of them
        self._deleted: set[int] = set()  # meters whose rows are to go
        self._pass: _Pass | None = None
        self._due_ms = since_ms + _EVERY  # when a pass may begin
        self._postponed_ms = 0
        self._slice = _LEAST

    def learn(self, connection: sa.Connection) -> None:
        """Read all that is kept; to be called before anything else, and after a refusal.

        Quick where nothing was committed but by us. What was judged and counted in a transaction
        of which nobody knows whether it was committed is known afterwards.
        """
        self._intake.learn(connection)
        newest = connection.execute(sa.select(sa.func.max(_DELIVERIES.c.id))).scalar() or 0
        if self._known and self._pending is not None and newest == self._pending[1]:
            self._apply()
        self._pending = None
        if not self._known or newest != self._accounts.last:
            self._read(connection, newest)

    def _read(self, connection: sa.Connection, newest: int) -> None:
        self._known = False
        self._accounts = accounts.load(connection)
        self._accounts.last = newest  # damaged or not
        sizes = sa.select(_DELIVERIES.c.id, sa.func.length(_DELIVERIES.c.body))
        self._kept = [(row[0], row[1]) for row in connection.execute(sizes.order_by("id"))]
        self._octets = sum(octets for _, octets in self._kept)
        hollow = sa.select(_LEDGER.c.meter).where(
            _LEDGER.c.meter != DELETED,
            _LEDGER.c.uniques + _LEDGER.c.duplicates + _LEDGER.c.stale == 0,
        )
        self._deleted, self._pass = set(connection.execute(hollow).scalars()), None
        for note in deletion.notes(connection).values():
            if self._accounts.of(note.meter).any():
                self.deleted(note.meter)
        self._known = True

    def judge(
        self,
        connection: sa.Connection | None,
        meter: Int64s,
        envelopes: Envelopes,
        newest_ms: Int64s,
        now_ms: int,
    ) -> Judged:
        """Judge datagrams in the order of arrival, and keep the verdict in this transaction.

        ``meter`` is the number and ``newest_ms`` the newest reading of each datagram, of shape
        (m,); ``now_ms`` is when they came, which is long ago where they come from the spool. Once a
        transaction.

        Without a connection nothing is kept: the verdict is for answering meters whose datagrams
        go to the spool, the whole batch, whatever ``stored`` says of it; ``meter`` may be -1 there
        for those without a number. Such verdicts follow each other until ``drained``. When the
        batch is drained, in the order of arrival, it is judged again with its connection: only
        then it counts, and only that verdict's ``stored`` is to be heeded. What was acknowledged
        is never left out then, since who follows the rules sends nothing that is far ahead of it.
        """
        uncounted = (envelopes.marks & Mark.UNCOUNTED) != 0
        if uncounted.any():
            own = np.flatnonzero(~uncounted)
            judged = self.judge(connection, meter[own], envelopes.take(own), newest_ms[own], now_ms)
            return judged.among(own, len(uncounted))
        if not len(meter):
            return Judged(np.empty(0, np.bool_), np.empty(0, ACK), np.empty(0, np.int64))
        slot = meter
        if connection is None:
            slot = self._ahead.slots(envelopes, meter, self._accounts)
        assert len(slot) <= deliveries.MOST
        place = slot.astype(np.uint32)
        order = by_meter(place)
        late = windows.late(newest_ms[order], now_ms)
        marks = envelopes.marks[order]
        delivery = Delivery(
            place[order],
            envelopes.epoch[order],
            envelopes.sequence[order],
            marks | (late * np.uint8(deliveries.LATE)),
        )
        if connection is None:
            assessed = accounts.assess(self._ahead.windows, delivery)
            self._ahead.windows.put(assessed.meter, assessed.windows)
        else:
            assessed = self._accounts.assess(delivery)
            self._keep(connection, delivery, assessed)
        return answers_of(envelopes, order, marks, assessed)

    def _keep(self, connection: sa.Connection, delivery: Delivery, assessed: Assessed) -> None:
        number = self._accounts.last + 1
        totals = self._accounts.totals + assessed.sums
        body = deliveries.encode(delivery, totals)
        many(connection, _ADD, [(number, _now(), body)])
        self._pending = assessed, number, len(body)

    def drained(self) -> None:
        """Nothing waits in the spool any more: all that was judged is committed."""
        self._ahead = Ahead()

    def count(self, connection: sa.Connection, counts: list[Counts]) -> None:
        """Keep what receivers counted, in this transaction."""
        self._intake.keep(connection, counts, _now())

    def committed(self) -> None:
        """What was judged and counted since the last call is durable."""
        self._intake.committed()
        if self._pending is not None:
            self._apply()

    def _apply(self) -> None:
        assert self._pending is not None
        assessed, number, octets = self._pending
        self._accounts.apply(assessed, number)
        self._kept.append((number, octets))
        self._octets += octets
        self._pending = None

    def deleted(self, number: int) -> None:
        """A meter was deleted."""
        self._accounts.delete(number)
        self._deleted.add(number)
        self._pass, self._due_ms = None, 0  # it would write one row without the other

    # Folding

    def step(self, now_ms: int) -> bool:
        """Fold what commits left behind into plain rows, a slice; whether there was any.

        Raises REFUSALS; the same slice is due again then.
        """
        if now_ms < self._postponed_ms:
            return False
        if self._pass is None:
            due = now_ms >= self._due_ms or self._octets > _LARGE
            if not due or not (self._deleted or self._accounts.changed.any()):
                return False
            self._pass = self._begin_pass()
            self._due_ms = now_ms + _EVERY
        if self._pass.at < len(self._pass.meters):
            self._write(self._pass)
        elif self._kept and self._kept[0][0] <= min(self._pass.last, self._accounts.last - 1):
            self._drop(self._pass)
        else:
            self._end(self._pass)
            self._pass = None
        return True

    def fold(self) -> None:
        """Fold all there is, at the end: first what is under way, then what came since."""
        self._postponed_ms = 0
        while self._pass is not None:
            self.step(0)
        self._due_ms = 0
        while self.step(0):
            pass

    def postpone(self, now_ms: int) -> None:
        """Try again a little later: the database refused."""
        self._postponed_ms = now_ms + _RETRY

    def _begin_pass(self) -> _Pass:
        changed = np.flatnonzero(self._accounts.changed)
        # What deleted meters had goes to that of all of them in one transaction: the first.
        first = np.array(sorted({DELETED, *self._deleted} if self._deleted else ()), np.int64)
        rest = np.setdiff1d(changed, first, assume_unique=True)
        return _Pass(np.concatenate([first, rest]), self._accounts.last, sorted(self._deleted))

    def _write(self, this: _Pass) -> None:
        began = time.perf_counter()
        size = self._slice if this.at else max(self._slice, len(this.deleted) + 1)
        numbers = this.meters[this.at : this.at + size]
        with self._begin() as connection:
            many(connection, _WRITE, self._accounts.rows(numbers))
        self._accounts.changed[numbers] = False
        this.at += len(numbers)
        pace = len(numbers) / max(1e-4, time.perf_counter() - began)
        self._slice = int(min(_MOST, max(_LEAST, pace * _SLICE_SECONDS)))

    def _drop(self, this: _Pass) -> None:
        """Drop deliveries that are in the rows; the newest has the totals and is dropped last."""
        sizes = np.cumsum([octets for _, octets in self._kept])
        some = self._kept[: max(1, int((sizes <= _OCTETS_A_SLICE).sum()))]
        ids = [row for row, _ in some if row <= min(this.last, self._accounts.last - 1)]
        with self._begin() as connection:
            connection.execute(_DELIVERIES.delete().where(_DELIVERIES.c.id <= ids[-1]))
        self._octets -= sum(octets for _, octets in self._kept[: len(ids)])
        del self._kept[: len(ids)]

    def _end(self, this: _Pass) -> None:
        """No delivery speaks of the deleted meters any more: their rows may go."""
        with self._begin() as connection:
            if self._accounts.last == this.last:
                emptied = deliveries.encode(Delivery.empty(), self._accounts.totals)
                newest = _DELIVERIES.update().where(_DELIVERIES.c.id == this.last)
                connection.execute(newest.values(body=emptied))
            rows = _LEDGER.delete().where(_LEDGER.c.meter == sa.bindparam("gone"))
            if this.deleted:
                connection.execute(rows, [{"gone": number} for number in this.deleted])
        self._deleted -= set(this.deleted)

    # Answers

    def status(self) -> dict[str, Any]:
        """Counts in all (docs/bus-protocol.md, LossTotals)."""
        return loss.totals(self._accounts.totals, self._intake.sums)

    def loss(self, body: bytes, now_ms: int) -> dict[str, Any]:
        """The answer to a question of the query service, loss.Question as JSON."""
        asked = loss.QUESTIONS.decode(body)
        all_: dict[str, Any] = {
            "as_of_ms": now_ms,
            "totals": self.status(),
            "listeners": loss.listeners(self._intake.sums),
        }
        if asked.number is None:
            found, more = self._accounts.worst(asked.most, asked.skip)
        else:
            found, more = [asked.number], False
        rows = [loss.meter(number, self._accounts.of(number)) for number in found]
        return all_ | {"meters": rows, "more": more}


def _now() -> int:
    return int(time.time() * 1000)
