"""The windows ahead of the database: of what waits in the spool, to answer meters meanwhile."""

from __future__ import annotations

import numpy as np

from storage.accounts import Accounts
from telemetry.datagrams import Envelopes
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.readings import Int64s
from telemetry.windows import Windows


class Ahead:
    """By slots of its own: meters that are not in the database yet have no number."""

    def __init__(self) -> None:
        self.windows = Windows.empty(0)
        self._index = MeterIndex()

    def slots(self, envelopes: Envelopes, meter: Int64s, accounts: Accounts) -> Int64s:
        """The slots of n datagrams' meters, of shape (n,); ``meter`` are their numbers, or -1.

        A meter that has none yet gets one, with the window that it has in the database.
        """
        high, low = envelopes.key_high, envelopes.key_low
        slots = self._index.find(high, low)
        unknown = np.flatnonzero(slots == UNKNOWN)
        if not len(unknown):
            return slots
        order = unknown[np.lexsort((low[unknown], high[unknown]))]
        new = np.ones(len(order), np.bool_)
        new[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
        rows = order[new]
        self._index.add(high[rows], low[rows], len(self.windows) + np.arange(len(rows)))
        known = (meter[rows] >= 0) & (meter[rows] < len(accounts))
        added = Windows.empty(len(rows))
        added.put(np.flatnonzero(known), accounts.windows.take(meter[rows][known]))
        self.windows = Windows.concatenate([self.windows, added])
        return self._index.find(high, low)
