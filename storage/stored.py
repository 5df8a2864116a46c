"""Readings of many meters as they are stored: their columns, and their order in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.journal import Batch
from telemetry.readings import Int64s, UInt16s, UInt32s, UInt64s


@dataclass(frozen=True, slots=True)
class Stored:
    """Readings with their meters' numbers; every column has shape (n,).

    ``late`` is 0 for a reading that was newer than all of its series when it was accepted, else the
    journal row it came in. So of one instant a reading accepted later has a higher one, or the same
    and comes later in every order.
    """

    meter: UInt32s
    register: UInt16s
    status: UInt16s
    epoch: UInt32s
    time: Int64s
    value: Int64s
    late: Int64s

    def __len__(self) -> int:
        return len(self.time)

    @property
    def series(self) -> UInt64s:
        """Register and meter in one number, by which a block is sorted."""
        return (self.register.astype(np.uint64) << np.uint64(32)) | self.meter

    @property
    def bounds(self) -> npt.NDArray[np.intp]:
        """Where series start, one standing after the other, and the end; shape (series + 1,)."""
        other = self.meter[1:] != self.meter[:-1]
        other |= self.register[1:] != self.register[:-1]
        return np.concatenate(([0], np.flatnonzero(other) + 1, [len(self)]))

    def take(self, rows: npt.NDArray[Any] | slice) -> Stored:
        """The readings of the given rows, in the order of the rows."""
        return Stored(
            self.meter[rows],
            self.register[rows],
            self.status[rows],
            self.epoch[rows],
            self.time[rows],
            self.value[rows],
            self.late[rows],
        )

    @classmethod
    def of(cls, batch: Batch, revision: int) -> Stored:
        """The readings of the journal row ``revision``, in their order, all of them late."""
        late = np.full(len(batch), revision, np.int64)
        columns = (batch.meter, batch.register, batch.status, batch.epoch, batch.time, batch.value)
        return cls(*columns, late)

    @classmethod
    def concatenate(cls, parts: list[Stored]) -> Stored:
        """The readings of all parts, in their order."""
        if len(parts) < 2:
            return parts[0] if parts else NOTHING
        return cls(
            np.concatenate([part.meter for part in parts]),
            np.concatenate([part.register for part in parts]),
            np.concatenate([part.status for part in parts]),
            np.concatenate([part.epoch for part in parts]),
            np.concatenate([part.time for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.late for part in parts]),
        )


NOTHING = Stored(
    np.empty(0, np.uint32),
    np.empty(0, np.uint16),
    np.empty(0, np.uint16),
    np.empty(0, np.uint32),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
)


def arrange(stored: Stored, *, alone: bool = True) -> Stored:
    """The readings by register, meter and time, of one instant by acceptance, repeats once.

    Unless they are ``alone``, there being no other readings of these instants, another value may
    have been accepted between one and its repeat: the last one counts, so both stay.
    """
    if _ascend(stored):
        return stored
    if not is_arranged(stored):
        order = np.argsort(near(stored.meter), kind="stable")
        stored = stored.take(order[np.argsort(stored.register[order], kind="stable")])
        if not is_arranged(stored):
            stored = stored.take(np.lexsort((stored.late, stored.time, stored.series)))
    series, time = stored.series, stored.time
    same = (series[1:] == series[:-1]) & (time[1:] == time[:-1])
    if same.any():
        # A repeat with an older epoch says something new: its reading was before the reset.
        # So does one of another status: an instant's doubts are those of all its repeats.
        same &= stored.value[1:] == stored.value[:-1]
        same &= stored.status[1:] == stored.status[:-1]
        same &= stored.epoch[1:] >= stored.epoch[:-1]
        if not alone:
            same &= stored.late[1:] == stored.late[:-1]
        stored = stored.take(np.append(True, ~same))
    return stored


def _ascend(stored: Stored) -> bool:
    """Whether series stand as ``arrange`` sorts them, and nothing is said twice of an instant."""
    if not len(stored):
        return True
    starts = stored.bounds[:-1]
    series = stored.take(starts).series
    return bool((series[1:] > series[:-1]).all() and later(stored.time, starts).all())


def later(time: Int64s, starts: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which readings but the first are later than the one before in their series, if any."""
    found = time[1:] > time[:-1]
    found[starts[1:] - 1] = True
    return found


def near(meter: UInt32s) -> npt.NDArray[Any]:
    """Numbers in the same order, in sixteen bits if they fit: those are sorted by radix."""
    numbers: npt.NDArray[Any] = meter - meter.min()
    return numbers.astype(np.uint16) if numbers.max() < 1 << 16 else numbers


def is_arranged(stored: Stored) -> bool:
    """Whether readings are sorted as ``arrange`` sorts them."""
    series, time, late = stored.series, stored.time, stored.late
    behind = (time[1:] < time[:-1]) | ((time[1:] == time[:-1]) & (late[1:] < late[:-1]))
    wrong = (series[1:] < series[:-1]) | ((series[1:] == series[:-1]) & behind)
    return not wrong.any()
