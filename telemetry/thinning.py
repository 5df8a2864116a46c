"""Thinning: fewer readings of a register in a window of time, and the same energy to the Wh.

Of an energy register, after thinning, the curve (``telemetry.intervals``) has the same energy at
every edge of the window, at the window's bounds and everywhere outside; the slots between the
edges keep all their flags. What is between the edges is lost: there energy becomes linear.

What stays of the readings in a window:

- a reading on an edge, the first and the last one booked;
- both ends of an interval that crosses an edge and is longer than a quarter of an hour: it was
  prorated, and still is, with whatever comes late into it;
- the surroundings of each event (reset, rollover, replacement, readings held back, conflict), as
  they are: two readings before it, three from it on, and the next change of the value;
- of a flag that is on a slot for the sake of readings inside, one such reading.

In any other interval that crosses an edge a reading is made there of the value that the curve
has, marked THINNED, with the doubts of both ends; all else is dropped. The result is checked
against the original; around a difference more is kept, at last everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from telemetry.calendar import QUARTER_MS, Period
from telemetry.intervals import Curve, Flag, Settled, settle, slots
from telemetry.readings import DEVICE_BITS, Int64s, Series, Status

Book = Callable[[Settled], Curve]
"""``intervals.curve`` with the meter's rules and the factor 1: values are whole Wh."""

Bools = npt.NDArray[np.bool_]

_EVENTS = Flag.RESET | Flag.ZERO | Flag.QUARANTINED | Flag.ROLLOVER | Flag.REPLACED
_DOUBTS = DEVICE_BITS | Status.ARRIVAL_TIME  # status bits that become flags of the slot
_MARKS = ((Flag.DEVICE, DEVICE_BITS), (Flag.ARRIVAL_TIME, int(Status.ARRIVAL_TIME)))
_BEFORE, _AFTER = 2, 2  # readings kept around those that take part in an event
_WIDENINGS = 9


def thin_energy(series: Series, window: Period, edges: Int64s, book: Book) -> Series:
    """What replaces the readings of an energy register in the window, ascending.

    ``series`` is in the order of acceptance and holds the window's readings and those around it
    that decide which of them are booked. ``edges`` ascend and cover the window. A reading made for
    the window's end is among the result, though its time is not in the window. Where nothing
    would be gained the readings of the window are returned as they are.
    """
    inside = _inside(series.time, window)
    before = _take(series, inside)
    if len(before) < 2:
        return before
    work = _Work(series, window, edges, book)
    kept = work.protected()
    for widening in range(_WIDENINGS):
        found = work.thinned(kept)
        if len(found) >= len(before):
            break
        wrong = work.differences(found)
        if not wrong.any():
            return found
        kept |= work.around(wrong, widening)
    return before


def thin_instants(series: Series, window: Period, edges: Int64s) -> Series:
    """What replaces the readings of any other register: the last of each slot, ascending.

    Of several values for its instant the one that counts stays.
    """
    settled = settle(_take(series, _inside(series.time, window)))
    slot = edges.searchsorted(settled.time, side="right")
    last = np.flatnonzero(np.diff(slot, append=-1))
    if len(last) == len(series):
        return series
    return _take(settled, last)


