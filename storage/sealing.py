"""Sealing: the journal's rows become blocks, pass by pass, in slices between two commits.

A pass takes the oldest rows of the journal into memory and goes through their meters by number.
Each slice is one transaction: blocks of some groups of meters, their days, their newest readings,
and the watermark that says that they no longer count in the journal. With the last slice the rows
are deleted. What a dead writer had not sealed, the next one seals: a pass leaves no other trace.
No pass goes beyond a row that is damaged: that row stays, and the next pass begins behind it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from storage import blocks, daily, history, journal, latest, meters, schema, watermark
from storage.block_store import BlockStore
from storage.blocks import Stored
from storage.defaults import Defaults
from storage.energy import Load
from storage.engine import UnavailableError
from storage.meters import Meter
from storage.watermark import Watermark
from telemetry.readings import Int64s, Series
from telemetry.registers import ENERGY_IMPORT

Begin = Callable[[], AbstractContextManager[sa.Connection]]

_PASS = 524_288  # values that a pass takes at most, and from which on it is due
_SLICE = 40_000  # values of a slice, to the end of the group
_SLICE_SECONDS = 0.02  # what a slice should take: with much to compute again it is made smaller
_DUE_AGE = 900_000  # ms after which a row of the journal is sealed in any case
_LEAST = 4096  # readings (values of one register) of a group's block, if there are as many
_POSTPONED = 5000  # ms
_MOST_ROWS = 8192  # of the journal in one pass


@dataclass(slots=True)
class _Pass:
    """The journal's rows up to ``last``, by meter; ``at``: the first value not sealed yet."""

    last: int
    stored: Stored
    shift: int
    at: int


