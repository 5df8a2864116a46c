"""Every request through the Python client, against a whole collector with readings in it."""

from __future__ import annotations

import itertools
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from itertools import chain, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from query import messages as m
from query.client import Client
from telemetry import meter_id
from telemetry.calendar import day_start, month_start
from telemetry.formats import native
from telemetry.registers import ALERT_LIMIT, ENERGY_IMPORT, POWER_IMPORT
from tests.conftest import ROOT, Stack
from tests.query.feeding import (
    DAY,
    HOUR,
    QUARTER,
    Point,
    at,
    constant,
    datagrams,
    feed,
    refused,
    running,
)
from tests.waiting import PATIENCE, seconds, undisturbed, wait_until

MARCH = at("2024-03-01")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("service")) as shared:
        yield shared


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as shared:
        yield shared


def pages(client: Client, id: str, step: str, most: int) -> list[m.History]:
    found = [client.history(id, step, most=most)]
    while found[-1].next is not None:
        found.append(client.history(id, step, start_ms=found[-1].next, most=most))
    return found


# What a client sees of a meter


def test_ping(client: Client) -> None:
    pong = client.ping()
    assert pong.protocol == m.PROTOCOL
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", pong.version)


def test_status(stack: Stack, client: Client) -> None:
    before = client.status()
    stack.send([b"\x01no datagram at all", *datagrams("status", [(MARCH, 1), (MARCH + 1, 2)])])

    def told(asker: Client) -> m.Status | None:
        """One report in which all has arrived: each of its parts is told at its own time."""
        status = asker.status()
        reports = status.writer.receivers if status.writer else []
        counted = [
            report.listeners[0].accepted and report.listeners[0].refused and not report.waiting
            for report in reports
        ]
        stored = status.readings == before.readings + 2
        return status if stored and counted and all(counted) else None

    status = stack.wait_until(told)
    assert status is not None
    assert status.writer is not None
    (receiver,) = status.writer.receivers
    (listener,) = receiver.listeners
    assert listener.address == f"127.0.0.1:{stack.udp_port}"
    assert listener.refused == {"foreign": 1}
    assert receiver.waiting == 0
    assert status.meters == before.meters + 1
    assert status.writer.commits >= 1
    assert status.writer.commit_ms > 0
    assert status.database_octets > 0
    assert before.started_ms <= before.now_ms <= status.now_ms


def test_latest(stack: Stack, client: Client) -> None:
    with refused("unknown_meter", "'rich'"):
        client.latest("rich")
    client.register("rich", time_zone="Asia/Kathmandu")
    assert client.latest("rich") == m.Latest("rich", "Asia/Kathmandu", [])
    # Out of order: the newest by time counts.
    feed(stack, "rich", [(MARCH, 10), (MARCH + 2, 30), (MARCH + 1, 20)])
    feed(stack, "rich", [(MARCH + 5, -1234)], register=POWER_IMPORT)
    energy, power = client.latest("rich").registers
    assert energy == m.LatestValue(
        obis="1-0:1.8.0",
        name="energy_import",
        unit="Wh",
        raw=30,
        scaler=0,
        time_ms=MARCH + 2,
        flags=[],
    )
    assert (power.obis, power.value, power.unit) == ("1-0:1.7.0", Decimal("-123.4"), "W")
    assert power.time_ms == MARCH + 5


def test_the_flags_of_latest(stack: Stack, client: Client) -> None:
    octets = meter_id.to_octets("doubtful")
    now = time.time_ns() // 1_000_000
    stack.send(native.encode(octets, 1, 0, [native.Record(ENERGY_IMPORT, 0, 5, status=1)]))
    stack.wait_for("doubtful", now)
    (energy,) = client.latest("doubtful").registers
    assert energy.flags == ["arrival_time", "device"]
    assert now - 1000 <= energy.time_ms <= time.time_ns() // 1_000_000


