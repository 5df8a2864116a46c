"""A reply that is remembered is the one that would be made now, whatever has happened meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from query import handlers
from query import messages as m
from query import service as serving
from query.replies import Replies
from query.service import Service
from query.transport import ENCODERS, JSON, MSGPACK, BusError
from storage import registry_changes
from storage.backup import backup
from storage.changes import ChangeMeter, DeleteMeter, ReplaceMeter
from storage.defaults import Defaults
from storage.engine import Database, open_reader
from storage.group import Group
from storage.ladder import Policy, parse
from storage.limit_watch import LimitAlert
from storage.restore import restore
from storage.writer import Writer
from telemetry import meter_id
from telemetry.calendar import DAY_MS, HOUR_MS, QUARTER_MS
from telemetry.readings import Readings
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT
from tests.query.feeding import at
from tests.storage.conftest import (
    database,
    make_database,
    make_postgresql,
    make_sqlite,
    only_sqlite,
)

__all__ = ["database", "make_database", "make_postgresql", "make_sqlite"]

MARCH = at("2024-03-01")
DAYS = 12
DEFAULTS = Defaults(time_zone="Europe/Lisbon")
LADDER = Policy(parse("raw 30 d, day 60 d, none"))


class Nobody:
    def heard(self) -> bool:
        return False

    def readings(self, readings: Readings) -> None:
        pass

    def alert(self, alert: LimitAlert) -> None:
        pass


class House:
    """A writer and a query service on one database, driven by hand, and a service that is new."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.writer = Writer(database, f"inproc://{id(self)}", DEFAULTS, Nobody(), LADDER)
        self.service, self.new = self._service(), self._service()
        self.values = dict.fromkeys(("one", "two"), 1000)
        self.now = MARCH

    def _service(self) -> Service:
        return Service(self.database, "tcp://127.0.0.1:*", "inproc://none", DEFAULTS, "1", LADDER)

    def close(self) -> None:
        self.writer.close()
        for service in (self.service, self.new):
            forget(service)
            service._socket.close()
            service._writer.close()

    def store(
        self, id: str, times: list[int], values: list[int], code: int = ENERGY_IMPORT
    ) -> None:
        count = len(times)
        high, low = meter_id.halves(meter_id.to_octets(id))
        readings = Readings(
            key_high=np.full(count, high, np.uint64),
            key_low=np.full(count, low, np.uint64),
            epoch=np.ones(count, np.uint32),
            register=np.full(count, code, np.uint16),
            status=np.zeros(count, np.uint16),
            time=np.array(times, np.int64),
            value=np.array(values, np.int64),
        )
        group = Group.of_nobody(readings, max(times))
        self.writer._committing.commit(group, self.writer._spooling.spool.number())

    def go_on(self, id: str, hours: int = 1) -> None:
        """The meter's next readings, by the quarter."""
        first = self.values[id]
        count = hours * 4
        self.store(
            id,
            [self.now + n * QUARTER_MS for n in range(count)],
            [first + n * 50 for n in range(count)],
        )
        self.values[id] = first + count * 50
        self.store(id, [self.now], [first % 700], POWER_IMPORT)

    def change(self, change: Any) -> None:
        body = msgspec.json.encode(change)
        answer = registry_changes.make(body, self.writer._registry, self.now)
        assert "error" not in answer, answer

    def seal(self) -> None:
        self.writer._upkeep.sealer.seal_all()

    def seal_some(self) -> None:
        """A slice of a pass."""
        sealer = self.writer._upkeep.sealer
        sealer._slice_values = 1
        if sealer._pass is None and sealer._values:
            sealer.begin()
        elif sealer._pass is not None:
            sealer._slice(sealer._pass)

    def thin(self, days: int) -> None:
        """All that is due so many days after the first reading; whole months are."""
        retention = self.writer._upkeep._retention
        while retention.step(MARCH + days * DAY_MS):
            pass
        retention._not_before = 0

    def remove(self) -> None:
        """What is left of deleted meters, but for the log, which readers hold."""
        while self.writer._upkeep.deletions.removing:
            self.writer._upkeep.step(self.now, self.writer._watch.settled)

    def check(self) -> None:
        """Every question is answered as by a service that has just begun."""
        forget(self.new)
        for request in questions():
            expected = said(self.new, MSGPACK, request)
            assert said(self.service, MSGPACK, request) == expected, request


