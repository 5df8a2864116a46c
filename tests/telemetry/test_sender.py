from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetry.fleet_keys import FleetKeys
from telemetry.formats import native
from telemetry.network import Address, connect
from telemetry.outbox import Outbox
from telemetry.registers import ALERT_LIMIT
from telemetry.sender import (
    REPLAY_BURST,
    LiveSender,
    NobodyListensError,
    ReplaySender,
    run_fleet,
)
from telemetry.simulator import Fleet
from tests.waiting import PATIENCE, undisturbed


def listen(port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.bind(("127.0.0.1", port))
    return sock


def address_of(sock: socket.socket) -> Address:
    return Address(*sock.getsockname())


@pytest.fixture
def collector() -> Iterator[socket.socket]:
    with listen() as sock:
        yield sock


def nobody() -> Address:
    with listen() as sock:
        return address_of(sock)


def sleep(seconds: float) -> bool:
    time.sleep(max(0.0, seconds))
    return True


def drain(sock: socket.socket) -> list[bytes]:
    sock.setblocking(False)
    found = []
    while True:
        try:
            found.append(sock.recv(2048))
        except BlockingIOError:
            return found


def datagrams(count: int) -> list[bytes]:
    return [number.to_bytes(4, "little") for number in range(count)]


NO_KEYS = FleetKeys([], 1, encrypt=True)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5001", "127.0.0.1", 5001),
        ("[::1]:1", "::1", 1),
        ("meters.example:65535", "meters.example", 65535),
    ],
)
def test_an_address_is_read_and_shown(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "5001", "host", ":5001", "::1:5001", "[]:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "x", "²"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(ValueError, match="is no port: a number from 1 to 65535"):
        Address.parse(f"host:{port}")


def test_localhost_is_ipv4_first() -> None:
    with connect(Address("localhost", 5001)) as sock:
        assert sock.family == socket.AF_INET


def test_live_sends_every_datagram(collector: socket.socket, tmp_path: Path) -> None:
    told: list[str] = []
    with connect(address_of(collector)) as sock, Outbox(tmp_path / "x.db", ["a"], 7) as outbox:
        sender = LiveSender(sock, address_of(collector), outbox, told.append)
        sender.send(datagrams(200))  # what the smallest usual socket buffer holds
    assert sender.sent == 200
    assert drain(collector) == datagrams(200)
    assert told == []


@pytest.mark.parametrize("count", [1, 50])
def test_live_says_once_that_nobody_listens_and_once_that_it_is_back(
    count: int, tmp_path: Path
) -> None:
    address, told = nobody(), list[str]()
    with connect(address) as sock, Outbox(tmp_path / "x.db", ["a"], 7) as outbox:
        sender = LiveSender(sock, address, outbox, told.append)
        for _ in range(3):
            sender.send(datagrams(count))
        assert len(told) == 1
        assert told[0].startswith(f"nothing takes the readings at {address} (Connection refused)")
        time.sleep(0.1)  # on a busy machine the kernel's last refusal may come late
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        with listen(address.port) as collector:
            for _ in range(3):
                sender.send(datagrams(count))
            assert len(drain(collector)) == 3 * count
        assert told[1:] == [f"the collector at {address} is back"]
        sender.send(datagrams(count))
        assert len(told) == 3
    assert sender.sent == 7 * count


def test_a_fleet_measures_at_once_and_then_every_interval(
    collector: socket.socket, tmp_path: Path
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return sleep(seconds)

    ids = ["a", "b"]
    with connect(address_of(collector)) as sock, Outbox(tmp_path / "x.db", ids, 7) as outbox:
        fleet = Fleet(ids, 0, {"a": 5_000_000})
        assert run_fleet(
            fleet,
            outbox,
            NO_KEYS,
            LiveSender(sock, address_of(collector), outbox, pytest.fail),
            wait,
            interval=0.01,
            count=31,
            alert_limit_wh=700,
            repeat=0,
            multiplier=lambda: 1e6,
            show=None,
        )
    with Outbox(tmp_path / "x.db", ids, 9) as outbox:
        assert outbox.registers == fleet.registers()
    assert waits[0] <= 0
    found = [native.decode(each, time.time_ns() // 1_000_000) for each in drain(collector)]
    assert [each.sequence for each in found] == [n for n in range(31) for _ in range(2)]
    assert {each.epoch for each in found} == {7}
    assert not any(each.acknowledge for each in found)
    of_a = [each.records for each in found[::2]]
    assert of_a[0][0].value == 5000
    assert [records[0].value for records in of_a] == sorted(r[0].value for r in of_a)
    assert of_a[-1][0].value > 5000
    limits = [{r.register: r.value for r in records}.get(ALERT_LIMIT) for records in of_a]
    assert limits == [700, *[None] * 29, 700]


def test_a_large_fleet_is_spread_over_the_interval(
    collector: socket.socket, tmp_path: Path
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return True

    ids = [f"m-{number}" for number in range(2500)]
    with connect(address_of(collector)) as sock, Outbox(tmp_path / "x.db", ids, 7) as outbox:
        sender = LiveSender(sock, address_of(collector), outbox, pytest.fail)
        run_fleet(
            Fleet(ids, 0, {}),
            outbox,
            NO_KEYS,
            sender,
            wait,
            interval=3,
            count=1,
            alert_limit_wh=0,
            repeat=0,
            multiplier=lambda: 1,
            show=None,
        )
    assert sender.sent == 2500
    assert len(waits) == 3
    assert 0.5 < waits[1] < 1 < waits[2] < 2


DATAGRAMS = [number.to_bytes(4, "big") for number in range(500)]


def test_replay_sends_all_in_order(collector: socket.socket) -> None:
    told: list[int] = []
    received: list[bytes] = []

    def progress(done: int) -> None:
        told.append(done)
        received.extend(drain(collector))

    with connect(address_of(collector)) as sock:
        done = ReplaySender(sock, address_of(collector), sleep).send(DATAGRAMS, progress)
    assert done == told[-1] == 500
    assert received == DATAGRAMS


def test_replay_waits_for_a_collector() -> None:
    address = nobody()
    received: list[bytes] = []

    def late() -> None:
        time.sleep(0.4)
        with listen(address.port) as collector:
            while not received or received[-1] != DATAGRAMS[-1]:
                received.append(collector.recv(64))

    with connect(address) as sock, background(late):
        assert ReplaySender(sock, address, sleep).send(DATAGRAMS, lambda _: None) == 500
    assert list(dict.fromkeys(received)) == DATAGRAMS


def test_replay_survives_a_restart_of_the_collector(collector: socket.socket) -> None:
    address = address_of(collector)
    received: list[bytes] = []

    def restart(done: int) -> None:
        if done == 128 and not received:
            received.extend(drain(collector))
            collector.close()
            threading.Timer(0.3, again.start).start()

    def resume() -> None:
        with listen(address.port) as other:
            while received[-1] != DATAGRAMS[-1]:
                received.append(other.recv(64))

    again = threading.Thread(target=resume)
    with connect(address) as sock:
        assert ReplaySender(sock, address, sleep).send(DATAGRAMS, restart) == 500
    again.join(PATIENCE)
    assert sorted(set(received)) == DATAGRAMS


def test_replay_gives_up_in_plain_words() -> None:
    address = nobody()
    with connect(address) as sock:
        sender = ReplaySender(sock, address, sleep, patience=0.3)
        with pytest.raises(NobodyListensError, match=r"nothing has listened at .* for 0\.3 sec"):
            sender.send(DATAGRAMS, lambda _: None)


def test_replay_stops_when_told(collector: socket.socket) -> None:
    with connect(address_of(collector)) as sock:
        sender = ReplaySender(sock, address_of(collector), lambda _: False)
        assert sender.send(DATAGRAMS, lambda _: None) == REPLAY_BURST
        assert sender.send(DATAGRAMS, lambda _: None, [1.0] * 500) == 0


def test_replay_at_a_speed(collector: socket.socket) -> None:
    def latest() -> float:
        """By how much the first and the second came later than at the very latest."""
        started = time.monotonic()
        arrived: list[float] = []

        def receive() -> None:
            for _ in range(3):
                collector.recv(64)
                arrived.append(time.monotonic() - started)

        with connect(address_of(collector)) as sock, background(receive):
            ReplaySender(sock, address_of(collector), sleep).send(
                DATAGRAMS[:3], lambda _: None, [0.0, 0.2, 0.5]
            )
        assert arrived[1] >= 0.2
        assert arrived[2] >= 0.5
        return max(arrived[0] - 0.15, arrived[1] - 0.4)

    undisturbed(0.0, latest)


class background:  # noqa: N801
    """Runs a function in a thread and joins it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)
