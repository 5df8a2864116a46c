"""Registers to energy: what a meter's cumulative readings say was used between any two instants.

``settle`` puts the readings of a series in order, ``curve`` turns them into energy booked since
the first of them, ``slots`` divides that energy among the slots of a calendar. Energy is never
negative, never invented and never lost.

What follows a reading of V in the register:

- a value not below V is booked, unless the meter's maximum power cannot have brought it: then it
  is held back as QUARANTINED, until a later value is possible or three readings in a row confirm
  it (then it is booked, with the flag);
- lower values before one that goes on from V are held back: ZERO for 0, else QUARANTINED;
- a lower value is a ROLLOVER if modulus and maximum power are known and the power suffices;
- a lower value is a RESET if its epoch is newer, or if three readings in a row confirm it. The
  register has then counted from zero; if the power cannot have brought that value, from the value;
- any other lower value is held back until more is known.

Three readings confirm if each is above zero and goes on from the one before, and, after a drop,
stays below V. Readings held back are no points of the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from telemetry.calendar import HOUR_MS, QUARTER_MS
from telemetry.flags import Flag as Flag
from telemetry.flags import mark, of_both_ends, of_status
from telemetry.flags import names as names
from telemetry.prorate import prorate
from telemetry.readings import Int64s, Series, UInt16s

_ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Settled(Series):
    """One reading an instant, ascending; CONFLICT where other values were sent for the instant."""

    flags: UInt16s

    def part(self, rows: slice) -> Settled:
        """Some of the readings."""
        return Settled(
            self.time[rows], self.value[rows], self.epoch[rows], self.status[rows], self.flags[rows]
        )


@dataclass(frozen=True, slots=True)
class Replacement:
    """A meter replaced at ``time_ms``: the old one's last value and the new one's first, raw."""

    time_ms: int
    final: int
    initial: int


@dataclass(frozen=True, slots=True)
class Slots:
    """Energy in Wh and flags of each slot; shape (n,)."""

    energy: Int64s
    flags: UInt16s


@dataclass(frozen=True, slots=True)
class Curve:
    """Energy booked since the first reading, in whole Wh, at each reading that counts; shape (n,).

    ``flags[i]`` belong to the interval that ends at ``time[i]``. ``held_time`` and ``held_flags``,
    shape (m,), are the readings held back; their flags are also on the interval around them.
    """

    time: Int64s
    energy: Int64s
    flags: UInt16s
    held_time: Int64s
    held_flags: UInt16s

    def at(self, instants: Int64s) -> Int64s:
        """Energy booked by each instant, in whole Wh; outside the data that of the nearest end.

        Between two readings the quarter hours of UTC (the first and the last may be cut short)
        share the energy by time, rounded by largest remainder; within a quarter it is linear,
        rounded half up. So energies of any partition of a time add up exactly.
        """
        if not len(self.time):
            return np.zeros(len(instants), np.int64)
        after = self.time.searchsorted(instants, side="right")
        known = np.maximum(after - 1, 0)
        result = self.energy[known]
        between = np.flatnonzero((after < len(self.time)) & (self.time[known] < instants))
        if len(between):
            upper = after[between]
            start, end = self.time[upper - 1], self.time[upper]
            energy = self.energy[upper] - result[between]
            result[between] += prorate(energy, start, end, instants[between])
        return result


def settle(series: Series) -> Settled:
    """Orders readings that came in any order and drops repeats.

    ``series`` is in the order of acceptance. A value sent again for the same instant counts once,
    as of its first acceptance and oldest epoch; of different values the one accepted last counts.
    """
    if (series.time[1:] > series.time[:-1]).all():
        none = np.zeros(len(series), np.uint16)
        return Settled(series.time, series.value, series.epoch, series.status, none)
    order = np.lexsort((series.epoch, series.value, series.time))
    time, value = series.time[order], series.value[order]
    new = (time[1:] != time[:-1]) | (value[1:] != value[:-1])
    firsts = np.flatnonzero(np.append(True, new))
    accepted = np.minimum.reduceat(order, firsts)
    status = np.bitwise_or.reduceat(series.status[order], firsts)
    instants, values = np.unique(time[firsts], return_counts=True)
    # Within an instant the value accepted last comes last.
    current = np.lexsort((accepted, time[firsts]))[values.cumsum() - 1]
    chosen = order[firsts[current]]
    flags = mark(values > 1, Flag.CONFLICT)
    return Settled(instants, series.value[chosen], series.epoch[chosen], status[current], flags)


def curve(
    settled: Settled,
    *,
    factor: Fraction = _ONE,
    modulus: int | None = None,
    max_power_w: int | None = None,
    replacements: Sequence[Replacement] = (),
) -> Curve:
    """Books the energy of a register's readings.

    ``factor`` is Wh for one raw unit, ``modulus`` the raw value at which the register returns to
    zero, ``max_power_w`` the most that the meter can measure. Energy is rounded half up from the
    exact sum. Around a replacement the old meter runs to its final value, the new one from its
    initial value.
    """
    swaps = sorted(replacements, key=lambda swap: swap.time_ms)
    rules = _Rules(settled, factor, modulus, max_power_w, swaps)
    suspects = rules.suspects()
    own = settled.flags | of_status(settled.status)
    if not len(suspects):
        energy = _scale(settled.value - settled.value[:1], factor)
        return Curve(settled.time, energy, of_both_ends(own, own), _NO_TIMES, _NO_FLAGS)
    gains = np.diff(settled.value, prepend=settled.value[:1])
    events = np.zeros(len(gains), np.uint16)
    booked = np.ones(len(gains), np.bool_)
    last = 0
    while (place := suspects.searchsorted(last, side="right")) < len(suspects):
        first = last = int(suspects[place])
        while last < len(gains) and (verdict := rules.judge(first - 1, last)) is None:
            events[last] = Flag.QUARANTINED if settled.value[last] else Flag.ZERO
            last += 1
        booked[first:last] = False
        gains[first:last] = 0
        if last < len(gains) and verdict:
            gains[last] = verdict[0]
            events[last] = verdict[1] | np.bitwise_or.reduce(events[first:last])
    own = own[booked]
    flags = of_both_ends(own, own | events[booked])
    energy = _scale(gains.cumsum()[booked], factor)
    return Curve(settled.time[booked], energy, flags, settled.time[~booked], events[~booked])


def slots(curve: Curve, edges: Int64s) -> Slots:
    """Energy and flags of the slots [edges[k], edges[k + 1]); ``edges`` ascend, shape (n + 1,).

    A slot is ESTIMATED if it begins or ends inside an interval longer than a quarter of an hour,
    PARTIAL if the data cover only a part of it, MISSING (and without energy) if they cover none;
    it also has the flags of all intervals that overlap it and of readings held back in it.
    """
    flags = _slot_flags(curve, edges)
    if len(curve.held_time):
        place = edges.searchsorted(curve.held_time, side="right") - 1
        inside = (place >= 0) & (place < len(flags))
        np.bitwise_or.at(flags, place[inside], curve.held_flags[inside])
    booked = curve.at(edges)
    return Slots(booked[1:] - booked[:-1], flags)


def _slot_flags(curve: Curve, edges: Int64s) -> UInt16s:
    """The flags of slots but those of readings held back."""
    starts, ends, last = edges[:-1], edges[1:], len(curve.time) - 1
    if last < 1:
        return np.full(len(starts), Flag.MISSING, np.uint16)
    # The interval behind each edge, by the index of its end: the first to overlap the slot there.
    behind = curve.time.searchsorted(edges, side="right")
    behind = np.minimum(np.maximum(behind, 1), last)
    cut = _cuts(curve.time, behind, edges)
    flags = np.zeros(len(starts), np.uint16)
    if cut.any():
        flags |= mark(cut[:-1] | cut[1:], Flag.ESTIMATED)
    if curve.flags[1:].any():
        final = curve.time.searchsorted(ends).clip(1, last)
        bounds = np.stack((behind[:-1], final + 1), axis=1).ravel()
        flags |= np.bitwise_or.reduceat(np.append(curve.flags, np.uint16(0)), bounds)[::2]
    if len(starts) and (edges[0] < curve.time[0] or edges[-1] > curve.time[-1]):
        flags |= mark((starts < curve.time[0]) | (ends > curve.time[-1]), Flag.PARTIAL)
        flags[(ends <= curve.time[0]) | (starts >= curve.time[-1])] = Flag.MISSING
    return flags


@dataclass
class _Rules:
    """Whether and how a reading goes on from the last one that was booked."""

    settled: Settled
    factor: Fraction
    modulus: int | None
    max_power_w: int | None
    replacements: Sequence[Replacement]

    def suspects(self) -> Int64s:
        """Indices of the readings that need judging: all others go on from the one before."""
        time, value = self.settled.time, self.settled.value
        steps = value[1:] - value[:-1]
        odd = steps < 0
        if self.max_power_w is not None:
            # In floating point, on the safe side: judging is exact.
            ceiling = float(self.max_power_w / self.factor) / HOUR_MS * (1 - 1e-9)
            odd |= steps > np.diff(time) * ceiling
        for swap in self.replacements:
            behind = int(time.searchsorted(swap.time_ms))
            if 0 < behind < len(time):
                odd[behind - 1] = True
        return np.flatnonzero(odd) + 1

    def judge(self, last: int, index: int) -> tuple[int, Flag] | None:
        """The raw gain since the reading ``last`` and its flags; None holds the reading back."""
        value = int(self.settled.value[index])
        carried, rise, flag = self._run(last, index)
        if rise >= 0:
            if self._possible(last, index, carried + rise):
                return carried + rise, flag
            return (carried + rise, flag | Flag.QUARANTINED) if self._confirmed(index) else None
        after = self._changes.searchsorted(index, side="right")
        if after < len(self._changes) and self._goes_on(last, int(self._changes[after])):
            return None
        if self.modulus is not None and self.max_power_w is not None:
            rolled = rise + self.modulus
            if rolled > 0 and self._possible(last, index, carried + rolled):
                return carried + rolled, flag | Flag.ROLLOVER
        newer = self.settled.epoch[index] > self.settled.epoch[last]
        if newer or self._confirmed(index, below=value - rise):
            counted = value if self._possible(last, index, carried + value) else 0
            return carried + counted, flag | Flag.RESET
        return None

    @cached_property
    def _changes(self) -> Int64s:
        """Indices of the readings whose value is not that of the one before."""
        return np.flatnonzero(np.diff(self.settled.value)) + 1

    def _run(self, last: int, index: int) -> tuple[int, int, Flag]:
        """What meters replaced since ``last`` ran to their ends, and the rise of the one there."""
        carried, base, flag = 0, int(self.settled.value[last]), Flag(0)
        for swap in self.replacements:
            if self.settled.time[last] < swap.time_ms <= self.settled.time[index]:
                carried += max(swap.final - base, 0)
                base, flag = swap.initial, Flag.REPLACED
        return carried, int(self.settled.value[index]) - base, flag

    def _possible(self, last: int, index: int, gain: int) -> bool:
        if self.max_power_w is None:
            return True
        elapsed = int(self.settled.time[index] - self.settled.time[last])
        return gain * self.factor * HOUR_MS <= self.max_power_w * elapsed

    def _goes_on(self, last: int, index: int) -> bool:
        carried, rise, _ = self._run(last, index)
        return rise >= 0 and self._possible(last, index, carried + rise)

    def _confirmed(self, index: int, below: int | None = None) -> bool:
        """Whether three readings from ``index`` on confirm it, all staying ``below``."""
        value = self.settled.value[index : index + 3].tolist()
        rising = len(value) == 3 and all(self._goes_on(at, at + 1) for at in (index, index + 1))
        return rising and value[0] > 0 and (below is None or value[2] < below)


_NO_TIMES, _NO_FLAGS = np.empty(0, np.int64), np.empty(0, np.uint16)


def _scale(raw: Int64s, factor: Fraction) -> Int64s:
    """Raw sums in whole Wh, rounded half up."""
    if factor is _ONE or factor == _ONE:
        return raw
    double, half = 2 * factor.numerator, factor.denominator
    safe = not len(raw) or int(raw[-1]) * double + half < 2**63
    exact: npt.NDArray[Any] = raw if safe else raw.astype(object)
    return ((exact * double + half) // (2 * half)).astype(np.int64)


def _cuts(time: Int64s, ends: Int64s, instants: Int64s) -> npt.NDArray[np.bool_]:
    """Where an instant falls inside the interval that ends at ``time[ends]``, if that is long."""
    start, end = time[ends - 1], time[ends]
    return (start < instants) & (instants < end) & (end - start > QUARTER_MS)
