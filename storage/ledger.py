"""The ledger and the windows of all meters (docs/delivery.md): judged at each commit, kept.

Belongs to the writer's thread; what it says of a commit is true once that is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from telemetry.counts import Counts
from telemetry.datagrams import Envelopes
from telemetry.formats.ack import ACK
from telemetry.readings import Int64s


@dataclass(frozen=True, slots=True)
class Judged:
    """What a commit's m datagrams turned out to be.

    ``stored``, of shape (m,), says whose readings are to be stored. ``acknowledgements``, of dtype
    ACK, has one row for each meter that wants one; ``answers``, of shape (m,), is the row of it
    that answers each datagram, -1 where none does.
    """

    stored: npt.NDArray[np.bool_]
    acknowledgements: npt.NDArray[np.void]
    answers: Int64s


class Ledger:
    """Windows and counts by meter number."""

    def learn(self, connection: sa.Connection) -> None:
        """Read all that is kept; to be called before anything else, and after a refusal."""

    def judge(
        self,
        connection: sa.Connection | None,
        row: int,
        meter: Int64s,
        envelopes: Envelopes,
        newest_ms: Int64s,
        now_ms: int,
    ) -> Judged:
        """Judge datagrams in the order of arrival, and keep the verdict in this transaction.

        ``row`` is the number of the journal's row that this commit makes; without readings it makes
        none, and the next commit comes with the same number. ``meter`` is the number and
        ``newest_ms`` the newest reading of each datagram, of shape (m,); ``now_ms`` is when they
        came, which is long ago where they come from the spool.

        Without a connection they have just gone to the spool, and nothing is kept: they will be
        judged again. ``meter`` is -1 there where it has no number yet. Such verdicts follow each
        other, from the committed windows on, until ``drained``.
        """
        count = len(meter)
        return Judged(np.ones(count, np.bool_), np.empty(0, ACK), np.full(count, -1, np.int64))

    def drained(self) -> None:
        """Nothing waits in the spool any more."""

    def count(self, connection: sa.Connection, counts: list[Counts]) -> None:
        """Keep what receivers counted, in this transaction."""

    def committed(self) -> None:
        """What was judged and counted since the last call is durable."""

    def step(self, now_ms: int) -> bool:
        """Fold what commits left behind into plain rows, a slice; whether there was any."""
        return False

    def deleted(self, number: int) -> None:
        """A meter was deleted."""

    def status(self) -> dict[str, Any]:
        """Counts in all, by listener, by reason."""
        return {}
