"""Answers: one function a request that only reads, and the table that finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from query import bills, fleet, history
from query import messages as m
from query.asking import Answers, find_meter, flag_names, instant, instant_range, page_size
from query.history import reaches
from query.transport import BusError
from storage.defaults import Defaults
from storage.energy import energy_curve
from storage.meters import Meter
from telemetry import intervals
from telemetry.intervals import Flag
from telemetry.readings import DEVICE_BITS, Status
from telemetry.registers import BY_CODE, BY_NAME


def answer(request: m.AnyRequest, source: Answers) -> m.Reply:
    """The reply to a request that only reads; raises BusError."""
    return _HANDLERS[type(request)](request, source)


def meter_info(meter: Meter, defaults: Defaults) -> m.MeterInfo:
    """A registered meter as the bus shows it."""
    return m.MeterInfo(
        id=meter.id,
        name=meter.name,
        time_zone=meter.time_zone,
        limit_wh=meter.limit_wh,
        reported_limit_wh=meter.reported_limit_wh,
        price=meter.price,
        modulus_wh=meter.modulus_wh,
        max_power_w=meter.max_power_w,
        created_ms=meter.created_ms,
        time_zone_in_force=defaults.zone(meter).key,
        limit_wh_in_force=defaults.limit(meter),
        price_in_force=defaults.price_of(meter),
    )


def _ping(_request: m.Ping, source: Answers) -> m.Pong:
    return m.Pong(version=source.version, protocol=m.PROTOCOL)


def _list_meters(request: m.ListMeters, source: Answers) -> m.MeterPage:
    most = page_size(request.most)
    found = source.reader.meters(request.prefix, request.after, most + 1)
    infos = [meter_info(meter, source.defaults) for meter in found[:most]]
    return m.MeterPage(meters=infos, next=infos[-1].id if len(found) > most else None)


def _get_meter(request: m.GetMeter, source: Answers) -> m.MeterInfo:
    return meter_info(find_meter(source, request.id), source.defaults)


def _get_latest(request: m.GetLatest, source: Answers) -> m.Latest:
    meter = find_meter(source, request.id)
    registers = []
    for code, time_ms, raw, status in source.reader.latest(meter):
        register = BY_CODE[code]
        registers.append(
            m.LatestValue(
                obis=register.obis,
                name=register.name,
                unit=register.unit,
                raw=raw,
                scaler=register.scaler,
                time_ms=time_ms,
                flags=_status_names(status),
            )
        )
    zone = source.defaults.zone(meter).key
    return m.Latest(id=meter.id, time_zone=zone, registers=registers)


_MARKS = {
    "arrival_time": int(Status.ARRIVAL_TIME),
    "device": DEVICE_BITS,
    "thinned": int(Status.THINNED),
}


def _status_names(status: int) -> list[str]:
    return [name for name, bits in _MARKS.items() if status & bits] if status else []


def _get_readings(request: m.GetReadings, source: Answers) -> m.Values:
    most = page_size(request.most)
    register = BY_NAME.get(request.register)
    if register is None:
        raise BusError("bad_request", f"there is no register {request.register!r}")
    meter = find_meter(source, request.id)
    reader = source.reader
    start, end = instant("start_ms", request.start_ms), instant("end_ms", request.end_ms)
    oldest, newest = reader.oldest(meter, register), reader.newest(meter, register)
    low = max(start or 0, oldest or 0) if start is not None else oldest or 0
    high = 1 + (newest or 0) if end is None else end
    for reach in reaches(low, high):
        settled = intervals.settle(reader.series(meter, register, low, reach - 1))
        if len(settled) > most:
            break
    page = slice(0, most)
    return m.Values(
        id=meter.id,
        time_zone=source.defaults.zone(meter).key,
        obis=register.obis,
        unit=register.unit,
        scaler=register.scaler,
        time_ms=settled.time[page].tolist(),
        raw=settled.value[page].tolist(),
        status=settled.status[page].tolist(),
        epoch=settled.epoch[page].tolist(),
        next=int(settled.time[most]) if len(settled) > most else None,
    )


def _get_total(request: m.GetTotal, source: Answers) -> m.Total:
    meter = find_meter(source, request.id)
    start, end = instant_range(source, meter, request.start_ms, request.end_ms)
    curve = energy_curve(source.reader, meter, start, end)
    if request.end_ms is None and len(curve.time):
        end = max(int(curve.time[-1]), start + 1)  # what is newer is held back
    slots = intervals.slots(curve, np.array([start, end], np.int64))
    empty = bool(slots.flags[0] & Flag.MISSING)
    return m.Total(
        id=meter.id,
        time_zone=source.defaults.zone(meter).key,
        wh=int(slots.energy[0]),
        start_ms=None if empty else max(start, int(curve.time[0])),
        end_ms=None if empty else min(end, int(curve.time[-1])),
        flags=flag_names(slots.flags)[0],
    )


def _list_alerts(request: m.ListAlerts, source: Answers) -> m.AlertPage:
    most = page_size(request.most)
    if request.before is not None and not 0 <= request.before < 2**63:
        raise BusError("bad_request", "before is the number of an alert")
    meter = None if request.id is None else find_meter(source, request.id)
    rows = source.reader.alerts(meter, request.before, most + 1)
    alerts = [_alert(row._mapping, source) for row in rows[:most]]
    return m.AlertPage(alerts=alerts, next=alerts[-1].number if len(rows) > most else None)


def _alert(row: Any, source: Answers) -> m.Alert:
    names = ("number", "id", "kind", "time_ms", "period_start_ms", "energy_wh", "limit_wh", "late")
    values = {name: row[name] for name in (*names, "raised_ms")}
    return m.Alert(**values, time_zone=row["time_zone"] or source.defaults.time_zone)


_HANDLERS: dict[type[m.Request], Callable[[Any, Answers], m.Reply]] = {
    m.Ping: _ping,
    m.ListMeters: _list_meters,
    m.GetMeter: _get_meter,
    m.GetLatest: _get_latest,
    m.GetHistory: history.get_history,
    m.GetReadings: _get_readings,
    m.GetTotal: _get_total,
    m.ListAlerts: _list_alerts,
    m.GetBill: bills.get_bill,
    m.GetFleet: fleet.get_fleet,
    m.GetTop: fleet.get_top,
    m.GetStorage: fleet.get_storage,
}
