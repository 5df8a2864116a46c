"""Changes of the registry, as the query service sends them to the writer; each may be repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from telemetry import meter_id
from telemetry.spans import DAY_MS

OVERLAP_MS = 7 * DAY_MS  # for which the key before the newest is valid still


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


class RegisterMeter(ChangeMeter, tag="register_meter", frozen=True, omit_defaults=True):
    """Make the meter if it is not there yet, set what is given, and see to its key."""

    add: bool = True
    key: str = "first"
    authentication_key: str = ""

    def __repr__(self) -> str:
        """Without the key, which may be a secret: what is printed may end up in a log."""
        return f"RegisterMeter(id={self.id!r}, …)"


class AddMeters(msgspec.Struct, tag="add_meters", frozen=True, omit_defaults=True):
    """Register many meters that are not there yet, each with its key."""

    ids: list[str]
    key: str = "first"


class RotateKey(msgspec.Struct, tag="rotate_key", frozen=True, omit_defaults=True):
    """Make a meter's next key; the one it ``replaces``, 0 for none, ends after the overlap."""

    id: str
    replaces: int
    overlap_ms: int = OVERLAP_MS


class RevokeKeys(msgspec.Struct, tag="revoke_keys", frozen=True):
    """End all keys of a meter at once; what it sends is refused, signed or not."""

    id: str


class ReplaceMeter(msgspec.Struct, tag="replace_meter", frozen=True):
    """The device was exchanged at an instant: the old one's last register, the new one's first."""

    id: str
    time_ms: int
    final_wh: int
    initial_wh: int


class DeleteMeter(msgspec.Struct, tag="delete_meter", frozen=True):
    """Remove the meter and everything that is stored of it; nothing to do if there is none."""

    id: str


Change = (
    ChangeMeter | RegisterMeter | ReplaceMeter | DeleteMeter | AddMeters | RotateKey | RevokeKeys
)
MOST_ADDED = 500  # meters of one ``AddMeters``


class KeyWish(StrEnum):
    """What ``key`` may say besides 32 hex digits, which are the key itself."""

    FIRST = "first"  # one for a meter that is not registered yet
    MISSING = "missing"  # one for a meter that has none
    NONE = "none"  # forget its keys: it sends unsigned


LAST_KEY_ID = 255


class ChangeRefusedError(Exception):
    """A change that cannot be made; ``code`` is the bus's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_WISHES = tuple(KeyWish)
_LARGEST = 10**15
LONGEST_OVERLAP_MS = 366 * DAY_MS
_KEY = re.compile(r"[0-9a-f]{32}", re.IGNORECASE | re.ASCII)
_LONGEST_NAME = 200


def check(change: Change) -> None:
    """Raise ChangeRefusedError for a setting that makes no sense; the message says what would."""
    _CHECKS[type(change)](change)


def _check_settings(change: ChangeMeter) -> None:
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


def _check_registration(change: RegisterMeter) -> None:
    _check_settings(change)
    if change.key not in _WISHES and not _KEY.fullmatch(change.key):
        raise _refused(f"a key is 32 hex digits, or one of {', '.join(_WISHES)}")
    half = change.authentication_key
    if half and not (_KEY.fullmatch(half) and _KEY.fullmatch(change.key)):
        raise _refused("an authentication key is 32 hex digits, and goes with a key of 32 more")


def _check_replacement(change: ReplaceMeter) -> None:
    _whole("final", change.final_wh, 0)
    _whole("initial", change.initial_wh, 0)
    _whole("time", change.time_ms, 0)


def _check_added(change: AddMeters) -> None:
    if not 1 <= len(change.ids) <= MOST_ADDED:
        raise _refused(f"ids are 1 to {MOST_ADDED}, not {len(change.ids)}")
    if change.key not in _WISHES:
        raise _refused(f"of many meters, key is one of {', '.join(_WISHES)}")
    for each in change.ids:
        _is_id(each)


def _check_rotation(change: RotateKey) -> None:
    _is_id(change.id)
    if not 0 <= change.replaces <= LAST_KEY_ID:
        raise _refused(f"replaces is a key id, or 0 for none, not {change.replaces}")
    if not 0 <= change.overlap_ms <= LONGEST_OVERLAP_MS:
        raise _refused(f"overlap_ms is 0 to {LONGEST_OVERLAP_MS}, not {change.overlap_ms}")


def _check_id(change: DeleteMeter | RevokeKeys) -> None:
    _is_id(change.id)


_CHECKS: dict[type[Change], Callable[[Any], None]] = {
    ChangeMeter: _check_settings,
    RegisterMeter: _check_registration,
    ReplaceMeter: _check_replacement,
    DeleteMeter: _check_id,
    AddMeters: _check_added,
    RotateKey: _check_rotation,
    RevokeKeys: _check_id,
}


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
