"""Retention: aged readings are thinned or deleted, window by window, between two commits.

Each slice is one transaction: the blocks that touch a window of some meters are replaced by blocks
of what is kept, and the meters' marks move on. What other meters have in these blocks stays as it
is. Rows of ``daily`` and ``latest`` are not touched.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from storage import blocks, history, meters, retention_marks, schema, watermark
from storage.block_store import BlockStore, by_group, by_meter
from storage.blocks import LASTING, Stored
from storage.database import Begin
from storage.defaults import Defaults
from storage.energy import Load
from storage.engine import StorageError
from storage.journal import DamagedError
from storage.ladder import Keep, Policy
from storage.meters import Meter
from storage.retention_plan import Held, Job, narrowed, next_job
from storage.retention_thin import reduced
from storage.watermark import Watermark
from telemetry.readings import Series

log = logging.getLogger("writer")

_MOST = 100_000  # values in the blocks that a slice rewrites, if a window of a day has not more
_TOGETHER = 16  # meters of a slice that share blocks
_PAGE = 256  # meters looked at in a slice
_LOOKING = 0.01  # seconds
_REST_MS = 6 * 3_600_000  # after which all meters are looked at again
_POSTPONED_MS = 60_000
_NEVER = -(2**63)

_BLOCKS = schema.blocks.c


@dataclass(frozen=True, slots=True)
class _Block:
    """A row of ``blocks`` without its body."""

    id: int
    shift: int
    readings: int


class Retention:
    """Belongs to the writer's thread, and uses its transactions.

    ``changed`` is called at the end of each transaction that changes blocks: who plans with them
    must look again.
    """

    def __init__(
        self,
        begin: Begin,
        policy: Policy,
        defaults: Defaults,
        changed: Callable[[sa.Connection], None],
    ) -> None:
        self._begin = begin
        self._policy = policy
        self._defaults = defaults
        self._changed = changed
        self._not_before = 0
        self._after = -1  # the number of the last meter that needs nothing at the time

    def postpone(self, now_ms: int) -> None:
        """Do nothing for a while: the last slice failed."""
        self._not_before = now_ms + _POSTPONED_MS

    def step(self, now_ms: int) -> bool:
        """Do one slice of what is due; whether there may be more."""
        if self._policy.keeps_all or now_ms < self._not_before:
            return False
        with self._begin() as connection:
            reached = watermark.read(connection)
            page = retention_marks.held(connection, self._defaults, reached, self._after, _PAGE)
            due: list[tuple[int, Job]] = []
            began = time.perf_counter()
            for number, meter in page:
                if time.perf_counter() - began > _LOOKING:
                    break
                job = None
                if meter is not None and not due:
                    job = self._with_data(connection, reached, number, meter, now_ms)
                elif meter is not None:
                    job = next_job(self._policy.ladder(meter.id), meter, now_ms)
                if job is not None:
                    due.append((number, job))
                elif not due:
                    self._after = number
            if due and self._surely(connection, reached, due):
                self._changed(connection)
        if not page:
            self._after = -1
            self._not_before = now_ms + _REST_MS
        return bool(page)

    def _with_data(
        self, connection: sa.Connection, reached: Watermark, number: int, meter: Held, now_ms: int
    ) -> Job | None:
        """The next job of a meter with anything to do; windows without blocks are done at once."""
        ladder, skipped = self._policy.ladder(meter.id), dict[Keep, Job]()
        while (job := next_job(ladder, meter, now_ms)) is not None:
            if _touching(connection, reached, [number], job):
                break
            skipped[job.keep] = job
            marks = dict(meter.marks) | {job.keep: job.window.end_ms}
            meter = dataclasses.replace(meter, marks=marks)
        for done in skipped.values():
            retention_marks.mark(connection, [number], done)
        return job

    def _surely(
        self, connection: sa.Connection, reached: Watermark, due: list[tuple[int, Job]]
    ) -> bool:
        """A slice; a meter with a damaged block is left as it is."""
        try:
            return self._slice(connection, reached, due)
        except StorageError as error:  # before anything was written
            log.error("cannot thin: %s", error)
            self._after = due[0][0]
            return False

    def _slice(
        self, connection: sa.Connection, reached: Watermark, due: list[tuple[int, Job]]
    ) -> bool:
        """Do the first meter's job, and the same of those it shares blocks with."""
        first, job = due[0]
        zone = self._defaults.zone(meters.by_number(connection, first))
        found = _touching(connection, reached, [first], job)
        while sum(block.readings for block in found) > _MOST:
            narrow = narrowed(job, zone)
            if narrow == job:
                break
            job = narrow
            found = _touching(connection, reached, [first], job)
        coarsest = max((block.shift for block in found), default=0)
        same = [number for number, other in due if other == due[0][1]]
        numbers = [number for number in same if number >> coarsest == first >> coarsest]
        together = [meters.by_number(connection, number) for number in numbers[:_TOGETHER]]
        together = [each for each in together if self._defaults.zone(each) == zone]
        numbers = [each.number for each in together]
        found = _touching(connection, reached, numbers, job)
        changed = self._rewrite(connection, reached, together, job, found)
        retention_marks.mark(connection, numbers, job)
        return changed

    def _rewrite(
        self,
        connection: sa.Connection,
        reached: Watermark,
        together: list[Meter],
        job: Job,
        found: list[_Block],
    ) -> bool:
        """Replace blocks by those of what is kept, if that is less."""
        stored = {block: _decoded(connection, block.id) for block in found}
        kept: dict[int, list[Stored]] = {}
        gone = {block: np.zeros(len(part), np.bool_) for block, part in stored.items()}
        fewer = False
        for meter in together:
            own = {block: _rows(part, meter.number, job) for block, part in stored.items()}
            there = {block: rows for block, rows in own.items() if rows.any()}
            if not there:
                continue
            before = blocks.arrange(
                Stored.concatenate([stored[block].take(rows) for block, rows in there.items()])
            )
            after = reduced(
                _loads(connection, reached, meter.number),
                before,
                meter,
                meters.replacements(connection, meter.number),
                job,
                self._defaults.zone(meter),
            )
            if len(after) < len(before):
                fewer = True
                kept.setdefault(min(block.shift for block in there), []).append(after)
                for block, rows in there.items():
                    gone[block] |= rows
        if not fewer:
            return False
        for block, part in stored.items():
            kept.setdefault(block.shift, []).append(part.take(~gone[block]))
        connection.execute(
            schema.blocks.delete().where(_BLOCKS.id.in_([block.id for block in found]))
        )
        before_all = sum(len(part) for part in stored.values())
        reached = dataclasses.replace(reached, values=reached.values - before_all)
        store = BlockStore(connection)
        for shift, parts in kept.items():
            left = Stored.concatenate(parts)
            if len(left):
                groups = by_group(by_meter(left), shift)
                arranged = [blocks.arrange(own, alone=False) for own in groups]
                reached = store.add(connection, arranged, shift, reached, LASTING)
        watermark.write(connection, reached)
        return True


