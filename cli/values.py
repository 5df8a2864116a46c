"""What people type, as values: kWh, prices, zones, times. What is wrong is said in a sentence."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from typing import TypeVar
from zoneinfo import ZoneInfo, available_timezones

from storage.changes import LONGEST_OVERLAP_MS
from telemetry import meter_id
from telemetry.calendar import DAY_MS, HOUR_MS, month_start, parse_instant
from telemetry.registers import BY_NAME
from telemetry.security import KEY

DEFAULT = "default"  # typed for a setting, it takes the setting back
LONGEST_TIMEOUT = 3600.0

_DECIMAL = re.compile(r"[0-9]{1,16}(\.[0-9]{1,16})?")
_COUNT = re.compile(r"[1-9][0-9]{0,2}|1000")
_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY}}}", re.IGNORECASE | re.ASCII)
_OVERLAP = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_UNITS_MS = {"s": 1000, "m": 60_000, "h": HOUR_MS, "d": DAY_MS}
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_MOST_THOUSANDTHS = 10**15
_T = TypeVar("_T")


class InputError(argparse.ArgumentTypeError):
    """Input that cannot be meant; the text says what is wrong and what to write instead."""


def kwh(text: str) -> int:
    """Kilowatt-hours, to the Wh. Raises InputError."""
    return _thousandths(text, "energy", "kWh", "Wh")


def kilowatts(text: str) -> int:
    """Kilowatts, to the W. Raises InputError."""
    return _thousandths(text, "power", "kW", "W")


def price(text: str) -> Decimal:
    """The price of a kWh, exact. Raises InputError."""
    return _decimal(text, "price of a kWh", "0.50")


def setting(parse: Callable[[str], _T]) -> Callable[[str], _T | None]:
    """A parser that also takes the word "default", and answers None for it."""

    def parse_setting(text: str) -> _T | None:
        return None if text == DEFAULT else parse(text)

    return parse_setting


def zone(text: str) -> str:
    """The name of an IANA time zone. Raises InputError, with a name that is near."""
    if text in available_timezones():
        return text
    near = get_close_matches(text, available_timezones(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "write one such as America/Sao_Paulo"
    raise InputError(f"{text!r} is no time zone: {hint}")


def meter(text: str) -> str:
    """A meter's id. Raises InputError."""
    try:
        meter_id.to_octets(text)
    except ValueError as error:
        raise InputError(str(error)) from None
    return text


def register(text: str) -> str:
    """A register's name or OBIS code. Raises InputError."""
    if text not in BY_NAME:
        near = get_close_matches(text, BY_NAME, n=1)
        hint = f"did you mean {near[0]}?" if near else "write one such as power_import or 1-0:1.8.0"
        raise InputError(f"{text!r} is no register: {hint}")
    return text


def month(text: str) -> tuple[int, int]:
    """Year and month of a text such as 2024-03. Raises InputError."""
    found = _MONTH.fullmatch(text)
    if not found or not 1 <= int(found[2]) <= 12 or not 1 < int(found[1]) < 9998:
        raise InputError(f"{text!r} is no month: write year and month, such as 2024-03")
    return int(found[1]), int(found[2])


def day(text: str) -> date:
    """A day such as 2024-03-31. Raises InputError."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    if not 1900 <= found.year < 2200:
        raise InputError(f"{text!r} is no day: write year, month and day, such as 2024-03-31")
    return found


def count(text: str) -> int:
    """How many of something. Raises InputError."""
    if not _COUNT.fullmatch(text):
        raise InputError(f"{text!r} is no number of meters: write one from 1 to 1000")
    return int(text)


def key(text: str) -> str:
    """A meter's key. Raises InputError, which does not repeat it: it would stand in logs."""
    if not _KEY.fullmatch(text):
        raise InputError(
            f"this is no key: write {2 * KEY} hexadecimal digits, as `openssl rand -hex {KEY}` "
            "draws them, or leave --key out to have one made"
        )
    return text.lower()


def overlap(text: str) -> int:
    """For how long two keys are valid, in ms. Raises InputError."""
    found = _OVERLAP.fullmatch(text)
    length = int(found[1]) * _UNITS_MS[found[2]] if found else -1
    if not 0 <= length <= LONGEST_OVERLAP_MS:
        raise InputError(
            f"{text!r} is no overlap: write days, hours, minutes or seconds such as 7d, 12h, 30m, "
            f"0s; the most is {LONGEST_OVERLAP_MS // DAY_MS}d"
        )
    return length


def last_instant(of: tuple[int, int], zone: ZoneInfo) -> int:
    """The last millisecond of a local month."""
    year, month = of
    return month_start(zone, year + month // 12, month % 12 + 1) - 1


def seconds(text: str) -> float:
    """A time to wait. Raises InputError."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.001 <= found <= LONGEST_TIMEOUT:
        raise InputError(
            f"{text!r} is no time to wait: write seconds, from 0.001 to {LONGEST_TIMEOUT:g}"
        )
    return found


def instant(text: str, zone: ZoneInfo, option: str) -> int:
    """The instant that ``option`` names, in the meter's zone if it has no offset; InputError."""
    try:
        return parse_instant(text, zone)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{option}: {error}; write 2024-03-31 or 2024-03-31T18:00 (local time of {zone.key}), "
            "or with an offset 2024-03-31T18:00+00:00"
        ) from None


def _thousandths(text: str, what: str, unit: str, least: str) -> int:
    scaled = _decimal(text, f"{what} in {unit}", "500 or 0.125").scaleb(3)
    if scaled != scaled.to_integral_value():
        raise InputError(f"{text} {unit} is finer than a {least}: write at most three decimals")
    if scaled > _MOST_THOUSANDTHS:
        raise InputError(f"{text} {unit} is too much: the most is {_MOST_THOUSANDTHS // 1000}")
    return int(scaled)


def _decimal(text: str, what: str, example: str) -> Decimal:
    if _DECIMAL.fullmatch(text):
        return Decimal(text)
    hint = "decimals follow a point, not a comma, " if "," in text else "a number, not negative, "
    raise InputError(f"{text!r} is no {what}: {hint}such as {example}")
