"""The registry's rows: meters by number, octets and id, their settings, their replacements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import repeat
from typing import Any

import msgspec
import sqlalchemy as sa

from storage import schema
from storage.changes import ChangeMeter, ChangeRefusedError, ReplaceMeter
from storage.prepared import Prepared, many
from telemetry import meter_id, meter_ids
from telemetry.intervals import Replacement

_METERS = schema.meters
_SETTINGS = ("name", "time_zone", "limit_wh", "price", "modulus_wh", "max_power_w")


@dataclass(frozen=True, slots=True)
class Meter:
    """A registered meter; None in a setting means that the default rules."""

    number: int
    octets: bytes
    id: str
    name: str | None
    time_zone: str | None
    limit_wh: int | None
    reported_limit_wh: int | None
    price: Decimal | None
    modulus_wh: int | None
    max_power_w: int | None
    created_ms: int
    daily_zone: str | None  # whose days are kept of it; None: no days yet


_COLUMNS = [_METERS.c[name] for name in Meter.__slots__]
_BY_OCTETS = Prepared(sa.select(*_COLUMNS).where(_METERS.c.octets == sa.bindparam("octets")))
_BY_NUMBER = sa.select(*_COLUMNS).where(_METERS.c.number == sa.bindparam("number"))
_PAGE = (
    sa.select(*_COLUMNS)
    .where(_METERS.c.id > sa.bindparam("after"))
    .where(_METERS.c.id >= sa.bindparam("first"), _METERS.c.id < sa.bindparam("last"))
    .order_by(_METERS.c.id)
    .limit(sa.bindparam("most"))
)
_ADD = "INSERT INTO meters (number, octets, id, created_ms) VALUES (?, ?, ?, ?)"
_MOST_NUMBERS = 500  # in one statement
_BEYOND = "\U0010ffff"  # sorts after every id


def _meter(row: Iterable[Any]) -> Meter:
    values = dict(zip(Meter.__slots__, row, strict=True))
    price = values["price"]
    return Meter(**values | {"price": None if price is None else Decimal(price)})


def find(connection: sa.Connection, name: str) -> Meter | None:
    """The meter of an id, by the octets it travels as; ValueError for what is no id."""
    octets = meter_id.to_octets(name)
    row = _BY_OCTETS.row(connection, octets=octets)
    return None if row is None else _meter(row)


def by_number(connection: sa.Connection, number: int) -> Meter:
    """The meter with this number, which must exist."""
    return _meter(connection.execute(_BY_NUMBER, {"number": number}).one())


def page(connection: sa.Connection, prefix: str, after: str, most: int) -> list[Meter]:
    """At most ``most`` meters whose ids start with ``prefix`` and sort after ``after``, by id."""
    bounds = {"first": prefix, "last": prefix + _BEYOND, "after": after, "most": most}
    return [_meter(row) for row in connection.execute(_PAGE, bounds)]


def numbers(prefix: str) -> sa.Select[tuple[int]]:
    """Asks for the numbers of the meters whose ids start with ``prefix``."""
    return sa.select(_METERS.c.number).where(
        _METERS.c.id >= prefix, _METERS.c.id < prefix + _BEYOND
    )


def named(connection: sa.Connection, wanted: list[int]) -> dict[int, tuple[str, str | None]]:
    """Id and name of meters, by number."""
    found: dict[int, tuple[str, str | None]] = {}
    query = sa.select(_METERS.c.number, _METERS.c.id, _METERS.c.name)
    for first in range(0, len(wanted), _MOST_NUMBERS):
        some = wanted[first : first + _MOST_NUMBERS]
        rows = connection.execute(query.where(_METERS.c.number.in_(some)))
        found |= {number: (own, name) for number, own, name in rows}
    return found


def names(connection: sa.Connection) -> dict[bytes, str]:
    """The id of every meter, by its octets."""
    rows = connection.execute(sa.select(_METERS.c.octets, _METERS.c.id))
    return {row.octets: row.id for row in rows}


def count(connection: sa.Connection) -> int:
    """How many meters there are."""
    return connection.execute(sa.select(sa.func.count()).select_from(_METERS)).scalar_one()


def highest(connection: sa.Connection) -> int:
    """The highest number that a meter has; 0 where there is none."""
    return connection.execute(sa.select(sa.func.max(_METERS.c.number))).scalar() or 0


def numbered(connection: sa.Connection) -> Iterable[tuple[int, bytes, int | None]]:
    """Number, octets and reported limit of every meter."""
    columns = _METERS.c.number, _METERS.c.octets, _METERS.c.reported_limit_wh
    return ((row[0], row[1], row[2]) for row in connection.execute(sa.select(*columns)))


def add_all(connection: sa.Connection, first: int, octets: list[bytes], now: int) -> None:
    """Add meters numbered from ``first`` on, under the ids that their octets say."""
    _insert(connection, first, octets, meter_ids.to_names(octets), now)


def _insert(
    connection: sa.Connection, first: int, octets: list[bytes], ids: list[str], now: int
) -> None:
    numbers = range(first, first + len(octets))
    many(connection, _ADD, list(zip(numbers, octets, ids, repeat(now))))


def register(
    connection: sa.Connection, first: int, named: dict[bytes, str], now: int
) -> list[bytes]:
    """Add those of many meters, ids by octets, that are not there yet; numbered from ``first`` on.

    Answers the octets of those, in order. A long name that only its UUID was known of is kept.
    """
    there: dict[bytes, str] = {}
    octets = list(named)
    query = sa.select(_METERS.c.octets, _METERS.c.id)
    for begin in range(0, len(octets), _MOST_NUMBERS):
        some = octets[begin : begin + _MOST_NUMBERS]
        rows = connection.execute(query.where(_METERS.c.octets.in_(some)))
        there |= {row.octets: row.id for row in rows}
    new = [own for own in octets if own not in there]
    _insert(connection, first, new, [named[own] for own in new], now)
    for own, known in there.items():
        usual = meter_id.to_name(own)
        if known == usual and named[own].lower() != usual.lower():
            connection.execute(
                _METERS.update().where(_METERS.c.octets == own).values(id=named[own])
            )
    return new


def name(connection: sa.Connection, ids: Iterable[str]) -> None:
    """Keep the long ids of meters that are known by their octets' text alone."""
    rows = [
        {"own": octets, "usual": meter_id.to_name(octets), "said": said}
        for said in ids
        for octets in [meter_id.to_octets(said)]
    ]
    if rows:
        update = _METERS.update().where(
            _METERS.c.octets == sa.bindparam("own"), _METERS.c.id == sa.bindparam("usual")
        )
        connection.execute(update.values(id=sa.bindparam("said")), rows)


