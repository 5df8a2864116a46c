"""A fleet of simulated homes: what each draws by local time of day, counted in exact registers.

Pure: the time, the time elapsed and the seed are arguments; the same arguments, the same fleet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry import meter_id
from telemetry.formats.native import (
    FLAG_ACKNOWLEDGE,
    HEADER,
    MOST_RECORDS,
    RECORD,
    encode_same_shape,
)
from telemetry.meter_index import MeterIndex
from telemetry.readings import Bytes, Int64s
from telemetry.registers import ALERT_LIMIT, BY_CODE, BY_NAME, ENERGY_IMPORT, POWER_IMPORT

Float64s = npt.NDArray[np.float64]

# Up to here every product below fits 64 bits and every reading its register's bounds.
HIGHEST_MULTIPLIER: Final = 1_000_000.0
LONGEST_STEP_MS: Final = 86_400_000
HIGHEST_REGISTER_MWH: Final = BY_CODE[ENERGY_IMPORT].maximum * 1000

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

# What makes one home unlike another: each trait is drawn evenly between two bounds.
_TRAITS: dict[str, tuple[float, float]] = {
    "base_w": (40, 220),
    "fridge_w": (60, 160),
    "fridge_period_ms": (30 * 60_000, 70 * 60_000),
    "fridge_phase": (0, 1),
    "fridge_duty": (0.25, 0.45),
    "morning_w": (200, 1400),
    "morning_hour": (6, 8.5),
    "morning_width": (0.5, 1.2),
    "evening_w": (400, 2600),
    "evening_hour": (18, 21),
    "evening_width": (1, 2.2),
    "idle_v": (227, 235),
}
_NOISE = 0.08  # of the load, standard deviation
_LINE_OHM = 0.25
_MOST_DROP_V = 12
_REGISTERS = (
    ENERGY_IMPORT,
    POWER_IMPORT,
    BY_NAME["voltage_l1"].code,
    BY_NAME["current_l1"].code,
    BY_NAME["frequency"].code,
)
# Each of them may carry the alert limit, too.
MOST_REPEATS: Final = MOST_RECORDS // (len(_REGISTERS) + 1) - 1
_FLAGS = (
    HEADER.names.index("flags") if HEADER.names else 0
)  # its octet: those before are single ones


@dataclass(frozen=True, slots=True)
class Measured:
    """What the meters show at one instant: raw integers of their registers, each of shape (n,).

    Wh, 0.1 W, mV, mA and mHz.
    """

    energy_import: Int64s
    power_import: Int64s
    voltage_l1: Int64s
    current_l1: Int64s
    frequency: Int64s


class Fleet:
    """N homes with a meter each; registers are whole milliwatt-hours and never fall.

    A home's character follows from the seed and its own id, so that it is the same home in a fleet
    of any size. ``registers`` are what the meters counted before, in mWh by id; others start at 0.
    """

    def __init__(self, ids: Sequence[str], seed: int, registers: Mapping[str, int]):
        """Raises ValueError for an id that breaks the rules and for a negative seed."""
        self.ids = tuple(ids)
        octets = b"".join(meter_id.to_octets(name) for name in ids)
        keys = np.frombuffer(octets, "<u8").reshape(len(self.ids), 2)
        self._key_high, self._key_low = keys[:, 0], keys[:, 1]
        shares = np.array(
            [np.random.default_rng([seed, *pair]).random(len(_TRAITS)) for pair in keys.tolist()]
        )
        self._home: dict[str, Float64s] = {
            trait: low + (high - low) * share
            for (trait, (low, high)), share in zip(_TRAITS.items(), shares.T, strict=True)
        }
        self._noise = np.random.default_rng([seed, *keys.ravel().tolist()])
        self._register_mwh = np.array([registers.get(name, 0) for name in ids], np.int64)
        # What is not yet a whole mWh, in mW·ms: many short steps add up to one long one.
        self._carry = np.zeros(len(self.ids), np.int64)
        self._earlier: list[tuple[int, npt.NDArray[np.void]]] = []

    def __len__(self) -> int:
        return len(self.ids)

    def index(self) -> MeterIndex:
        """The meters' places in the fleet by the halves of their octets."""
        index = MeterIndex()
        index.add(self._key_high, self._key_low, np.arange(len(self)))
        return index

    def registers(self) -> dict[str, int]:
        """The registers in mWh by id, for the state file."""
        return dict(zip(self.ids, self._register_mwh.tolist(), strict=True))

    def step(
        self, now_ms: int, elapsed_ms: int, *, utc_offset_ms: int, multiplier: float
    ) -> Measured:
        """Let ``elapsed_ms`` pass, ending now, and read the meters.

        ``now_ms`` is Unix time; ``utc_offset_ms`` is what local time is ahead of UTC. The load is
        scaled by ``multiplier``, 0 to HIGHEST_MULTIPLIER; ``elapsed_ms`` is 0 to LONGEST_STEP_MS.
        """
        watts = self._load(now_ms, utc_offset_ms) * multiplier
        milliwatts = np.rint(watts * 1000).astype(np.int64)
        self._count(milliwatts, elapsed_ms)
        volts = self._voltage(watts)
        return Measured(
            energy_import=self._register_mwh // 1000,
            power_import=(milliwatts + 50) // 100,
            voltage_l1=np.rint(volts * 1000).astype(np.int64),
            current_l1=np.rint(milliwatts / volts).astype(np.int64),
            # One grid: every home sees the same frequency.
            frequency=np.full(len(self), 50_000 + round(self._noise.normal(0, 15)), np.int64),
        )

    def datagrams(
        self,
        measured: Measured,
        now_ms: int,
        *,
        epoch: int | Int64s,
        sequence: int | Int64s,
        alert_limit_wh: int | None = None,
        acknowledge: bool = False,
        repeat: int = 0,
    ) -> Bytes:
        """A native datagram a meter, as rows of shape (n, octets); with the limit if given.

        ``repeat``, at most MOST_REPEATS: so many of the last measurements that were made into
        datagrams are carried again.
        """
        columns = [
            measured.energy_import,
            measured.power_import,
            measured.voltage_l1,
            measured.current_l1,
            measured.frequency,
        ]
        registers = [*_REGISTERS]
        if alert_limit_wh is not None:
            columns.append(np.full(len(self), alert_limit_wh, np.int64))
            registers.append(ALERT_LIMIT)
        records = np.zeros((len(self), len(registers)), RECORD)
        records["register"] = registers
        records["value"] = np.stack(columns, axis=1)
        rows = encode_same_shape(
            self._key_high,
            self._key_low,
            np.full(len(self), epoch, np.uint32),
            np.full(len(self), sequence, np.uint32),
            np.full(len(self), now_ms, np.int64),
            np.concatenate([*self._again(now_ms), records], axis=1),
        )
        if acknowledge:
            rows[:, _FLAGS] |= FLAG_ACKNOWLEDGE
        self._earlier = [*self._earlier, (now_ms, records)][-repeat:] if repeat else []
        return rows

    def _again(self, now_ms: int) -> list[npt.NDArray[np.void]]:
        """The earlier records, counted from now; without those the offset cannot reach."""
        found = []
        for time_ms, records in self._earlier:
            if abs(time_ms - now_ms) < 2**31:
                records["offset"] = time_ms - now_ms
                found.append(records)
        return found

    def _load(self, now_ms: int, utc_offset_ms: int) -> Float64s:
        """The load in W, of shape (n,), before the multiplier."""
        home = self._home
        hour = ((now_ms + utc_offset_ms) % _DAY_MS) / _HOUR_MS
        cycle = (now_ms / home["fridge_period_ms"] + home["fridge_phase"]) % 1
        watts: Float64s = (
            home["base_w"]
            + home["fridge_w"] * (cycle < home["fridge_duty"])
            + home["morning_w"] * _peak(hour, home["morning_hour"], home["morning_width"])
            + home["evening_w"] * _peak(hour, home["evening_hour"], home["evening_width"])
        )
        return watts * self._noise.lognormal(0, _NOISE, len(self))

    def _count(self, milliwatts: Int64s, elapsed_ms: int) -> None:
        """Add the energy of the elapsed time to the registers, exactly."""
        # Divided first: the plain product of a large fleet's power and a long step overflows.
        whole, rest = np.divmod(milliwatts, _HOUR_MS)
        more, self._carry = np.divmod(rest * elapsed_ms + self._carry, _HOUR_MS)
        self._register_mwh = np.minimum(
            self._register_mwh + whole * elapsed_ms + more, HIGHEST_REGISTER_MWH
        )

    def _voltage(self, watts: Float64s) -> Float64s:
        """The voltage in V, of shape (n,): it sags under load."""
        idle = self._home["idle_v"] + self._noise.normal(0, 0.3, len(self))
        volts: Float64s = idle - np.minimum(watts / idle * _LINE_OHM, _MOST_DROP_V)
        return volts


def _peak(hour: float, centre: Float64s, width: Float64s) -> Float64s:
    """A bell over the 24-hour clock, 1 at its centre; all in hours."""
    distance = (hour - centre + 12) % 24 - 12
    bell: Float64s = np.exp(-0.5 * (distance / width) ** 2)
    return bell