def test_readings(stack: Stack, client: Client) -> None:
    feed(stack, "shown", [(MARCH + n, n * n) for n in range(10)])
    feed(stack, "shown", [(MARCH + n, 100 - n) for n in range(3)], register=POWER_IMPORT)
    every = client.readings("shown")
    assert (every.obis, every.unit, every.scaler) == ("1-0:1.8.0", "Wh", 0)
    assert every.time_ms == [MARCH + n for n in range(10)]
    assert every.raw == [n * n for n in range(10)]
    assert every.next is None
    for name in ("power_import", "1-0:1.7.0", "1.7.0"):
        power = client.readings("shown", name)
        assert (power.raw, power.scaler, power.unit) == ([100, 99, 98], -1, "W")
    part = client.readings("shown", start_ms=MARCH + 2, end_ms=MARCH + 5)
    assert part.raw == [4, 9, 16]
    assert client.readings("shown", start_ms=MARCH + 99).raw == []
    assert client.readings("shown", end_ms=MARCH).raw == []
    assert client.readings("shown", "voltage_l1").raw == []


@pytest.mark.parametrize("most", [1, 3, 9, 10, 11])
def test_pages_of_readings(stack: Stack, client: Client, most: int) -> None:
    if f"paged-{most}" not in {meter.id for meter in client.all_meters("paged-")}:
        feed(stack, f"paged-{most}", [(MARCH + n, n) for n in range(10)])
    found: list[int] = []
    start: int | None = None
    sizes = []
    while True:
        page = client.readings(f"paged-{most}", start_ms=start, most=most)
        found += page.raw
        sizes.append(len(page.raw))
        start = page.next
        if start is None:
            break
    assert found == list(range(10))
    assert sizes == [most] * (10 // most) + [10 % most] * bool(10 % most)


def test_meters(client: Client) -> None:
    for name in ("list-b", "list-a", "list/c", "list-B", "lists"):
        client.register(name)
    ids = ["list-B", "list-a", "list-b"]
    assert [meter.id for meter in client.meters("list-").meters] == ids
    assert [meter.id for meter in client.all_meters("list-")] == ids
    assert client.meters("list-", after="list-a").meters == [client.meter("list-b")]
    assert client.meters("list-", after="list-b") == m.MeterPage([], None)
    assert client.meters("nobody") == m.MeterPage([], None)
    assert [meter.id for meter in client.meters("list").meters] == [*ids, "list/c", "lists"]


@pytest.mark.parametrize("most", [1, 4, 5, 6])
def test_pages_of_meters(client: Client, most: int) -> None:
    for number in range(5):
        client.register(f"page-{number}")
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = client.meters("page-", after=after, most=most)
        assert 1 <= len(page.meters) <= most
        found += [meter.id for meter in page.meters]
        after = page.next
    assert found == [f"page-{number}" for number in range(5)]


# From registers to energy


def test_gap(stack: Stack, client: Client) -> None:
    points = [(at("2024-03-05T10:07"), 1_000_000), (at("2024-03-05T13:22"), 1_006_500)]
    feed(stack, "gap", points)
    slots = client.history("gap", "15m")
    assert slots.wh == [267, *[500] * 12, 233]
    assert sum(slots.wh) == client.total("gap").wh == 6500
    # Nobody has asked for a start: the slots are whole ones.
    assert slots.start_ms[0] == at("2024-03-05T10:00")
    assert slots.end_ms[-1] == at("2024-03-05T13:30")
    assert slots.end_ms[:-1] == slots.start_ms[1:]
    ends = [["estimated", "partial"]]
    assert slots.flags == ends + [["estimated"]] * 12 + ends
    # What is asked for is cut off, and by time again.
    part = client.history("gap", "15m", start_ms=at("2024-03-05T10:10"), end_ms=points[1][0])
    assert (part.start_ms[0], part.wh[0]) == (at("2024-03-05T10:10"), 167)
    assert part.flags[0] == ["estimated"]
    # True readings take the place of what was divided.
    feed(stack, "gap", [(at("2024-03-05T10:15"), 1_000_001), (at("2024-03-05T13:15"), 1_006_001)])
    assert client.history("gap", "15m").wh == [1, *[500] * 12, 499]
    assert client.history("gap", "15m").flags[0] == ["partial"]
    assert client.total("gap").wh == 6500


def test_order_and_repeats(stack: Stack, client: Client) -> None:
    points = [(MARCH + n * QUARTER + n % 7, n * n) for n in range(100)]
    feed(stack, "in-order", points)
    expected = client.history("in-order", "hour")
    order = random.Random(1)
    for number in range(3):
        shuffled = points * 2
        order.shuffle(shuffled)
        for part in (shuffled[:50], shuffled[50:]):
            feed(stack, f"shuffled-{number}", part)
        found = client.history(f"shuffled-{number}", "hour")
        assert (found.start_ms, found.wh, found.flags) == (
            expected.start_ms,
            expected.wh,
            expected.flags,
        )
        assert client.total(f"shuffled-{number}").wh == 99 * 99


def test_conflict(stack: Stack, client: Client) -> None:
    feed(stack, "torn", [(MARCH, 0), (MARCH + QUARTER, 10), (MARCH + 2 * QUARTER, 20)])
    assert client.history("torn", "15m").flags == [[], []]
    feed(stack, "torn", [(MARCH + QUARTER, 14)])
    slots = client.history("torn", "15m")
    assert (slots.wh, slots.flags) == ([14, 6], [["conflict"]] * 2)
    assert client.readings("torn").raw == [0, 14, 20]
    assert client.total("torn").flags == ["conflict"]


def test_a_zero_that_is_not_a_reset(stack: Stack, client: Client) -> None:
    feed(
        stack,
        "blip",
        [(MARCH, 13_423_700), (MARCH + QUARTER, 0), (MARCH + 2 * QUARTER, 13_423_900)],
    )
    total = client.total("blip")
    assert (total.wh, total.flags) == (200, ["zero"])


def test_a_reset(stack: Stack, client: Client) -> None:
    feed(stack, "reset", [(MARCH, 812_200), (MARCH + QUARTER, 812_300)])
    after = [(MARCH + n * QUARTER, wh) for n, wh in ((2, 50), (3, 70), (4, 90))]
    feed(stack, "reset", after, epoch=2)
    slots = client.history("reset", "15m")
    assert slots.wh == [100, 50, 20, 20]
    assert slots.flags == [[], ["reset"], [], []]
    total = client.total("reset", start_ms=MARCH + QUARTER)
    assert (total.wh, total.flags) == (90, ["reset"])


def test_rollover(stack: Stack, client: Client) -> None:
    points = [(MARCH, 99_998_400), (MARCH + QUARTER, 99_998_400), (MARCH + 2 * QUARTER, 3_100)]
    feed(stack, "full", points)
    everything = {"start_ms": MARCH, "end_ms": MARCH + HOUR}
    client.set_bounds("full", modulus_wh=100_000_000, max_power_w=15_000)
    kept = client.total("full", **everything)
    assert kept.wh == 0
    assert "quarantined" in kept.flags
    client.set_bounds("full", max_power_w=20_000)
    booked = client.total("full", **everything)
    assert (booked.wh, booked.flags) == (4_700, ["partial", "rollover"])
    client.set_bounds("full", modulus_wh=None)
    assert client.total("full", **everything).wh == 0


def test_replacement(stack: Stack, client: Client) -> None:
    feed(stack, "exchanged", [(MARCH, 4_998_000), (MARCH + 2 * HOUR, 20_000)])
    for _ in range(2):  # once is as twice
        client.replace("exchanged", time_ms=MARCH + HOUR, final_wh=5_000_000, initial_wh=12_500)
        total = client.total("exchanged")
        assert (total.wh, total.flags) == (9_500, ["replaced"])
    client.replace("exchanged", time_ms=MARCH + HOUR, final_wh=5_000_500, initial_wh=12_500)
    assert client.total("exchanged").wh == 10_000


# Periods are local, instants are UTC

DAYS = [
    ("Europe/Berlin", "2024-03-31", 23_000),
    ("Europe/Berlin", "2024-10-27", 25_000),
    ("America/Sao_Paulo", "2018-11-04", 23_000),
    ("America/Sao_Paulo", "2018-02-17", 25_000),
    ("Australia/Lord_Howe", "2024-10-06", 23_500),
    ("Australia/Lord_Howe", "2024-04-07", 24_500),
    ("Asia/Kathmandu", "2024-05-05", 24_000),
]
MONTHS = [
    ("Europe/Berlin", 2024, 3, 743_000, "371.50"),
    ("Europe/Berlin", 2024, 10, 745_000, "372.50"),
    ("America/Sao_Paulo", 2018, 2, 673_000, "336.50"),
    ("America/Sao_Paulo", 2018, 11, 719_000, "359.50"),
]


@pytest.mark.parametrize(("zone", "day", "wh"), DAYS)
def test_days(stack: Stack, client: Client, zone: str, day: str, wh: int) -> None:
    meter = f"day-{zone[-6:]}-{day[2:7]}"
    client.register(meter, time_zone=zone)
    middle = at(f"{day}T12:00:00")
    feed(stack, meter, constant(middle - 3 * DAY, middle + 3 * DAY))
    days = client.history(meter, "day", start_ms=middle - 2 * DAY, end_ms=middle + 2 * DAY)
    found = dict(zip(days.start_ms, days.wh, strict=True))
    start = day_start(ZoneInfo(zone), date.fromisoformat(day))
    assert found[start] == wh
    assert days.time_zone == zone
    (end,) = (end for begin, end in zip(days.start_ms, days.end_ms, strict=True) if begin == start)
    assert client.total(meter, start_ms=start, end_ms=end).wh == wh
    hours = client.history(meter, "hour", start_ms=start, end_ms=end)
    quarters = client.history(meter, "15m", start_ms=start, end_ms=end)
    assert sum(hours.wh) == sum(quarters.wh) == wh
    assert (hours.start_ms[0], hours.end_ms[-1]) == (start, end)
    assert set(quarters.wh) == {250}


@pytest.mark.parametrize(("zone", "year", "month", "wh", "cost"), MONTHS)
def test_months_and_their_bills(
    stack: Stack, client: Client, zone: str, year: int, month: int, wh: int, cost: str
) -> None:
    meter = f"month-{zone[-5:]}-{month}"
    client.register(meter, time_zone=zone)
    start = month_start(ZoneInfo(zone), year, month)
    end = month_start(ZoneInfo(zone), year, month + 1)
    feed(stack, meter, constant(start, end))
    months = client.history(meter, "month")
    assert (months.start_ms, months.end_ms, months.wh) == ([start], [end], [wh])
    assert months.flags == [[]]
    assert sum(client.history(meter, "day").wh) == wh
    # A reading at midnight of the first closes the month before.
    assert client.bill(meter) == m.Bill(
        id=meter,
        time_zone=zone,
        start_ms=start,
        end_ms=end,
        wh=wh,
        estimated_wh=0,
        complete=True,
        price=Decimal("0.50"),
        currency="R$",
        amount=Decimal(cost),
        flags=[],
    )
    assert (
        client.bill(meter, at_ms=start) == client.bill(meter, at_ms=end - 1) == client.bill(meter)
    )
    after = client.bill(meter, at_ms=end)
    assert (after.start_ms, after.wh, after.complete) == (end, 0, False)


def test_a_year_in_pages(stack: Stack, client: Client) -> None:
    client.register("year", time_zone="Europe/Berlin")
    start = month_start(ZoneInfo("Europe/Berlin"), 2023, 1)
    feed(stack, "year", constant(start, start + 365 * DAY, watts=777, step=HOUR))
    total = client.total("year").wh
    assert total == 777 * 24 * 365
    for step, most in (("month", 5), ("day", 100), ("hour", 3000), ("15m", 10_000)):
        found = pages(client, "year", step, most)
        starts = [start for page in found for start in page.start_ms]
        ends = [end for page in found for end in page.end_ms]
        assert starts[1:] == ends[:-1]
        assert (starts[0], ends[-1]) == (start, start + 365 * DAY)
        assert sum(wh for page in found for wh in page.wh) == total
        assert [len(page.wh) for page in found[:-1]] == [most] * (len(found) - 1)
        assert len(starts) == {"month": 12, "day": 365, "hour": 8760, "15m": 35_040}[step]


@pytest.mark.parametrize("step", ["raw", "15m", "hour", "day"])
@pytest.mark.parametrize("most", [1, 7, 47, 48, 49])
def test_pages_of_history(stack: Stack, client: Client, step: str, most: int) -> None:
    spans = {"raw": 1000, "15m": QUARTER, "hour": HOUR, "day": DAY}
    meter = f"split-{step}"
    if meter not in {known.id for known in client.all_meters(meter)}:
        span = spans[step]
        feed(stack, meter, [(MARCH + n * span, n * n) for n in range(49)])
    whole = client.history(meter, step)
    assert len(whole.wh) == 48
    assert whole.next is None
    found = pages(client, meter, step, most)
    assert [len(page.wh) for page in found] == [most] * (48 // most) + [48 % most] * bool(48 % most)
    for column in ("start_ms", "end_ms", "wh", "flags"):
        parts = [getattr(page, column) for page in found]
        assert [*chain.from_iterable(parts)] == getattr(whole, column)


def test_ranges(stack: Stack, client: Client) -> None:
    feed(stack, "ranged", [(MARCH, 0), (MARCH + HOUR, 1000), (MARCH + 2 * HOUR, 3000)])

    def total(start: int | None, end: int | None) -> tuple[int, int | None, int | None]:
        found = client.total("ranged", start_ms=start, end_ms=end)
        return found.wh, found.start_ms, found.end_ms

    end = MARCH + 2 * HOUR
    assert total(None, None) == (3000, MARCH, end)
    assert total(MARCH, end) == (3000, MARCH, end)
    assert total(MARCH - DAY, end + DAY) == (3000, MARCH, end)
    assert total(MARCH, MARCH + HOUR) == (1000, MARCH, MARCH + HOUR)
    assert total(MARCH + HOUR, None) == (2000, MARCH + HOUR, end)
    assert total(None, MARCH + HOUR) == (1000, MARCH, MARCH + HOUR)
    assert total(MARCH + HOUR // 2, MARCH + HOUR) == (500, MARCH + HOUR // 2, MARCH + HOUR)
    for start, stop in [(end, None), (end, end + 1), (None, MARCH), (MARCH - 2, MARCH - 1)]:
        assert total(start, stop) == (0, None, None)
        assert client.history("ranged", "hour", start_ms=start, end_ms=stop).wh == []
        assert client.history("ranged", "raw", start_ms=start, end_ms=stop).wh == []
    far = client.history("ranged", "15m", start_ms=at("1900-01-01"), end_ms=at("2199-12-31"))
    assert far.wh == [250] * 4 + [500] * 4
    raw = client.history("ranged", "raw", start_ms=MARCH + 1)
    assert (raw.start_ms, raw.wh) == ([MARCH + HOUR], [2000])
    assert client.history("ranged", "raw", end_ms=MARCH + HOUR).wh == [1000]


def test_meters_with_too_little_to_tell(stack: Stack, client: Client) -> None:
    client.register("mute")
    feed(stack, "once", [(MARCH, 5)])
    for meter in ("mute", "once"):
        total = client.total(meter)
        assert (total.wh, total.start_ms, total.end_ms) == (0, None, None)
        assert total.flags == ["missing"]
        for step in ("raw", "15m", "hour", "day", "month"):
            for start, end in [(None, None), (MARCH - DAY, MARCH + DAY), (None, MARCH), (1, None)]:
                history = client.history(meter, step, start_ms=start, end_ms=end)
                assert (history.wh, history.next) == ([], None)
    with refused("no_readings", "'mute'"):
        client.bill("mute")
    bill = client.bill("mute", at_ms=MARCH)
    assert (bill.start_ms, bill.end_ms) == (MARCH, at("2024-04-01"))
    assert (bill.wh, bill.amount, bill.complete) == (0, Decimal("0.00"), False)
    assert client.bill("once").wh == 0


# Bills


def test_a_bill_is_rounded_half_up(stack: Stack, client: Client) -> None:
    feed(stack, "cents", [(MARCH, 0), (at("2024-04-01"), 123_450)])
    bill = client.bill("cents")
    assert (bill.wh, bill.price, bill.amount) == (123_450, Decimal("0.50"), Decimal("61.73"))


def bill_of(
    stack: Stack, client: Client, id: str, points: list[Point]
) -> tuple[int, int, bool, list[str]]:
    feed(stack, id, points)
    bill = client.bill(id, at_ms=MARCH + DAY)
    return bill.wh, bill.estimated_wh, bill.complete, bill.flags


def test_what_is_estimated_in_a_bill(stack: Stack, client: Client) -> None:
    april = at("2024-04-01")
    minutes = 60_000
    # A gap of two hours over the start; five minutes over the end are no gap.
    one = [(MARCH - HOUR, 0), (MARCH + HOUR, 2000), (april - minutes, 5000)]
    one.append((april + 4 * minutes, 5005))
    assert bill_of(stack, client, "one-end", one) == (4001, 1000, True, ["estimated"])
    both = [(MARCH - HOUR, 0), (MARCH + HOUR, 2000), (april - HOUR, 5000), (april + HOUR, 5600)]
    assert bill_of(stack, client, "both-ends", both) == (4300, 1300, True, ["estimated"])
    over = [(MARCH - HOUR, 0), (april + HOUR, (31 * 24 + 2) * 10)]
    assert bill_of(stack, client, "over-all", over) == (7440, 7440, True, ["estimated"])
    inside = [(MARCH, 0), (MARCH + 9 * DAY, 9), (april, 31)]
    assert bill_of(stack, client, "inside", inside) == (31, 0, True, [])
    started = [(MARCH + HOUR, 0), (april - HOUR, 31), (april + HOUR, 33)]
    assert bill_of(stack, client, "started", started) == (32, 1, False, ["estimated", "partial"])


# Alerts


def test_alerts(stack: Stack, client: Client) -> None:
    for number in range(3):
        meter = f"alert-{number}"
        client.register(meter, limit_wh=1000 * (number + 1), time_zone="Europe/Berlin")
        feed(stack, meter, [(MARCH, 0), (MARCH + HOUR, 3500), (MARCH + 2 * HOUR, 4000)])
        stack.wait_until(lambda asker, meter=meter: len(asker.alerts(meter).alerts) == 1)  # type: ignore[misc]
    (alert,) = client.alerts("alert-1").alerts
    assert (alert.id, alert.kind, alert.time_zone) == ("alert-1", "limit", "Europe/Berlin")
    assert (alert.time_ms, alert.energy_wh, alert.limit_wh) == (MARCH + HOUR, 3500, 2000)
    assert alert.period_start_ms == month_start(ZoneInfo("Europe/Berlin"), 2024, 3)
    assert not alert.late
    assert alert.raised_ms <= time.time_ns() // 1_000_000
    every = client.alerts()
    assert every.next is None
    numbers = [found.number for found in every.alerts]
    assert numbers == sorted(numbers, reverse=True)
    for most in (1, len(numbers) - 1, len(numbers), len(numbers) + 1):
        paged = [client.alerts(most=most)]
        while paged[-1].next is not None:
            paged.append(client.alerts(before=paged[-1].next, most=most))
        assert [alert for page in paged for alert in page.alerts] == every.alerts
        assert len(paged) == -(-len(numbers) // most)
    assert client.alerts(before=1).alerts == []
    client.set_limit("alert-2", 100)
    time.sleep(0.2)
    assert len(client.alerts("alert-2").alerts) == 1  # one a period


# The registry


def test_registering(stack: Stack, client: Client) -> None:
    settings = {
        "name": "The köchen",
        "time_zone": "America/Sao_Paulo",
        "limit_wh": 123_000,
        "price": Decimal("0.12345678"),
        "modulus_wh": 10**9,
        "max_power_w": 20_000,
    }
    first = client.register("new", **settings)  # type: ignore[arg-type]
    assert first == client.meter("new")
    assert {name: getattr(first, name) for name in settings} == settings
    assert first.time_zone_in_force == "America/Sao_Paulo"
    assert (first.limit_wh_in_force, first.price_in_force) == (123_000, Decimal("0.12345678"))
    # Again, and again without settings: the same meter.
    assert client.register("new", **settings) == first  # type: ignore[arg-type]
    assert client.register("new") == first
    changes: tuple[tuple[Any, str, Any], ...] = (
        (client.set_name, "name", "Other"),
        (client.set_zone, "time_zone", "Europe/London"),
        (client.set_limit, "limit_wh", 0),
        (client.set_price, "price", Decimal("0")),
    )
    for change, field, value in changes:
        for _ in range(2):
            assert getattr(change("new", value), field) == value
            with stack.client() as other:  # at once, for everybody
                assert getattr(other.meter("new"), field) == value
        assert getattr(change("new", None), field) is None
    bounds = client.set_bounds("new", modulus_wh=5)
    assert (bounds.modulus_wh, bounds.max_power_w) == (5, 20_000)
    default = client.set_bounds("new", modulus_wh=None, max_power_w=None)
    assert default == m.MeterInfo(
        id="new",
        name=None,
        time_zone=None,
        limit_wh=None,
        reported_limit_wh=None,
        price=None,
        modulus_wh=None,
        max_power_w=None,
        created_ms=first.created_ms,
        time_zone_in_force="UTC",
        limit_wh_in_force=500_000,
        price_in_force=Decimal("0.50"),
    )


def test_settings_rule_at_once(stack: Stack, client: Client) -> None:
    feed(stack, "ruled", constant(MARCH, at("2024-04-01"), step=HOUR))
    assert client.bill("ruled").amount == Decimal("372.00")
    client.set_price("ruled", Decimal("0.333"))
    assert client.bill("ruled").amount == Decimal("247.75")
    client.set_zone("ruled", "Europe/Berlin")
    days = client.history("ruled", "day")
    assert days.time_zone == "Europe/Berlin"
    assert 23_000 in days.wh
    feed(stack, "ruled", [(MARCH, 250_000)], register=ALERT_LIMIT)
    assert client.meter("ruled").reported_limit_wh == 250_000
    assert client.meter("ruled").limit_wh_in_force == 250_000
    assert client.set_limit("ruled", 300_000).limit_wh_in_force == 300_000


def test_names_and_uuids_of_meters(stack: Stack, client: Client) -> None:
    long = "a-name-much-longer-than-sixteen-characters"
    seen = meter_id.to_name(meter_id.to_octets(long))
    feed(stack, long, [(MARCH, 1), (MARCH + 1, 2)])
    assert client.meter(long).id == seen  # only its UUID has been heard
    assert client.register(long).id == long
    assert client.meter(seen).id == client.meter(seen.upper()).id == long
    assert client.total(seen) == client.total(long)


# What is refused


@pytest.mark.parametrize(
    "id", ["", " ", "ö", "a b", "-a", "a\0", "x" * 65, "a\n", "'; drop table meters", "\ud800"]
)
def test_bad_ids(client: Client, id: str) -> None:
    for ask in (client.meter, client.latest, client.history, client.readings, client.total):
        with refused("bad_request"):
            ask(id)
    for change in (client.alerts, client.bill, client.register):
        with refused("bad_request"):
            change(id)
    with refused("bad_request"):
        client.set_name(id, "x")
    with refused("bad_request"):
        client.replace(id, time_ms=1, final_wh=1, initial_wh=1)


def test_unknown_meters(client: Client) -> None:
    for ask in (client.meter, client.latest, client.history, client.readings, client.total):
        with refused("unknown_meter", "'nobody'", "wattbus meters"):
            ask("nobody")
    for other in (client.alerts, client.bill):
        with refused("unknown_meter"):
            other("nobody")
    changes: list[tuple[Any, Any]] = [
        (client.set_name, "x"),
        (client.set_zone, "UTC"),
        (client.set_limit, 1),
        (client.set_price, Decimal(1)),
    ]
    for change, value in changes:
        with refused("unknown_meter"):
            change("nobody", value)
    with refused("unknown_meter"):
        client.replace("nobody", time_ms=1, final_wh=1, initial_wh=1)
    with refused("unknown_meter"):
        client.meter("nobody")


def test_bad_ranges_steps_and_pages(client: Client) -> None:
    client.register("strict")
    for start, end in [(5, 5), (6, 5), (-(10**14), None), (None, 10**14), (0, 2**63 - 1)]:
        with refused("bad_request"):
            client.total("strict", start_ms=start, end_ms=end)
        with refused("bad_request"):
            client.history("strict", start_ms=start, end_ms=end)
    for start in (-(10**14), 2**63):
        with refused("bad_request", "start_ms"):
            client.readings("strict", start_ms=start)
        with refused("bad_request", "at_ms"):
            client.bill("strict", at_ms=start)
    for step in ("week", "", "DAY", "15M"):
        with refused("bad_request", "raw, 15m, hour, day, month"):
            client.history("strict", step)
    with refused("bad_request", "'volts'"):
        client.readings("strict", "volts")
    for most in (0, -1, 10_001, 2**63):
        with refused("bad_request", "most is 1 to 10000"):
            client.history("strict", most=most)
        with refused("bad_request", "most"):
            client.readings("strict", most=most)
        with refused("bad_request", "most"):
            client.meters(most=most)
        with refused("bad_request", "most"):
            client.alerts(most=most)
    for before in (-1, 2**63, 2**64 - 1):
        with refused("bad_request", "before"):
            client.alerts(before=before)
    with refused("bad_request"):  # more than msgpack can carry
        client.alerts(before=2**64)


def test_bad_settings(client: Client) -> None:
    client.register("firm")
    for name in ("", "x" * 201, "a\nb", "\0"):
        with refused("bad_request", "name"):
            client.set_name("firm", name)
    for zone in ("", "Mars/Olympus", "../../etc/passwd", "/etc/localtime"):
        with refused("bad_request", "time zone"):
            client.set_zone("firm", zone)
    for price in ("-1", "NaN", "Infinity", "1000001", "0.123456789"):
        with refused("bad_request", "price"):
            client.set_price("firm", Decimal(price))
    for value in (-1, 10**15 + 1, 2**63):
        with refused("bad_request", "limit_wh"):
            client.set_limit("firm", value)
        with refused("bad_request", "modulus_wh"):
            client.set_bounds("firm", modulus_wh=value)
        with refused("bad_request", "final"):
            client.replace("firm", time_ms=0, final_wh=value, initial_wh=0)
    with refused("bad_request", "max_power_w"):
        client.set_bounds("firm", max_power_w=0)
    assert client.meter("firm") == client.register("firm")


# How soon, how fast


def test_a_reading_can_be_asked_for_within_200_ms(stack: Stack, client: Client) -> None:
    feed(stack, "prompt", [(MARCH, 0)])
    numbers = itertools.count(1)

    def shown(number: int) -> bool:
        return client.latest("prompt").registers[0].raw == number

    def visible() -> None:
        number = next(numbers)
        stack.send(datagrams("prompt", [(MARCH + number, number)]))
        wait_until(lambda: shown(number), pause=0)

    def median() -> float:
        return statistics.median(seconds(visible) for _ in range(20))

    undisturbed(0.4, median)  # 0.2 is promised of a machine that does nothing else


def test_latest_is_quick(stack: Stack, client: Client) -> None:
    feed(stack, "quick", constant(MARCH, MARCH + DAY))

    def median() -> float:
        return statistics.median(seconds(lambda: client.latest("quick")) for _ in range(300))

    undisturbed(0.01, median)  # 0.001 is promised of a machine that does nothing else


def test_questions_do_not_disturb_each_other(stack: Stack) -> None:
    """Answers find their askers, also when many ask at once."""
    with stack.client() as client:
        for number in range(8):
            client.register(f"own-{number}", limit_wh=number)
    clients = [stack.client() for _ in range(8)]
    for _ in range(20):
        for number, each in enumerate(clients):
            assert each.meter(f"own-{number}").limit_wh == number
    for each in clients:
        each.close()


def test_the_client_in_the_document_works(stack: Stack) -> None:
    text = (ROOT / "docs" / "bus-protocol.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert "tcp://127.0.0.1:5002" in code
    code = code.replace("tcp://127.0.0.1:5002", stack.query)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    with stack.client() as client:
        assert (done.stdout, done.stderr) == (f"{client.ping().version}\n", "")


def test_energies_of_any_partition_add_up(stack: Stack, client: Client) -> None:
    order = random.Random(2)
    times = sorted(order.sample(range(MARCH, MARCH + 3 * DAY), 60))
    values = sorted(order.sample(range(10**6), 60))
    feed(stack, "parts", list(zip(times, values, strict=True)))
    cuts = sorted(order.sample(range(times[0], times[-1]), 12))
    bounds = [times[0], *cuts, times[-1]]
    parts = [client.total("parts", start_ms=low, end_ms=high).wh for low, high in pairwise(bounds)]
    assert sum(parts) == client.total("parts").wh == values[-1] - values[0]
