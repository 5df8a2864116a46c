"""Spacing: of chatty senders one reading a slot, and nothing of any energy lost.

The rules are those of docs/formats.md, "Chatty senders"; they are in ``spacing_rules``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from telemetry.datagrams import Envelopes, Mark
from telemetry.meter_index import MeterIndex
from telemetry.readings import Int64s, Readings
from telemetry.registers import ALERT_LIMIT
from telemetry.spacing_rules import HOLDS, NEWEST, OPENED, SERIES, judge

MOST_SERIES = 1 << 17  # remembered, unless one batch brings more
_SILENT = 2  # intervals without a newer reading
_LEAST = 1 << 10  # room for series
_EXEMPT = np.uint8(Mark.ACKNOWLEDGE | Mark.UNCOUNTED)

Part = tuple[Envelopes, Readings]


class Spacing:
    """Thins what one listener takes, and holds back the newest reading of each energy."""

    def __init__(self, interval_ms: int, most: int = MOST_SERIES) -> None:
        """``interval_ms`` above 0; ``most`` series are remembered."""
        self._interval, self._most = interval_ms, most
        self._forget()

    def _forget(self) -> None:
        self._meters, self._numbers = MeterIndex(), MeterIndex()
        self._series = np.zeros(_LEAST, SERIES)

    def thin(self, envelopes: Envelopes, readings: Readings, now_ms: int) -> Part:
        """What is to be stored of a batch; before it what was held back and now is, too.

        All envelopes stay, some without readings. ``now_ms`` is when it came.
        """
        owner = np.repeat(np.arange(len(envelopes)), envelopes.count)
        thinned = (envelopes.marks & _EXEMPT == 0)[owner] & (readings.register != ALERT_LIMIT)
        rows = np.flatnonzero(thinned)
        if not len(rows):
            return envelopes, readings
        subject = readings.take(rows)
        parts = [self.rest()] if len(self._numbers) >= self._most else []
        own, group = np.unique(self._known(subject), return_inverse=True)
        judged = judge(self._series[own], group, subject, self._interval)
        self._series[own] = judged.series
        self._series["heard"][own[judged.came]] = now_ms
        passing = ~thinned
        passing[rows] = judged.stored
        count = np.bincount(owner[passing], minlength=len(envelopes)).astype(np.uint16)
        parts.append(_uncounted(judged.released))
        parts.append((replace(envelopes, count=count), readings.take(np.flatnonzero(passing))))
        return _joined([part for part in parts if len(part[0])])

    def overdue(self, now_ms: int) -> Part:
        """What is held back of series of which nothing newer came for long; it is forgotten."""
        silent = now_ms - self._series["heard"]
        # A clock that was set back must not hold anything for ever.
        over = (silent >= _SILENT * self._interval) | (silent < 0)
        numbers = np.flatnonzero(over & self._series["there"][:, OPENED])
        found = self._series[numbers]
        for name in ("there", "above_zero", "changes"):
            self._series[name][numbers] = 0
        return _uncounted(found[_holding(found)])

    def rest(self) -> Part:
        """All that is held back; everything is forgotten."""
        found = self._series
        self._forget()
        return _uncounted(found[_holding(found)])

    def _known(self, readings: Readings) -> Int64s:
        """The numbers of the readings' series; there is room for them all."""
        meters = self._meters.number(readings.key_high, readings.key_low)
        before = len(self._numbers)
        numbers = self._numbers.number(
            meters.astype(np.uint64), readings.register.astype(np.uint64)
        )
        more = len(self._numbers) - len(self._series)
        if more > 0:
            room = np.zeros(max(more, len(self._series)), SERIES)
            self._series = np.concatenate([self._series, room])
        new = np.flatnonzero(numbers >= before)
        for name in ("key_high", "key_low", "register"):
            self._series[name][numbers[new]] = getattr(readings, name)[new]
        return numbers


def _holding(series: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Whose newest reading is held back and will be stored."""
    held: npt.NDArray[np.bool_] = series["there"][:, NEWEST] & ~series["past"]["stored"][:, NEWEST]
    held &= HOLDS[series["register"]]
    return held


def _uncounted(series: npt.NDArray[np.void]) -> Part:
    """The newest readings of series, in envelopes that the ledger does not count."""
    newest = series["past"][:, NEWEST]
    keys = {name: series[name] for name in ("key_high", "key_low", "register")}
    own = {name: newest[name] for name in ("epoch", "status", "time", "value")}
    readings = Readings(**keys, **own)
    return Envelopes.unnumbered(readings, np.arange(len(readings)), Mark.UNCOUNTED), readings


def _joined(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    envelopes, readings = zip(*parts, strict=True)
    return Envelopes.concatenate(list(envelopes)), Readings.concatenate(list(readings))
