"""A PostgreSQL server that goes away under load, and a writer that is killed meanwhile.

``WATTBUS_LONG=1`` makes the outages a minute long.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from storage import handover, schema, spool
from storage.changes import ChangeMeter
from storage.database import StorageError, UnavailableError
from storage.engine import Database, open_reader, open_writer
from telemetry.registers import ALERT_LIMIT
from tests.postgresql import PostgresServer
from tests.storage.handing import put
from tests.storage.test_writer import NOW, Running, readings
from tests.waiting import seconds, undisturbed, wait_until

SECONDS = 60.0 if os.environ.get("WATTBUS_LONG") else 3.0


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def database(server: PostgresServer, tmp_path: Path) -> Database:
    return Database(tmp_path / "data", server.url(server.create()))


@pytest.fixture
def running(database: Database) -> Iterator[Running]:
    made = Running(database)
    yield made
    made.close()


class Load:
    """A fleet of ten meters, and a new one every hundred readings; each value is sent once."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.sent: dict[str, list[tuple[int, int]]] = {}
        self.count = 0

    def put(self, count: int = 20) -> None:
        batch = []
        for _ in range(count):
            n = self.count
            name = f"new-{n // 100}" if n % 100 == 0 else f"m-{n % 10}"
            batch.append((name, NOW + n, n))
            self.sent.setdefault(name, []).append((NOW + n, n))
            self.count += 1
        put(self.running.receiver, readings(batch))

    def run(self, seconds: float) -> None:
        """Some thousand readings a second."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.put()
            self.running.receiver.tick()
            assert self.running.failure is None
            time.sleep(0.004)

    def check(self) -> None:
        """Every reading is stored, once, in the order of its arrival; and went live once."""
        running = self.running
        running.deliver()
        wait_until(lambda: not running.ask(handover.STATUS)["spooled"])
        reader = running.reader
        assert reader.readings() == self.count
        assert reader.meter_count() == len(self.sent)
        for name, expected in self.sent.items():
            assert running.stored(name) == expected
        assert running.published.values == list(range(self.count))
        assert not list((running.data / "spool").glob("*.spool"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_an_outage_under_load(server: PostgresServer, running: Running, how: int) -> None:
    load = Load(running)
    load.run(0.5)
    server.stop(how)
    load.run(SECONDS)

    def delivered() -> None:  # what is in the spool is durable
        load.put()
        running.deliver()

    undisturbed(2, lambda: seconds(delivered))
    status = running.ask(handover.STATUS)
    assert status["spooling"]
    assert 0 < status["spooled"] <= load.count
    refused = running.change(ChangeMeter(id="a", add=True))["error"]
    assert refused["code"] == "unavailable"
    assert "the database is away" in refused["message"]
    server.start()
    load.run(1.0)
    load.check()
    assert not running.ask(handover.STATUS)["spooling"]
    assert "number" in running.change(ChangeMeter(id="a", add=True))


@pytest.mark.timeout(300)
def test_a_server_that_crashes_again_and_again(server: PostgresServer, running: Running) -> None:
    """Commits are cut off at any instant, with an answer or without; none is made twice."""
    load = Load(running)
    for number in range(20 if SECONDS > 10 else 4):
        load.run(0.3 + 0.07 * number % 0.2)
        server.stop((signal.SIGQUIT, signal.SIGINT)[number % 2])
        load.run(0.4)
        server.start()
    load.run(0.5)
    load.check()


def test_a_commit_whose_answer_is_lost_is_not_made_again(
    server: PostgresServer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server made it; the connection ended before it could say so."""
    load = Load(running)
    load.put()
    running.deliver()
    cut: list[bool] = []

    def cut_off(connection: sa.engine.interfaces.DBAPIConnection) -> None:
        connection.commit()
        if not cut:
            cut.append(True)
            connection.close()
            raise sa.exc.OperationalError("COMMIT", {}, Exception("the connection was lost"))

    monkeypatch.setattr(running.writer._engine.dialect, "do_commit", cut_off)
    load.put()
    running.deliver()
    assert cut
    load.put()
    load.check()


def test_limits_that_are_crossed_meanwhile(server: PostgresServer, running: Running) -> None:
    running.send(readings([("a", NOW, 0)]))
    server.stop()
    running.send(readings([("a", NOW, 5000)], register=ALERT_LIMIT))
    running.send(readings([("a", NOW + 1000, 6000), ("b", NOW, 1)]))
    assert not running.published.alerts
    server.start()
    wait_until(lambda: bool(running.published.alerts))
    (alert,) = running.published.alerts
    assert (alert.meter.id, alert.energy_wh, alert.limit_wh) == ("a", 6000, 5000)


def test_writers_that_start_while_the_server_is_away(
    server: PostgresServer, running: Running
) -> None:
    load = Load(running)
    load.run(0.2)
    running.deliver()
    server.stop()
    for _ in range(3):
        load.run(0.2)
        running.deliver()
        running.restart()
    status = running.ask(handover.STATUS)
    assert status["spooling"]
    assert status["spooled"] > 100
    server.start()
    load.run(0.2)
    load.check()


def test_a_writer_that_was_never_there_does_not_start(
    server: PostgresServer, running: Running, tmp_path: Path
) -> None:
    server.stop()
    with pytest.raises(UnavailableError, match=r"Connection refused.*Is the server running"):
        open_writer(Database(tmp_path / "other", running.database.url))
    other = Database(tmp_path / "other", running.database.url)
    from storage.defaults import Defaults
    from storage.writer import Writer

    with pytest.raises(UnavailableError, match="Is the server running"):
        Writer(other, f"ipc://{tmp_path}/other-writer", Defaults(), running.published)


def test_a_spool_that_is_full(
    server: PostgresServer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cannot take stays with the receiver, unconfirmed, until the server is back."""
    load = Load(running)
    load.put()
    running.deliver()
    server.stop()
    spooling = running.writer._spooling
    assert spooling is not None
    monkeypatch.setattr(spooling.spool, "_most", 20_000)
    load.run(2.0)
    assert running.receiver.undelivered > 100
    assert spooling.spool.octets <= 20_000 + 24
    server.start()
    load.run(0.5)
    load.check()


def test_a_damaged_spool_is_not_drained_in_silence(
    server: PostgresServer, running: Running
) -> None:
    running.send(readings([("a", NOW, 1)]))
    server.stop()
    running.send(readings([("a", NOW + 1, 2)]), readings([("a", NOW + 2, 3)]))
    running.stop()
    (path,) = (running.data / "spool").glob("*.spool")
    octets = bytearray(path.read_bytes())
    octets[60] ^= 1
    path.write_bytes(octets)
    with pytest.raises(StorageError, match="is damaged at octet 24: restore the file, or move"):
        running.start()
    octets[60] ^= 1
    path.write_bytes(octets)
    server.start()
    running.start()
    wait_until(lambda: running.stored("a") == [(NOW, 1), (NOW + 1, 2), (NOW + 2, 3)])


def test_the_database_says_what_was_drained(server: PostgresServer, running: Running) -> None:
    running.send(readings([("a", NOW, 1)]))
    spooling = running.writer._spooling
    assert spooling is not None
    engine = open_reader(running.database)
    kept = sa.select(schema.info.c.value).where(schema.info.c.key == spooling.spool.key)
    with engine.connect() as connection:
        assert connection.scalar(kept) == str((1 << 40) + 1)
    engine.dispose()
    assert isinstance(spooling.spool, spool.Spool)
    assert msgspec.json.encode(running.ask(handover.STATUS))
