"""Sealing: the journal's rows become blocks, pass by pass, in slices between two commits.

A pass takes the oldest rows of the journal into memory and goes through their meters by number.
Each slice is one transaction: blocks of some groups of meters, their days, their newest readings,
and the watermark that says that they no longer count in the journal. From the last slice on the
rows are deleted. What a dead writer had not sealed, the next one seals: a pass leaves no other
trace. No pass goes beyond a row that is damaged: that row stays, and the next pass begins behind
it.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import sqlalchemy as sa

from storage import (
    blocks,
    daily,
    history,
    latest,
    meters,
    retention_marks,
    schema,
    watermark,
)
from storage.block_store import BlockStore, by_group
from storage.blocks import Stored
from storage.database import Begin
from storage.defaults import Defaults
from storage.energy import Load
from storage.engine import UnavailableError, give_back
from storage.latest import Newest
from storage.meters import Meter
from storage.sealing_pass import Pass, Rows
from storage.watermark import Watermark
from telemetry.readings import Series
from telemetry.registers import ENERGY_IMPORT

_DUE_VALUES = 1_048_576  # the journal is sealed when it holds so many,
_DUE_WIDE, _WIDE_VALUES = 128, 2 * 1_048_576  # or so many for each meter, up to twice as many,
_DUE_EACH = 8  # or at least so many for each: a pass writes rows of each meter,
_MOST_VALUES = 8 * 1_048_576  # but never more
_DUE_AGE = 900_000  # or when its oldest row is so old, ms
_CLEARED = 262_144  # values whose rows are deleted at once
_SLICE = 40_000  # values of a slice, to the end of the group
_SLICE_SECONDS = 0.02  # what a slice should take: with much to compute again it is made smaller
_POSTPONED = 5000  # ms
_ALL = 2**63 - 1  # rows
_QUIET = 60_000  # ms without a commit, after which all room is given back


class Sealer:
    """Belongs to the writer's thread, and uses its transactions."""

    def __init__(self, begin: Begin, defaults: Defaults) -> None:
        """``learn`` has to be called before anything else."""
        self._begin = begin
        self._defaults = defaults
        self._not_before = 0
        self._slice_values = _SLICE
        self._rows: Rows | None = None  # of the next pass
        self._pass: Pass | None = None
        self._newest = 0  # when the last commit was
        self._untidy = self._roomy = True  # there may be room to give back now; in quiet
        self._zones_unsure = True  # the collector's zone may be another than it was

    def learn(self, connection: sa.Connection) -> None:
        """See how far everything is, at the start and after a transaction that may have failed."""
        self._rows = self._pass = None
        self._meters = 0  # the highest number that was looked up
        self._watermark = watermark.read(connection)
        self._count_journal(connection, self._watermark)
        self._store = BlockStore(connection)

    def committed(self, values: int, now_ms: int) -> None:
        """A row was added to the journal."""
        if not self._values:
            self._oldest = now_ms
        self._newest = now_ms
        self._values += values

    def postpone(self, now_ms: int) -> None:
        """Do nothing for a while: the last slice failed, and its pass is to be read anew."""
        self._not_before = now_ms + _POSTPONED
        self._rows = self._pass = None

    def look_again(self, connection: sa.Connection) -> None:
        """Plan anew, in the transaction of another that changed blocks."""
        self._watermark = watermark.read(connection)
        self._store = BlockStore(connection)

    def step(self, now_ms: int, upto: int = _ALL) -> bool:
        """Do one slice of what is due, sealing before merging; whether there was any.

        No pass begins that goes beyond the row ``upto``.
        """
        if now_ms < self._not_before:
            return False
        if self._pass is not None:
            self._slice(self._pass)
        elif self._rows is not None or (self._watermark.sealed < upto and self._due(now_ms)):
            return self.begin(upto)
        elif (group := self._store.ripe()) is not None:
            self._merge(group)
        elif self._zones_unsure:
            self._zones_unsure = self._move_zone()
        elif self._untidy:
            with self._begin() as connection:
                self._untidy = give_back(connection, quiet=False)
        elif self._roomy and now_ms - self._newest >= _QUIET:
            with self._begin() as connection:
                self._roomy = give_back(connection, quiet=True)
        else:
            return False
        return True

    def seal_all(self) -> None:
        """Seal the whole journal, merge what is to be merged, and give all room back."""
        while self._values:
            self.step(self._oldest + _DUE_AGE)
        while self.step(self._newest + _QUIET):
            pass

    # One pass

    def _due(self, now_ms: int) -> bool:
        """Whether the journal is to be sealed."""
        if self._values >= self._enough:
            with self._begin() as connection:
                self._meters = meters.highest(connection)
        aged = self._values > 0 and now_ms - self._oldest >= _DUE_AGE
        return aged or self._values >= self._enough

    @property
    def _enough(self) -> int:
        """So many values are due, and make a pass."""
        wide = min(_DUE_WIDE * self._meters, _WIDE_VALUES)
        return max(_DUE_VALUES, wide, min(_DUE_EACH * self._meters, _MOST_VALUES))

    def begin(self, upto: int = _ALL) -> bool:
        """Take some of the oldest rows of the journal into memory; with the last a pass begins.

        False where there are none up to the row ``upto``.
        """
        with self._begin() as connection:
            if self._rows is None:
                self._rows = Rows.oldest(connection, self._watermark, self._enough, upto)
            if self._rows is None:
                return False
            found = self._rows.read(connection)
            if found is None:
                return True
            self._rows = None
            if isinstance(found, Pass):
                self._pass = found
            elif self._watermark.passing:
                # It was whole when the pass began; the next transaction moves it out of the way.
                raise UnavailableError(f"row {found} of the journal is damaged")
            else:
                self._step_over(connection, found)
        return True

    def _step_over(self, connection: sa.Connection, number: int) -> None:
        """Go on behind a damaged row, which stays in the journal (storage/damaged_rows.py)."""
        reached = dataclasses.replace(self._watermark, sealed=number, passing=0, below=0)
        watermark.write(connection, reached)
        self._watermark = reached
        self._count_journal(connection, reached)

    def _slice(self, current: Pass) -> None:
        """Seal some groups of the pass; after the last, delete its rows, which ends it."""
        began = time.thread_time()
        part = current.take(self._slice_values)
        reached = dataclasses.replace(self._watermark, passing=current.last, below=current.below)
        with self._begin() as connection:
            if len(part):
                newest = latest.Newest.of(connection, part)
                marked = by_group(latest.mark_late(part, newest), current.shift)
                arranged = [blocks.arrange(own) for own in marked]
                reached = self._store.add(connection, arranged, current.shift, reached)
                unsettled = self._grow_days(connection, arranged, newest)
                latest.keep(connection, arranged, newest, unsettled)
                retention_marks.came_late(connection, part)
            if current.ended:
                reached = self._clear(connection, reached)
            watermark.write(connection, reached)
        self._store.accept()
        self._watermark = reached
        if reached.sealed == current.last:
            self._pass, self._untidy, self._roomy = None, True, True
        if len(part):
            pace = len(part) / max(1e-4, time.thread_time() - began)
            self._slice_values = int(min(_SLICE, max(1, pace * _SLICE_SECONDS)))

    def _clear(self, connection: sa.Connection, reached: Watermark) -> Watermark:
        """Delete the oldest rows of a pass that is in blocks, not too many at once."""
        table = schema.journal
        sizes = connection.execute(
            sa.select(table.c.id, table.c.readings)
            .where(table.c.id > reached.sealed, table.c.id <= reached.passing)
            .order_by(table.c.id)
        ).all()
        some = int((np.cumsum([row.readings for row in sizes]) <= _CLEARED).sum())
        last = sizes[max(1, some) - 1].id
        connection.execute(table.delete().where(table.c.id.between(reached.sealed + 1, last)))
        if last < reached.passing:
            return dataclasses.replace(reached, sealed=last)
        reached = dataclasses.replace(reached, sealed=last, passing=0, below=0)
        self._count_journal(connection, reached)
        return reached

    def _grow_days(
        self, connection: sa.Connection, arranged: list[Stored], newest: Newest
    ) -> list[int]:
        """Bring the days up to date; the meters whose newest energy reading may not count."""
        energy = Stored.concatenate([_energy(part) for part in arranged])
        if not len(energy):
            return []
        grown = daily.grow(connection, energy, newest, self._defaults)
        daily.add(connection, grown.added, self._defaults)
        return [
            number
            for number in grown.again
            if not self._days_again(connection, number, energy.take(energy.meter == number))
        ]

    def _days_again(self, connection: sa.Connection, number: int, own: Stored) -> bool:
        tip = latest.energy_tip(connection, number)
        earliest, newest = int(own.time[0]), int(own.time[-1])
        if tip is not None:
            earliest = min(earliest, tip.time_ms)
        older = tip is not None and newest < tip.time_ms
        # Its blocks of this slice are stored already. Where the days that change end before the
        # tip, they end with an anchor, and the tip counts as before.
        settled = daily.again(
            connection,
            meters.by_number(connection, number),
            sealed_load(connection, self._watermark_of(connection), number),
            self._defaults,
            earliest,
            newest if older and tip is not None and tip.settled else None,
        )
        if older:
            latest.keep_settled(connection, number, settled)
        return settled

    def _watermark_of(self, connection: sa.Connection) -> Watermark:
        return dataclasses.replace(self._watermark, shifts=self._store.shifts)

    # Days that are to be computed again

    def rebuild_days(self, connection: sa.Connection, meter: Meter) -> None:
        """Compute all days of a meter again: its settings are other ones now."""
        load = sealed_load(connection, self._watermark, meter.number)
        settled = daily.rebuild(connection, meter, load, self._defaults)
        latest.keep_settled(connection, meter.number, settled)

    def _move_zone(self) -> bool:
        """Compute the days of a meter in its new zone; whether there was any such meter."""
        with self._begin() as connection:
            number = daily.in_another_zone(connection, self._defaults)
            if number is not None:
                self.rebuild_days(connection, meters.by_number(connection, number))
        return number is not None

    # Merging

    def _merge(self, group: tuple[int, int]) -> None:
        with self._begin() as connection:
            reached = self._store.merge(connection, group, self._watermark)
            watermark.write(connection, reached)
        self._store.accept()
        self._watermark = reached

    def _count_journal(self, connection: sa.Connection, reached: Watermark) -> None:
        table = schema.journal
        counts = sa.select(sa.func.sum(table.c.readings), sa.func.min(table.c.committed_ms)).where(
            table.c.id > reached.sealed
        )
        values, oldest = connection.execute(counts).one()
        self._values, self._oldest = int(values or 0), int(oldest or 0)


def sealed_load(connection: sa.Connection, reached: Watermark, number: int) -> Load:
    """Loads the energy readings of a meter from its blocks."""

    def load(start_ms: int | None, end_ms: int | None) -> Series:
        parts = history.parts(connection, reached, number, ENERGY_IMPORT, start_ms, end_ms)
        return history.together(parts)

    return load


def _energy(arranged: Stored) -> Stored:
    """The readings of the energy register, which are together."""
    start, end = arranged.register.searchsorted([ENERGY_IMPORT, ENERGY_IMPORT + 1])
    return arranged.take(slice(int(start), int(end)))