def report_limit(connection: sa.Connection, number: int, limit_wh: int) -> None:
    """Keep the limit that a meter says it has."""
    update = _METERS.update().where(_METERS.c.number == number)
    connection.execute(update.values(reported_limit_wh=limit_wh))


def change(connection: sa.Connection, wanted: ChangeMeter, number: int, now: int) -> Meter:
    """Make a change, adding the meter under ``number`` if it is wanted and new.

    Raises ChangeRefusedError.
    """
    try:
        octets = meter_id.to_octets(wanted.id)
        usual = meter_id.to_name(octets)  # no datagram could come from what has none
    except ValueError as error:
        raise ChangeRefusedError("bad_request", str(error)) from None
    found = find(connection, wanted.id)
    settings = {
        name: value for name in _SETTINGS if (value := getattr(wanted, name)) is not msgspec.UNSET
    }
    if isinstance(settings.get("price"), Decimal):
        settings["price"] = str(settings["price"])
    if found is None:
        if not wanted.add:
            raise ChangeRefusedError("unknown_meter", unknown(wanted.id))
        connection.execute(
            _METERS.insert().values(
                number=number, octets=octets, id=wanted.id, created_ms=now, **settings
            )
        )
        return by_number(connection, number)
    if wanted.add and wanted.id.lower() != usual.lower():
        settings["id"] = wanted.id  # a long name that only its UUID was known of
    if settings:
        update = _METERS.update().where(_METERS.c.number == found.number)
        connection.execute(update.values(**settings))
    return by_number(connection, found.number)


def unknown(name: str) -> str:
    """What to say of an id that no meter has."""
    return f"there is no meter {name!r}: `wattbus meters` lists them"


def replace(connection: sa.Connection, wanted: ReplaceMeter) -> Meter:
    """Keep that a meter was exchanged. Raises ChangeRefusedError."""
    try:
        found = find(connection, wanted.id)
    except ValueError as error:
        raise ChangeRefusedError("bad_request", str(error)) from None
    if found is None:
        raise ChangeRefusedError("unknown_meter", unknown(wanted.id))
    table = schema.replacements
    key = (table.c.meter == found.number) & (table.c.time_ms == wanted.time_ms)
    connection.execute(table.delete().where(key))
    connection.execute(
        table.insert().values(
            meter=found.number,
            time_ms=wanted.time_ms,
            final_wh=wanted.final_wh,
            initial_wh=wanted.initial_wh,
        )
    )
    return found


_REPLACEMENTS = Prepared(
    sa.select(
        schema.replacements.c.time_ms,
        schema.replacements.c.final_wh,
        schema.replacements.c.initial_wh,
    )
    .where(schema.replacements.c.meter == sa.bindparam("meter"))
    .order_by(schema.replacements.c.time_ms)
)


def replacements(connection: sa.Connection, number: int) -> list[Replacement]:
    """The exchanges of a meter's device, by time."""
    return [Replacement(*row) for row in _REPLACEMENTS.rows(connection, meter=number)]
