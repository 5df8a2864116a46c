"""What the components of a Shelly device say of themselves, as registers (docs/formats.md).

The fields are those of the components' status objects in the maker's API reference (Gen2 and
later): numbers in W, VA, V, A, Hz and Wh, signed where power can flow both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal

from telemetry.readings import Status
from telemetry.registers import BY_NAME

_UNTRAPPED = Context(prec=40, traps=[])  # a difference of any two numbers is a number
_BEYOND = 2**62  # outside every register's bounds

# em and em1: a meter of three phases, and of one.
METER = {
    "act_power": "power",
    "aprt_power": "apparent_power",
    "voltage": "voltage_l1",
    "current": "current_l1",
    "pf": "power_factor",
    "freq": "frequency",
    "total_act_power": "power",
    "total_aprt_power": "apparent_power",
    "total_current": "current",
    "n_current": "current_n",
} | {
    f"{phase}_{field}": register
    for line, phase in enumerate("abc", 1)
    for field, register in {
        "act_power": f"power_l{line}",
        "aprt_power": f"apparent_power_l{line}",
        "voltage": f"voltage_l{line}",
        "current": f"current_l{line}",
        "pf": f"power_factor_l{line}",
        "freq": "frequency",
    }.items()
}
# emdata and em1data: the counters of those.
COUNTERS = {
    "total_act": "energy_import",
    "total_act_ret": "energy_export",
    "total_act_energy": "energy_import",
    "total_act_ret_energy": "energy_export",
} | {
    f"{phase}_total_{field}": f"{register}_l{line}"
    for line, phase in enumerate("abc", 1)
    for field, register in {
        "act_energy": "energy_import",
        "act_ret_energy": "energy_export",
    }.items()
}
# Everything that measures what it feeds: switches, plugs, covers, dimmers, and pm1 by itself.
LOAD = {
    "apower": "power",
    "aprtpower": "apparent_power",
    "aprt_power": "apparent_power",
    "voltage": "voltage_l1",
    "current": "current_l1",
    "pf": "power_factor",
    "freq": "frequency",
    "aenergy": "energy_import",
    "ret_aenergy": "energy_export",
}

# What of a component's errors puts its numbers in doubt.
DOUBTS = ("power_meter_failure", "out_of_range", "ct_type_not_set")
_ERRORS = ("errors", "a_errors", "b_errors", "c_errors", "n_errors")


@dataclass(frozen=True, slots=True)
class _Target:
    """A register: its code, its steps in a unit, and its bounds in the unit."""

    code: int
    steps: Decimal
    least: Decimal
    most: Decimal

    @classmethod
    def of(cls, name: str) -> _Target:
        register = BY_NAME[name]
        least, most = (register.value(raw) for raw in (register.minimum, register.maximum))
        return cls(register.code, Decimal(1).scaleb(-register.scaler), least, most)

    def raw(self, value: Decimal) -> int:
        """The raw integer; one out of all bounds for a value out of the register's."""
        # Compared in the register's unit first: rounding a number of a thousand digits costs.
        if not self.least <= value <= self.most:
            return _BEYOND
        return round(value * self.steps)  # halves to even


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of component: which component it is the meter of, and what its fields are.

    ``sums``: the energy it counts is that of both directions.
    """

    meter: str
    fields: Mapping[str, _Target]
    sums: bool = False


def _kind(meter: str, fields: Mapping[str, str], *, sums: bool = False) -> Kind:
    return Kind(meter, {field: _Target.of(name) for field, name in fields.items()}, sums)


KINDS: dict[str, Kind] = {
    "em": _kind("em", METER),
    "emdata": _kind("em", COUNTERS),
    "em1": _kind("em1", METER),
    "em1data": _kind("em1", COUNTERS),
    **{
        name: _kind(name, LOAD, sums=True)
        for name in ("pm1", "switch", "cover", "light", "rgb", "rgbw", "cct")
    },
}


def registers(kind: Kind, said: Mapping[str, object]) -> dict[int, int]:
    """Codes of registers and their raw integers, for what a component says.

    What is null or not said is not among them. Raises ValueError for what no component says.
    """
    found: dict[int, int] = {}
    fields = kind.fields
    for field, value in (_netted(said) if kind.sums else said).items():
        # A phase that is not connected has a frequency of 0: that of another one is meant.
        if field in fields and value is not None and not found.get((target := fields[field]).code):
            found[target.code] = target.raw(_number(value))
    return found


def doubt(said: Mapping[str, object]) -> int:
    """Status.SUSPECT where the component says that it cannot trust its numbers."""
    for name in _ERRORS:
        errors = said.get(name)
        if isinstance(errors, list) and any(
            isinstance(error, str) and error.startswith(DOUBTS) for error in errors
        ):
            return Status.SUSPECT
    return 0


def _number(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if type(value) is int:
        return Decimal(value)
    raise ValueError(f"{type(value).__name__} is no number")


def _netted(said: Mapping[str, object]) -> dict[str, object]:
    """What a load says, with the totals of its energies, apart by direction.

    ``aenergy`` rises whichever way energy flows, ``ret_aenergy`` only when it is returned.
    """
    own: dict[str, object] = dict(said)
    total, returned = (_total(own.pop(name, None)) for name in ("aenergy", "ret_aenergy"))
    if returned is not None:
        own["ret_aenergy"] = returned
    if total is not None and returned is None:
        own["aenergy"] = total
    elif total is not None and returned is not None and returned <= total:
        own["aenergy"] = _UNTRAPPED.subtract(total, returned)
    return own


def _total(counter: object) -> Decimal | None:
    if counter is None:
        return None
    if not isinstance(counter, dict):
        raise ValueError("a counter is an object")
    total = counter.get("total")
    return None if total is None else _number(total)
