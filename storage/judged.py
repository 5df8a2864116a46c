"""What the ledger says of the datagrams of a commit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.accounts import Assessed
from telemetry import windows
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats.ack import ACK
from telemetry.readings import Bytes, Int64s
from telemetry.windows import Verdict

_ASKED = np.uint8(Mark.NUMBERED | Mark.ACKNOWLEDGE)
_WINDOWED = np.uint8(Mark.SIGNED | Mark.ACKNOWLEDGE)


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

    def among(self, rows: Int64s, count: int) -> Judged:
        """The same of those rows of so many; the others are stored and answered by nobody."""
        stored, answers = np.ones(count, np.bool_), np.full(count, -1, np.int64)
        stored[rows], answers[rows] = self.stored, self.answers
        return Judged(stored, self.acknowledgements, answers)


def answers_of(envelopes: Envelopes, order: Int64s, marks: Bytes, assessed: Assessed) -> Judged:
    """What follows of the verdicts; ``order`` is that of the delivery, as are ``marks``."""
    count, now = len(order), assessed.windows
    answers = np.full(count, -1, np.int64)
    if not (marks & _WINDOWED).any():  # nobody asks, and nobody is held to numbers
        return Judged(np.ones(count, np.bool_), np.empty(0, ACK), answers)
    unique = assessed.verdict == Verdict.UNIQUE
    stored = np.empty(count, np.bool_)
    stored[order] = unique | (marks & _WINDOWED == 0)
    group = np.repeat(np.arange(len(now)), np.diff(assessed.starts, append=count))
    asking = (marks & _ASKED == _ASKED) & (assessed.verdict != Verdict.STALE)
    asking &= envelopes.epoch[order] == now.epoch[group]
    answered = np.zeros(len(now), np.bool_)
    answered[group[asking]] = True
    rows = np.cumsum(answered) - 1
    answers[order] = np.where(asking, rows[group], -1)
    found = np.empty(int(answered.sum()), ACK)
    first = order[assessed.starts][answered]
    found["key_high"], found["key_low"] = envelopes.key_high[first], envelopes.key_low[first]
    found["epoch"] = now.epoch[answered]
    found["next"], found["bitmap"] = windows.acknowledgements(now.take(np.flatnonzero(answered)))
    return Judged(stored, found, answers)
