"""Households whose history fills a database: energy and power of each, every 15 minutes.

Each home has its own average use (lognormal, median 90 Wh a quarter of an hour, about 8.6 kWh a
day), its own register to start from, and its own habits: little at night, a peak in the morning
and a higher one in the evening, each home's up to three hours earlier or later. Every interval's
energy is that shape times lognormal noise (``ENERGY_NOISE``), in whole Wh, cumulative. Power is an
instant's value in raw units of 0.1 W, whole watts as meters report them: the interval's mean times
lognormal noise of its own (``POWER_NOISE``). All homes are read at the same instants.

The noise is what readings cost: it is chosen so that VictoriaMetrics needs about 2.6 octets for a
reading of both registers, and is the same for everybody.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.datagrams import names
from telemetry.readings import Int64s, Readings, UInt64s
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT

STEP_MS = 900_000
STEPS_A_DAY = 96
ENERGY_NOISE = 0.3
POWER_NOISE = 0.2
_MEDIAN_WH = 90.0
_FIRST_REGISTERS = 20_000_000  # Wh
_SHIFT = 3 * 4  # steps that a home's habits are earlier or later, at most
_REGISTERS = np.array([ENERGY_IMPORT, POWER_IMPORT], np.uint16)

Float32s = npt.NDArray[np.float32]


class Homes:
    """So many homes, from an instant on; the same for the same arguments."""

    def __init__(
        self, count: int, start_ms: int, energy: Int64s | None = None, seed: int = 1
    ) -> None:
        """``energy``: the registers (Wh) at the start, shape (count,), to go on from those."""
        rng = np.random.default_rng(seed)
        self.count, self.next_ms = count, start_ms
        self._mean = (_MEDIAN_WH * rng.lognormal(0, 0.5, count)).astype(np.float32)
        self._shift = rng.integers(-_SHIFT, _SHIFT + 1, count)
        first = rng.integers(0, _FIRST_REGISTERS, count)
        self._energy: Int64s = first if energy is None else energy
        # What comes depends on where it begins, so that a database filled in parts is no repeat.
        # Energy and power have generators of their own, so that the batches' size is no matter.
        self._for_energy, self._for_power = np.random.default_rng((seed, start_ms)).spawn(2)
        keys = names(count).view(np.uint64).reshape(count, 2)
        self._high, self._low = keys[:, 0], keys[:, 1]

    def rounds(self, count: int) -> tuple[Int64s, Int64s, Int64s]:
        """The next readings of every home: instants (count,), Wh and 0.1 W (count, homes)."""
        time = self.next_ms + np.arange(count) * STEP_MS
        self.next_ms += count * STEP_MS
        step = (time // STEP_MS)[:, None] + self._shift
        expected = self._mean * _SHAPE[step % STEPS_A_DAY]
        used = np.rint(expected * self._noise(self._for_energy, count, ENERGY_NOISE)).astype(
            np.int64
        )
        energy = self._energy + used.cumsum(axis=0)
        self._energy = energy[-1]
        mean_w = used * (3_600_000 // STEP_MS)
        power = np.rint(mean_w * self._noise(self._for_power, count, POWER_NOISE))
        return time, energy, power.astype(np.int64) * 10

    def readings(self, count: int) -> Readings:
        """The next readings as receivers hand them over: datagrams of both, round by round."""
        time, energy, power = self.rounds(count)
        values = 2 * energy.size
        return Readings(
            key_high=_twice(self._high, count),
            key_low=_twice(self._low, count),
            epoch=np.ones(values, np.uint32),
            register=np.tile(_REGISTERS, energy.size),
            status=np.zeros(values, np.uint16),
            time=np.repeat(time, 2 * self.count),
            value=np.stack([energy.ravel(), power.ravel()], axis=1).ravel(),
        )

    def _noise(self, rng: np.random.Generator, rounds: int, sigma: float) -> Float32s:
        noise = rng.standard_normal((rounds, self.count), np.float32)
        noise *= np.float32(sigma)
        return np.exp(noise, out=noise)


def _twice(keys: UInt64s, rounds: int) -> UInt64s:
    return np.tile(np.repeat(keys, 2), rounds)


def _shape() -> Float32s:
    """How much of the average a home uses at each step of the day; the mean is 1."""
    hour = np.arange(STEPS_A_DAY) / 4
    shape = 0.4 + np.exp(-((hour - 7.5) ** 2) / 3) + 2 * np.exp(-((hour - 19.5) ** 2) / 8)
    return np.asarray(shape / shape.mean(), np.float32)


_SHAPE = _shape()