def _touching(
    connection: sa.Connection, reached: Watermark, numbers: list[int], job: Job
) -> list[_Block]:
    """The blocks of the meters' groups that touch the window."""
    found: dict[int, _Block] = {}
    columns = (_BLOCKS.id, _BLOCKS.shift, _BLOCKS.readings)
    for shift in reached.shift_list:
        query = sa.select(*columns).where(
            _BLOCKS.shift == shift,
            _BLOCKS.grp.in_({number >> shift for number in numbers}),
            _BLOCKS.first_ms < job.window.end_ms,
            _BLOCKS.last_ms >= _start(job),
        )
        found |= {row.id: _Block(*row) for row in connection.execute(query)}
    return list(found.values())


def _start(job: Job) -> int:
    """What is deleted is all before the window's end."""
    return _NEVER if job.keep is Keep.NONE else job.window.start_ms


def _rows(stored: Stored, number: int, job: Job) -> npt.NDArray[np.bool_]:
    own: npt.NDArray[np.bool_] = stored.meter == number
    return own & (stored.time >= _start(job)) & (stored.time < job.window.end_ms)


def _decoded(connection: sa.Connection, number: int) -> Stored:
    body = connection.execute(sa.select(_BLOCKS.body).where(_BLOCKS.id == number)).scalar_one()
    try:
        return blocks.decode(body)
    except DamagedError as error:
        raise history.damaged(number, error) from None


def _loads(connection: sa.Connection, reached: Watermark, meter: int) -> Callable[[int], Load]:
    """Loads the sealed readings of a meter's registers."""

    def of_register(code: int) -> Load:
        def load(start_ms: int | None, end_ms: int | None) -> Series:
            parts = history.parts(connection, reached, meter, code, start_ms, end_ms)
            return history.together(parts)

        return load

    return of_register
