"""Fields of CSV files: instants, status bits, epochs and values, and how they are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from telemetry.files import number
from telemetry.readings import Status
from telemetry.registers import Quantity, Register

EARLIEST, LATEST = -2_208_988_800_000, 7_258_118_400_000  # the years 1900 to 2200, as on the bus
_SECONDS_BELOW = Decimal(10**11)  # a number of seconds; greater ones are milliseconds
_MISSING = frozenset(("", "null", "none", "nan"))
_NO_ENERGY = Decimal(-1)  # what devices send for an energy they do not have
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_STATUS = {str(bit.name).lower(): int(bit) for bit in Status}

# Units that a value may be given in, by the register's own: names in lower case, powers of ten.
UNITS: dict[str, dict[str, int]] = {
    "Wh": {"wh": 0, "kwh": 3, "mwh": 6},
    "varh": {"varh": 0, "kvarh": 3, "mvarh": 6},
    "VAh": {"vah": 0, "kvah": 3, "mvah": 6},
    "W": {"w": 0, "kw": 3, "mw": 6},
    "var": {"var": 0, "kvar": 3, "mvar": 6},
    "VA": {"va": 0, "kva": 3, "mva": 6},
    "V": {"v": 0, "kv": 3},
    "A": {"a": 0, "ka": 3},
    "Hz": {"hz": 0},
    "": {"": 0, "1": 0},
}


def status_text(status: int) -> str:
    """Status bits as words, those without a name as a hexadecimal number; "" for none."""
    words = [name for name, bit in _STATUS.items() if status & bit]
    rest = status & ~sum(_STATUS.values())
    return " ".join([*words, *([f"0x{rest:04x}"] if rest else [])])


def instant_text(ms: int) -> str:
    """An instant in ISO 8601, UTC, with milliseconds where it has any."""
    moment = _EPOCH + ms * _MILLISECOND
    spec = "milliseconds" if ms % 1000 else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def instant(text: str, latest_ms: int) -> int:
    """An instant in ms: ISO 8601 with a zone, or Unix time in s or ms. Raises ValueError."""
    seconds = number(text)
    if seconds is not None:
        ms = int(seconds * 1000 if abs(seconds) < _SECONDS_BELOW else seconds)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"cannot read the time {text[:40]!r}: write it as 2026-11-23T10:15:00+00:00, or "
                "in seconds or milliseconds of Unix time"
            ) from None
        if moment.tzinfo is None:
            raise ValueError(
                f"the time {text[:40]!r} has no zone: write an offset such as +10:00 or Z"
            )
        ms = (moment - _EPOCH) // _MILLISECOND
    if not EARLIEST <= ms < LATEST:
        raise ValueError(f"the time {text[:40]!r} is not between the years 1900 and 2200")
    if ms > latest_ms:
        raise ValueError(f"the time {text[:40]!r} is in the future: check it, or the clock here")
    return ms


def status(text: str) -> int:
    """The status bits of ``status_text``. Raises ValueError."""
    bits = 0
    for word in text.split():
        if word.startswith("0x") and len(word) <= 6 and _is_hex(word[2:]):
            bits |= int(word, 16)
        elif word in _STATUS:
            bits |= _STATUS[word]
        else:
            raise ValueError(
                f"{word[:20]!r} is no status: {', '.join(_STATUS)}, or 0x0000 to 0xffff"
            )
    return bits


def _is_hex(text: str) -> bool:
    return bool(text) and all(char in "0123456789abcdef" for char in text)


def epoch(text: str) -> int:
    """An epoch, 0 for nothing. Raises ValueError."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) >= 2**32:
        raise ValueError(f"{text[:20]!r} is no epoch: 0 to {2**32 - 1}")
    return int(text)


def raw_value(text: str, register: Register, exponent: int | None) -> int | None:
    """The raw integer of a field; None where there is no value. Raises ValueError.

    ``exponent`` is the power of ten of the value's unit, None for a raw integer.
    """
    if text.lower() in _MISSING:
        return None
    value = number(text)
    if value is None:
        raise ValueError(
            f"{text[:40]!r} is no value of {register.name}: write it as 230.1, or nothing if there "
            "is none"
        )
    if register.quantity is Quantity.ENERGY and value == _NO_ENERGY:
        return None
    if exponent is None:
        if value != int(value):
            raise ValueError(f"{text[:40]!r} is no raw integer: name the column without `raw`")
        raw = int(value)
    else:
        raw = register.raw(value.scaleb(exponent))
    if not register.minimum <= raw <= register.maximum:
        least, most = register.value(register.minimum), register.value(register.maximum)
        raise ValueError(
            f"{text[:40]} is beyond any meter: {register.name} is {least:f} to {most:f} "
            f"{register.unit}".rstrip()
        )
    return raw
