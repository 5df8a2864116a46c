"""Questions about all meters at once, and deletion, over the bus of a whole collector."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from query import messages as m
from query.client import Client
from telemetry.calendar import local_date
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT
from tests.conftest import Stack
from tests.query.feeding import DAY, HOUR, QUARTER, at, constant, feed, refused, running

MARCH = at("2024-03-25")
ZONES = {
    "site-1/a": None,
    "site-1/b": "America/Sao_Paulo",
    "site-2/a": "Europe/Berlin",  # whose clock changes on the 31st
    "site-2/b": "Pacific/Kiritimati",
    "site-2/empty": None,
}
Row = tuple[int, int, set[str]]  # Wh, meters, flags


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("fleet")) as shared:
        rng = random.Random(7)
        with shared.client() as client:
            for meter, zone in ZONES.items():
                client.register(meter, time_zone=zone, name=f"Meter {meter[-1]}")
        for meter in list(ZONES)[:-1]:
            value, points = 0, []
            time = MARCH + rng.randrange(DAY)
            while time < MARCH + 12 * DAY:
                points.append((time, value))
                time += rng.choice([QUARTER, HOUR, 7 * HOUR, DAY + 5 * HOUR, 3 * DAY])
                value = 0 if rng.random() < 0.05 else value + rng.randrange(3000)
            feed(shared, meter, points)
        # Late, and in conflict with what was sent before.
        feed(shared, "site-1/a", [(MARCH + 2 * DAY + 1, 5), (MARCH + 2 * DAY + 1, 6)], epoch=1)
        yield shared


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as shared:
        yield shared


def summed(client: Client, months: bool = False, prefix: str = "") -> dict[str, Row]:
    """The sum of the meters' own histories."""
    wh: dict[str, int] = defaultdict(int)
    meters: dict[str, set[str]] = defaultdict(set)
    flags: dict[str, set[str]] = defaultdict(set)
    for meter in client.all_meters(prefix):
        history = client.history(meter.id, "day", most=10_000)
        for start, energy, names in zip(history.start_ms, history.wh, history.flags, strict=True):
            day = str(local_date(start, ZoneInfo(meter.time_zone_in_force)))
            key = day[:7] if months else day
            wh[key] += energy
            meters[key].add(meter.id)
            flags[key] |= set(names) - {"partial"}
    return {key: (wh[key], len(meters[key]), flags[key]) for key in sorted(wh)}


def told(*pages: m.Fleet) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for page in pages:
        columns = zip(page.period, page.wh, page.meters, page.flags, strict=True)
        for period, wh, meters, flags in columns:
            assert period not in rows
            rows[period] = wh, meters, set(flags)
    assert list(rows) == sorted(rows)
    return rows


@pytest.mark.parametrize("prefix", ["", "site-2/", "site-1/b", "nowhere"])
@pytest.mark.parametrize("by", ["day", "month"])
def test_a_fleets_energy_is_the_sum_of_its_meters(client: Client, by: str, prefix: str) -> None:
    fleet = client.fleet(by, first="2024-01-01", last="2024-12-31", prefix=prefix)
    assert fleet.by == by
    assert fleet.next is None
    assert told(fleet) == summed(client, by == "month", prefix)


def test_the_answers_are_not_trivial(client: Client) -> None:
    rows = summed(client)
    assert len(rows) >= 12
    assert {meters for _, meters, _ in rows.values()} >= {1, 2, 3, 4}
    assert set.union(*(flags for *_, flags in rows.values())) >= {"estimated", "conflict"}


@pytest.mark.parametrize("most", [1, 2, 5, 9])
@pytest.mark.parametrize("by", ["day", "month"])
def test_pages_are_the_whole(client: Client, by: str, most: int) -> None:
    pages = [client.fleet(by, first="2023-02-03", last="2024-12-31", most=most)]
    while pages[-1].next is not None:
        first = pages[-1].next
        pages.append(client.fleet(by, first=first, last="2024-12-31", most=most))
    assert all(len(page.period) <= most for page in pages)
    assert told(*pages) == summed(client, by == "month")


def test_a_range_cuts_days_off_and_months_too(client: Client) -> None:
    days = told(client.fleet(first="2024-03-27", last="2024-04-02"))
    assert days == {
        day: row for day, row in summed(client).items() if "2024-03-27" <= day <= "2024-04-02"
    }
    months = told(client.fleet("month", first="2024-03-27", last="2024-04-02"))
    assert {month: row[0] for month, row in months.items()} == {
        month: sum(row[0] for day, row in days.items() if day.startswith(month))
        for month in ("2024-03", "2024-04")
    }


def test_only_a_last_day_means_its_month(client: Client) -> None:
    whole = told(client.fleet(first="2024-03-01", last="2024-03-29"))
    assert told(client.fleet(last="2024-03-29")) == whole


