"""Items of a push as registers of Wattbus: by OBIS code, in the register's unit, exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Context, Decimal

from telemetry.formats.dlms_items import Item
from telemetry.formats.dlms_models import Scalers
from telemetry.registers import REGISTERS, Quantity, Register

# A is electricity, B the channel or nothing, F the value of now.
_BY_OBIS = {
    f"1-{channel}:{register.obis.split(':')[1]}.255": register
    for register in REGISTERS
    if register.obis.startswith("1-")
    for channel in (0, 1)
}
_WHOLE = ("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64")
_NUMBERS = frozenset((*_WHOLE, "f32", "f64"))
_LARGEST = 18  # digits; more are beyond every register
_POWERS = tuple(int(f"1{'0' * power}") for power in range(_LARGEST + 1))
_BEYOND = _POWERS[_LARGEST]
_EXACT = Context(prec=60)
# From how much on a mains voltage has digits behind the point.
_TENTHS, _HUNDREDTHS = 1_000, 10_000


def values(found: Sequence[Item], scalers: Scalers) -> list[tuple[int, int]]:
    """Codes of registers with their raw integers, half to even; of one register the first.

    ``scalers`` are of items that tell none. What no register is for, or is in another unit, is left
    out.
    """
    raws: dict[int, int] = {}
    for item in found:
        register = register_of(item)
        if register is None or register.code in raws:
            continue
        scaler = item.scaler if item.scaler is not None else _implied(register, item, scalers)
        raw = _raw(item.value, scaler - register.scaler)
        if raw is not None:
            raws[register.code] = raw
    return list(raws.items())


def register_of(item: Item) -> Register | None:
    """The register that an item is for; None if there is none, or its unit is another."""
    register = _BY_OBIS.get(item.obis) if item.obis else None
    if register is None or item.type not in _NUMBERS:
        return None
    return register if item.unit in (None, register.unit) else None


def _implied(register: Register, item: Item, scalers: Scalers) -> int:
    if register.quantity == Quantity.ENERGY:
        return scalers.energy
    if register.quantity == Quantity.CURRENT:
        return scalers.current
    if register.quantity == Quantity.FACTOR:
        return scalers.factor
    if register.quantity == Quantity.FREQUENCY:
        return scalers.frequency
    if register.quantity == Quantity.VOLTAGE:
        return _voltage(item) if scalers.voltage is None else scalers.voltage
    return 0


def _voltage(item: Item) -> int:
    if item.type not in _WHOLE or not isinstance(item.value, int) or item.value < _TENTHS:
        return 0
    return -1 if item.value < _HUNDREDTHS else -2


def _raw(value: object, exponent: int) -> int | None:
    """``value`` times a power of ten as an integer; None for what is no number."""
    if isinstance(value, int) and 0 <= exponent <= _LARGEST:
        return value * _POWERS[exponent]
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    number = Decimal(value).scaleb(exponent, _EXACT)
    if number and number.adjusted() > _LARGEST:  # out of every register's bounds: refused as such
        return _BEYOND if number > 0 else -_BEYOND
    return int(number.to_integral_value(context=_EXACT))
