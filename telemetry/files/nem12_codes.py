"""What the codes of a NEM12 file mean here: suffixes, units and quality flags."""

from __future__ import annotations

from dataclasses import dataclass

from telemetry.readings import Status
from telemetry.registers import BY_NAME

# A suffix's first character. Directions are the market's: what it exports, the customer imports.
REGISTERS = {
    "E": BY_NAME["energy_import"],
    "B": BY_NAME["energy_export"],
    "Q": BY_NAME["reactive_energy_import"],
    "K": BY_NAME["reactive_energy_export"],
}
# Units in upper case: the register's unit, and the power of ten that it is multiplied by.
UNITS = {
    "WH": ("Wh", 0),
    "KWH": ("Wh", 3),
    "MWH": ("Wh", 6),
    "VARH": ("varh", 0),
    "KVARH": ("varh", 3),
    "MVARH": ("varh", 6),
}
QUALITIES: dict[str, int | None] = {
    "A": 0,
    "E": Status.ESTIMATED,
    "F": Status.ESTIMATED,
    "S": Status.ESTIMATED,
    "N": None,
}


@dataclass(frozen=True, slots=True)
class Channel:
    """Which register of which meter a 200 record is about.

    The suffix's second character tells the meters of one connection point apart.
    """

    nmi: str
    suffix: str

    def meter(self, id: str | None = None) -> str:
        """The meter's id: the NMI (or ``id``); with ``/2`` for the second meter, and so on."""
        own = self.nmi if id is None else id
        return own if self.suffix[1] == "1" else f"{own}/{self.suffix[1]}"

    @property
    def register(self) -> int:
        """The register's code."""
        return REGISTERS[self.suffix[0]].code