def forget(service: Service) -> None:
    if service._reader is not None:
        service._reader.close()
    service._reader = None
    service._replies = Replies()


def said(service: Service, header: bytes, request: m.AnyRequest) -> object:
    asker = serving._Asker([b"x", b""], header, "")
    try:
        return service._dispatch(asker, [header, ENCODERS[header](request)])
    except BusError as error:
        return error.code, str(error)


def questions() -> Iterator[m.AnyRequest]:
    end = MARCH + DAYS * DAY_MS
    for own in ("one", "two"):
        yield m.GetMeter(id=own)
        yield m.GetLatest(id=own)
        yield m.GetTotal(id=own)
        yield m.GetTotal(id=own, start_ms=MARCH + DAY_MS, end_ms=MARCH + 3 * DAY_MS)
        yield m.GetReadings(id=own)
        yield m.GetReadings(id=own, register="power_import", start_ms=MARCH, end_ms=end)
        yield m.GetBill(id=own)
        yield m.GetBill(id=own, at_ms=MARCH + DAY_MS)
        yield m.ListAlerts(id=own)
        for step in ("raw", "hour", "day", "month"):
            yield m.GetHistory(id=own, step=step)
            yield m.GetHistory(id=own, step=step, start_ms=MARCH + DAY_MS, end_ms=end)
    yield m.ListMeters()
    yield m.ListAlerts()
    yield m.GetFleet(first="2024-03-01", last="2024-03-31")
    yield m.GetFleet(by="month", first="2024-01-01", last="2024-12-31", prefix="o")
    yield m.GetTop(first="2024-03-01", last="2024-03-31")


@pytest.fixture
def house(database: Database) -> Iterator[House]:
    made = House(database)
    yield made
    made.close()


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[m.AnyRequest]:
    """The requests whose answers were made, not remembered."""
    made: list[m.AnyRequest] = []

    def noting(request: m.AnyRequest, source: Any) -> m.Reply:
        made.append(request)
        return handlers.answer(request, source)

    monkeypatch.setattr("query.service.answer", noting)
    return made


def fill(house: House) -> None:
    for _ in range(DAYS):
        for own in ("one", "two"):
            house.go_on(own, 24)
        house.now += DAY_MS
    house.seal()


