"""The values of a block: what is told of them, and the rest (docs/block-format.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from storage import block_bits
from storage.block_columns import (
    Register,
    differences,
    pack,
    pack_values,
    unpack,
    unpack_small,
)
from storage.journal import DamagedError
from telemetry.calendar import DAY_MS, HOUR_MS
from telemetry.readings import Int64s

UNITS = (1_000_000, 100_000, 10_000, 1000, 100, 10)
SHARPEST = 63

_SAMPLE = 32  # values that tell whether there is a common unit
_RATE_BITS = 16
_TELLING = 0.95  # a guide is worth its while where the rest is spread less by this
_HOURS = 24
_LEAST = 8 * _HOURS  # readings of a meter: with fewer, levels take more than they save
_LEVEL_BITS = 3.0  # what a level takes
_GAIN = 0.05  # bits a value, that are worth the CPU
_EVERY = 5  # of the values decides,
_MANY = 1000  # where there are so many
_MANTISSA, _EXPONENTS, _BELOW_HALF = 52, (1 << 11) - 1, 1022  # of a number of 64 bits
# What levels stand for: 0, 1, 2, 3, 4, 6, 8, 12, 16, ...
_CENTRES = np.array([0, 1, *((2 + half) << up for up in range(46) for half in (0, 1))], np.int64)
_NONE = np.empty(0, np.int64)
_BETWEEN = np.sqrt(_CENTRES[:-1].clip(0.5) * _CENTRES[1:])


@dataclass(frozen=True, slots=True)
class Part:
    """Readings of a register: all those of some meters that follow each other in the block."""

    members: slice  # the meters', among those of the register
    firsts: Int64s  # where each meter's begin, among these rows
    time: Int64s  # the instants


class Small(NamedTuple):
    """What a register says once for each of its meters."""

    bases: Int64s
    centres: Int64s | None  # what its levels tell, shape (meters, hours)
    widths: Int64s  # how many bits lie apart where they do, of the same shape
    lengths: Int64s | None


class _Told(NamedTuple):
    """What is told of each value, and by what."""

    steps: Int64s
    guide: list[int]
    levels: Int64s | None
    sharp: int | None


def encode(
    value: Int64s, time: Int64s, firsts: Int64s, guide: tuple[int, Int64s] | None, effort: int
) -> dict[str, Any]:
    """The fields of a register that hold its values, arranged by series.

    ``guide`` is the place of a register with the same instants, and what that grew by.
    """
    growth = grown(value, firsts)
    cumulative = bool(growth.min() >= 0)
    steps, divisor = _divided(growth if cumulative else value)
    told = None
    if guide is not None and not cumulative:
        told = _guided(steps, *guide, firsts)
    if told is None:
        told = _levelled(steps, time, firsts)
    bases = np.zeros(len(firsts), np.int64)
    if cumulative or told is not None:
        bases = value[firsts]
    levels, sharp, lengths, low = np.empty(0, np.int64), None, np.empty(0, np.int64), b""
    if told is not None:
        steps = steps - told.steps
        steps[firsts] = 0
        sharp = told.sharp
        if told.levels is not None:
            levels = differences(told.levels, firsts[:1])
    if told is not None and sharp is not None:
        widths = _widths(told.steps, sharp)
        low, lengths = block_bits.pack(steps, widths, firsts)
        steps = steps >> widths
    packed, narrow = pack_values(steps, effort)
    return {
        "value": packed,
        "cumulative": cumulative,
        "divisor": divisor,
        "guide": [] if told is None else told.guide,
        "narrow": narrow,
        "bases": bases,
        "levels": pack("levels", levels, [], effort) if len(levels) else [],
        "sharp": sharp or 0,
        "lengths": pack("lengths", lengths, [], effort) if len(lengths) else [],
        "low": low,
    }


def grown(value: Int64s, firsts: Int64s) -> Int64s:
    """What each series grew by at each reading; 0 at its first."""
    growth = differences(value, firsts)
    growth[firsts] = 0
    return growth


def _divided(column: Int64s) -> tuple[Int64s, int]:
    """A column in the largest power of ten that divides it: registers may count in tens."""
    sample = int(np.gcd.reduce(column[:_SAMPLE]))
    for unit in UNITS:
        if sample and sample % unit == 0:
            divided = column // unit
            if (divided * unit == column).all():
                return divided, unit
    return column, 1


def _guided(steps: Int64s, place: int, guide: Int64s, firsts: Int64s) -> _Told | None:
    """What the guide tells, if it tells anything: power follows energy."""
    total = int(guide.sum())
    rate = (int(steps.sum()) << _RATE_BITS) // total if total > 0 else 0
    if not 0 < rate < 1 << 31 or int(guide.max()) >= 1 << 31:
        return None
    some = slice(None, None, _EVERY if len(steps) >= _MANY else 1)
    begins = np.zeros(len(steps), np.bool_)
    begins[firsts] = True
    rest = steps[some] - ((guide[some] * rate) >> _RATE_BITS)
    rest[begins[some]] = 0
    if _spread(rest) >= _TELLING * _spread(steps[some]):
        return None
    told = (guide * rate) >> _RATE_BITS
    fine, sharp = False, 0
    if len(steps) >= _LEAST * len(firsts):
        telling = told[some]
        sharp = _sharp(rest, telling)
        fine = _gain(rest, rest, telling, sharp) > _GAIN
    return _Told(told, [place, rate], None, sharp if fine else None)


def _levelled(steps: Int64s, time: Int64s, firsts: Int64s) -> _Told | None:
    """What each meter's usual values by the hour of the day tell, if that is enough."""
    if len(steps) < _LEAST * len(firsts):
        return None
    cells = _HOURS * len(firsts)
    least = _GAIN + _LEVEL_BITS * cells / len(steps)
    some, instants = steps[::_EVERY], time[::_EVERY]
    if int(instants.max() - instants.min()) < DAY_MS:
        # Of parts of a day levels seldom tell enough, and of some of the values rather more.
        _, telling = _by_hour(some, _cells(instants, -(-firsts // _EVERY)), cells)
        if _gain(some, some - telling, telling, _sharp(some - telling, telling)) <= least:
            return None
    levels, told = _by_hour(steps, _cells(time, firsts), cells)
    told[firsts] = 0
    telling = told[::_EVERY]
    rest = some - telling
    sharp = _sharp(rest, telling)
    return _Told(told, [], levels, sharp) if _gain(some, rest, telling, sharp) > least else None


def _by_hour(steps: Int64s, cell: Int64s, cells: int) -> tuple[Int64s, Int64s]:
    """The level of each cell, and what that tells of each value."""
    counts = np.bincount(cell, minlength=cells).clip(1)
    levels = _BETWEEN.searchsorted(np.bincount(cell, steps, cells) / counts)
    return levels, _CENTRES[levels][cell]


def _cells(time: Int64s, firsts: Int64s) -> Int64s:
    """The place of each reading's level: by meter, then hour of the day, UTC."""
    hour = time // HOUR_MS
    hour -= hour // _HOURS * _HOURS
    if len(firsts) > 1:
        counts = np.diff(firsts, append=len(time))
        hour += np.repeat(_HOURS * np.arange(len(firsts)), counts)
    return hour


def _sharp(rest: Int64s, told: Int64s) -> int:
    """How many bits more than that of the rest the told values have."""
    size, error = (max(1.0, float(np.abs(values).mean())) for values in (told, rest))
    return min(SHARPEST, max(1, 1 + round(math.log2(size / error))))


def _gain(before: Int64s, rest: Int64s, told: Int64s, sharp: int) -> float:
    """How many bits less a value takes, roughly, with low bits of their own."""
    widths = _widths(told, sharp)
    return _bits(before) - _bits(rest >> widths) - float(widths.mean())


def _bits(values: Int64s) -> float:
    return math.log2(max(0.25, _spread(values)))


def _spread(values: Int64s) -> float:
    """The mean deviation from the mean."""
    numbers = values.astype(np.float64)
    numbers -= numbers.mean()
    return float(np.abs(numbers, out=numbers).mean())


def _widths(told: Int64s, sharp: int) -> Int64s:
    """How many of a rest's bits are written apart: as many more as what is told is larger."""
    # The exponents of floating point: 0 has the least of all.
    bits = told.astype(np.float64).view(np.int64)
    bits >>= _MANTISSA
    bits &= _EXPONENTS
    bits -= _BELOW_HALF + sharp
    np.maximum(bits, 0, out=bits)
    return np.minimum(bits, block_bits.MOST_BITS, out=bits)


# And back


def small(registers: list[Register], place: int, meters: int) -> Small:
    """What a register of so many meters says once for each."""
    register = registers[place]
    bases = unpack_small(registers, place, "bases", meters)
    centres, widths, lengths = None, _NONE, None
    if register.levels != []:
        levels = unpack(registers, place, "levels", _HOURS * meters).cumsum()
        if levels.min() < 0 or levels.max() >= len(_CENTRES):
            raise DamagedError("the block's levels are out of range")
        centres = _CENTRES[levels].reshape(meters, _HOURS)
        widths = _widths(centres, register.sharp)
    if register.lengths != []:
        lengths = unpack(registers, place, "lengths", meters)
        if lengths.min() < 0 or lengths.max() > len(register.low):
            raise DamagedError("the block's low bits are not as many as their lengths say")
    if len(register.low) != (0 if lengths is None else lengths.sum()):
        raise DamagedError("the block's low bits are not as many as their lengths say")
    return Small(bases, centres, widths, lengths)


def steps(
    register: Register, own: Small, packed: Int64s, guide: Int64s | None, part: Part
) -> Int64s:
    """The values, or the differences within each series, in the register's own unit.

    ``packed`` are those of the column, ``guide`` the steps of the register's guide.
    """
    told, widths = _told(register, own, guide, part)
    value = packed
    if told is not None:
        told[part.firsts] = 0
        if own.lengths is not None:
            widths[part.firsts] = 0
            before = int(own.lengths[: part.members.start].sum())
            lengths = own.lengths[part.members]
            octets = register.low[before : before + int(lengths.sum())]
            value = value << widths
            value |= block_bits.unpack(octets, widths, part.firsts, lengths)
        value = value + told
    if register.divisor > 1:
        value = value * register.divisor
    value[part.firsts] += own.bases[part.members]
    return value


def _told(
    register: Register, own: Small, guide: Int64s | None, part: Part
) -> tuple[Int64s | None, Int64s]:
    """What is told of each value, but the first of a meter, and how many bits lie apart."""
    if guide is not None:
        told = (guide * register.guide[1]) >> _RATE_BITS
        return told, _NONE if own.lengths is None else _widths(told, register.sharp)
    if own.centres is None:
        return None, _NONE
    cells = _cells(part.time, part.firsts)
    return own.centres[part.members].ravel()[cells], own.widths[part.members].ravel()[cells]
