"""No batch is committed twice, whatever dies; acknowledgements leave after what they speak of."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from cli.config import Config
from storage import committing, receivers, schema
from storage.engine import Database, open_reader, open_writer
from storage.handover import Handover
from storage.queries import Reader
from storage.receivers import Receivers
from telemetry.counts import Counts, ListenerCounts
from telemetry.datagrams import Envelopes, Mark
from telemetry.readings import Readings
from tests.postgresql import PostgresServer
from tests.storage.conftest import MakeDatabase, only_sqlite
from tests.storage.handing import put
from tests.storage.noting_ledger import NotingLedger
from tests.storage.test_writer import ENERGY, NOW, ROOT, Running, hold, readings
from tests.waiting import wait_until

KILLS = 100 if os.environ.get("WATTBUS_LONG") else 12

# A writer that lingers between commit and confirmation, and may not live to say it.
_WRITER = """
import os, random, signal, sys, time
from storage.inbox import Router
confirms, linger = int(sys.argv.pop(1)), float(sys.argv.pop(1))
told = Router.committed
def committed(self, *acknowledgements):
    global confirms
    if self._unanswered:
        time.sleep(random.uniform(0, linger))
        confirms -= 1
        if confirms < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    told(self, *acknowledgements)
Router.committed = committed
from cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Killed:
    """A writer process that is killed again and again, and a receiver that goes on."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.receiver = Handover(Config(data=str(data)).writer_endpoint, None)
        self.sent = 0

    @contextmanager
    def writer(self, confirms: int, linger: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
        words = ["writer", "--data", str(self.data), "--live-port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(confirms), str(linger), *words],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(60)

    def stream(self, until: Callable[[], bool], seconds: float = 60.0) -> None:
        """Some thousand readings a second, each of which is sent once."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline
            batch = [(f"m-{self.sent % 7}", NOW + self.sent + n, self.sent + n) for n in range(20)]
            self.sent += len(batch)
            put(self.receiver, readings(batch))
            self.receiver.tick()
            time.sleep(0.004)

    def until_ended(self, process: subprocess.Popen[bytes]) -> None:
        self.stream(lambda: process.poll() is not None)

    def until_confirmed(self) -> None:
        before = self.receiver._waiting.oldest
        self.stream(lambda: self.receiver._waiting.oldest > before)

    def for_seconds(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.stream(lambda: time.monotonic() > end)

    def finish(self) -> list[int]:
        """All that is stored, in order, once all is confirmed."""
        with self.writer(10**9) as process:
            self.stream(lambda: self.sent % 1000 == 0)
            self.receiver.close(60)
            assert not self.receiver.undelivered
            process.terminate()
            assert process.wait(60) == 0
        reader = Reader(Database(self.data))
        with reader.snapshot():
            meters = reader.meters("", "", 100)
            values = [reader.series(meter, ENERGY).value.tolist() for meter in meters]
        reader.close()
        return sorted(value for own in values for value in own)


def test_a_writer_that_dies_after_each_of_its_first_commits(tmp_path: Path) -> None:
    killed = Killed(tmp_path / "data")
    for confirms in (0, 1, 0, 5, 2, 0):
        with killed.writer(confirms) as process:
            killed.until_ended(process)
    assert killed.finish() == list(range(killed.sent))


@pytest.mark.timeout(900)
def test_a_writer_that_is_killed_at_any_instant(tmp_path: Path) -> None:
    killed = Killed(tmp_path / "data")
    chance = random.Random(4)
    for _ in range(KILLS):
        with killed.writer(10**9, linger=0.05):
            killed.until_confirmed()
            killed.for_seconds(chance.uniform(0, 0.2))
    assert killed.finish() == list(range(killed.sent))


# The table


def test_the_numbers_of_receivers(make_running: Callable[..., Running]) -> None:
    running = make_running()
    running.send(readings([("a", NOW, 1)]), readings([("a", NOW + 1, 2)]))
    other = Handover(running.endpoint, None)
    put(other, readings([("b", NOW, 3)]))
    other.close()
    engine = open_reader(running.database)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(schema.receivers)).all()
    engine.dispose()
    assert sorted(row.number for row in rows) == [1, 2]
    assert all(abs(row.seen_ms - time.time() * 1000) < 20_000 for row in rows)
    assert all(bytes.fromhex(row.id)[:1] == b"r" and len(row.id) == 32 for row in rows)


