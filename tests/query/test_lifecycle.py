"""Services that are away, die, freeze and come back; readings and alerts as they happen."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
import zmq

from benchmarks.ports import free_port
from cli import watch
from query import messages as m
from query.client import Client
from query.live import Live, Message
from query.publisher import LiveAlert, LiveReading, LiveReadings
from query.transport import ENCODERS, MSGPACK, REPLIES, BusError, ServiceAwayError
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT
from tests.conftest import ROOT, Stack
from tests.query.feeding import (
    HOUR,
    at,
    datagrams,
    feed,
    heard,
    refused,
    running,
)
from tests.waiting import PATIENCE, seconds, undisturbed, wait_until

MARCH = at("2024-03-01")
WATCH = (
    "import argparse, sys; from cli.watch import add_arguments, run;"
    "parser = argparse.ArgumentParser('wattbus watch'); add_arguments(parser);"
    "sys.exit(run(parser.parse_args()))"
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("lifecycle")) as shared:
        yield shared


def part(stack: Stack, name: str) -> psutil.Process:
    """The child process that is this part of the collector."""
    assert stack.process is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(stack.process.pid).children():
            with suppress(psutil.Error):
                if name in child.cmdline():
                    return child
        time.sleep(0.02)
    raise AssertionError(f"there is no {name}")


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """A part that is there and does nothing; it may be killed meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def kill(stack: Stack, name: str) -> None:
    """kill -9; the supervisor starts it again."""
    process = part(stack, name)
    process.kill()
    with suppress(psutil.NoSuchProcess):
        process.wait(PATIENCE)


# The query service is away


@pytest.mark.parametrize(("timeout", "tries"), [(0.1, 1), (0.15, 3)])
def test_nobody_is_there(timeout: float, tries: int) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Client(endpoint, timeout=timeout, tries=tries) as client:

        def ask() -> None:
            with pytest.raises(ServiceAwayError, match="wattbus serve") as caught:
                client.ping()
            assert caught.value.code == "away"
            assert endpoint in str(caught.value)

        def took() -> float:
            found = seconds(ask)
            assert found > 0.9 * timeout * tries
            return found

        for _ in range(2):
            undisturbed(timeout * tries + 0.5, took)


@pytest.mark.parametrize("endpoint", ["", "5002", "tcp://", "tcp://127.0.0.1", "http://a:1"])
def test_what_is_no_endpoint(endpoint: str) -> None:
    with refused("bad_endpoint", "tcp://127.0.0.1:5002"):
        Client(endpoint)
    with refused("bad_endpoint", "tcp://127.0.0.1:5003"):
        Live(endpoint, "a")


def test_a_frozen_service(stack: Stack) -> None:
    with Client(stack.query, timeout=0.2, tries=300) as client:
        client.register("frozen")
        with frozen(part(stack, "query")):
            client._connection.tries = 2
            for _ in range(3):
                with pytest.raises(ServiceAwayError):
                    client.meter("frozen")
            client._connection.tries = 300
        # The answers to all of those come now, and none is taken for another's.
        for number in range(10):
            assert client.set_limit("frozen", number).limit_wh == number
            assert client.ping().protocol == m.PROTOCOL


def test_a_killed_service_comes_back(stack: Stack) -> None:
    with Client(stack.query, timeout=0.5, tries=120) as client:
        client.register("kept", limit_wh=7)
        before = client.status().started_ms
        kill(stack, "query")
        # Not one error: the client asks again until the supervisor has brought it back.
        assert client.meter("kept").limit_wh == 7
        assert client.status().started_ms > before
        assert client.set_limit("kept", 8).limit_wh == 8


def test_nothing_queues_up_for_a_service_that_is_away() -> None:
    """What somebody was told is not answered is not done when the service comes."""
    port = free_port()
    with Client(f"tcp://127.0.0.1:{port}", timeout=0.1, tries=2) as client:
        with pytest.raises(ServiceAwayError):
            client.register("late")
        with bound(zmq.ROUTER, port) as sock:
            assert not sock.poll(700)


@contextmanager
def bound(kind: int, port: int) -> Iterator[Any]:
    """A service of the test's own."""
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    sock.setsockopt(zmq.LINGER, 1000)
    sock.setsockopt(zmq.RCVTIMEO, 60_000)
    try:
        sock.bind(f"tcp://127.0.0.1:{port}")
        yield sock
    finally:
        sock.close()


