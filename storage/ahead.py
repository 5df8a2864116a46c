"""Judges what goes to the spool, before the database has it (docs/spool-format.md)."""

from __future__ import annotations

import copy

import numpy as np

from storage.group import Group
from storage.known import Known, distinct
from storage.ledger import Judged, Ledger
from telemetry.meter_index import UNKNOWN
from telemetry.readings import Int64s, UInt64s


class Ahead:
    """The windows as they will be once the spool is drained.

    Made when the spool is empty, it starts with what is committed, and is shown all that is
    spooled, in order. So it says of each datagram what the ledger will say when that is drained.
    Meters that are new get numbers of its own: nothing else sees them.
    """

    def __init__(self, known: Known, ledger: Ledger) -> None:
        """Copies: what is committed or changed meanwhile makes no difference here."""
        self._index = copy.deepcopy(known.index)
        self._next = known.next_meter
        self._windows = ledger.ahead()

    def judge(self, group: Group) -> Judged:
        """What has just been spooled."""
        envelopes, _ = group.contents
        return self._windows.judge(self._number(envelopes.key_high, envelopes.key_low), envelopes)

    def _number(self, high: UInt64s, low: UInt64s) -> Int64s:
        numbers = self._index.find(high, low)
        unknown = numbers == UNKNOWN
        if unknown.any():
            new_high, new_low = distinct(high[unknown], low[unknown])
            new = np.arange(self._next, self._next + len(new_high))
            self._index.add(new_high, new_low, new)
            self._next += len(new)
            numbers[unknown] = self._index.find(high[unknown], low[unknown])
        return numbers
