"""Readings as CSV (docs/import-export.md): what `wattbus export` writes, and what others write.

Long files have a row a reading (``id``, ``register`` or ``obis``, ``time``, ``value`` or ``raw``),
wide ones a column a register, under its name or OBIS code, with a unit if it is not the usual one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from telemetry import meter_id
from telemetry.files import FileError
from telemetry.files.csv_values import UNITS, epoch, instant, raw_value, status
from telemetry.readings import Readings
from telemetry.registers import BY_NAME, Register

HEADER = ("id", "register", "obis", "time", "raw", "scaler", "unit", "status", "epoch")
_CHUNK = 16_384  # readings

RAW = "raw"
_FIXED = {
    "id": "id",
    "meter": "id",
    "time": "time",
    "timestamp": "time",
    "register": "register",
    "obis": "obis",
    "value": "value",
    "raw": "raw",
    "unit": "unit",
    "scaler": "scaler",
    "status": "status",
    "epoch": "epoch",
}
Row = tuple[int, int, int, int, int, int, int]  # in the order of readings.COLUMNS


def parse(lines: Iterable[str], *, id: str | None, latest_ms: int) -> Iterator[Readings]:
    """The readings of a file's lines, some thousands at a time.

    ``id`` is the meter's where the file has no such column; no reading may be after ``latest_ms``.
    Raises FileError, after what came before it: read the file once to its end before using it.
    """
    rows = csv.reader(lines, strict=True)
    found: list[Row] = []
    try:
        layout = _layout([name.strip() for name in next(rows, [])], id, latest_ms)
        for fields in rows:
            if fields:
                layout.take(fields, found)
            if len(found) >= _CHUNK:
                yield _columns(found)
                found.clear()
    except csv.Error as error:
        raise FileError.at(rows.line_num, f"is not CSV: {error}") from None
    except FileError:
        raise
    except ValueError as error:
        raise FileError.at(rows.line_num or 1, str(error)) from None
    if found:
        yield _columns(found)


def _columns(rows: list[Row]) -> Readings:
    high, low, epoch, register, status, time, value = zip(*rows, strict=True)
    return Readings(
        np.array(high, np.uint64),
        np.array(low, np.uint64),
        np.array(epoch, np.uint32),
        np.array(register, np.uint16),
        np.array(status, np.uint16),
        np.array(time, np.int64),
        np.array(value, np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """A column with values: of which register and in which unit; None: other columns say it."""

    at: int
    register: Register | None
    exponent: int | None  # None: raw integers


@dataclass(slots=True)
class _Layout:
    """Which column is what. Its methods raise ValueError that says what is wrong with a row."""

    width: int
    latest_ms: int
    fixed: dict[str, int]
    values: list[_Column]
    id: str | None
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, fields: Sequence[str], rows: list[Row]) -> None:
        """Add the readings of a row."""
        if len(fields) != self.width:
            raise ValueError(
                f"has {len(fields)} fields where the header has {self.width}: write decimals with "
                "a point, and text with commas in quotes"
            )
        time = instant(self._text(fields, "time"), self.latest_ms)
        high, low = self._key(self._text(fields, "id") or self.id or "")
        bits, boot = status(self._text(fields, "status")), epoch(self._text(fields, "epoch"))
        for column in self.values:
            register, exponent = column.register, column.exponent
            if register is None:
                register = self._register(fields)
                exponent = self._exponent(fields, register, exponent)
            raw = raw_value(fields[column.at].strip(), register, exponent)
            if raw is not None:
                rows.append((high, low, boot, register.code, bits, time, raw))

    def _text(self, fields: Sequence[str], name: str) -> str:
        at = self.fixed.get(name)
        return "" if at is None else fields[at].strip()

    def _key(self, id: str) -> tuple[int, int]:
        if id not in self.keys:
            if len(self.keys) >= 100_000:
                self.keys.clear()
            octets = meter_id.to_octets(id)
            meter_id.to_name(octets)  # no datagram could come from what has none
            self.keys[id] = meter_id.halves(octets)
        return self.keys[id]

    def _register(self, fields: Sequence[str]) -> Register:
        said = [self._text(fields, name) for name in ("register", "obis")]
        found = {BY_NAME.get(name.lower()) for name in said if name}
        if len(found) != 1 or None in found:
            shown = " and ".join(repr(name[:40]) for name in said if name) or "nothing"
            raise ValueError(f"{shown} names no register: docs/wire-format.md lists them")
        (register,) = found
        assert register is not None
        return register

    def _exponent(
        self, fields: Sequence[str], register: Register, exponent: int | None
    ) -> int | None:
        """The power of ten of a value's unit; raw values must have the register's own scaler."""
        unit = self._text(fields, "unit")
        known = UNITS[register.unit]
        if unit and unit.lower() not in known:
            raise ValueError(f"{register.name} is in {register.unit or '1'}, not in {unit[:20]!r}")
        if exponent is not None:
            return known[unit.lower()] if unit else 0
        scaler = self._text(fields, "scaler") or str(register.scaler)
        if scaler != str(register.scaler) or (unit and known[unit.lower()]):
            raise ValueError(
                f"raw values of {register.name} have the scaler {register.scaler} and the unit "
                f"{register.unit or '1'}: name the column `value` for values in another unit"
            )
        return None


def _layout(header: list[str], id: str | None, latest_ms: int) -> _Layout:
    """What the columns are; ValueError, of line 1."""
    if not any(header):
        raise ValueError("there is no header: name the columns, such as time,energy_import_kwh")
    fixed: dict[str, int] = {}
    values: list[_Column] = []
    for at, name in enumerate(header):
        known = _FIXED.get(name.lower())
        if known in ("value", "raw"):
            values.append(_Column(at, None, None if known == "raw" else 0))
        elif known is not None:
            if known in fixed:
                raise ValueError(f"there are two columns for the {known}: leave one out")
            fixed[known] = at
        else:
            values.append(_value_column(at, name))
    _check(header, fixed, values, id)
    return _Layout(len(header), latest_ms, fixed, values, id)


def _check(header: list[str], fixed: dict[str, int], values: list[_Column], id: str | None) -> None:
    long = "register" in fixed or "obis" in fixed
    shown = ",".join(header)[:80]
    codes = [column.register.code for column in values if column.register]
    faults: tuple[tuple[bool, str], ...] = (
        (
            "time" not in fixed,
            f"there is no column `time` among {shown!r}: name the columns, such as "
            "time,energy_import_kwh",
        ),
        (
            "id" not in fixed and id is None,
            "there is no column `id`: say whose readings they are with --id",
        ),
        (
            "id" in fixed and id is not None,
            "there is a column `id`: leave out --id, or the column",
        ),
        (
            long and (len(values) != 1 or bool(codes)),
            "a file with a column `register` or `obis` has one column `value` or `raw` beside it",
        ),
        (
            not long and (not codes or len(codes) != len(values)),
            "there is no column of a register, such as energy_import or voltage_l1; or `register` "
            "and `value`",
        ),
        (len(set(codes)) != len(codes), "a register has two columns: leave one out"),
    )
    for wrong, message in faults:
        if wrong:
            raise ValueError(message)


def _value_column(at: int, name: str) -> _Column:
    """The column of a register's values: its name or OBIS code, with or without a unit."""
    whole = BY_NAME.get(name.lower())
    if whole is not None:
        return _Column(at, whole, 0)
    base, _, unit = name.lower().rpartition("_")
    register = BY_NAME.get(base)
    if register is not None and unit == RAW:
        return _Column(at, register, None)
    if register is not None and unit in UNITS[register.unit]:
        return _Column(at, register, UNITS[register.unit][unit])
    raise ValueError(
        f"the column {name[:40]!r} is no register: write one such as energy_import, "
        "energy_import_kwh, 1-0:1.8.0 or voltage_l1, or leave the column out"
    )
