"""What the old keys say of a meter, asked of the query bus (docs/http.md has every key)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from query import messages as m
from query.http.bus import Bus
from query.transport import BusError
from telemetry.spans import HOUR_MS

# An overview asks for so many meters at once: enough to keep the service busy, few enough that a
# request for one meter does not wait long behind them.
METERS_AT_ONCE = 8

_METERS_A_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Interval(msgspec.Struct, frozen=True):
    """An interval between two readings: its end in the meter's local time, its energy."""

    data_hora: str
    consumo_kwh: Decimal


class MeterAnswer(msgspec.Struct, frozen=True):
    """One meter as the old clients know it."""

    last_text: str = msgspec.field(name="consumo_atual_kWh")
    last: Decimal = msgspec.field(name="consumo_kwh")
    total: Decimal = msgspec.field(name="consumo_total_kWh")
    alert: str = msgspec.field(name="alerta")
    intervals: list[Interval] = msgspec.field(name="Fatura_Atual")
    amount: str = msgspec.field(name="Valor_da_Fatura")


async def one_meter(bus: Bus, id: str) -> MeterAnswer:
    """The answer for a meter; raises BusError."""
    bill = await _current_bill(bus, id)
    zone = ZoneInfo(bill.time_zone)
    total, alert, intervals = await asyncio.gather(
        bus.ask(m.GetTotal(id=id), m.Total),
        _alert(bus, id, bill, zone),
        _intervals(bus, bill, zone),
    )
    last = intervals[-1].consumo_kwh if intervals else await _last_before(bus, total)
    return MeterAnswer(
        last_text=f"{last:.3f}",
        last=last,
        total=_kwh(total.wh),
        alert=alert,
        intervals=intervals,
        amount=f"{bill.currency} {bill.amount:.2f}",
    )


async def all_meters(bus: Bus, places: asyncio.Semaphore) -> dict[str, MeterAnswer]:
    """The answers for all meters by id; one that vanishes meanwhile is left out. Raises BusError.

    ``places`` is how many meters are asked for at once, by all overviews together.
    """
    ids = await _meter_ids(bus)
    left = iter(ids)
    found: dict[str, MeterAnswer] = {}

    async def add_some() -> None:
        for name in left:
            async with places:
                try:
                    found[name] = await one_meter(bus, name)
                except BusError as error:
                    if error.code != "unknown_meter":
                        raise

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(METERS_AT_ONCE):
                group.create_task(add_some())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {name: found[name] for name in ids if name in found}


async def _meter_ids(bus: Bus) -> list[str]:
    ids: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await bus.ask(m.ListMeters(after=after, most=_METERS_A_PAGE), m.MeterPage)
        ids += [meter.id for meter in page.meters]
        after = page.next
    return ids


async def _current_bill(bus: Bus, id: str) -> m.Bill:
    """The bill of the period with the last reading; without any reading, today's, of nothing."""
    try:
        return await bus.ask(m.GetBill(id=id), m.Bill)
    except BusError as error:
        if error.code != "no_readings":
            raise
        now_ms = time.time_ns() // 1_000_000
        return await bus.ask(m.GetBill(id=id, at_ms=now_ms), m.Bill)


async def _intervals(bus: Bus, bill: m.Bill, zone: ZoneInfo) -> list[Interval]:
    found: list[Interval] = []
    async for page in _pages(bus, bill.id, bill.start_ms, bill.end_ms):
        for end_ms, wh in zip(page.end_ms, page.wh, strict=True):
            found.append(Interval(_local(end_ms, zone), _kwh(wh)))
    return found


async def _pages(bus: Bus, id: str, start_ms: int, end_ms: int) -> AsyncIterator[m.History]:
    start: int | None = start_ms
    while start is not None:
        request = m.GetHistory(id=id, step="raw", start_ms=start, end_ms=end_ms, most=m.MOST_ROWS)
        page = await bus.ask(request, m.History)
        yield page
        start = page.next


async def _last_before(bus: Bus, total: m.Total) -> Decimal:
    """The last interval's energy where that interval reaches over the bill's start, else 0.

    It is looked for further and further back, so that few intervals are fetched for the one.
    """
    if total.start_ms is None or total.end_ms is None:
        return Decimal(0)
    span, start = HOUR_MS, total.end_ms
    while start > total.start_ms:
        start = max(total.start_ms, total.end_ms - span)
        last = [page.wh[-1] async for page in _pages(bus, total.id, start, total.end_ms) if page.wh]
        if last:
            return _kwh(last[-1])
        span *= 8
    return Decimal(0)


async def _alert(bus: Bus, id: str, bill: m.Bill, zone: ZoneInfo) -> str:
    """The alert of the bill's period in the old words, "" without one."""
    before: int | None = None
    while True:
        page = await bus.ask(m.ListAlerts(id=id, before=before), m.AlertPage)
        for alert in page.alerts:
            if alert.kind == "limit" and alert.period_start_ms == bill.start_ms:
                # Two decimals, half up.
                energy = Decimal((alert.energy_wh + 5) // 10).scaleb(-2)
                when = _local(alert.time_ms, zone)
                return f"{when} - ALERTA: Consumo muito alto: {energy:.2f} kWh"
        if page.next is None:
            return ""
        before = page.next


def _kwh(wh: int) -> Decimal:
    """Exact, without zeros at the end: 334510 Wh are 334.51 kWh."""
    return Decimal(wh) / 1000


def _local(ms: int, zone: ZoneInfo) -> str:
    moment = (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone)
    return f"{moment:%d/%m/%Y %H:%M:%S}"