def test_receivers_of_long_ago_are_forgotten(make_database: MakeDatabase) -> None:
    day = 86_400_000
    old, idle, new = (bytes([n]) * 16 for n in range(3))
    engine = open_writer(make_database())

    def kept() -> dict[bytes, int]:
        with engine.connect() as connection:
            return {bytes.fromhex(row.id): row.number for row in _rows(connection)}

    with engine.begin() as connection:
        known = Receivers(NOW)
        known.learn(connection)
        known.keep(connection, {old: 7, idle: 8}, NOW)
        known.committed()
    again = Receivers(NOW + 30 * day)  # after a month without a writer
    with engine.begin() as connection:
        again.learn(connection)
        again.keep(connection, {new: 1}, NOW + 30 * day)
        again.committed()
    assert kept() == {old: 7, idle: 8, new: 1}
    assert again.number(old) == 7
    with engine.begin() as connection:
        again.keep(connection, {idle: 9, new: 2}, NOW + 31 * day - 1)
        again.committed()
    with engine.begin() as connection:
        again.keep(connection, {new: 3}, NOW + 31 * day)
        again.committed()
    assert kept() == {idle: 9, new: 3}
    assert (again.number(old), again.number(idle), again.number(new)) == (0, 9, 3)
    with engine.begin() as connection:
        again.keep(connection, {old: 8}, NOW + 31 * day)
    assert kept()[old] == 8
    assert again.number(old) == 0  # nobody said that it is committed
    engine.dispose()


def _rows(connection: sa.Connection) -> Sequence[Any]:
    return connection.execute(sa.select(receivers._TABLE)).all()


