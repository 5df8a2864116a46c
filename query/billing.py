"""Money: decimal, rounded once per line, half up."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

_CENT = Decimal("0.01")
_EXACT = Context(prec=64, rounding=ROUND_HALF_UP)  # the product is exact: it is rounded once


def amount(energy_wh: int, price: Decimal) -> Decimal:
    """What so many Wh cost at a price per kWh, to the cent."""
    return _EXACT.quantize(_EXACT.multiply(_EXACT.scaleb(Decimal(energy_wh), -3), price), _CENT)