def served(port: int, answer: Callable[[Any], None]) -> threading.Thread:
    def serve() -> None:
        with bound(zmq.ROUTER, port) as sock:
            answer(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_late_answer_is_dropped_and_waited_beyond() -> None:
    pong = ENCODERS[MSGPACK](m.Pong("late", 1))

    def took() -> float:
        port, over = free_port(), threading.Event()

        def answer(sock: Any) -> None:
            first = sock.recv_multipart()
            sock.recv_multipart()  # the second try: only now is the first one answered
            sock.send_multipart([*first[:3], MSGPACK, pong])
            over.wait(PATIENCE)

        thread = served(port, answer)
        with Client(f"tcp://127.0.0.1:{port}", timeout=0.5, tries=2) as client:

            def ask() -> None:
                with pytest.raises(ServiceAwayError):
                    client.ping()

            found = seconds(ask)
        over.set()
        thread.join()
        return found

    undisturbed(2, took)


@pytest.mark.parametrize(
    "frames",
    [
        [b"WB1m"],
        [b"WB1m", b"\xff"],
        [b"WB1m", b"", b""],
        [b"WB2m", b"\x80"],
        [b"WB1j", b'{"type":"ping"}'],
        [b"WB1j", b'{"type":"meters","meters":[],"next":null}'],
        [b"WB1j", b"\xff\xfe"],
        [b""],
    ],
)
def test_answers_that_are_none(frames: list[bytes]) -> None:
    port, over = free_port(), threading.Event()

    def answer(sock: Any) -> None:
        for _ in range(2):
            sock.send_multipart([*sock.recv_multipart()[:3], *frames])
        over.wait(PATIENCE)

    thread = served(port, answer)
    with Client(f"tcp://127.0.0.1:{port}", timeout=PATIENCE, tries=1) as client:
        for _ in range(2):
            with refused("bad_reply"):
                client.ping()
    over.set()
    thread.join()


# The writer is away


def test_a_frozen_writer(stack: Stack) -> None:
    feed(stack, "reads", [(MARCH, 0), (MARCH + HOUR, 1000)])
    with Client(stack.query, timeout=PATIENCE, tries=1) as client:
        with frozen(part(stack, "writer")):
            assert client.total("reads").wh == 1000

            def change() -> None:
                with refused("unavailable", "try again"):
                    client.set_limit("reads", 5)

            def took() -> float:
                found = seconds(change)
                assert found > 1
                return found

            undisturbed(2.5, took)
            status = client.status()
            assert status.writer is None
            assert status.meters > 0
            # Wrong is wrong, whoever is away.
            with refused("bad_request"):
                client.set_limit("reads", -5)
            assert client.bill("reads").wh == 1000
        assert client.set_limit("reads", 6).limit_wh == 6
        stack.wait_until(lambda asker: asker.status().writer is not None)
        # What was said to be unsure was made before, not after.
        assert client.meter("reads").limit_wh == 6


def test_what_waits_for_a_frozen_writer_is_bounded(stack: Stack) -> None:
    asking: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    asking.setsockopt(zmq.LINGER, 0)
    asking.connect(stack.query)
    answered = {"status": 0, "unavailable": 0}
    with frozen(part(stack, "writer")):
        for _ in range(1100):
            asking.send_multipart([b"", MSGPACK, ENCODERS[MSGPACK](m.GetStatus())])
        while sum(answered.values()) < 1100:
            assert asking.poll(60_000), answered
            reply = REPLIES.decode(*asking.recv_multipart()[-2:])
            answered[reply.code if isinstance(reply, m.Failure) else "status"] += 1
    asking.close()
    assert answered == {"status": 1000, "unavailable": 100}
    with stack.client() as client:
        wait_until(lambda: client.status().writer is not None)


def test_a_killed_writer_comes_back_and_nothing_is_lost(stack: Stack) -> None:
    feed(stack, "safe", [(MARCH, 0)])
    with Client(stack.query, timeout=PATIENCE, tries=1) as client:
        status = client.status()
        assert status.writer is not None
        started = status.writer.started_ms
        process = part(stack, "writer")
        with frozen(process):
            points = [(MARCH + n, n) for n in range(1, 200)]
            stack.send(datagrams("safe", points))
            time.sleep(0.1)  # the receiver has handed them over
            assert client.readings("safe", most=10_000).raw == [0]
            process.kill()
        changed = None
        deadline = time.monotonic() + 60
        while changed is None and time.monotonic() < deadline:
            try:
                changed = client.set_limit("safe", 1234).limit_wh
            except BusError as error:
                if error.code != "unavailable":
                    raise
        assert changed == 1234
        stack.wait_for("safe", MARCH + 199)
        assert client.readings("safe", most=10_000).raw == list(range(200))

        def renewed(asker: Client) -> bool:
            writer = asker.status().writer
            return writer is not None and writer.started_ms > started

        stack.wait_until(renewed)
        assert client.meter("safe").limit_wh == 1234


# The live channel


def next_of(live: Live, wanted: Callable[[Message], bool]) -> Message:
    for message in live.listen(PATIENCE):
        if wanted(message):
            return message
    raise AssertionError("it was not heard")


def test_a_reading_is_heard_once_it_can_be_asked_for(stack: Stack) -> None:
    with Live(stack.live, "told") as live, stack.client() as client:
        message = heard(stack, live, "told")
        assert live.connected
        (reading,) = message.readings
        assert message.id == "told"
        assert reading.raw in client.readings("told").raw
        octets = meter_id.to_octets("told")
        for sequence in range(8):
            records = [
                native.Record(ENERGY_IMPORT, MARCH + HOUR + sequence, 1000 + sequence),
                native.Record(POWER_IMPORT, MARCH + HOUR + sequence, -77),
            ]
            stack.send(native.encode(octets, 1, sequence, records))
            found = next_of(live, lambda message: len(getattr(message, "readings", [])) == 2)
            # At once, with the first question.
            assert client.latest("told").registers[0].raw == 1000 + sequence
        assert isinstance(found, LiveReadings)
        energy, power = found.readings
        assert energy == LiveReading("1-0:1.8.0", "Wh", 1007, 0, MARCH + HOUR + 7)
        assert (power.unit, str(power.value)) == ("W", "-7.7")


def test_an_alert_is_heard_once_it_can_be_asked_for(stack: Stack) -> None:
    with stack.client() as client, Live(stack.live, "loud") as live:
        client.register("loud", limit_wh=10_000)
        heard(stack, live, "loud")
        feed(stack, "loud", [(MARCH + HOUR, 10_000), (MARCH + 2 * HOUR, 12_000)])
        message = next_of(live, lambda message: isinstance(message, LiveAlert))
        (alert,) = client.alerts("loud").alerts
        assert message == LiveAlert("loud", "limit", alert.time_ms, 12_000, 10_000, False)
        assert alert.time_ms == MARCH + 2 * HOUR


def test_others_are_not_heard(stack: Stack) -> None:
    with Live(stack.live, "on") as live, Live(stack.live) as every:
        heard(stack, live, "on")
        heard(stack, every, "on")
        for other in ("one", "o", "On"):
            feed(stack, other, [(MARCH, 1)])
        feed(stack, "on", [(MARCH + HOUR, 1)])
        while True:
            message = next(live.listen(PATIENCE))
            assert message.id == "on"
            assert isinstance(message, LiveReadings)
            if message.readings[-1].time_ms == MARCH + HOUR:
                break
        left, messages = {"one", "o", "On", "on"}, every.listen(PATIENCE)
        while left:
            left.discard(next(messages).id)


def test_all_meters_and_their_alerts(stack: Stack) -> None:
    with Live(stack.live) as live, stack.client() as client:
        client.register("any-1", limit_wh=5)
        heard(stack, live, "any-0")
        feed(stack, "any-1", [(MARCH, 0), (MARCH + 1, 6)])
        alert = next_of(live, lambda message: isinstance(message, LiveAlert))
        assert alert.id == "any-1"
        stack.send(datagrams("any-2", [(MARCH, 1), (MARCH + 1, 2)]))
        stack.send(datagrams("any-3", [(MARCH, 3)]))
        found: dict[str, list[int]] = {}
        messages = live.listen(PATIENCE)
        while sum(map(len, found.values())) < 3:
            message = next(messages)
            assert isinstance(message, LiveReadings)
            found.setdefault(message.id, []).extend(reading.raw for reading in message.readings)
        assert found == {"any-2": [1, 2], "any-3": [3]}
        assert list(live.listen(0.3)) == []


def test_spellings_of_an_id(stack: Stack) -> None:
    long = "a-name-much-longer-than-sixteen-characters"
    shown = meter_id.to_name(meter_id.to_octets(long))
    for name in (long, shown, shown.upper()):
        with Live(stack.live, name) as live:
            assert heard(stack, live, long).id == name
    with Live(stack.live, shown.upper()) as live, stack.client() as client:
        heard(stack, live, long)
        client.set_limit(long, 5_000)
        feed(stack, long, [(MARCH + HOUR, 9_000)])
        assert next_of(live, lambda message: isinstance(message, LiveAlert)).id == shown


@pytest.mark.parametrize("id", ["", "a b", "x" * 65, "\0", "ö"])
def test_what_no_meter_is_called(id: str) -> None:
    with refused("bad_request", "meter id"):
        Live("tcp://127.0.0.1:1", id)


def test_a_listener_outlives_the_writer(stack: Stack) -> None:
    with Live(stack.live, "long") as live:
        assert heard(stack, live, "long").id == "long"
        assert stack.process is not None
        with frozen(psutil.Process(stack.process.pid)):  # it would start another at once
            part(stack, "writer").kill()
            wait_until(lambda: not live.connected)
            assert list(live.listen(0.01)) == []
        wait_until(lambda: live.connected)
        assert heard(stack, live, "long", 1000).readings[-1].raw >= 1000


def test_a_listener_alone() -> None:
    with Live(f"tcp://127.0.0.1:{free_port()}", "alone") as live:

        def took() -> float:
            found = seconds(lambda: list(live.listen(0.25)))
            assert found > 0.2
            return found

        undisturbed(1, took)
        assert not live.connected


def test_live_messages_that_are_none() -> None:
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    with bound(zmq.XPUB, port) as sock, Live(endpoint, "a") as live, Live(endpoint) as every:
        for _ in range(4):
            assert sock.poll(60_000)
            sock.recv()
        for topic in (b"meter/a\0", b"alert/a\0"):
            for frames in ([topic], [topic, b""], [topic, b"\xff"], [topic, b"\x80"], [topic] * 3):
                sock.send_multipart(frames)
                with refused("bad_reply"):
                    next(live.listen(PATIENCE))
        for _ in range(5):  # those about alerts
            with refused("bad_reply"):
                next(every.listen(PATIENCE))
        for body in (b"", b"\1", b"\1\0\0\0" + bytes(7), b"\xff" * 44, b"\1\0\0\0" + b"\xff" * 40):
            sock.send_multipart([b"batch\0", body])
            with refused("bad_reply"):
                next(every.listen(PATIENCE))


# wattbus watch


@contextmanager
def watching(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WATCH, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TZ": "Asia/Kathmandu"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(stack: Stack, process: subprocess.Popen[str], id: str) -> str:
    """Send readings until the first line is there."""
    stop = threading.Event()

    def keep_sending() -> None:
        while not stop.wait(0.1):
            feed(stack, id, [(MARCH, 12_345)])  # one at a time: a line is of what came at once

    thread = threading.Thread(target=keep_sending)
    thread.start()
    try:
        assert process.stdout is not None
        return process.stdout.readline()
    finally:
        stop.set()
        thread.join()


def test_watch(stack: Stack) -> None:
    with watching("seen", "--live", stack.live) as process:
        line = first_line(stack, process, "seen")
        assert line == "2024-03-01T05:45:00+05:45  energy_import 12,345 Wh\n"
        stack.send(datagrams("seen", [(MARCH + 1, -7)], register=POWER_IMPORT))
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert next(line for line in lines if "power" in line) == (
            "2024-03-01T05:45:00.001+05:45  power_import -0.7 W\n"
        )
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")


def test_watch_in_json(stack: Stack) -> None:
    with stack.client() as client:
        client.register("parsed", limit_wh=20_000)
    with watching("parsed", "--live", stack.live, "--json") as process:
        shown = json.loads(first_line(stack, process, "parsed"))
        assert shown == {
            "id": "parsed",
            "time": "2024-03-01T05:45:00+05:45",
            "registers": {"1-0:1.8.0": {"name": "energy_import", "value": 12345, "unit": "Wh"}},
        }
        stack.send(datagrams("parsed", [(MARCH + HOUR, 42_345)]))
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert json.loads(next(line for line in lines if "limit" in line)) == {
            "id": "parsed",
            "kind": "limit",
            "time": "2024-03-01T06:45:00+05:45",
            "kwh": "30.000",
            "limit_kwh": "20.000",
            "late": False,
        }
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0


def test_watch_says_when_nobody_is_there() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with watching("seen", "--live", endpoint) as process:
        assert process.stderr is not None
        assert re.search(rf"no connection to {endpoint}.*wattbus serve", process.stderr.readline())
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "", "")  # said once


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a b"], "is no meter id"),
        (["x" * 65], "is no meter id"),
        (["a", "--live", "nowhere"], "tcp://127.0.0.1:5003"),
        ([], "required: ID"),
    ],
)
def test_watch_refuses(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser("wattbus watch")
    watch.add_arguments(parser)
    try:
        code = watch.run(parser.parse_args(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err


def test_watch_ends_with_its_reader(stack: Stack) -> None:
    with watching("piped", "--live", stack.live) as process:
        first_line(stack, process, "piped")
        assert process.stdout is not None
        process.stdout.close()
        deadline = time.monotonic() + 60
        while process.poll() is None:
            stack.send(datagrams("piped", [(MARCH, 1)]))
            time.sleep(0.1)
            assert time.monotonic() < deadline
        assert process.returncode == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stdout = None
