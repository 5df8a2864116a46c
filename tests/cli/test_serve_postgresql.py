"""``wattbus serve`` on PostgreSQL: stored, answered, kept; through outages and killed writers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from query.client import Client
from query.transport import BusError
from tests.cli.test_serve import START, children_of, datagram
from tests.conftest import Stack
from tests.postgresql import PostgresServer

MakeStack = Callable[..., Stack]
LONG = bool(os.environ.get("WATTBUS_LONG"))  # an outage of a minute


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    made = PostgresServer()
    try:
        made.start()
        yield made
    finally:
        made.remove()


def values(stack: Stack, meter: str) -> list[int]:
    """Every reading of a meter's register, by its number."""
    with stack.client() as client:
        return client.readings(meter, most=10_000).raw


def test_serve_on_postgresql(make_stack: MakeStack, postgresql: PostgresServer) -> None:
    name = postgresql.create()
    stack = make_stack("--database", postgresql.url(name))
    try:
        stack.send([datagram("a", number) for number in range(100)])
        stack.wait_for("a", START + 99_000)
        assert values(stack, "a") == [3 * number for number in range(100)]
        assert stack.stop() == 0
        assert postgresql.execute("SELECT sum(readings) FROM journal", name) == [(100,)]
        stack.start()
        assert values(stack, "a") == [3 * number for number in range(100)]
        stack.send([datagram("a", number) for number in range(100, 150)])
        stack.wait_for("a", START + 149_000)
        with stack.client() as client:
            assert client.status().database_octets > 10_000
        assert not (stack.data / "wattbus.sqlite3").exists()
        assert postgresql.password not in stack.log.read_text()
        assert "writing to postgresql+psycopg://postgres@127.0.0.1" in stack.log.read_text()
    finally:
        stack.stop()
        postgresql.drop(name)


@pytest.mark.timeout(400)
def test_an_outage_with_killed_writers(make_stack: MakeStack, server: PostgresServer) -> None:
    """Sums are exact, whatever dies."""
    stack = make_stack("--database", server.url())
    sent = 0

    def feed(seconds: float) -> None:
        nonlocal sent
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            stack.send([datagram(f"m-{n % 7}", n) for n in range(sent, sent + 20)])
            sent += 20
            time.sleep(0.02)

    feed(1.0)
    server.stop(signal.SIGQUIT)
    feed(1.0)
    for _ in range(8 if LONG else 2):
        feed(2.0)
        _kill_writer(stack)
        feed(2.0)
    _wait_until_spooling(stack)
    with stack.client() as client, pytest.raises(BusError, match="the database: ") as error:
        client.latest("m-1")
    assert error.value.code == "unavailable"
    said = stack.cli("status").stdout
    assert "spooling" in said
    assert "in the spool" in said
    server.start()
    feed(0.5)
    _kill_writer(stack)  # while it drains
    feed(1.0)
    for meter in range(7):
        last = max(n for n in range(sent) if n % 7 == meter)
        stack.wait_for(f"m-{meter}", START + 1000 * last)
        expected = [3 * n for n in range(sent) if n % 7 == meter]
        assert values(stack, f"m-{meter}") == expected
    stack.wait_until(lambda client: not _spooled(client.status().writer))
    assert not list((stack.data / "spool").glob("*.spool"))
    assert "Traceback" not in stack.log.read_text()
    assert server.password not in stack.log.read_text()


def _spooled(writer: object) -> int:
    return int(getattr(writer, "spooled", 1))


def _kill_writer(stack: Stack) -> None:
    """Kill it; one that has died often is started again after 10 s only."""
    deadline = time.monotonic() + 60
    while (writer := children_of(stack).get("writer")) is None:
        assert time.monotonic() < deadline, "there is no writer"
        time.sleep(0.05)
    writer.kill()
    psutil.wait_procs([writer], timeout=60)


def _wait_until_spooling(stack: Stack) -> None:
    def spooling(client: Client) -> bool:
        try:
            writer = client.status().writer
        except BusError:
            return False
        return writer is not None and writer.spooling and writer.spooled > 0

    stack.wait_until(spooling)
