"""Replies of the bus as answers: which values of each, under which names, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from zoneinfo import ZoneInfo

from cli.render import Answer, Column, Record
from query import messages as m
from telemetry.calendar import format_instant


def kwh_text(wh: int) -> str:
    """Watt-hours as kWh with three decimals, exact."""
    return f"{Decimal(wh).scaleb(-3):.3f}"


def time_text(ms: int | None, zone: str) -> str | None:
    """An instant in ISO 8601 with the zone's offset."""
    return None if ms is None else format_instant(ms, ZoneInfo(zone))


def thousands(value: str | int) -> str:
    """A number with its thousands apart."""
    return f"{Decimal(value):,}"


def moment(text: str) -> str:
    """A time as people write it."""
    return text.replace("T", " ")


def words_text(words: list[str]) -> str:
    """Names as words of a sentence."""
    return ", ".join(words).replace("_", " ")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _number(value: Decimal | float) -> str:
    return f"{value:,}"


_FLAGS = Column("flags", "notes", words_text, drop=1)
ID = Column("id", "meter")
_START = Column("start", "from", moment)


def _energy(key: str, title: str, drop: int = 0) -> Column:
    return Column(key, title, thousands, right=True, drop=drop)


def pong(reply: m.Pong) -> Answer:
    """The service's version."""
    record = {"version": reply.version, "protocol": reply.protocol}
    columns = Column("version", "Wattbus"), Column("protocol", "protocol")
    return Answer(columns, [record], record, card=True)


METER = (
    ID,
    Column("name", "name", drop=4),
    Column("time_zone", "time zone", drop=3),
    _energy("limit_kwh", "limit kWh", 1),
    Column("price", "price a kWh", right=True, drop=2),
    _energy("reported_limit_kwh", "its own limit kWh", 6),
    _energy("modulus_kwh", "rolls over at kWh", 8),
    _energy("max_power_kw", "most kW", 7),
    Column("set", "set by hand", words_text, drop=5),
    Column("created", "since", moment, drop=9),
)
_SETTINGS = ("name", "time_zone", "limit_wh", "price", "modulus_wh", "max_power_w")


def _optional_kilo(value: int | None) -> str | None:
    return None if value is None else kwh_text(value)


def meter_record(meter: m.MeterInfo) -> Record:
    """A meter's settings, in the order of METER."""
    return {
        "id": meter.id,
        "name": meter.name,
        "time_zone": meter.time_zone_in_force,
        "limit_kwh": kwh_text(meter.limit_wh_in_force),
        "price": f"{meter.price_in_force:f}",
        "reported_limit_kwh": _optional_kilo(meter.reported_limit_wh),
        "modulus_kwh": _optional_kilo(meter.modulus_wh),
        "max_power_kw": _optional_kilo(meter.max_power_w),
        "set": [
            name.removesuffix("_wh").removesuffix("_w")
            for name in _SETTINGS
            if getattr(meter, name) is not None
        ],
        "created": time_text(meter.created_ms, meter.time_zone_in_force),
    }


def meter(reply: m.MeterInfo) -> Answer:
    """What is registered of one meter; ``set`` names what is not the default."""
    record = meter_record(reply)
    return Answer(METER, [record], record, card=True)


def meters(found: Iterable[m.MeterInfo], empty: str) -> Answer:
    """Many meters, as they come."""
    return Answer(METER, map(meter_record, found), empty=empty)


def deleted(reply: m.Deleted) -> Answer:
    """That a meter is gone; not found if another had been quicker."""
    record = {"id": reply.id, "deleted": reply.found}
    return Answer((ID, Column("deleted", "deleted", _yes)), [record], record, card=True)


_LATEST = (
    Column("obis", "OBIS", drop=3),
    Column("name", "register", lambda name: words_text([name])),
    Column("value", "value", _number, right=True),
    Column("unit", "unit"),
    Column("time", "time", moment, drop=1),
    Column("flags", "notes", words_text, drop=2),
)


def latest(reply: m.Latest) -> Answer:
    """The newest reading of each register; the document is an object by OBIS code."""
    records: list[Record] = [
        {
            "obis": found.obis,
            "name": found.name,
            "value": found.value,
            "unit": found.unit,
            "time": time_text(found.time_ms, reply.time_zone),
            "flags": found.flags,
        }
        for found in reply.registers
    ]
    document = {
        record["obis"]: {key: value for key, value in record.items() if key != "obis"}
        for record in records
    }
    return Answer(_LATEST, records, document, empty=f"{reply.id} has sent no readings yet")


_TOTAL = (
    ID,
    Column("kwh", "kWh", thousands),
    _START,
    Column("end", "to", moment),
    _FLAGS,
)


