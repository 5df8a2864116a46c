"""The energy limit of a period, through a real writer: metering-cases, section 4, and its kin."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import sqlalchemy as sa

from storage import journal, schema, sealing
from storage import writer as writer_module
from storage.changes import ReplaceMeter
from storage.committing import Committing
from storage.defaults import Defaults
from storage.limit_watch import LimitWatch
from storage.writer import Writer
from telemetry import intervals
from telemetry.alerts import limit_crossing
from telemetry.calendar import DAY_MS, HOUR_MS, billing_period, month_start
from telemetry.readings import Readings, Series
from telemetry.registers import ALERT_LIMIT
from tests.storage.conftest import MakeDatabase, only_sqlite
from tests.storage.test_writer import Published, Running, Sent, hold, readings
from tests.waiting import PATIENCE

ZONE = ZoneInfo("UTC")
MARCH, APRIL, MAY = (month_start(ZONE, 2025, month) for month in (3, 4, 5))
KWH = 1000


class Alert(NamedTuple):
    """What is asked of a stored alert."""

    time_ms: int
    energy_wh: int
    limit_wh: int
    late: bool
    period_start_ms: int


@pytest.fixture
def make_running(make_database: MakeDatabase) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(defaults: Defaults | None = None) -> Running:
        made.append(Running(make_database(), defaults))
        return made[-1]

    yield make
    for running in made:
        running.close()


@pytest.fixture
def running(make_running: Callable[..., Running]) -> Running:
    return make_running()


def alerts(running: Running, id: str = "a") -> list[Alert]:
    """A meter's alerts, the first raised first; those published are the same."""
    running.settled()
    reader = running.reader
    rows = reader.alerts(reader.meter(id), None, 1000)
    names = Alert._fields
    return [Alert(*(row._mapping[name] for name in names)) for row in reversed(rows)]


def send(running: Running, *sent: tuple[int, int], id: str = "a", epoch: int = 1) -> None:
    """Readings (instant, Wh), each in a commit of its own, each settled before the next."""
    for time_ms, wh in sent:
        running.send(readings([(id, time_ms, wh)], epoch=epoch))
        running.settled()


def hour(number: int, start: int = MARCH) -> int:
    return start + number * HOUR_MS


def test_crossed_once_in_the_period(running: Running) -> None:
    send(
        running,
        (hour(0), 0),
        (hour(1), 500 * KWH),  # at the limit is not beyond it
        (hour(2), 500 * KWH + 1),
        (hour(3), 700 * KWH),
        (hour(4), 5000 * KWH),
    )
    assert alerts(running) == [Alert(hour(2), 500_001, 500_000, False, MARCH)]
    (published,) = running.published.alerts
    assert (published.meter.id, published.time_ms, published.late) == ("a", hour(2), False)


def test_all_in_one_commit(running: Running) -> None:
    running.send(readings([("a", hour(n), n * 100 * KWH) for n in range(9)]))
    assert alerts(running) == [Alert(hour(6), 600_000, 500_000, False, MARCH)]


def test_energy_counts_from_the_first_reading(running: Running) -> None:
    send(running, (hour(1), 90_000 * KWH), (hour(2), 90_500 * KWH), (hour(3), 90_501 * KWH))
    assert alerts(running) == [Alert(hour(3), 501_000, 500_000, False, MARCH)]


@pytest.mark.parametrize("restarts", [{1}, {2}, {3}, {1, 2, 3, 4}])
def test_restarted_between(running: Running, restarts: set[int]) -> None:
    for number, wh in enumerate((0, 400_000, 501_000, 502_000, 600_000)):
        if number in restarts:
            running.restart()
        send(running, (hour(number), wh))
    assert alerts(running) == [Alert(hour(2), 501_000, 500_000, False, MARCH)]
    assert len(running.published.alerts) == 1


