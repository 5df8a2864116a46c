"""The registers Wattbus knows: OBIS code, quantity, unit and decimal scaler, as one table.

A reading is stored as the raw integer that was sent; ``value = raw * 10**scaler`` in ``unit``
(``scaler_unit`` of IEC 62056-6-2). OBIS codes are those of IEC 62056-6-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Quantity(StrEnum):
    """What a register measures; energies only ever rise, everything else is an instant's value."""

    ENERGY = "energy"
    POWER = "power"
    VOLTAGE = "voltage"
    CURRENT = "current"
    FREQUENCY = "frequency"
    FACTOR = "factor"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Register:
    """One row of the table: the wire code, its names, and the raw integers that make sense."""

    code: int
    obis: str
    name: str
    quantity: Quantity
    unit: str
    scaler: int
    minimum: int
    maximum: int

    def value(self, raw: int) -> Decimal:
        """The reading in ``unit``, exact."""
        return Decimal(raw).scaleb(self.scaler)

    def raw(self, value: Decimal) -> int:
        """The raw integer nearest to ``value`` in ``unit`` (halves to even)."""
        return int(value.scaleb(-self.scaler).to_integral_value())


# Bounds are far beyond any real meter, and far inside what 64-bit sums can hold.
_ENERGY = (0, 10**15)
_SIGNED = (-(10**13), 10**13)
_POSITIVE = (0, 10**9)

ENERGY_IMPORT = 1
ENERGY_EXPORT = 2
POWER_IMPORT = 3
ALERT_LIMIT = 35

