"""What the writer knows of the database by heart: who is numbered how, and what comes next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from storage import deletion, journal, meters, schema, watermark
from telemetry import meter_id
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.readings import Int64s, UInt64s
from telemetry.registers import ALERT_LIMIT


class NewMeters(NamedTuple):
    """Meters of a transaction that is still open; shape (n,) each."""

    high: UInt64s
    low: UInt64s
    number: Int64s


class Known:
    """Changes only with what is committed; ``load`` learns it anew."""

    def __init__(self) -> None:
        self.next = 0  # the journal's next row; 0: nothing is known yet
        self.next_meter = 1
        self.limits: dict[int, int] = {}  # what meters said of themselves, by number
        self._index = MeterIndex()

    def catch_up(self, connection: sa.Connection) -> bool:
        """Learn what is in the database if it is not what we know; whether it was not."""
        newest = connection.execute(sa.select(sa.func.max(schema.journal.c.id))).scalar() or 0
        following = 1 + max(newest, watermark.read(connection).sealed)
        if following == self.next:
            return False
        known = list(meters.numbered(connection))
        self._index = MeterIndex()
        if known:
            keys = np.frombuffer(b"".join(octets for _, octets, _ in known), np.uint64)
            numbers = np.array([number for number, *_ in known], np.int64)
            self._index.add(keys[0::2].copy(), keys[1::2].copy(), numbers)
        self.limits = {number: limit for number, _, limit in known if limit is not None}
        self.next_meter = 1 + max(
            deletion.highest(connection), *(number for number, *_ in known), 0
        )
        self.next = following
        return True

    def find(self, high: UInt64s, low: UInt64s) -> Int64s:
        """The numbers of meters, of shape (m,); -1 where there is none yet."""
        return self._index.find(high, low)

    def number(
        self, connection: sa.Connection, high: UInt64s, low: UInt64s, now: int
    ) -> tuple[Int64s, NewMeters]:
        """The numbers of meters, of shape (m,); new ones are added to the database."""
        numbers = self._index.find(high, low)
        unknown = numbers == UNKNOWN
        new_high, new_low = _distinct(high[unknown], low[unknown])
        first = self.next_meter
        new = NewMeters(new_high, new_low, np.arange(first, first + len(new_high)))
        if len(new_high):
            octets = np.stack([new_high, new_low], axis=1).tobytes()
            own = [octets[at : at + 16] for at in range(0, len(octets), 16)]
            meters.add_all(connection, first, own, now)
            trial = MeterIndex()
            trial.add(*new)
            numbers[unknown] = trial.find(high[unknown], low[unknown])
        return numbers, new

    def new_limits(self, connection: sa.Connection, batch: journal.Batch) -> dict[int, int]:
        """The limits that meters say they have, where they are news; kept in the registry."""
        rows = np.flatnonzero(batch.register == ALERT_LIMIT)
        said = dict(zip(batch.meter[rows].tolist(), batch.value[rows].tolist(), strict=True))
        news = {number: wh for number, wh in said.items() if self.limits.get(number) != wh}
        for number, limit in news.items():
            meters.report_limit(connection, number, limit)
        return news

    def committed(self, new: NewMeters, limits: dict[int, int], rows: int) -> None:
        """Only now is it true: we must not know what a transaction that failed had made.

        ``rows`` is how many rows of the journal it made.
        """
        self._index.add(*new)
        self.next_meter += len(new.number)
        self.next += rows
        self.limits.update(limits)

    def deleted(self, number: int) -> None:
        """A meter was deleted: if it sends again it is a new one."""
        self._index.remove(number)
        self.limits.pop(number, None)

    def registered(self, octets: bytes) -> None:
        """The next meter was registered by hand."""
        high, low = (np.array([half], np.uint64) for half in meter_id.halves(octets))
        self._index.add(high, low, np.array([self.next_meter], np.int64))
        self.next_meter += 1


def _distinct(high: UInt64s, low: UInt64s) -> tuple[UInt64s, UInt64s]:
    """Each pair once, in the order of their octets: so the tables' indices are filled in theirs."""
    order = np.lexsort((low.byteswap(), high.byteswap()))
    high, low = high[order], low[order]
    new = np.ones(len(high), np.bool_)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return high[new], low[new]
