"""What receivers counted, by listener and by meter: added to the tables with each batch."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from storage import schema
from storage.prepared import many
from telemetry import meter_id
from telemetry.counts import Counts, ListenerCounts

_METERS, _SOCKETS = schema.meters.c, schema.sockets
_MOST_NUMBERS = 500  # in one statement
_MOST_SOCKETS = 1000  # more than any machine has at once; of older ones nobody will count on
_AROUND = 2**32

LISTENER = ("accepted", "kernel_drops", "back_pressure_drops")
_ADD_LISTENER = (
    "INSERT INTO listeners (listener, accepted, kernel_drops, back_pressure_drops) "
    "VALUES (?, ?, ?, ?) ON CONFLICT (listener) DO UPDATE SET "
    + ", ".join(f"{name} = listeners.{name} + excluded.{name}" for name in LISTENER)
)
_ADD = (
    "INSERT INTO {table} ({key}, reason, datagrams) VALUES (?, ?, ?) "
    "ON CONFLICT ({key}, reason) DO UPDATE SET datagrams = {table}.datagrams + excluded.datagrams"
)
_ADD_REFUSALS = _ADD.format(table="refusals", key="listener")
_ADD_REJECTIONS = _ADD.format(table="rejections", key="meter")
_KEEP_SOCKET = (
    "INSERT INTO sockets (socket, drops, seen_ms) VALUES (?, ?, ?) "
    "ON CONFLICT (socket) DO UPDATE SET drops = excluded.drops, seen_ms = excluded.seen_ms"
)


@dataclass(slots=True)
class Sums:
    """Counts by listener (LISTENER), and by listener and reason."""

    listeners: dict[str, Counter[str]] = field(default_factory=dict)
    refused: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add what another one has."""
        for mine, theirs in ((self.listeners, other.listeners), (self.refused, other.refused)):
            for listener, counts in theirs.items():
                mine.setdefault(listener, Counter()).update(counts)


class Intake:
    """Belongs to the writer's thread; what it says is what is committed."""

    def __init__(self) -> None:
        self.sums = Sums()
        self._sockets: OrderedDict[str, int] = OrderedDict()  # the longest unheard first
        self._pending = Sums()
        self._moved: dict[str, int] = {}  # sockets in the open transaction

    def learn(self, connection: sa.Connection) -> None:
        """Read what is kept; a transaction that is not committed is forgotten."""
        self.sums = read(connection)
        self._pending, self._moved = Sums(), {}
        query = sa.select(_SOCKETS.c.socket, _SOCKETS.c.drops).order_by(_SOCKETS.c.seen_ms)
        self._sockets = OrderedDict((row.socket, row.drops) for row in connection.execute(query))

    def keep(self, connection: sa.Connection, counts: list[Counts], now_ms: int) -> None:
        """Add counts to the tables, in the transaction that is open."""
        if not counts:
            return
        sums, rejected = Sums(), Counter[tuple[bytes, str]]()
        for each in counts:
            for listener in each.listeners:
                self._listener(sums, listener)
            for high, low, reason, count in each.meters:
                rejected[meter_id.from_halves(high, low), reason] += count
        many(
            connection,
            _ADD_LISTENER,
            [
                (listener, *(own[name] for name in LISTENER))
                for listener, own in sorted(sums.listeners.items())
            ],
        )
        many(
            connection,
            _ADD_REFUSALS,
            [
                (listener, reason, count)
                for listener, own in sorted(sums.refused.items())
                for reason, count in sorted(own.items())
            ],
        )
        many(
            connection,
            _KEEP_SOCKET,
            [(socket, drops, now_ms) for socket, drops in sorted(self._moved.items())],
        )
        numbers = _numbers(connection, sorted({octets for octets, _ in rejected}))
        many(
            connection,
            _ADD_REJECTIONS,
            sorted(
                (numbers[octets], reason, count)
                for (octets, reason), count in rejected.items()
                if octets in numbers
            ),
        )
        self._forget_sockets(connection)
        self._pending.add(sums)

    def _listener(self, sums: Sums, counted: ListenerCounts) -> None:
        own = sums.listeners.setdefault(counted.listener, Counter())
        own["accepted"] += counted.accepted
        own["back_pressure_drops"] += counted.back_pressure
        own["kernel_drops"] += self._dropped(counted) - counted.back_pressure
        sums.refused.setdefault(counted.listener, Counter()).update(counted.refused)

    def _dropped(self, counted: ListenerCounts) -> int:
        """How many datagrams the socket dropped since whoever counted it last."""
        if counted.socket is None or counted.drops is None:
            return counted.back_pressure
        before = self._moved.get(counted.socket, self._sockets.get(counted.socket))
        if before is None:
            dropped = counted.drops
        else:
            dropped = (counted.drops - before) % _AROUND
            # Who handed the socket on may speak after its heir, of an earlier moment.
            if dropped >= _AROUND // 2:
                return 0
        self._moved[counted.socket] = counted.drops
        return dropped

    def _forget_sockets(self, connection: sa.Connection) -> None:
        surplus = len(self._sockets.keys() | self._moved.keys()) - _MOST_SOCKETS
        if surplus > 0:
            oldest = [name for name in self._sockets if name not in self._moved][:surplus]
            connection.execute(_SOCKETS.delete().where(_SOCKETS.c.socket.in_(oldest)))
            for name in oldest:
                del self._sockets[name]

    def committed(self) -> None:
        """What was kept since the last call is durable."""
        self.sums.add(self._pending)
        for socket, drops in self._moved.items():
            self._sockets[socket] = drops
            self._sockets.move_to_end(socket)
        self._pending, self._moved = Sums(), {}


def read(connection: sa.Connection) -> Sums:
    """What the tables hold."""
    sums = Sums()
    for listener, *counts in connection.execute(sa.select(schema.listeners)):
        sums.listeners[listener] = Counter(dict(zip(LISTENER, counts, strict=True)))
    for listener, reason, count in connection.execute(sa.select(schema.refusals)):
        sums.refused.setdefault(listener, Counter())[reason] = count
    return sums


def rejected(connection: sa.Connection, number: int) -> dict[str, int]:
    """By reason, what named a meter and was refused."""
    table = schema.rejections.c
    query = sa.select(table.reason, table.datagrams).where(table.meter == number)
    return {row.reason: row.datagrams for row in connection.execute(query.order_by(table.reason))}


def _numbers(connection: sa.Connection, octets: list[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    query = sa.select(_METERS.octets, _METERS.number)
    for first in range(0, len(octets), _MOST_NUMBERS):
        some = octets[first : first + _MOST_NUMBERS]
        rows: Any = connection.execute(query.where(_METERS.octets.in_(some)))
        found |= {bytes(own): number for own, number in rows}
    return found
