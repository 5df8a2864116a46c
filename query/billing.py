"""Money: decimal, rounded once per line, half up."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_CENT = Decimal("0.01")


def amount(energy_wh: int, price: Decimal) -> Decimal:
    """What so many Wh cost at a price per kWh, to the cent."""
    return (Decimal(energy_wh).scaleb(-3) * price).quantize(_CENT, ROUND_HALF_UP)
