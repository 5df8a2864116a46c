"""Changes of the registry, as the query service sends them to the writer; each may be repeated."""

from __future__ import annotations

from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from telemetry import meter_id


class ChangeMeter(msgspec.Struct, tag="change_meter", frozen=True, omit_defaults=True):
    """Set what is given of a meter. ``add`` makes the meter if it is not there yet.

    ``None`` takes a setting back, so that the default rules again; UNSET leaves it as it is.
    """

    id: str
    add: bool = False
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    time_zone: str | msgspec.UnsetType | None = msgspec.UNSET
    limit_wh: int | msgspec.UnsetType | None = msgspec.UNSET
    price: Decimal | msgspec.UnsetType | None = msgspec.UNSET
    modulus_wh: int | msgspec.UnsetType | None = msgspec.UNSET
    max_power_w: int | msgspec.UnsetType | None = msgspec.UNSET


class ReplaceMeter(msgspec.Struct, tag="replace_meter", frozen=True):
    """The device was exchanged at an instant: the old one's last register, the new one's first."""

    id: str
    time_ms: int
    final_wh: int
    initial_wh: int


class DeleteMeter(msgspec.Struct, tag="delete_meter", frozen=True):
    """Remove the meter and everything that is stored of it; nothing to do if there is none."""

    id: str


Change = ChangeMeter | ReplaceMeter | DeleteMeter


class ChangeRefusedError(Exception):
    """A change that cannot be made; ``code`` is the bus's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_LARGEST = 10**15
_LONGEST_NAME = 200


def check(change: Change) -> None:
    """Raise ChangeRefusedError for a setting that makes no sense; the message says what would."""
    if isinstance(change, DeleteMeter):
        _is_id(change.id)
        return
    if isinstance(change, ReplaceMeter):
        _whole("final", change.final_wh, 0)
        _whole("initial", change.initial_wh, 0)
        _whole("time", change.time_ms, 0)
        return
    for setting, least in (("limit_wh", 0), ("modulus_wh", 1), ("max_power_w", 1)):
        value = getattr(change, setting)
        if isinstance(value, int):
            _whole(setting, value, least)
    if isinstance(change.name, str) and not (
        change.name.isprintable() and 0 < len(change.name) <= _LONGEST_NAME
    ):
        raise _refused(f"a name is 1 to {_LONGEST_NAME} printable characters")
    if isinstance(change.time_zone, str) and not _is_zone(change.time_zone):
        raise _refused(
            f"{change.time_zone!r} is no IANA time zone: try Europe/Berlin or America/Sao_Paulo"
        )
    if isinstance(change.price, Decimal) and not _is_price(change.price):
        raise _refused("a price is a decimal from 0 to 1000000 with at most 8 places")


def _is_id(id: str) -> None:
    try:
        meter_id.to_octets(id)
    except ValueError as error:
        raise _refused(str(error)) from None


def _whole(setting: str, value: int, least: int) -> None:
    if not least <= value <= _LARGEST:
        raise _refused(f"{setting} is {least} to {_LARGEST}, not {value}")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return True


def _is_price(price: Decimal) -> bool:
    if not price.is_finite() or price.is_signed() or price > 1_000_000:
        return False
    exponent = price.as_tuple().exponent
    return isinstance(exponent, int) and -8 <= exponent <= 6


def _refused(message: str) -> ChangeRefusedError:
    return ChangeRefusedError("bad_request", message)
