"""What lines of the line protocol mean: which tag is the meter, which field which register.

The rules stand in docs/formats.md ("InfluxDB line protocol").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from telemetry.formats.options import LineOptions
from telemetry.registers import BY_NAME, Register

# How many ns the units of a listener's times are.
PRECISIONS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
PREFIXES = {"m": -3, "": 0, "k": 3, "M": 6}  # of units, powers of ten
# Further names that fields usually have, and their registers.
USUAL = {
    "energy": "energy_import",
    "energy_total": "energy_import",
    "total_energy": "energy_import",
    "energy_imported": "energy_import",
    "energy_exported": "energy_export",
    "active_power": "power",
    "reactive_power": "reactive_power_import",
    "voltage": "voltage_l1",
    "freq": "frequency",
    "pf": "power_factor",
}
BEYOND = 2**62  # a raw integer beyond every register's bounds


class Target(NamedTuple):
    """A register, and the power of ten of the unit in which a field tells it."""

    register: Register
    exponent: int

    def raw(self, value: Decimal | int) -> int:
        """The raw integer nearest to ``value``, halves to even; at most BEYOND either way."""
        step = self.register.scaler - self.exponent
        value = Decimal(value)
        if value.copy_abs() > Decimal(BEYOND).scaleb(step):
            return BEYOND if value > 0 else -BEYOND
        exact = value.quantize(Decimal(1).scaleb(step), ROUND_HALF_EVEN)
        return int(exact.scaleb(-step))


def target(text: str) -> Target:
    """What ``energy_import`` or ``energy_import kWh`` means. Raises ValueError."""
    name, _, unit = text.partition(" ")
    register = BY_NAME.get(name)
    if register is None:
        raise ValueError(
            f"{name[:40]!r} is no register: take a name or OBIS code of docs/wire-format.md"
        )
    units = {f"{prefix}{register.unit}": power for prefix, power in PREFIXES.items()}
    if not unit:
        return Target(register, 0)
    if not register.unit or unit not in units:
        known = f"in {', '.join(units)}" if register.unit else "without a unit"
        raise ValueError(f"{unit[:40]!r} is no unit of {name}: it is told {known}")
    return Target(register, units[unit])


def _known() -> dict[str, Target]:
    """The targets of names that nobody need configure, in lower case."""
    found: dict[str, Target] = {}
    names = {name: BY_NAME[name] for name in BY_NAME} | {
        name: BY_NAME[register] for name, register in USUAL.items()
    }
    for name, register in names.items():
        found[name.lower()] = Target(register, 0)
        for prefix in ("", "k") if register.unit else ():
            suffix = f"_{prefix}{register.unit}".lower()
            found[name.lower() + suffix] = Target(register, PREFIXES[prefix])
    return found


_KNOWN = _known()


class Fields:
    """The registers of fields and the meters of tags, as the configuration of a listener says."""

    def __init__(self, options: LineOptions) -> None:
        self._tags = options.meter
        self._own: Mapping[str, Target] = {
            name: target(text) for name, text in options.registers.items()
        }

    def meter_tag(self, tags: Iterable[str]) -> str | None:
        """Which of a line's tags names its meter."""
        present = set(tags)
        return next((tag for tag in self._tags if tag in present), None)

    def target(self, field: str) -> Target | None:
        """The register of a field; None: it is left out."""
        own = self._own.get(field)
        return _KNOWN.get(field.lower()) if own is None else own
