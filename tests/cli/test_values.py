"""What people may type for a value, and what they are told when it is none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import values
from cli.answers import kwh_text

CHICAGO = ZoneInfo("America/Chicago")


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.kwh, "500", 500_000),
        (values.kwh, "0.125", 125),
        (values.kwh, "0", 0),
        (values.kwh, "1.5000", 1500),
        (values.kwh, "1000000000000", 10**15),
        (values.kilowatts, "13.8", 13_800),
        (values.price, "0.50", Decimal("0.50")),
        (values.price, "0", Decimal(0)),
        (values.zone, "America/Sao_Paulo", "America/Sao_Paulo"),
        (values.meter, "kitchen", "kitchen"),
        (values.register, "power_import", "power_import"),
        (values.register, "1-0:1.8.0", "1-0:1.8.0"),
        (values.month, "2024-03", (2024, 3)),
        (values.seconds, "0.5", 0.5),
        (values.setting(values.kwh), "default", None),
        (values.setting(values.kwh), "2", 2000),
    ],
)
def test_values(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (values.kwh, "0,5", "'0,5' is no energy in kWh: decimals follow a point"),
        (values.kwh, "-1", "'-1' is no energy in kWh: a number, not negative, such as 500"),
        (values.kwh, "nan", "is no energy"),
        (values.kwh, "1e3", "is no energy"),
        (values.kwh, "1_0", "is no energy"),
        (values.kwh, "٣", "is no energy"),
        (values.kwh, "9" * 5000, "is no energy"),
        (values.kwh, "", "is no energy"),
        (values.kwh, "0.0001", "0.0001 kWh is finer than a Wh: write at most three decimals"),
        (values.kwh, "1000000000000.001", "is too much: the most is 1000000000000"),
        (values.kilowatts, "0.0001", "finer than a W:"),
        (values.price, "-0.5", "is no price of a kWh"),
        (values.price, "R$ 1", "is no price of a kWh"),
        (values.zone, "Europe/Lisboa", "did you mean Europe/Lisbon?"),
        (values.zone, "???", "write one such as America/Sao_Paulo"),
        (values.zone, "../etc/passwd", "is no time zone"),
        (values.meter, "a b", "is no meter id"),
        (values.meter, "", "is no meter id"),
        (values.register, "powr_import", "did you mean power_import?"),
        (values.register, "???", "write one such as"),
        (values.month, "2024-13", "is no month: write year and month, such as 2024-03"),
        (values.month, "2024-3", "is no month"),
        (values.month, "0000-01", "is no month"),
        (values.month, "9999-12", "is no month"),
        (values.seconds, "0", "is no time to wait"),
        (values.seconds, "nan", "is no time to wait"),
        (values.seconds, "soon", "is no time to wait"),
        (values.setting(values.kwh), "Default", "is no energy"),
    ],
)
def test_what_is_said_of_a_wrong_value(
    parse: Callable[[str], object], text: str, message: str
) -> None:
    with pytest.raises(values.InputError) as error:
        parse(text)
    assert message in str(error.value)


@given(st.integers(0, 10**15))
def test_energy_shown_is_energy_read(wh: int) -> None:
    assert values.kwh(kwh_text(wh)) == wh


@given(st.text())
@pytest.mark.parametrize(
    "parse",
    [
        values.kwh,
        values.price,
        values.zone,
        values.meter,
        values.register,
        values.month,
        values.seconds,
        lambda text: values.instant(text, CHICAGO, "--from"),
    ],
)
def test_no_text_does_worse_than_be_refused(parse: Callable[[str], object], text: str) -> None:
    with suppress(values.InputError):
        parse(text)


def test_an_instant_without_an_offset_is_the_meters_time() -> None:
    midnight = values.instant("2024-03-31", CHICAGO, "--from")
    assert midnight == values.instant("2024-03-31T05:00+00:00", CHICAGO, "--from")
    assert midnight == values.instant("2024-03-31T00:00", CHICAGO, "--from")


def test_a_wrong_instant_names_the_option_and_the_zone() -> None:
    with pytest.raises(values.InputError, match=r"^--to: .*'31/03/2024'.*America/Chicago"):
        values.instant("31/03/2024", CHICAGO, "--to")


@pytest.mark.parametrize(
    ("month", "following"), [((2024, 3), "2024-04-01"), ((2023, 12), "2024-01-01")]
)
def test_the_last_instant_of_a_month(month: tuple[int, int], following: str) -> None:
    start = values.instant(following, CHICAGO, "")
    assert values.last_instant(month, CHICAGO) == start - 1