REGISTERS: tuple[Register, ...] = (
    Register(ENERGY_IMPORT, "1-0:1.8.0", "energy_import", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(ENERGY_EXPORT, "1-0:2.8.0", "energy_export", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(POWER_IMPORT, "1-0:1.7.0", "power_import", Quantity.POWER, "W", -1, *_SIGNED),
    Register(4, "1-0:2.7.0", "power_export", Quantity.POWER, "W", -1, *_SIGNED),
    Register(5, "1-0:16.7.0", "power", Quantity.POWER, "W", -1, *_SIGNED),
    Register(6, "1-0:3.8.0", "reactive_energy_import", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(7, "1-0:4.8.0", "reactive_energy_export", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(8, "1-0:3.7.0", "reactive_power_import", Quantity.POWER, "var", -1, *_SIGNED),
    Register(9, "1-0:4.7.0", "reactive_power_export", Quantity.POWER, "var", -1, *_SIGNED),
    Register(10, "1-0:9.7.0", "apparent_power", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(11, "1-0:13.7.0", "power_factor", Quantity.FACTOR, "", -3, -1000, 1000),
    Register(12, "1-0:14.7.0", "frequency", Quantity.FREQUENCY, "Hz", -3, *_POSITIVE),
    Register(13, "1-0:32.7.0", "voltage_l1", Quantity.VOLTAGE, "V", -3, *_POSITIVE),
    Register(14, "1-0:52.7.0", "voltage_l2", Quantity.VOLTAGE, "V", -3, *_POSITIVE),
    Register(15, "1-0:72.7.0", "voltage_l3", Quantity.VOLTAGE, "V", -3, *_POSITIVE),
    Register(16, "1-0:31.7.0", "current_l1", Quantity.CURRENT, "A", -3, *_SIGNED),
    Register(17, "1-0:51.7.0", "current_l2", Quantity.CURRENT, "A", -3, *_SIGNED),
    Register(18, "1-0:71.7.0", "current_l3", Quantity.CURRENT, "A", -3, *_SIGNED),
    Register(19, "1-0:36.7.0", "power_l1", Quantity.POWER, "W", -1, *_SIGNED),
    Register(20, "1-0:56.7.0", "power_l2", Quantity.POWER, "W", -1, *_SIGNED),
    Register(21, "1-0:76.7.0", "power_l3", Quantity.POWER, "W", -1, *_SIGNED),
    # The meter's own alert threshold (the limiter of IEC 62056-6-2): energy a billing period.
    Register(ALERT_LIMIT, "0-0:17.0.0", "alert_limit", Quantity.LIMIT, "Wh", 0, *_ENERGY),
    Register(128, "1-0:10.7.0", "apparent_power_export", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(129, "1-0:9.8.0", "apparent_energy_import", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(130, "1-0:10.8.0", "apparent_energy_export", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(131, "1-0:11.7.0", "current", Quantity.CURRENT, "A", -3, *_SIGNED),
    Register(132, "1-0:91.7.0", "current_n", Quantity.CURRENT, "A", -3, *_SIGNED),
    Register(133, "1-0:33.7.0", "power_factor_l1", Quantity.FACTOR, "", -3, -1000, 1000),
    Register(134, "1-0:53.7.0", "power_factor_l2", Quantity.FACTOR, "", -3, -1000, 1000),
    Register(135, "1-0:73.7.0", "power_factor_l3", Quantity.FACTOR, "", -3, -1000, 1000),
    Register(136, "1-0:21.7.0", "power_import_l1", Quantity.POWER, "W", -1, *_SIGNED),
    Register(137, "1-0:41.7.0", "power_import_l2", Quantity.POWER, "W", -1, *_SIGNED),
    Register(138, "1-0:61.7.0", "power_import_l3", Quantity.POWER, "W", -1, *_SIGNED),
    Register(139, "1-0:22.7.0", "power_export_l1", Quantity.POWER, "W", -1, *_SIGNED),
    Register(140, "1-0:42.7.0", "power_export_l2", Quantity.POWER, "W", -1, *_SIGNED),
    Register(141, "1-0:62.7.0", "power_export_l3", Quantity.POWER, "W", -1, *_SIGNED),
    Register(142, "1-0:23.7.0", "reactive_power_import_l1", Quantity.POWER, "var", -1, *_SIGNED),
    Register(143, "1-0:43.7.0", "reactive_power_import_l2", Quantity.POWER, "var", -1, *_SIGNED),
    Register(144, "1-0:63.7.0", "reactive_power_import_l3", Quantity.POWER, "var", -1, *_SIGNED),
    Register(145, "1-0:24.7.0", "reactive_power_export_l1", Quantity.POWER, "var", -1, *_SIGNED),
    Register(146, "1-0:44.7.0", "reactive_power_export_l2", Quantity.POWER, "var", -1, *_SIGNED),
    Register(147, "1-0:64.7.0", "reactive_power_export_l3", Quantity.POWER, "var", -1, *_SIGNED),
    Register(148, "1-0:29.7.0", "apparent_power_l1", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(149, "1-0:49.7.0", "apparent_power_l2", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(150, "1-0:69.7.0", "apparent_power_l3", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(151, "1-0:30.7.0", "apparent_power_export_l1", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(152, "1-0:50.7.0", "apparent_power_export_l2", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(153, "1-0:70.7.0", "apparent_power_export_l3", Quantity.POWER, "VA", -1, *_SIGNED),
    Register(154, "1-0:21.8.0", "energy_import_l1", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(155, "1-0:41.8.0", "energy_import_l2", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(156, "1-0:61.8.0", "energy_import_l3", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(157, "1-0:22.8.0", "energy_export_l1", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(158, "1-0:42.8.0", "energy_export_l2", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(159, "1-0:62.8.0", "energy_export_l3", Quantity.ENERGY, "Wh", 0, *_ENERGY),
    Register(160, "1-0:23.8.0", "reactive_energy_import_l1", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(161, "1-0:43.8.0", "reactive_energy_import_l2", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(162, "1-0:63.8.0", "reactive_energy_import_l3", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(163, "1-0:24.8.0", "reactive_energy_export_l1", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(164, "1-0:44.8.0", "reactive_energy_export_l2", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(165, "1-0:64.8.0", "reactive_energy_export_l3", Quantity.ENERGY, "varh", 0, *_ENERGY),
    Register(166, "1-0:29.8.0", "apparent_energy_import_l1", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(167, "1-0:49.8.0", "apparent_energy_import_l2", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(168, "1-0:69.8.0", "apparent_energy_import_l3", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(169, "1-0:30.8.0", "apparent_energy_export_l1", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(170, "1-0:50.8.0", "apparent_energy_export_l2", Quantity.ENERGY, "VAh", 0, *_ENERGY),
    Register(171, "1-0:70.8.0", "apparent_energy_export_l3", Quantity.ENERGY, "VAh", 0, *_ENERGY),
)

BY_CODE: dict[int, Register] = {register.code: register for register in REGISTERS}


def _names() -> dict[str, Register]:
    """Every name a register answers to: its name, its OBIS code, and the code's short forms."""
    names: dict[str, Register] = {}
    for register in REGISTERS:
        short = register.obis.split(":")[1]
        for name in (register.name, register.obis, short, f"{register.obis}*255"):
            names[name] = register
    return names


BY_NAME: dict[str, Register] = _names()