def test_without_a_range_it_is_the_current_month(stack: Stack, client: Client) -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    start = max(now - DAY, int(datetime.now(UTC).replace(day=1).timestamp() * 1000) // DAY * DAY)
    feed(stack, "now", [(start, 0), (start + 1, 100), (now, 4321)])
    today = datetime.now(UTC).date()
    found = told(client.fleet(prefix="now"))
    assert sum(wh for wh, *_ in found.values()) == 4321
    assert max(found) == str(today)
    assert client.top(prefix="now").first == str(today.replace(day=1))
    assert date.fromisoformat(client.top(prefix="now").last).month == today.month
    following = date.fromisoformat(client.top(prefix="now").last) + timedelta(days=1)
    assert following.day == 1
    client.delete("now")


def test_the_top_of_a_range(client: Client) -> None:
    energy = {}
    for meter in client.all_meters():
        history = client.history(meter.id, "day")
        zone = ZoneInfo(meter.time_zone_in_force)
        days = [str(local_date(start, zone)) for start in history.start_ms]
        inside = [wh for day, wh in zip(days, history.wh, strict=True) if day <= "2024-03-31"]
        if inside:
            energy[meter.id] = sum(inside)
    top = client.top(first="2024-03-01", last="2024-03-31")
    assert [(meter.id, meter.wh) for meter in top.top] == sorted(
        energy.items(), key=lambda item: -item[1]
    )
    assert (top.wh, top.meters) == (sum(energy.values()), len(energy))
    assert [meter.name for meter in top.top] == [f"Meter {meter.id[-1]}" for meter in top.top]
    for found in top.top:
        assert abs(found.share_ppm - found.wh * 1_000_000 / top.wh) <= 0.5
    best = client.top(2, first="2024-03-01", last="2024-03-31")
    assert best == m.Top(top.first, top.last, top.wh, top.meters, top.top[:2])
    assert client.top(first="2020-01-01", last="2020-01-02").top == []


def test_what_makes_no_sense_is_refused(client: Client) -> None:
    with refused("bad_request", "by is day or month"):
        client.fleet("year")
    with refused("bad_request", "first", "2026-01-31", "'yesterday'"):
        client.fleet(first="yesterday")
    with refused("bad_request", "last"):
        client.top(last="0001-01-01")
    with refused("bad_request", "2024-03-01", "2024-03-02"):
        client.fleet(first="2024-03-02", last="2024-03-01")
    with refused("bad_request", "1 to 1000"):
        client.top(1001)
    with refused("bad_request", "1 to 10000"):
        client.fleet(most=0)


def test_the_storage(stack: Stack) -> None:
    files = stack.data / "wattbus.sqlite3", stack.data / "wattbus.sqlite3-wal"

    def at_rest(asker: Client) -> tuple[m.Storage, m.Status] | None:
        """A deletion of another test may just be at work, and cut the log off."""
        found, status = asker.storage(), asker.status()
        octets = sum(file.stat().st_size for file in files)
        same = (found.sealed + found.unsealed, found.octets) == (status.readings, octets)
        return (found, status) if same else None

    both = stack.wait_until(at_rest)
    assert both is not None
    found, status = both
    assert found.meters == status.meters
    assert found.octets_a_value == found.octets / status.readings
    assert MARCH <= (found.oldest_ms or 0) < MARCH + DAY
    assert (found.newest_ms or 0) > MARCH + 11 * DAY
    assert found.journal_rows + found.blocks > 0


def test_a_deleted_meter_is_gone_and_comes_back_as_a_new_one(stack: Stack, client: Client) -> None:
    before = summed(client)
    points = constant(MARCH, MARCH + DAY)
    client.register("doomed", limit_wh=1000, name="Doomed")
    client.replace("doomed", time_ms=MARCH + HOUR + 1, final_wh=1000, initial_wh=1000)
    feed(stack, "doomed", points)
    feed(stack, "doomed", points[:7], register=POWER_IMPORT)
    stack.wait_until(lambda asker: len(asker.alerts("doomed").alerts) == 1)
    stored = client.status().readings
    assert client.delete("doomed") == m.Deleted(id="doomed", found=True)
    for question in (client.meter, client.latest, client.history, client.total, client.alerts):
        with refused("unknown_meter", "doomed"):
            question("doomed")
    assert all(alert.id != "doomed" for alert in client.alerts().alerts)
    assert summed(client) == before
    assert told(client.fleet(first="2024-01-01", last="2024-12-31")) == before
    assert client.status().readings == stored - len(points) - 7
    assert client.delete("doomed") == m.Deleted(id="doomed", found=False)
    feed(stack, "doomed", points[:2])
    again = client.meter("doomed")
    assert (again.name, again.limit_wh) == (None, None)
    assert client.total("doomed").wh == 250
    assert client.delete("doomed").found


def test_a_deletion_names_a_meter(client: Client) -> None:
    with refused("bad_request"):
        client.delete("no meter is called so")
    assert client.delete("nobody") == m.Deleted(id="nobody", found=False)


def test_others_hear_of_a_deletion_after_a_restart(stack: Stack) -> None:
    feed(stack, "gone", [(MARCH, 0), (MARCH + HOUR, 500)], register=ENERGY_IMPORT)
    with stack.client() as client:
        stored = client.status().readings
        client.delete("gone")
    stack.stop()
    stack.start()
    with stack.client() as client:
        assert client.status().readings == stored - 2
        with refused("unknown_meter"):
            client.total("gone")