@dataclass
class _Work:
    """One window, its original curve, and what is made of it."""

    series: Series
    window: Period
    edges: Int64s
    book: Book

    def __post_init__(self) -> None:
        self.settled = settle(self.series)
        self.curve = self.book(self.settled)
        start, end = self.window.start_ms, self.window.end_ms
        between = self.edges[(self.edges > start) & (self.edges < end)]
        self.points = np.concatenate([[start], between, [end]])
        self.inside = _inside(self.settled.time, self.window)
        self.booked = np.ones(len(self.settled), np.bool_)
        self.booked[self.settled.time.searchsorted(self.curve.held_time)] = False

    @cached_property
    def places(self) -> Int64s:
        """Where the curve's readings are among the settled ones."""
        return np.flatnonzero(self.booked)

    def protected(self) -> Bools:
        """The settled readings that take part in events, those around them, and both ends."""
        count = len(self.settled)
        if not len(self.places):
            return np.ones(count, np.bool_)
        ends = np.flatnonzero(self.curve.flags & _EVENTS)
        last = self.places[ends]
        first = self.places[np.maximum(ends - 1, 0)]
        conflicts = np.flatnonzero(self.settled.flags & Flag.CONFLICT)
        final = self.places[-1:]
        starts = [first - _BEFORE, conflicts - 1, final, self.places[:1]]
        stops = [last + _AFTER, conflicts + 1, final * 0 + count - 1, self.places[:1]]
        if len(last):
            # Whether a drop is a blip is told by the next other value, however far it is.
            changes = np.append(np.flatnonzero(np.diff(self.settled.value)) + 1, count)
            change = changes[changes[:-1].searchsorted(last, side="right")]
            starts.append(change - 1)
            stops.append(change)
        found = _cover(np.concatenate(starts), np.concatenate(stops), count)
        return found & ~self._repetitive()

    def _repetitive(self) -> Bools:
        """Readings held back inside a run of the same value, of which each slot has others."""
        held, value = ~self.booked, self.settled.value
        again = np.zeros(len(held), np.bool_)
        if not held.any():
            return again
        slot = self.points.searchsorted(self.settled.time, side="right")
        again[1:] = held[1:] & held[:-1] & (value[1:] == value[:-1]) & (slot[1:] == slot[:-1])
        inner = again.copy()
        inner[:2] = inner[-2:] = False
        inner[2:-2] &= again[1:-3] & again[3:-1] & again[4:]
        return inner

    def thinned(self, kept: Bools) -> Series:
        """The window with the ``kept`` readings, what the edges need, and what flags need."""
        keep, made = self._at_points(kept)
        found = self._rows(keep, made)
        want, got = self._slots(self.curve), self._slots(self._booked_with(found))
        for flag, bits in _MARKS:
            lacking = np.append(want & ~got & flag, 0).astype(np.bool_)
            if lacking.any():
                # The first reading of each such slot that has the flag.
                has = (self.settled.status & np.uint16(bits)) > 0
                marked = np.flatnonzero(self.inside & self.booked & has)
                slot = self.points.searchsorted(self.settled.time[marked], side="right") - 1
                fresh = np.diff(slot, prepend=-1) > 0
                keep[marked[fresh & lacking[slot]]] = True
                found = self._rows(keep, made)
        return found

    def _at_points(self, kept: Bools) -> tuple[Bools, Series]:
        """What stays, and the readings to make on edges."""
        keep, curve, places = kept.copy(), self.curve, self.places
        upper = curve.time.searchsorted(self.points)
        among = (upper > 0) & (upper < len(curve.time))
        upper, points = upper[among], self.points[among]
        on = curve.time[upper] == points
        keep[places[upper[on]]] = True
        upper, points = upper[~on], points[~on]
        left, right = places[upper - 1], places[upper]
        plain = (curve.time[upper] - curve.time[upper - 1] <= QUARTER_MS) & (right - left == 1)
        plain &= (curve.flags[upper] & _EVENTS == 0) & ~(kept[left] & kept[right])
        plain &= points % QUARTER_MS == 0  # elsewhere the curve would not be the same beside it
        keep[left[~plain]] = keep[right[~plain]] = True
        upper, points, left, right = upper[plain], points[plain], left[plain], right[plain]
        settled = self.settled
        value = settled.value[left] + curve.at(points) - curve.energy[upper - 1]
        doubts = (settled.status[left] | settled.status[right]) & np.uint16(_DOUBTS)
        status = doubts | np.uint16(Status.THINNED)
        return keep, Series(points, value, settled.epoch[left], status)

    def _rows(self, keep: Bools, made: Series) -> Series:
        """The readings to store: of an instant with a conflict all that was sent."""
        settled = self.settled
        plain = _take(settled, keep & self.inside & (settled.flags == 0))
        disputed = settled.time[self.inside & (settled.flags != 0)]
        found = _concatenate([plain, made])
        if len(disputed):
            sent = np.isin(self.series.time, disputed)
            found = _concatenate([found, _take(self.series, sent)])
        return _take(found, np.argsort(found.time, kind="stable"))

    def _booked_with(self, found: Series) -> Curve:
        outside = _take(self.series, ~_inside(self.series.time, self.window))
        return self.book(settle(_concatenate([outside, found])))

    def _slots(self, curve: Curve) -> npt.NDArray[np.uint16]:
        return slots(curve, self.points).flags

    def differences(self, found: Series) -> Bools:
        """In which of the slots between the points the thinned window differs."""
        curve = self._booked_with(found)
        want, got = slots(self.curve, self.points), slots(curve, self.points)
        wrong: Bools = (want.energy != got.energy) | (want.flags != got.flags)
        whole = slots(self.curve, self.edges).flags != slots(curve, self.edges).flags
        at = self.edges[:-1][whole].clip(self.window.start_ms, self.window.end_ms - 1)
        wrong[self.points.searchsorted(at, side="right") - 1] = True
        wrong[[0, -1]] |= not self._same_outside(curve)
        return wrong

    def _same_outside(self, curve: Curve) -> bool:
        columns = ("time", "energy", "flags"), ("held_time", "held_flags")
        for times, *others in columns:
            old, new = (
                (at < self.window.start_ms) | (at > self.window.end_ms)
                for at in (getattr(self.curve, times), getattr(curve, times))
            )
            for name in (times, *others):
                if not np.array_equal(getattr(self.curve, name)[old], getattr(curve, name)[new]):
                    return False
        return True

    def around(self, wrong: Bools, widening: int) -> Bools:
        """What else to keep: at first the readings beside the edges of the wrong slots.

        Then those beside all edges (at the highest power each rounded Wh may be impossible, and
        is found out one after another), then the wrong slots and more and more around them.
        """
        slot, last = np.flatnonzero(wrong), len(self.points) - 1
        time = self.settled.time
        if widening < 2:
            beside = np.arange(last + 1) if widening else np.unique([slot, slot + 1])
            at = time.searchsorted(self.points[beside])
            return _cover(at - 1, at, len(time))
        radius = 2 ** (widening - 2) - 1
        begin = self.points[np.maximum(slot - radius, 0)]
        end = self.points[np.minimum(slot + radius + 1, last)]
        return _cover(time.searchsorted(begin) - 1, time.searchsorted(end), len(time))


def _inside(time: Int64s, window: Period) -> Bools:
    return (time >= window.start_ms) & (time < window.end_ms)


def _cover(first: Int64s, last: Int64s, count: int) -> Bools:
    """Which of ``count`` places are in any of the ranges from ``first`` to ``last``, included."""
    steps = np.zeros(count + 1, np.int32)
    np.add.at(steps, first.clip(0, count), 1)
    np.add.at(steps, (last + 1).clip(0, count), -1)
    covered: Bools = steps.cumsum()[:count] > 0
    return covered


def _take(series: Series, rows: Bools | npt.NDArray[np.intp]) -> Series:
    return Series(series.time[rows], series.value[rows], series.epoch[rows], series.status[rows])


def _concatenate(parts: list[Series]) -> Series:
    return Series(
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.epoch for part in parts]),
        np.concatenate([part.status for part in parts]),
    )
