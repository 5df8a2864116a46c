"""A ledger that judges datagrams one after the other, as docs/delivery.md says; on no disk.

What is held against it is the writer around a ledger: who is told what, when, and what is stored.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import sqlalchemy as sa

from storage.ledger import Judged, Ledger
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats.ack import ACK, WINDOW
from telemetry.readings import Int64s

Window = tuple[int, set[int]]  # the newest epoch, and which of its numbers have come
_Windows = dict[tuple[int, int], Window]


class ModelLedger(Ledger):
    """Its windows are those of the writer's process, by the meters' octets."""

    def __init__(self, *_: Any) -> None:
        self._windows: _Windows = {}
        self._begun: _Windows | None = None
        self._foreseen: _Windows | None = None
        self.calls: list[tuple[bool, int]] = []  # with a connection, arrived
        self.counted: list[Counts] = []

    def learn(self, connection: sa.Connection) -> None:
        self._begun = None

    def committed(self) -> None:
        if self._begun is not None:
            self._windows, self._begun = self._begun, None

    def drained(self) -> None:
        self._foreseen = None

    def count(self, connection: sa.Connection, counts: list[Counts]) -> None:
        self.counted += counts

    def judge(
        self,
        connection: sa.Connection | None,
        meter: Int64s,
        envelopes: Envelopes,
        newest_ms: Int64s,
        now_ms: int,
    ) -> Judged:
        assert len(meter) == len(envelopes) == len(newest_ms)
        self.calls.append((connection is not None, now_ms))
        windows = self._windows
        if connection is None:
            if self._foreseen is None:
                self._foreseen = copy.deepcopy(self._windows)
            windows = self._foreseen
        else:
            windows = self._begun = copy.deepcopy(windows)
        stored: list[bool] = []
        wanting: dict[tuple[int, int], list[int]] = {}
        for at in range(len(envelopes)):
            key = int(envelopes.key_high[at]), int(envelopes.key_low[at])
            marks = Mark(int(envelopes.marks[at]))
            verdict = "unique"
            if Mark.NUMBERED in marks:
                epoch, number = int(envelopes.epoch[at]), int(envelopes.sequence[at])
                verdict = _judge(windows, key, epoch, number)
            replayed = verdict != "unique" and marks & (Mark.SIGNED | Mark.ACKNOWLEDGE)
            stored.append(not replayed)
            if Mark.ACKNOWLEDGE in marks and verdict != "stale":
                wanting.setdefault(key, []).append(at)
        rows = np.zeros(len(wanting), ACK)
        answers = np.full(len(envelopes), -1, np.int64)
        for which, (key, places) in enumerate(wanting.items()):
            answers[places] = which
            rows[which] = (*key, *_acknowledgement(windows[key]))
        return Judged(np.array(stored, np.bool_), rows, answers)


def _judge(windows: _Windows, key: tuple[int, int], epoch: int, number: int) -> str:
    newest, come = windows.get(key, (-1, set()))
    if epoch > newest:
        windows[key] = epoch, {number}
        return "unique"
    if epoch < newest or number <= max(come) - WINDOW:
        return "stale"
    if number in come:
        return "duplicate"
    come.add(number)
    return "unique"


def _acknowledgement(window: Window) -> tuple[int, int, int]:
    epoch, come = window
    following = max(0, max(come) - WINDOW + 1)
    while following in come:
        following += 1
    bits = sum(1 << number - following - 1 for number in come if number > following)
    return epoch, following, bits
