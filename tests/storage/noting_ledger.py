"""The ledger, and what it was asked: with a connection or ahead of one, when, and what counted."""

from __future__ import annotations

import sqlalchemy as sa

from storage.judged import Judged
from storage.ledger import Ledger
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes
from telemetry.readings import Int64s


class NotingLedger(Ledger):
    """Notes each call, and does what the ledger does."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.calls: list[tuple[bool, int]] = []
        self.counted: list[Counts] = []

    def count(self, connection: sa.Connection, counts: list[Counts]) -> None:
        self.counted += counts
        super().count(connection, counts)

    def judge(
        self,
        connection: sa.Connection | None,
        meter: Int64s,
        envelopes: Envelopes,
        newest_ms: Int64s,
        now_ms: int,
    ) -> Judged:
        self.calls.append((connection is not None, now_ms))
        return super().judge(connection, meter, envelopes, newest_ms, now_ms)