def events(house: House) -> dict[str, Callable[[], None]]:
    """Everything that may change an answer, and what must not."""

    def late() -> None:
        house.store("one", [MARCH + 3 * DAY_MS + HOUR_MS + 1], [house.values["one"] // 2])

    def conflict() -> None:
        house.store("one", [MARCH + 2 * DAY_MS], [7])

    def again(id: str) -> Callable[[], None]:
        def act() -> None:
            house.change(DeleteMeter(id=id))
            house.remove()
            house.go_on(id)

        return act

    def there_and_back() -> None:
        house.change(ChangeMeter(id="one", time_zone="Asia/Tokyo"))
        house.change(ChangeMeter(id="one", time_zone=None))

    def renew(**settings: Any) -> Callable[[], None]:
        return lambda: house.change(ChangeMeter(id="one", **settings))

    return {
        "its reading": lambda: house.go_on("one"),
        "another's reading": lambda: house.go_on("two"),
        "a late reading": late,
        "another value": conflict,
        "sealed": house.seal,
        "sealed in part": house.seal_some,
        "a new meter": lambda: house.store("new", [house.now], [5]),
        "renamed": renew(name="Kitchen"),
        "a limit": renew(limit_wh=10),
        "a zone": renew(time_zone="Asia/Kathmandu"),
        "a price": renew(price=Decimal("1.25")),
        "a power": renew(max_power_w=1000),
        "a modulus": renew(modulus_wh=100_000),
        "zone and back": there_and_back,
        "replaced": lambda: house.change(
            ReplaceMeter(id="one", time_ms=MARCH + 5 * DAY_MS, final_wh=9_000_000, initial_wh=0)
        ),
        "thinned": lambda: house.thin(65),
        "deleted, and there again": again("one"),
        "another deleted": again("two"),
        "too old": lambda: house.thin(95),
    }


@pytest.mark.parametrize(
    ("make_database", "sealed"),
    [("sqlite", True), ("sqlite", False), ("postgresql", False)],
    indirect=["make_database"],
)
def test_after_each_thing_that_happens(house: House, sealed: bool) -> None:
    """One thing after another; each also while the newest readings are in the journal."""
    fill(house)
    happen = events(house)
    for act in happen.values():
        house.now += HOUR_MS
        if not sealed:
            house.go_on("one")
            house.go_on("two")
        house.check()
        act()
        house.check()
        if sealed:
            house.seal()


def test_days_that_are_made_again_are_looked_at_again(
    house: House, answered: list[m.AnyRequest]
) -> None:
    """The meter's row and its readings are what they were."""
    fill(house)
    by_day = m.GetHistory(id="one", step="day")
    for change in ("zone and back", "replaced", "replaced"):
        said(house.service, JSON, by_day)
        answered.clear()
        events(house)[change]()
        said(house.service, JSON, by_day)
        assert answered == [by_day]


@only_sqlite
def test_whatever_happens_in_any_order(house: House) -> None:
    chance = random.Random(1)
    fill(house)
    happen = events(house)
    for _ in range(30):
        house.now += chance.choice([0, HOUR_MS])
        chance.choice(list(happen.values()))()
        if chance.random() < 0.6:
            house.check()
    house.check()


def test_other_meters_readings_leave_replies_about_one_meter(
    house: House, answered: list[m.AnyRequest]
) -> None:
    fill(house)
    house.go_on("one")
    about_one = [
        request
        for request in questions()
        if getattr(request, "id", None) == "one" and not isinstance(request, m.ListAlerts)
    ]

    def ask() -> None:
        answered.clear()
        for request in about_one:
            said(house.service, MSGPACK, request)

    ask()
    assert answered == about_one
    for _ in range(20):
        house.go_on("two")
        house.now += HOUR_MS
        ask()
        assert not answered
    house.go_on("one")
    ask()
    assert answered == about_one


@only_sqlite
def test_as_long_as_nothing_is_committed_every_reply_is_remembered(
    house: House, answered: list[m.AnyRequest]
) -> None:
    fill(house)
    house.check()
    answered.clear()
    for request in questions():
        said(house.service, MSGPACK, request)
    assert not answered
    for request in questions():  # in the other encoding they are others
        said(house.service, JSON, request)
    assert answered == list(questions())


@only_sqlite
def test_what_hangs_on_the_clock_is_made_anew(
    house: House, answered: list[m.AnyRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(house)
    today = MARCH + 5 * DAY_MS
    monkeypatch.setattr(serving, "_now_ms", lambda: today)
    for request in (m.GetFleet(), m.GetTop(), m.GetStorage()):
        first = said(house.service, JSON, request)
        answered.clear()
        assert said(house.service, JSON, request) == first
        assert answered == [request]
    before = said(house.service, JSON, m.GetTop())
    today += 40 * DAY_MS
    assert said(house.service, JSON, m.GetTop()) != before


@only_sqlite
def test_a_restored_database_is_another(house: House, tmp_path: Path) -> None:
    fill(house)
    file = tmp_path / "backup"
    engine = open_reader(house.database)
    backup(engine, file)
    engine.dispose()
    house.go_on("one")
    house.check()
    later = said(house.service, JSON, m.GetTotal(id="one"))
    house.writer.close()
    restore(file, house.database.data, force=True, now=datetime.now(UTC))
    assert said(house.service, JSON, m.GetTotal(id="one")) != later
    house.writer = Writer(house.database, f"inproc://{id(house)}-2", DEFAULTS, Nobody(), LADDER)
    house.check()


def test_no_more_is_kept_than_there_is_room_for(house: House) -> None:
    fill(house)
    replies = house.service._replies = Replies(20_000)
    for _ in range(2):
        for request in questions():
            said(house.service, MSGPACK, request)
            replies = house.service._replies
            replies._most = 20_000
            assert replies.octets <= 20_000
            assert replies.octets == sum(
                len(asked[1]) + len(kept.reply) + 400 for asked, kept in replies._kept.items()
            )
    assert len(replies._kept) > 3
