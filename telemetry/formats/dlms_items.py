"""The body of a push as items: OBIS code, type, raw value, scaler and unit, exact.

One walk reads the shapes that name their values: {OBIS, value} and {OBIS, value, {scaler, unit}} as
structures (Aidon) or all in one (Kamstrup, Kaifa in Sweden, Austria), and a push object list with
the values behind it (Landis+Gyr). What has no name stays without one (``dlms_models``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from telemetry.formats.dlms_axdr import Datum

# Units of IEC 62056-6-2 (table of enumerated units) that a meter of electricity tells.
UNITS = {
    27: "W",
    28: "VA",
    29: "var",
    30: "Wh",
    31: "VAh",
    32: "varh",
    33: "A",
    35: "V",
    44: "Hz",
    255: "",
}
_OTHER_UNIT = "?"
_VALUE, _SCALER_UNIT = 2, 3  # attributes of registers
_CURRENT = 0xFF  # F: the value of now, not of a billing period before
_CONTAINERS = ("array", "structure")


class Item(NamedTuple):
    """A value. ``obis`` is like 1-0:1.8.0.255, None where the message does not name it.

    ``scaler`` and ``unit`` are None where the message does not tell them; the unit is "" for
    a plain number and "?" for one that no register has.
    """

    obis: str | None
    type: str
    value: object
    scaler: int | None = None
    unit: str | None = None


def items(body: Datum) -> list[Item]:
    """All values of a body, in its order; null data are left out."""
    elements = _elements(body)
    if elements is not None and (listed := _object_list(elements)) is not None:
        return _by_list(listed, elements)
    found: list[Item] = []
    _walk((body,) if elements is None else elements, None, found)
    return found


def _elements(datum: Datum) -> tuple[Datum, ...] | None:
    return datum.value if isinstance(datum.value, tuple) else None


def _walk(elements: tuple[Datum, ...], name: str | None, found: list[Item]) -> None:
    """Add the values of elements; ``name`` is the code told before, which the first value has."""
    for element in elements:
        scale = _scaler_unit(element)
        inner = _elements(element)
        if scale is not None and name is None and found and found[-1].scaler is None:
            if found[-1].obis is not None:
                found[-1] = found[-1]._replace(scaler=scale[0], unit=scale[1])
        elif inner is not None:
            _walk(inner, name, found)
            name = None
        elif element.type == "null":
            name = None
        elif name is None and (code := _code(element)) is not None:
            name = code
        else:
            found.append(Item(name, element.type, element.value))
            name = None


def _code(datum: Datum) -> str | None:
    """The OBIS code that six octets are, if they can be one of a value of now."""
    octets = datum.value
    if datum.type != "octets" or not isinstance(octets, bytes) or len(octets) != 6:
        return None
    return obis(octets) if octets[5] == _CURRENT else None


@lru_cache(4096)
def obis(octets: bytes) -> str:
    """Six octets in the usual form, A-B:C.D.E.F."""
    return "{}-{}:{}.{}.{}.{}".format(*octets)


def _scaler_unit(datum: Datum) -> tuple[int, str] | None:
    elements = _elements(datum)
    if datum.type != "structure" or elements is None or len(elements) != 2:
        return None
    scaler, unit = elements
    if scaler.type != "i8" or unit.type != "enum":
        return None
    assert isinstance(scaler.value, int)
    assert isinstance(unit.value, int)
    return scaler.value, UNITS.get(unit.value, _OTHER_UNIT)


class _Listed(NamedTuple):
    """An entry of a push object list: a class, its object's code, which attribute of it."""

    obis: str
    attribute: int


def _object_list(elements: tuple[Datum, ...]) -> list[_Listed] | None:
    """The push object list that the first element is; None if it is none."""
    entries = _elements(elements[0]) if elements else None
    if not entries:
        return None
    listed = [_entry(entry) for entry in entries]
    return [entry for entry in listed if entry] if all(listed) else None


def _entry(datum: Datum) -> _Listed | None:
    parts = _elements(datum) or ()
    if [part.type for part in parts[:4]] != ["u16", "octets", "i8", "u16"]:
        return None
    octets, attribute = parts[1].value, parts[2].value
    if not isinstance(octets, bytes) or len(octets) != 6 or not isinstance(attribute, int):
        return None
    return _Listed(obis(octets), attribute)


def _by_list(listed: list[_Listed], elements: tuple[Datum, ...]) -> list[Item]:
    """Values by the list before them, in which the list itself may be the first entry."""
    values = elements if len(listed) >= len(elements) else elements[1:]
    found: dict[str, Item] = {}
    scales: dict[str, tuple[int, str]] = {}
    for entry, value in zip(listed, values, strict=False):
        if entry.attribute == _SCALER_UNIT:
            scale = _scaler_unit(value)
            if scale is not None:
                scales[entry.obis] = scale
        elif entry.attribute == _VALUE and value.type not in ("null", *_CONTAINERS):
            found[entry.obis] = Item(entry.obis, value.type, value.value)
    return list(_scaled(found, scales))


def _scaled(found: dict[str, Item], scales: dict[str, tuple[int, str]]) -> Iterator[Item]:
    for name, item in found.items():
        scaler, unit = scales.get(name, (None, None))
        yield item._replace(scaler=scaler, unit=unit)