def test_what_was_settled_is_not_looked_at_by_the_next_writer(running: Running) -> None:
    send(running, (hour(0), 0), (hour(1), 400 * KWH))
    running.stop()
    writer = Writer(running.database, running.endpoint, running.defaults, Published())
    assert writer._watch.waiting == 0
    writer.close()
    running.start()


def test_while_others_start_readings_are_committed_and_limits_wait(running: Running) -> None:
    send(running, (hour(0), 0))
    running.calm = 3600.0
    running.restart()
    running.send(readings([("a", hour(1), 501 * KWH)]))
    assert running.writer._watch.waiting == 1
    running.calm = 0.0
    running.restart()  # before it was looked at
    assert alerts(running) == [Alert(hour(1), 501_000, 500_000, False, MARCH)]


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_sealed_before_its_limits_were_looked_at(
    running: Running, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that stops while meters wait leaves the rows from which the next one begins."""
    names = [f"m-{number}" for number in range(60)]
    running.calm = 3600.0
    running.restart()
    running.send(readings([(name, hour(n), n * 600 * KWH) for name in names for n in (0, 1)]))
    for module, figure, value in ((sealing, "_DUE_AGE", 0), (writer_module, "_SETTLING", 0)):
        monkeypatch.setattr(module, figure, value)
    if killed:
        monkeypatch.setattr(Committing, "close", lambda _: None)
    settled: list[int] = []
    worked = LimitWatch.worked

    def stopping(self: LimitWatch) -> None:
        settled.extend(self._settled)
        worked(self)
        if len(settled) == 20:
            running._stop.set()

    monkeypatch.setattr(LimitWatch, "worked", stopping)
    running.calm = 0.0
    running.restart()
    running._thread.join(PATIENCE)
    assert len(settled) == 20
    monkeypatch.undo()
    running.restart()
    running.settled()
    assert [len(alerts(running, name)) for name in names] == [1] * 60


def test_sealing_follows_though_some_meter_always_waits(running: Running) -> None:
    watch = LimitWatch(running.reader, Defaults())

    def row_of(number: int, row: int) -> int:
        """Nothing is known of the meter yet: it is to be looked at."""
        batch = journal.sort(np.array([number], np.uint32), readings([("a", hour(row), row)]))
        watch.observe(batch, 1000, row)
        return watch.settled

    def looked_at(number: int) -> int:
        watch._settled.append(number)
        watch.worked()
        return watch.settled

    assert [row_of(1, 5), row_of(2, 6), row_of(1, 7)] == [4, 4, 4]
    assert looked_at(1) == 5
    assert row_of(1, 8) == 5
    assert looked_at(2) == 7
    assert looked_at(1) == 8


def test_a_limit_that_was_changed_is_looked_at_by_the_next_writer(running: Running) -> None:
    """Set by hand, said by the meter itself, and moved with its energy; each before a stop."""
    for name in ("hand", "meter", "device"):
        send(running, (hour(0), 0), (hour(1), 100 * KWH), id=name)
    running.calm = 3600.0
    running.restart()
    running.set("hand", limit_wh=50 * KWH)
    running.change(ReplaceMeter("device", hour(1), 600 * KWH, 0))
    running.send(readings([("meter", hour(2), 50 * KWH)], register=ALERT_LIMIT))
    assert running.writer._watch.waiting == 3
    running.restart()
    running.calm = 0.0
    running.restart()
    for name, wh in (("hand", 100_000), ("meter", 100_000), ("device", 700_000)):
        (alert,) = alerts(running, name)
        assert alert.energy_wh == wh
    send(running, (hour(3), 101 * KWH), id="hand")  # the next commit keeps that all are settled
    running.restart()
    assert running.writer._watch.waiting == 0


@only_sqlite
def test_a_damaged_block_keeps_nobody_elses_alert_and_no_reading(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    send(running, *((hour(n), n * KWH) for n in range(4)))
    running.stop()
    writer = Writer(running.database, running.endpoint, running.defaults, Published())
    writer._upkeep.sealer.seal_all()
    with writer._begin() as connection:
        body = connection.execute(sa.select(schema.blocks.c.body)).scalar_one()
        damaged = body[:-1] + bytes([body[-1] ^ 1])
        connection.execute(schema.blocks.update().values(body=damaged))
    writer.close()
    running.start()
    for n in (4, 5):
        running.send(readings([("a", hour(n), 600 * KWH), ("b", hour(n), (n - 4) * 600 * KWH)]))
        running.settled()
    assert len(alerts(running, "b")) == 1
    assert caplog.text.count("block 1 is damaged") == 1
    with writer._engine.begin() as connection:
        connection.execute(schema.blocks.update().values(body=body))
    send(running, (hour(6), 601 * KWH))
    assert alerts(running) == [Alert(hour(4), 600_000, 500_000, False, MARCH)]


def test_the_crossing_arrives_late(running: Running) -> None:
    """The newer reading has shown it already."""
    send(running, (hour(0), 0), (hour(9), 450 * KWH), (hour(12), 800 * KWH))
    assert alerts(running) == [Alert(hour(12), 800_000, 500_000, False, MARCH)]
    send(running, (hour(11), 600 * KWH), (hour(10), 501 * KWH), (hour(13), 900 * KWH))
    assert alerts(running) == [Alert(hour(12), 800_000, 500_000, False, MARCH)]


def test_the_crossing_arrives_late_in_one_commit(running: Running) -> None:
    send(running, (hour(0), 0))
    running.send(readings([("a", hour(n), n * 100 * KWH) for n in (3, 9, 5, 6, 7)]))
    assert alerts(running) == [Alert(hour(6), 600_000, 500_000, True, MARCH)]


def test_a_late_crossing_of_the_month_before(running: Running) -> None:
    """The meter's line was cut at the end of March; April came first, then the rest of March."""
    send(running, (MARCH, 0), (MARCH + 20 * DAY_MS, 300 * KWH))
    send(running, (APRIL + DAY_MS, 700 * KWH))  # interpolated: nobody knows that it was March
    before = alerts(running)
    assert before == []
    send(running, (MARCH + 30 * DAY_MS, 600 * KWH))
    assert alerts(running) == [Alert(MARCH + 30 * DAY_MS, 600_000, 500_000, True, MARCH)]
    send(running, (MARCH + 29 * DAY_MS, 550 * KWH))
    assert len(alerts(running)) == 1


@pytest.mark.parametrize("restart", [False, True])
def test_a_late_reading_before_the_first(running: Running, restart: bool) -> None:
    """It shows that more was used in the period than was known."""
    send(running, (hour(24), 400 * KWH), (hour(25), 450 * KWH))
    if restart:
        running.restart()
    send(running, (hour(12), 0))
    assert alerts(running) == []
    send(running, (hour(26), 510 * KWH))
    assert alerts(running) == [Alert(hour(26), 510_000, 500_000, False, MARCH)]


def test_a_late_reading_that_moves_the_register_at_the_periods_start(running: Running) -> None:
    """Half of the gap over the month's end was thought to be March's; it was all April's."""
    send(running, (APRIL - 2 * DAY_MS, 0), (APRIL + 2 * DAY_MS, 800 * KWH))
    assert alerts(running) == []  # 400 kWh each
    send(running, (APRIL + DAY_MS, 0))
    assert alerts(running) == [Alert(APRIL + 2 * DAY_MS, 800_000, 500_000, False, APRIL)]


def test_a_late_reading_that_moves_energy_into_the_next_period(running: Running) -> None:
    send(running, (APRIL - 2 * DAY_MS, 0), (APRIL + 2 * DAY_MS, 800 * KWH))
    send(running, (APRIL - 1000, 0))
    assert alerts(running) == [Alert(APRIL + 2 * DAY_MS, 799_996, 500_000, False, APRIL)]


def test_a_late_reading_before_a_reset(running: Running) -> None:
    """What was used just before the register was lost comes after what it showed since."""
    send(running, (hour(0), 0), (hour(1), 100 * KWH))
    send(running, (hour(3), 1 * KWH), (hour(4), 2 * KWH), (hour(5), 3 * KWH), epoch=2)
    assert alerts(running) == []
    send(running, (hour(2), 502 * KWH))
    assert alerts(running) == [Alert(hour(2), 502_000, 500_000, True, MARCH)]


def test_a_late_reading_before_a_reset_below_what_the_register_shows_now(running: Running) -> None:
    send(running, (hour(0), 0), (hour(1), 100 * KWH))
    send(running, (hour(3), 1 * KWH), (hour(4), 150 * KWH), (hour(5), 300 * KWH), epoch=2)
    assert alerts(running) == []  # 100 + 300
    send(running, (hour(2), 250 * KWH))
    assert alerts(running) == [Alert(hour(5), 550_000, 500_000, False, MARCH)]


def say_limit(running: Running, time_ms: int, wh: int) -> None:
    running.send(readings([("a", time_ms, wh)], register=ALERT_LIMIT))
    running.settled()


def test_the_meters_own_limit_rules(running: Running) -> None:
    say_limit(running, hour(0), 50 * KWH)
    send(running, (hour(0), 0), (hour(1), 50 * KWH), (hour(2), 51 * KWH), (hour(3), 600 * KWH))
    assert alerts(running) == [Alert(hour(2), 51_000, 50_000, False, MARCH)]


def test_the_meters_own_limit_may_be_above_the_default(running: Running) -> None:
    say_limit(running, hour(0), 900 * KWH)
    send(running, (hour(0), 0), (hour(1), 600 * KWH))
    running.restart()
    send(running, (hour(2), 700 * KWH), (hour(3), 901 * KWH))
    assert alerts(running) == [Alert(hour(3), 901_000, 900_000, False, MARCH)]


def test_the_operators_limit_rules_over_the_meters(running: Running) -> None:
    running.set("a", limit_wh=200 * KWH)
    say_limit(running, hour(0), 50 * KWH)
    send(running, (hour(0), 0), (hour(1), 199 * KWH))
    say_limit(running, hour(1), 60 * KWH)
    assert alerts(running) == []
    send(running, (hour(2), 201 * KWH))
    assert alerts(running) == [Alert(hour(2), 201_000, 200_000, False, MARCH)]


def test_the_meters_limit_rules_once_the_operators_is_taken_back(running: Running) -> None:
    say_limit(running, hour(0), 50 * KWH)
    running.set("a", limit_wh=200 * KWH)
    send(running, (hour(0), 0), (hour(1), 100 * KWH))
    assert alerts(running) == []
    running.set("a", limit_wh=None)
    assert alerts(running) == [Alert(hour(1), 100_000, 50_000, False, MARCH)]


def test_a_meter_that_lowers_its_limit(running: Running) -> None:
    send(running, (hour(0), 0), (hour(1), 100 * KWH), (hour(2), 120 * KWH))
    say_limit(running, hour(2), 90 * KWH)
    assert alerts(running) == [Alert(hour(1), 100_000, 90_000, False, MARCH)]


@pytest.mark.parametrize("restart", [False, True])
def test_an_operator_lowers_the_limit_below_what_was_used(running: Running, restart: bool) -> None:
    send(running, (MARCH + 1, 0), (APRIL - 1, 450 * KWH))  # no alert for a month that is over
    send(running, (hour(1, APRIL), 450 * KWH), (hour(2, APRIL), 550 * KWH))
    send(running, (hour(3, APRIL), 560 * KWH))
    if restart:
        running.restart()
    running.set("a", limit_wh=200 * KWH)
    assert alerts(running) == []
    running.set("a", limit_wh=80 * KWH)
    assert alerts(running) == [Alert(hour(2, APRIL), 100_000, 80_000, False, APRIL)]
    running.set("a", limit_wh=70 * KWH)
    send(running, (hour(4, APRIL), 900 * KWH))
    assert len(alerts(running)) == 1


def test_the_limit_is_raised_before_it_is_crossed(running: Running) -> None:
    send(running, (hour(0), 0), (hour(1), 499 * KWH))
    running.set("a", limit_wh=1000 * KWH)
    send(running, (hour(2), 999 * KWH), (hour(3), 1001 * KWH))
    assert alerts(running) == [Alert(hour(3), 1_001_000, 1_000_000, False, MARCH)]


def test_a_limit_of_nothing(running: Running) -> None:
    running.set("a", limit_wh=0)
    send(running, (hour(0), 5), (hour(1), 5))
    assert alerts(running) == []
    send(running, (hour(2), 6))
    assert alerts(running) == [Alert(hour(2), 1, 0, False, MARCH)]


def test_the_next_period_has_its_own(running: Running) -> None:
    send(running, (MARCH, 0), (APRIL - HOUR_MS, 600 * KWH), (APRIL, 700 * KWH))
    send(running, (hour(1, APRIL), 1200 * KWH), (hour(2, APRIL), 1201 * KWH))
    send(running, (MAY, 1300 * KWH), (hour(1, MAY), 1800 * KWH), (hour(2, MAY), 1801 * KWH))
    assert alerts(running) == [
        Alert(APRIL - HOUR_MS, 600_000, 500_000, False, MARCH),
        Alert(hour(2, APRIL), 501_000, 500_000, False, APRIL),
        Alert(hour(2, MAY), 501_000, 500_000, False, MAY),
    ]


def test_a_reading_at_the_periods_end_closes_it(running: Running) -> None:
    send(running, (MARCH, 0), (APRIL - HOUR_MS, 400 * KWH), (APRIL, 501 * KWH))
    assert alerts(running) == [Alert(APRIL, 501_000, 500_000, False, MARCH)]


def test_periods_are_those_of_the_meters_zone(running: Running) -> None:
    running.set("a", time_zone="America/Sao_Paulo")
    local = month_start(ZoneInfo("America/Sao_Paulo"), 2025, 4)
    assert local == APRIL + 3 * HOUR_MS
    send(running, (local - 2 * HOUR_MS, 0), (local - HOUR_MS, 400 * KWH), (local, 400 * KWH))
    send(running, (local + HOUR_MS, 800 * KWH), (local + 2 * HOUR_MS, 901 * KWH))
    expected = Alert(local + 2 * HOUR_MS, 501_000, 500_000, False, local)
    assert alerts(running) == [expected]


def test_periods_begin_on_the_billing_day(make_running: Callable[..., Running]) -> None:
    running = make_running(Defaults(billing_day=15, limit_wh=100))
    start = MARCH + 14 * DAY_MS
    send(running, (start - HOUR_MS, 0), (start, 90), (start + HOUR_MS, 180), (APRIL, 191))
    assert alerts(running) == [Alert(APRIL, 101, 100, False, start)]


def test_a_reset_register(running: Running) -> None:
    """The energy of the period goes on over the reset; the register's fall is no consumption."""
    send(running, (hour(0), 813_000), (hour(1), 1_113_000))  # 300 kWh
    send(running, (hour(2), 50), (hour(3), 70_000), (hour(4), 190_000), epoch=2)
    assert alerts(running) == []  # 300 + 190
    send(running, (hour(5), 201_000), epoch=2)
    assert alerts(running) == [Alert(hour(5), 501_000, 500_000, False, MARCH)]


def test_a_zero_that_is_no_reset(running: Running) -> None:
    send(running, (hour(0), 13_423_700), (hour(1), 0), (hour(2), 13_423_900), (hour(3), 13_500_000))
    assert alerts(running) == []
    send(running, (hour(4), 0), (hour(5), 13_923_701))
    assert alerts(running) == [Alert(hour(5), 500_001, 500_000, False, MARCH)]


def test_a_value_that_cannot_be_raises_nothing(running: Running) -> None:
    running.set("a", max_power_w=10_000)
    send(running, (hour(0), 0), (hour(1), 9_000), (hour(2), 5_000_000), (hour(3), 29_000))
    assert alerts(running) == []


def test_a_replaced_meter(running: Running) -> None:
    send(running, (hour(0), 4_900_000), (hour(1), 4_998_000))
    running.change(ReplaceMeter("a", hour(2), final_wh=5_000_000, initial_wh=12_500))
    send(running, (hour(3), 20_000), (hour(4), 412_500))
    assert alerts(running) == []  # 98 + 2 + 400
    send(running, (hour(5), 412_501))
    assert alerts(running) == [Alert(hour(5), 500_001, 500_000, False, MARCH)]


def test_export_and_other_registers_raise_nothing(running: Running) -> None:
    send(running, (hour(0), 0))
    for register in (2, 3, 6):
        running.send(readings([("a", hour(1), 900 * KWH)], register=register))
    assert alerts(running) == []


def test_many_meters_at_once(running: Running) -> None:
    """Every second one crosses, all in the same commits, in a period that began before."""
    names = [f"m-{n}" for n in range(200)]
    running.send(readings([(name, hour(1), 1000 * n) for n, name in enumerate(names)]))
    running.send(readings([(name, hour(2), 1000 * n + 400_000) for n, name in enumerate(names)]))
    step: list[Sent] = []
    for n, name in enumerate(names):
        step += [(name, hour(3), 1000 * n + (499_000 if n % 2 else 600_000))]
        step += [(name, hour(4), 1000 * n + (500_000 if n % 2 else 700_000))]
    random.Random(3).shuffle(step)
    running.send(readings(step))
    running.settled()
    rows = running.reader.alerts(None, None, 1000)
    assert {row._mapping["id"] for row in rows} == {
        name for n, name in enumerate(names) if not n % 2
    }
    assert {(row._mapping["time_ms"], row._mapping["energy_wh"]) for row in rows} == {
        (hour(3), 600_000)
    }
    assert sorted(row._mapping["number"] for row in rows) == list(range(1, len(rows) + 1))
    late = {row._mapping["id"] for row in rows if row._mapping["late"]}
    order = {(name, time_ms): at for at, (name, time_ms, _) in enumerate(step)}
    assert late == {
        name
        for n, name in enumerate(names)
        if not n % 2 and order[name, hour(4)] < order[name, hour(3)]
    }


def _crossing(running: Running, count: int) -> set[str]:
    """Meters of a period that began before all cross; they are left to be settled."""
    names = [f"m-{n}" for n in range(count)]
    running.send(readings([(name, hour(1), 0) for name in names]))
    running.send(readings([(name, hour(2), 400_000) for name in names]))
    running.settled()
    running.writer._settle_after = time.monotonic() + 3600  # until the test lets it
    running.send(readings([(name, hour(3), 600_000) for name in names]))
    assert running.writer._watch.waiting == count
    return set(names)


def test_what_was_not_settled_is_settled_by_the_next_writer(running: Running) -> None:
    names = _crossing(running, 50)
    running.restart()
    running.settled()
    rows = running.reader.alerts(None, None, 1000)
    assert {row._mapping["id"] for row in rows} == names
    assert len(rows) == len(names)


@only_sqlite
def test_a_database_locked_while_limits_are_settled(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    names = _crossing(running, 50)
    other = hold(running, 6.0)  # beyond the busy timeout
    running.writer._settle_after = 0.0
    other.join()
    running.settled()
    assert running.failure is None
    said = "cannot look for crossed limits: another program keeps the database locked: end it"
    assert [message for message in caplog.messages if message.startswith(said)]
    rows = running.reader.alerts(None, None, 1000)
    assert {row._mapping["id"] for row in rows} == names


def test_healthy_meters_are_left_alone(running: Running) -> None:
    """In one period, far from the limit, nobody is looked at; near it only who may have crossed."""
    watch = LimitWatch(running.reader, Defaults())

    def observed(first_new: int, steps: list[tuple[int, int]]) -> int:
        """300 meters, one after the other, their registers falling from meter to meter."""
        each = [
            (n, time_ms, 1_000_000 - 1000 * n + wh) for n in range(1, 301) for time_ms, wh in steps
        ]
        columns = readings([("a", time_ms, wh) for _, time_ms, wh in each])
        batch = journal.sort(np.array([n for n, *_ in each], np.uint32), columns)
        watch.observe(batch, first_new, row=1)
        return watch.waiting

    assert observed(1, [(hour(1), 0)]) == 0
    for step in range(2, 10):
        assert observed(301, [(hour(step), step), (hour(step) + 1, step)]) == 0
        assert observed(301, [(hour(step), step)]) == 0  # a repeat
    assert observed(301, [(hour(10), 500_000)]) == 0
    assert observed(301, [(hour(11), 500_001)]) == 300


def consumption(months: int) -> list[tuple[int, int]]:
    """Two-hourly registers; the months' energies go up and down around the limit."""
    rng = random.Random(11)
    register, rows = 7_000_000, []
    time_ms = month_start(ZONE, 2023, 1)
    for month in range(months):
        end = month_start(ZONE, 2023 + (month + 1) // 12, (month + 1) % 12 + 1)
        a_step = rng.choice([700, 1200, 1330, 1350, 1390, 2500])
        while time_ms < end:
            rows.append((time_ms, register))
            register += a_step
            time_ms += 2 * HOUR_MS
    rows.append((time_ms, register))
    return rows


def expected_of(rows: list[tuple[int, int]], limit: int = 500_000) -> list[Alert]:
    """One pass over all readings: the oracle."""
    data = readings([("a", *row) for row in rows])
    series = Series(data.time, data.value, data.epoch, data.status)
    curve = intervals.curve(intervals.settle(series))
    found = []
    period = billing_period(ZONE, 1, rows[0][0])
    while period.start_ms < rows[-1][0]:
        crossing = limit_crossing(curve, period.start_ms, period.end_ms, limit)
        if crossing is not None:
            found.append(Alert(crossing.time_ms, crossing.energy_wh, limit, False, period.start_ms))
        period = billing_period(ZONE, 1, period.end_ms)
    return found


def batches(rows: list[tuple[int, int]], size: int) -> list[Readings]:
    return [
        readings([("a", *row) for row in rows[at : at + size]]) for at in range(0, len(rows), size)
    ]


@pytest.mark.parametrize("size", [365, 997, 100_000])
def test_two_years_replayed(running: Running, size: int) -> None:
    rows = consumption(24)
    expected = expected_of(rows)
    assert 5 < len(expected) < 20
    running.send(*batches(rows, size))
    assert alerts(running) == expected
    running.send(*batches(rows, size))  # the same again
    assert alerts(running) == expected
    running.restart()
    running.send(*batches(rows, size))
    assert alerts(running) == expected
    assert len(running.published.alerts) == len(expected)


def test_two_years_in_any_order(running: Running) -> None:
    """Only whether they are late, and the order in which they were raised, may differ."""
    rows = consumption(24)
    expected = {alert.period_start_ms for alert in expected_of(rows)}
    shuffled = batches(rows, 250)
    random.Random(5).shuffle(shuffled)
    running.send(*shuffled)
    found = alerts(running)
    # A month may also have one because of what was known at the time: energy is interpolated.
    assert expected <= {alert.period_start_ms for alert in found}
    assert len({alert.period_start_ms for alert in found}) == len(found)