# Acknowledgements


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers with a ledger that judges."""
    monkeypatch.setattr(committing, "Ledger", NotingLedger)


@pytest.fixture
def make_running(make_database: MakeDatabase) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make() -> Running:
        made.append(Running(make_database()))
        return made[-1]

    yield make
    for running in made:
        running.close()


ASKS = Mark.NUMBERED | Mark.ACKNOWLEDGE
Datagram = tuple[str, int, int]  # a meter, epoch and sequence


def datagrams(sent: Sequence[Datagram], marks: Mark = ASKS) -> tuple[Envelopes, Readings]:
    """Each with one reading, whose value follows from its numbers."""
    own = readings([(name, NOW + 1000 * e + s, 1000 * e + s) for name, e, s in sent])
    return (
        Envelopes(
            own.key_high,
            own.key_low,
            np.array([epoch for _, epoch, _ in sent], np.uint32),
            np.array([sequence for *_, sequence in sent], np.uint32),
            np.ones(len(sent), np.uint16),
            np.full(len(sent), marks, np.uint8),
        ),
        own,
    )


def meter(name: str) -> tuple[int, int]:
    own = readings([(name, 0, 0)])
    return int(own.key_high[0]), int(own.key_low[0])


def deliver(
    running: Running, receiver: Handover, sent: Sequence[Datagram], **more: Mark
) -> list[tuple[int, ...]]:
    """Hand datagrams over; the acknowledgements once they are durable."""
    receiver.put(*datagrams(sent, **more))
    return answers(running, receiver)


def answers(running: Running, receiver: Handover) -> list[tuple[int, ...]]:
    deadline = time.monotonic() + 60
    while receiver.undelivered:
        assert time.monotonic() < deadline
        assert running.failure is None
        receiver.tick()
        time.sleep(0.001)
    return [tuple(row) for row in receiver.acknowledgements().tolist()]


@pytest.mark.usefixtures("noting")
def test_each_receiver_is_told_of_its_own_meters(make_running: Callable[..., Running]) -> None:
    running = make_running()
    other = Handover(running.endpoint, None)
    running.send(readings([("a", NOW - 1, 0)]))
    # In one commit.
    for _ in range(2):
        running.receiver.put(*datagrams([("a", 1, 0), ("b", 1, 5), ("a", 1, 2)]))
        running.receiver.put(*datagrams([("d", 1, 1)], Mark.NUMBERED))
        other.put(*datagrams([("c", 4, 0), ("b", 1, 6)]))
        running.receiver._send(time.monotonic())
        other._send(time.monotonic())
        first, second = answers(running, running.receiver), answers(running, other)
        both = 1, 0, 0b110000
        assert sorted(first) == sorted([(*meter("a"), 1, 1, 1), (*meter("b"), *both)])
        assert sorted(second) == sorted([(*meter("b"), *both), (*meter("c"), 4, 1, 0)])
        assert not len(running.receiver.acknowledgements())
    # The second time nothing was new but for who does not ask and may count as badly as it likes.
    assert running.stored("a") == [(NOW - 1, 0), (NOW + 1000, 1000), (NOW + 1002, 1002)]
    assert running.stored("b") == [(NOW + 1005, 1005), (NOW + 1006, 1006)]
    assert running.stored("d") == [(NOW + 1001, 1001)] * 2
    assert running.published.values.count(1001) == 2
    assert len(running.published.values) == 8
    other._socket.close()


@pytest.mark.usefixtures("noting")
def test_a_commit_without_readings(make_running: Callable[..., Running]) -> None:
    """Verdicts and counts are committed, and the journal has no row of it."""
    running = make_running()
    assert deliver(running, running.receiver, [("a", 1, 0)]) == [(*meter("a"), 1, 1, 0)]
    for _ in range(3):
        assert deliver(running, running.receiver, [("a", 1, 0)]) == [(*meter("a"), 1, 1, 0)]
    assert deliver(running, running.receiver, [("a", 1, 0)], marks=Mark.SIGNED | ASKS)
    counts = Counts([ListenerCounts("udp", accepted=3, refused={"x": 1})])
    running.receiver.count(counts)
    first = running.receiver._counted
    running.receiver.count(counts)
    ledger = running.writer._committing.ledger
    assert isinstance(ledger, NotingLedger)
    ticks = [time.monotonic()]

    def left() -> bool:
        running.receiver.tick()
        ticks.append(time.monotonic())
        return not running.receiver._counts

    wait_until(left)
    # A second after the first, not before and not at a later opportunity.
    assert ticks[-1] - first >= 1.0
    assert len(ticks) == 2 or ticks[-3] - first < 1.0

    def counted() -> bool:
        running.receiver.tick()
        return bool(ledger.counted)

    wait_until(counted)
    assert ledger.counted == [Counts([ListenerCounts("udp", accepted=6, refused={"x": 2})])]
    assert deliver(running, running.receiver, [("a", 1, 1)]) == [(*meter("a"), 1, 2, 0)]
    assert [committed for committed, _ in ledger.calls] == [True] * 7
    assert running.stored("a") == [(NOW + 1000, 1000), (NOW + 1001, 1001)]
    running.restart()
    running.send(readings([("a", NOW + 7000, 7000)]))
    assert len(running.stored("a")) == 3


@only_sqlite
@pytest.mark.usefixtures("noting")
def test_nothing_is_acknowledged_before_it_is_durable(
    make_running: Callable[..., Running],
) -> None:
    running = make_running()
    assert deliver(running, running.receiver, [("a", 1, 0)])
    other = hold(running, 2.5)
    running.receiver.put(*datagrams([("a", 1, 1)]))
    while other.is_alive():
        running.receiver.tick()
        if other.is_alive():
            assert not len(running.receiver.acknowledgements())
        time.sleep(0.01)
    assert answers(running, running.receiver) == [(*meter("a"), 1, 2, 0)]


# The spool


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def running(server: PostgresServer, tmp_path: Path) -> Iterator[Running]:
    made = Running(Database(tmp_path / "data", server.url(server.create())))
    yield made
    made.close()


def drained(running: Running) -> None:
    wait_until(lambda: running.writer._spooling.spool.empty and not running.writer._spooling.away)


@pytest.mark.usefixtures("noting")
def test_what_is_spooled_is_acknowledged(server: PostgresServer, running: Running) -> None:
    receiver = running.receiver
    assert deliver(running, receiver, [("a", 1, 0)]) == [(*meter("a"), 1, 1, 0)]
    server.stop()
    assert deliver(running, receiver, [("a", 1, 1), ("new", 3, 9)]) == [
        (*meter("a"), 1, 2, 0),
        (*meter("new"), 3, 0, 1 << 8),
    ]
    assert running.writer._spooling.spool.waiting
    spooled = time.time() * 1000
    # Repeats: of what is in the database, and of what is in the spool.
    assert deliver(running, receiver, [("a", 1, 0)]) == [(*meter("a"), 1, 2, 0)]
    assert deliver(running, receiver, [("new", 3, 9), ("new", 3, 8)]) == [
        (*meter("new"), 3, 0, 3 << 7)
    ]
    wait_until(lambda: running.published.values == [1000, 1001, 3009, 3008])
    time.sleep(0.5)
    ledger = running.writer._committing.ledger
    assert isinstance(ledger, NotingLedger)
    calls = len(ledger.calls)
    server.start()
    drained(running)
    assert running.stored("a") == [(NOW + 1000, 1000), (NOW + 1001, 1001)]
    assert running.stored("new") == [(NOW + 3009, 3009), (NOW + 3008, 3008)]
    # Judged again as of when they came.
    again = [now for committed, now in ledger.calls[calls:] if committed]
    assert len(again) >= 3
    assert all(spooled - 5000 < now < spooled + 400 for now in again)
    assert deliver(running, receiver, [("a", 1, 1)]) == [(*meter("a"), 1, 2, 0)]
    assert len(running.stored("a")) == 2


@pytest.mark.usefixtures("noting")
def test_who_does_not_know_the_windows_acknowledges_nothing(
    server: PostgresServer, running: Running
) -> None:
    """A writer that finds batches of an earlier one in the spool, and the server away or back."""
    assert deliver(running, running.receiver, [("a", 1, 0)])
    server.stop()
    assert deliver(running, running.receiver, [("a", 1, 1)])
    running.restart()
    assert deliver(running, running.receiver, [("a", 1, 2)]) == []
    server.start()
    drained(running)
    assert deliver(running, running.receiver, [("a", 1, 2)])
    assert running.stored("a") == [(NOW + 1000 + n, 1000 + n) for n in range(3)]


def test_a_batch_that_was_committed_is_spooled_by_a_writer_that_cannot_know(
    server: PostgresServer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before it could confirm; when the next one starts the server is away."""
    running.send(readings([("a", NOW, 0)]))
    monkeypatch.setattr(running.writer._router, "committed", lambda *_: None)
    put(running.receiver, readings([("a", NOW + 1, 1)]))
    running.receiver._send(time.monotonic())
    wait_until(lambda: len(running.stored("a")) == 2)
    running._looking.close()
    server.stop()
    running.restart()
    put(running.receiver, readings([("a", NOW + 2, 2)]))
    running.deliver()
    assert running.writer._spooling.spool.waiting == 2
    server.start()
    drained(running)
    running.send(readings([("a", NOW + 3, 3)]))
    assert running.stored("a") == [(NOW + n, n) for n in range(4)]