def total(reply: m.Total) -> Answer:
    """Energy in all, or in a range."""
    record = {
        "id": reply.id,
        "kwh": kwh_text(reply.wh),
        "start": time_text(reply.start_ms, reply.time_zone),
        "end": time_text(reply.end_ms, reply.time_zone),
        "flags": reply.flags,
    }
    return Answer(_TOTAL, [record], record, card=True)


CURRENT = (
    ID,
    Column("kwh", "kWh", thousands),
    Column("power_w", "power now, W", _number),
    _START,
    Column("end", "to", moment),
    _FLAGS,
)


def current(page: m.History, power_w: Decimal | None) -> Answer:
    """The last interval of a page that has one, and the power if it is known."""
    *_, slot = _slots([page])
    return Answer(CURRENT, [{"id": page.id, "power_w": power_w, **slot}], card=True)


_HISTORY = (
    _START,
    Column("end", "to", moment, drop=2),
    _energy("kwh", "kWh"),
    _FLAGS,
)


def history(pages: Iterable[m.History]) -> Answer:
    """Energy slot by slot, page by page."""
    return Answer(_HISTORY, _slots(pages), empty="there is no consumption in this range")


def _slots(pages: Iterable[m.History]) -> Iterator[Record]:
    for page in pages:
        zone = ZoneInfo(page.time_zone)
        columns = zip(page.start_ms, page.end_ms, page.wh, page.flags, strict=True)
        for start, end, wh, flags in columns:
            yield {
                "start": format_instant(start, zone),
                "end": format_instant(end, zone),
                "kwh": kwh_text(wh),
                "flags": flags,
            }


_VALUES = (
    Column("time", "time", moment),
    Column("value", "value", _number, right=True),
    Column("unit", "unit", drop=1),
)


def values(pages: Iterable[m.Values]) -> Answer:
    """A register's readings, page by page."""
    return Answer(_VALUES, _readings(pages), empty="there are no readings in this range")


def _readings(pages: Iterable[m.Values]) -> Iterator[Record]:
    for page in pages:
        zone = ZoneInfo(page.time_zone)
        for time, raw in zip(page.time_ms, page.raw, strict=True):
            yield {
                "time": format_instant(time, zone),
                "value": Decimal(raw).scaleb(page.scaler),
                "unit": page.unit,
            }


_ALERTS = (
    Column("number", "no.", right=True, drop=5),
    ID,
    Column("kind", "kind", lambda kind: words_text([kind]), drop=4),
    Column("time", "time", moment),
    Column("period_start", "billed since", moment, drop=6),
    _energy("kwh", "kWh"),
    _energy("limit_kwh", "limit kWh", 1),
    Column("late", "late", _yes, drop=3),
    Column("raised", "raised", moment, drop=7),
)


def alerts(pages: Iterable[m.AlertPage]) -> Answer:
    """Alerts, page by page, the last raised first."""
    records = (_alert_record(alert) for page in pages for alert in page.alerts)
    return Answer(_ALERTS, records, empty="no alerts")


def _alert_record(alert: m.Alert) -> Record:
    return {
        "number": alert.number,
        "id": alert.id,
        "kind": alert.kind,
        "time": time_text(alert.time_ms, alert.time_zone),
        "period_start": time_text(alert.period_start_ms, alert.time_zone),
        "kwh": kwh_text(alert.energy_wh),
        "limit_kwh": kwh_text(alert.limit_wh),
        "late": alert.late,
        "raised": time_text(alert.raised_ms, alert.time_zone),
    }


def money(currency: str, amount: Decimal) -> str:
    """An amount with its currency and at least two decimals."""
    return f"{currency} {amount:f}" if _places(amount) >= 2 else f"{currency} {amount:.2f}"


def _places(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def bill(reply: m.Bill) -> Answer:
    """One billing period: its energy, its price, what it costs."""
    record = {
        "id": reply.id,
        "start": time_text(reply.start_ms, reply.time_zone),
        "end": time_text(reply.end_ms, reply.time_zone),
        "kwh": kwh_text(reply.wh),
        "estimated_kwh": kwh_text(reply.estimated_wh),
        "complete": reply.complete,
        "price": f"{reply.price:f}",
        "currency": reply.currency,
        "amount": f"{reply.amount:f}",
        "flags": reply.flags,
    }

    def show(text: str) -> str:
        return money(reply.currency, Decimal(text))

    columns = (
        ID,
        _START,
        Column("end", "to", moment),
        Column("kwh", "kWh", thousands),
        Column("estimated_kwh", "of that estimated", thousands),
        Column("complete", "complete", _yes),
        Column("price", "price a kWh", show),
        Column("currency", ""),
        Column("amount", "amount", show),
        _FLAGS,
    )
    return Answer(columns, [record], record, card=True)
