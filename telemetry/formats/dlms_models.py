"""What messages do not say and their model does: names by position, scalers, who it is.

The lists are those of the makers' interface descriptions and of captures that owners of meters
published; docs/formats.md names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.formats.dlms_items import Item

SERIAL, TIME, SKIP = "0-0:96.1.0.255", "0-0:1.0.0.255", ""

_POWERS = "1.7.0 2.7.0 3.7.0 4.7.0"
_ENERGIES = "1.8.0 2.8.0 3.8.0 4.8.0"
_PHASES = "21.7.0 41.7.0 61.7.0 22.7.0 42.7.0 62.7.0"
_CURRENTS, _VOLTAGES = "31.7.0 51.7.0 71.7.0", "32.7.0 52.7.0 72.7.0"


@dataclass(frozen=True, slots=True)
class Scalers:
    """Powers of ten by which values without one are multiplied, for W, Wh, A, V, Hz.

    ``voltage`` None: it tells itself, as mains voltages are near 230 V.
    """

    energy: int = 0
    current: int = -2
    voltage: int | None = None
    factor: int = -3
    frequency: int = -2


_KAIFA = Scalers(current=-3, voltage=-1)
_KAMSTRUP = Scalers(energy=1, factor=-2)
_KAMSTRUP_CT = Scalers(energy=1, current=-3, factor=-2)
_ISKRA = Scalers(voltage=-1)
_OTHERS = Scalers()

_KAMSTRUP_MODEL, _CT = "1-1:96.1.1.255", "685"
# By how the name of the list begins, or the first value.
_MAKERS = (("KFM_", _KAIFA), ("Kamstrup", _KAMSTRUP), ("ISK", _ISKRA))


@dataclass(frozen=True, slots=True)
class Layout:
    """A list without names: types of its first elements, how its first text begins, its names."""

    types: str
    begins: str
    names: tuple[str, ...]
    scalers: Scalers


def _layout(types: str, begins: str, names: str, scalers: Scalers) -> Layout:
    words = {"-": SKIP, "serial": SERIAL, "time": TIME}
    codes = tuple(words.get(name, f"1-0:{name}.255") for name in names.split())
    return Layout(types, begins, codes, scalers)


# Types: o octets or text, u u32 or u64, h u16, . whatever.
_KFM_1 = f"- serial - {_POWERS} 31.7.0 32.7.0"
_KFM_3 = f"- serial - {_POWERS} {_CURRENTS} {_VOLTAGES}"
_LANDIS = f"{_VOLTAGES} {_CURRENTS} 1.7.0 2.7.0 1.8.0 2.8.0"
LAYOUTS = (
    _layout("u", "", "1.7.0", _KAIFA),
    _layout("ooouuuuuu", "KFM_", _KFM_1, _KAIFA),
    _layout("ooouuuuuuuuuu", "KFM_", _KFM_3, _KAIFA),
    _layout("ooouuuuuuouuuu", "KFM_", f"{_KFM_1} time {_ENERGIES}", _KAIFA),
    _layout("ooouuuuuuuuuuouuuu", "KFM_", f"{_KFM_3} time {_ENERGIES}", _KAIFA),
    _layout("hhhhhhuuuuo", "", f"{_LANDIS} serial", _OTHERS),
    _layout("hhhhhhuuuuhhho", "", f"{_LANDIS} - - - serial", _OTHERS),
    _layout("ouuuuuuuu", "", f"time {_ENERGIES} {_POWERS}", _OTHERS),
    _layout("oohhuuuu", "ISK", f"- serial 32.7.0 31.7.0 {_POWERS}", _ISKRA),
    _layout("oouuuuhhuu", "ISK", f"- serial {_POWERS} 32.7.0 31.7.0 21.7.0 22.7.0", _ISKRA),
    _layout("oohhhhhhuuuu", "ISK", f"- serial {_VOLTAGES} {_CURRENTS} {_POWERS}", _ISKRA),
    _layout("oo..uuuuuuuu", "ISK", "- serial - - 1.8.0 - - 2.8.0 - - 3.8.0 4.8.0", _ISKRA),
    _layout(
        "oouuuuhhhhhhuuuuuu",
        "ISK",
        f"- serial {_POWERS} {_VOLTAGES} {_CURRENTS} {_PHASES}",
        _ISKRA,
    ),
    _layout(
        "ooouuuuuuuuuuuuhuuuuuuhhhhhh",
        "",
        f"serial - - 1.8.0 - - 2.8.0 - - - - - - 1.7.0 2.7.0 13.7.0 {_PHASES} {_VOLTAGES} "
        f"{_CURRENTS}",
        _ISKRA,
    ),
)
_CROATIAN = LAYOUTS[-1]  # followed by limits that are no readings
_LETTERS = {"octets": "o", "vstring": "o", "utf8": "o", "u32": "u", "u64": "u", "u16": "h"}

# Which values tell whose it is, the best first; Kamstrup's is 1-1:0.0.5.
_SERIALS = (
    SERIAL,
    "1-1:0.0.5.255",
    "1-0:0.0.0.255",
    "0-0:42.0.0.255",
    "0-0:96.1.1.255",
    "0-0:96.1.2.255",
)


def named(found: Sequence[Item]) -> tuple[list[Item], Scalers]:
    """The items with the names that their places tell, and the scalers of those without one."""
    if found and all(item.obis is None for item in found):
        for layout in LAYOUTS:
            if _fits(layout, found):
                pairs = zip(found, layout.names, strict=False)
                return [item._replace(obis=name) for item, name in pairs if name], layout.scalers
    return list(found), _scalers(found)


def _fits(layout: Layout, found: Sequence[Item]) -> bool:
    count = len(layout.types)
    if len(found) != count and not (layout is _CROATIAN and len(found) > count):
        return False
    letters = (_LETTERS.get(item.type, "?") for item in found)
    if not all(
        wanted in (letter, ".") for wanted, letter in zip(layout.types, letters, strict=False)
    ):
        return False
    return not layout.begins or text(found[0]).startswith(layout.begins)


def _scalers(found: Sequence[Item]) -> Scalers:
    for item in found:
        said = text(item) if item.type in _LETTERS else ""
        for begins, scalers in _MAKERS:
            if said.startswith(begins):
                return _KAMSTRUP_CT if scalers is _KAMSTRUP and _has_transformer(found) else scalers
    return _OTHERS


def _has_transformer(found: Sequence[Item]) -> bool:
    """Whether a Kamstrup meter measures through current transformers, by its model number."""
    return any(item.obis == _KAMSTRUP_MODEL and text(item).startswith(_CT) for item in found)


def text(item: Item) -> str:
    """What a string says, without the zero octets that fill it up; nothing for a number."""
    if isinstance(item.value, bytes):
        return item.value.rstrip(b"\0").decode("ascii", "replace")
    return item.value.rstrip("\0") if isinstance(item.value, str) else ""


def serial(found: Sequence[Item]) -> str:
    """Whose message it is, as it says itself; nothing where it does not."""
    said = {item.obis: text(item).strip() for item in reversed(found) if item.obis}
    for name in _SERIALS:
        if said.get(name):
            return said[name]
    # Sagemcom's and Kaifa's Austrian lists end with the number, without a name.
    last = text(found[-1]).strip() if found and found[-1].obis is None else ""
    return last if last.isdecimal() and last.isascii() else ""
