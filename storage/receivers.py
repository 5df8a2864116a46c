"""Which batches of each receiver are committed: the table ``receivers`` (docs/handover.md).

A batch's number is committed with it, so that a writer that was killed before it could confirm the
batch knows it again.
"""

from __future__ import annotations

import sqlalchemy as sa

from storage import schema
from storage.prepared import many

_TABLE = schema.receivers
_DAY = 86_400_000  # ms
# A receiver that has batches waiting sends one each second. Rows are removed by a writer that has
# run for a day: also after a month without a writer no row goes that is still needed.
_KEPT = 7 * _DAY
_UPDATE = "UPDATE receivers SET number = ?, seen_ms = ? WHERE id = ?"
_INSERT = "INSERT INTO receivers (number, seen_ms, id) VALUES (?, ?, ?)"


class Receivers:
    """Belongs to the writer's thread; changes only with what is committed."""

    def __init__(self, now_ms: int) -> None:
        """``learn`` has to be called before anything is kept."""
        self._numbers: dict[bytes, int] = {}
        self._kept: dict[bytes, int] = {}
        self._prune_after = now_ms + _DAY

    def learn(self, connection: sa.Connection) -> None:
        """Read what is committed."""
        rows = connection.execute(sa.select(_TABLE.c.id, _TABLE.c.number))
        self._numbers = {bytes.fromhex(own): number for own, number in rows}

    def number(self, receiver: bytes) -> int:
        """The last batch of a receiver that is known to be committed; 0: none."""
        return self._numbers.get(receiver, 0)

    def keep(self, connection: sa.Connection, numbers: dict[bytes, int], now_ms: int) -> None:
        """Keep the last number of each receiver, in this transaction."""
        if now_ms >= self._prune_after:
            self._prune_after = now_ms + _DAY
            connection.execute(_TABLE.delete().where(_TABLE.c.seen_ms < now_ms - _KEPT))
            self.learn(connection)
        rows: dict[str, list[tuple[int, int, str]]] = {_UPDATE: [], _INSERT: []}
        for receiver, number in numbers.items():
            statement = _UPDATE if receiver in self._numbers else _INSERT
            rows[statement].append((number, now_ms, receiver.hex()))
        for statement in rows:
            many(connection, statement, rows[statement])
        self._kept = numbers

    def committed(self) -> None:
        """What was kept last is durable."""
        self._numbers |= self._kept