class Sealer:
    """Belongs to the writer's thread, and uses its transactions."""

    def __init__(self, begin: Begin, defaults: Defaults) -> None:
        """``learn`` has to be called before anything else."""
        self._begin = begin
        self._defaults = defaults
        self._not_before = 0
        self._slice_values = _SLICE
        self._pass: _Pass | None = None

    def learn(self, connection: sa.Connection) -> None:
        """See how far everything is, at the start and after a transaction that may have failed."""
        self._pass = None
        self._watermark = watermark.read(connection)
        self._count_journal(connection)
        self._store = BlockStore(connection)

    def committed(self, values: int, now_ms: int) -> None:
        """A row was added to the journal."""
        if not self._values:
            self._oldest = now_ms
        self._values += values

    def postpone(self, now_ms: int) -> None:
        """Do nothing for a while: the last slice failed."""
        self._not_before = now_ms + _POSTPONED

    def step(self, now_ms: int) -> bool:
        """Do one slice of what is due, sealing before merging; whether there was any."""
        if now_ms < self._not_before:
            return False
        if self._pass is not None:
            self._slice(self._pass)
        elif self._values >= _PASS or (self._values and now_ms - self._oldest >= _DUE_AGE):
            self.begin()
        elif (group := self._store.ripe()) is not None:
            self._merge(group)
        else:
            return False
        return True

    def seal_all(self) -> None:
        """Seal the whole journal, and merge what is to be merged."""
        while self._values:
            self.step(self._oldest + _DUE_AGE)
        while self.step(0):
            pass

    # One pass

    def begin(self) -> None:
        """Take the oldest rows of the journal into memory."""
        table = schema.journal
        sealed = self._watermark.sealed
        with self._begin() as connection:
            rows = connection.execute(
                sa.select(table.c.id, table.c.readings)
                .where(table.c.id > sealed)
                .order_by(table.c.id)
                .limit(_MOST_ROWS)
            ).all()
            sizes = np.cumsum([row.readings for row in rows])
            fitting = max(1, int(np.searchsorted(sizes, _PASS, side="right")))
            # What the last writer did not finish goes on up to where it was to go.
            last = self._watermark.passing or rows[fitting - 1].id
            bodies = connection.execute(
                sa.select(table.c.id, table.c.body)
                .where(table.c.id > sealed, table.c.id <= last)
                .order_by(table.c.id)
            ).all()
            whole, stopped = _decoded(bodies)
            if stopped is not None and self._watermark.passing:
                # It was whole when the pass began; the next transaction moves it out of the way.
                raise UnavailableError(f"row {stopped} of the journal is damaged")
            if not whole:
                self._step_over(connection, last if stopped is None else stopped)
                return
        if stopped is not None:
            last = whole[-1][0]
        stored = Stored.concatenate([Stored.of(batch, number) for number, batch in whole])
        stored = stored.take(_by_meter(stored.meter))
        at = int(stored.meter.searchsorted(self._watermark.below))
        self._pass = _Pass(last, stored, _finest(stored), at)
        if at == len(stored):  # of meters that were deleted
            self._slice(self._pass)

    def _step_over(self, connection: sa.Connection, number: int) -> None:
        """Go on behind a damaged row, which stays in the journal (storage/damaged_rows.py)."""
        reached = dataclasses.replace(self._watermark, sealed=number, passing=0, below=0)
        watermark.write(connection, reached)
        self._watermark = reached
        self._count_journal(connection)

    def _slice(self, current: _Pass) -> None:
        """Seal some groups of the pass, and end it with the last."""
        meter = current.stored.meter
        began = time.perf_counter()
        end = min(current.at + self._slice_values, len(meter))
        if end < len(meter):
            group = (int(meter[end]) >> current.shift) + 1
            end = int(meter.searchsorted(group << current.shift))
        part = current.stored.take(slice(current.at, end))
        ended = end == len(meter)
        if ended:
            reached = dataclasses.replace(self._watermark, sealed=current.last, passing=0, below=0)
        else:
            reached = dataclasses.replace(
                self._watermark, passing=current.last, below=int(meter[end])
            )
        with self._begin() as connection:
            if len(part):
                newest = latest.Newest.of(connection, part)
                arranged = blocks.arrange(latest.mark_late(part, newest))
                reached = self._store.add(connection, arranged, current.shift, reached)
                settled = self._grow_days(connection, arranged)
                latest.keep(connection, arranged, newest, settled)
            watermark.write(connection, reached)
            if ended:
                table = schema.journal
                own = table.c.id.between(self._watermark.sealed + 1, current.last)
                connection.execute(table.delete().where(own))
                self._count_journal(connection)
        self._store.accept()
        self._watermark = reached
        taken, current.at = max(1, end - current.at), end
        if ended:
            self._pass = None
        pace = taken / max(1e-4, time.perf_counter() - began)
        self._slice_values = int(min(_SLICE, max(1, pace * _SLICE_SECONDS)))

    def _grow_days(self, connection: sa.Connection, arranged: Stored) -> dict[int, bool]:
        """Bring the days up to date; which meters' newest energy reading surely counts."""
        rows = np.flatnonzero(arranged.register == ENERGY_IMPORT)
        energy = arranged.take(rows)
        grown = daily.grow(connection, energy, self._defaults)
        daily.add(connection, grown.added, self._defaults)
        settled = dict.fromkeys(np.unique(energy.meter).tolist(), True)
        for number in grown.again:
            own = energy.take(energy.meter == number)
            settled[number] = self._days_again(connection, number, own)
        return settled

    def _days_again(self, connection: sa.Connection, number: int, own: Stored) -> bool:
        tip = latest.energy_tip(connection, number)
        earliest, newest = int(own.time[0]), int(own.time[-1])
        if tip is not None:
            earliest = min(earliest, tip.time_ms)
        behind = tip is not None and tip.settled and newest < tip.time_ms
        # Its blocks of this slice are stored already.
        settled = daily.again(
            connection,
            meters.by_number(connection, number),
            sealed_load(connection, self._watermark_of(connection), number),
            self._defaults,
            earliest,
            newest if behind else None,
        )
        return settled or behind

    def _watermark_of(self, connection: sa.Connection) -> Watermark:
        return dataclasses.replace(self._watermark, shifts=self._store.shifts)

    # Days that are to be computed again

    def rebuild_days(self, connection: sa.Connection, meter: Meter) -> None:
        """Compute all days of a meter again: its settings are other ones now."""
        table = schema.daily
        connection.execute(table.delete().where(table.c.meter == meter.number))
        load = sealed_load(connection, self._watermark, meter.number)
        settled = daily.again(connection, meter, load, self._defaults, None, None)
        latest.keep_settled(connection, meter.number, settled)

    # Merging

    def _merge(self, group: tuple[int, int]) -> None:
        with self._begin() as connection:
            reached = self._store.merge(connection, group, self._watermark)
            watermark.write(connection, reached)
        self._store.accept()
        self._watermark = reached

    def _count_journal(self, connection: sa.Connection) -> None:
        table = schema.journal
        counts = sa.select(sa.func.sum(table.c.readings), sa.func.min(table.c.committed_ms)).where(
            table.c.id > self._watermark.sealed
        )
        values, oldest = connection.execute(counts).one()
        self._values, self._oldest = int(values or 0), int(oldest or 0)


def sealed_load(connection: sa.Connection, reached: Watermark, number: int) -> Load:
    """Loads the energy readings of a meter from its blocks."""

    def load(start_ms: int | None, end_ms: int | None) -> Series:
        found = history.series(connection, reached, number, ENERGY_IMPORT, start_ms, end_ms)
        return Series(found.time, found.value, found.epoch, found.status)

    return load


def _decoded(
    rows: Sequence[sa.Row[Any, Any]],
) -> tuple[list[tuple[int, journal.Batch]], int | None]:
    """The rows up to the first that is damaged, and the number of that one."""
    whole: list[tuple[int, journal.Batch]] = []
    for number, body in rows:
        try:
            whole.append((number, journal.decode(body)))
        except journal.DamagedError:
            return whole, number
    return whole, None


def _by_meter(meter: npt.NDArray[np.uint32]) -> Int64s:
    """The order by meter that keeps the order of acceptance: one sort of plain integers."""
    bits = max(1, len(meter) - 1).bit_length()
    key = (meter.astype(np.uint64) << np.uint64(bits)) | np.arange(len(meter), dtype=np.uint64)
    key.sort()
    return (key & np.uint64((1 << bits) - 1)).astype(np.int64)


def _finest(stored: Stored) -> int:
    """The finest shift that leaves enough readings a group."""
    numbers = np.unique(stored.meter)
    enough = max(1, len(stored) // max(1, len(np.unique(stored.register))) // _LEAST)
    shift = 0
    while shift < 32 and len(np.unique(numbers >> shift)) > enough:
        shift += 1
    return shift
