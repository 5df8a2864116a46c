from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query.billing import amount

PRICES = st.decimals(0, 1_000_000, places=8)


@pytest.mark.parametrize(
    ("wh", "price", "cost"),
    [
        (123_450, "0.50", "61.73"),  # half-even would say 61.72
        (123_449, "0.50", "61.72"),
        (673_000, "0.50", "336.50"),
        (719_000, "0.50", "359.50"),
        (33_809_000, "0.50", "16904.50"),
        (0, "0.50", "0.00"),
        (1, "0", "0.00"),
        (1, "4.99999999", "0.00"),
        (1, "5", "0.01"),
        (10, "0.5", "0.01"),
        (30, "0.5", "0.02"),
        (999_999_999_999_999, "1000000", "999999999999999000.00"),
        # A product of 29 digits: rounded to 28 of them first, it would be half a cent more.
        (227_396_824_574_803, "963728.31210533", "219148757925586720.45"),
    ],
)
def test_amount(wh: int, price: str, cost: str) -> None:
    assert str(amount(wh, Decimal(price))) == cost
    assert exact(wh, Decimal(price)) == Decimal(cost)


def exact(wh: int, price: Decimal) -> Decimal:
    cents = Fraction(wh, 10) * Fraction(price)
    return Decimal((2 * cents.numerator + cents.denominator) // (2 * cents.denominator)) / 100


@given(st.integers(0, 10**13), PRICES)
def test_is_rounded_once_half_up(wh: int, price: Decimal) -> None:
    assert amount(wh, price) == exact(wh, price)


@given(st.integers(0, 10**13), PRICES)
def test_has_two_places(wh: int, price: Decimal) -> None:
    assert amount(wh, price).as_tuple().exponent == -2


def test_does_not_depend_on_the_decimal_context() -> None:
    with localcontext(prec=3, rounding=ROUND_HALF_EVEN):
        assert str(amount(123_450, Decimal("0.50"))) == "61.73"
