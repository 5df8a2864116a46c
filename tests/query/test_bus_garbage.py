"""Whatever comes on the bus and the live channel: errors with codes, and nobody else notices."""

from __future__ import annotations

import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from query import messages as m
from query.client import Client
from query.live import Live
from query.publisher import LiveReadings, Publisher
from query.transport import ENCODERS, JSON, LONGEST_REQUEST, MSGPACK, REPLIES
from telemetry import meter_id
from telemetry.readings import COLUMNS, Readings
from telemetry.registers import ENERGY_IMPORT
from tests.conftest import Stack
from tests.examples import examples
from tests.query.feeding import feed, heard, running
from tests.waiting import PATIENCE, undisturbed, wait_until

PING = ENCODERS[JSON](m.Ping())
MANY = settings(max_examples=examples(150), deadline=None)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("garbage")
    with running(directory) as shared:
        yield shared
    log = (directory / "serve.log").read_text()
    assert "Traceback" not in log, log


@contextmanager
def dealer(endpoint: str, kind: int = zmq.DEALER) -> Iterator[Any]:
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RCVTIMEO, 60_000)
    sock.setsockopt(zmq.SNDTIMEO, 60_000)
    sock.setsockopt(zmq.SNDHWM, 100_000)
    sock.connect(endpoint)
    yield sock
    sock.close()


@pytest.fixture(scope="module")
def peer(stack: Stack) -> Iterator[Any]:
    with dealer(stack.query) as sock, stack.client() as client:
        client.register("a")
        yield sock


@pytest.fixture(autouse=True)
def sound_afterwards(stack: Stack) -> Iterator[None]:
    """The service is the same process as before, and answers at once."""
    with stack.client() as client:
        before = client.status().started_ms
    yield
    with stack.client() as client:
        assert client.status().started_ms == before
        undisturbed(0.05, lambda: quickness(client))


def quickness(client: Client) -> float:
    durations = []
    for _ in range(20):
        began = time.perf_counter()
        client.ping()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def answers(peer: Any, frames: list[bytes], tag: bytes = b"after") -> list[m.AnyReply]:
    """What is answered to the frames, and then to a question that is sound."""
    peer.send_multipart(frames)
    peer.send_multipart([tag, b"", JSON, PING])
    found: list[m.AnyReply] = []
    while True:
        *envelope, header, body = peer.recv_multipart()
        reply = REPLIES.decode(header, body)
        if envelope == [tag, b""] and isinstance(reply, m.Pong):
            return found
        found.append(reply)


TAGS = count()


def answer(peer: Any, header: bytes, body: bytes) -> m.AnyReply:
    tag = b"%d" % next(TAGS)
    peer.send_multipart([tag, b"", header, body])
    while True:
        *envelope, header, body = peer.recv_multipart()
        if envelope == [tag, b""]:
            return REPLIES.decode(header, body)


def code(reply: m.AnyReply) -> str:
    return reply.code if isinstance(reply, m.Failure) else ""


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def request(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


HUGE = b"9" * 4000
HAND_MADE: list[tuple[list[bytes], str]] = [
    ([b""], "bad_request"),
    ([b"", b""], "bad_request"),
    ([b"", b"", b""], "unsupported_version"),
    ([b"", JSON], "bad_request"),
    ([b"", JSON, b""], "bad_request"),
    ([b"", MSGPACK, b""], "bad_request"),
    ([b"", JSON, PING, b""], "bad_request"),
    ([b"", JSON, PING, PING, PING], "bad_request"),
    ([b"", *[b"x"] * 5000], "bad_request"),
    ([b"", b"WB2j", PING], "unsupported_version"),
    ([b"", b"wb1j", PING], "unsupported_version"),
    ([b"", b"WB1", PING], "unsupported_version"),
    ([b"", JSON + b"\0", PING], "unsupported_version"),
    ([b"", b"\xff" * 60_000, PING], "unsupported_version"),
    ([b"", MSGPACK, PING], "bad_request"),
    ([b"", JSON, packed({"type": "ping"})], "bad_request"),
    ([b"", JSON, b"{}"], "bad_request"),
    ([b"", JSON, b"[]"], "bad_request"),
    ([b"", JSON, b"null"], "bad_request"),
    ([b"", JSON, b"\xff\xfe"], "bad_request"),
    ([b"", JSON, b'{"type":"ping"'], "bad_request"),
    ([b"", JSON, b'{"type":"ping"}{}'], "bad_request"),
    ([b"", JSON, b'{"type":"pong","version":"1","protocol":1}'], "bad_request"),
    ([b"", JSON, b'{"type":"drop_tables"}'], "bad_request"),
    ([b"", JSON, b'{"type":1}'], "bad_request"),
    ([b"", JSON, b"[" * 60_000], "bad_request"),
    ([b"", JSON, b'{"type":"ping","a":' + b"[" * 60_000], "bad_request"),
    ([b"", MSGPACK, b"\x91" * 60_000], "bad_request"),
    ([b"", MSGPACK, b"\xdd\xff\xff\xff\xff"], "bad_request"),
    ([b"", MSGPACK, packed({"type": "get_meter", "id": b"octets"})], "bad_request"),
    ([b"", MSGPACK, b"\x82\xa4type\xa9get_meter\xa2id\xa2\xc3\x28"], "bad_request"),
    ([b"", JSON, b'{"type":"get_meter","id":"\\ud800"}'], "bad_request"),
    ([b"", JSON, b'{"type":"get_meter","id":"' + b"x" * 60_000 + b'"}'], "bad_request"),
    ([b"", JSON, request(type="get_meter")], "bad_request"),
    ([b"", JSON, request(type="get_meter", id=7)], "bad_request"),
    ([b"", JSON, request(type="get_meter", id=None)], "bad_request"),
    ([b"", JSON, request(type="list_meters", most="5")], "bad_request"),
    ([b"", JSON, request(type="list_meters", most=1.5)], "bad_request"),
    ([b"", JSON, b'{"type":"list_meters","most":' + HUGE + b"}"], "bad_request"),
    ([b"", JSON, b'{"type":"list_meters","most":-' + HUGE + b"}"], "bad_request"),
    ([b"", JSON, b'{"type":"list_meters","most":1e999}'], "bad_request"),
    ([b"", JSON, b'{"type":"list_meters","most":NaN}'], "bad_request"),
    ([b"", JSON, b'{"type":"list_alerts","before":' + HUGE + b"}"], "bad_request"),
    ([b"", JSON, request(type="list_alerts", before=-1)], "bad_request"),
    ([b"", JSON, b'{"type":"get_total","id":"a","start_ms":' + HUGE + b"}"], "bad_request"),
    ([b"", JSON, b'{"type":"get_bill","id":"a","at_ms":' + HUGE + b"}"], "bad_request"),
    ([b"", JSON, request(type="get_history", id="a", step=["day"])], "bad_request"),
    ([b"", JSON, request(type="get_meter", id="nobody")], "unknown_meter"),
    ([b"", JSON, request(type="change")], "bad_request"),
    ([b"", JSON, request(type="change", change={})], "bad_request"),
    ([b"", JSON, request(type="change", change={"type": "change_meter"})], "bad_request"),
    ([b"", JSON, request(type="change_meter", id="a", add=True)], "bad_request"),
]


@pytest.mark.parametrize(("frames", "expected"), HAND_MADE, ids=lambda value: repr(value)[:60])
def test_hand_made(peer: Any, frames: list[bytes], expected: str) -> None:
    (reply,) = answers(peer, frames)
    assert isinstance(reply, m.Failure), reply
    assert reply.code == expected, reply
    assert reply.message


CHANGES: list[tuple[str, bytes]] = [
    ("limit_wh", HUGE),
    ("limit_wh", b"-" + HUGE),
    ("limit_wh", b"1e3"),
    ("limit_wh", b"true"),
    ("modulus_wh", b"0"),
    ("max_power_w", b"18446744073709551616"),
    ("price", b'"1e1000000000000000000000"'),
    ("price", b'"sNaN"'),
    ("price", b'"-Infinity"'),
    ("price", b'"' + b"1" * 60_000 + b'"'),
    ("price", b'"0.' + b"0" * 60_000 + b'1"'),
    ("price", b"1e400"),
    ("name", b'"\\u0000"'),
    ("name", b'"' + b"x" * 60_000 + b'"'),
    ("time_zone", b'"' + b"x" * 60_000 + b'"'),
    ("time_zone", b'"a\\u0000b"'),
    ("time_zone", b'".."'),
    ("time_zone", b'"posix"'),
]


@pytest.mark.parametrize(("field", "value"), CHANGES, ids=lambda value: repr(value)[:60])
def test_changes_that_cannot_be(peer: Any, field: str, value: bytes) -> None:
    change = b'{"type":"change_meter","id":"odd","add":true,"%b":%b}' % (field.encode(), value)
    reply = answer(peer, JSON, b'{"type":"change","change":' + change + b"}")
    assert code(reply) == "bad_request", reply
    assert code(answer(peer, JSON, request(type="get_meter", id="odd"))) == "unknown_meter"


def test_without_an_envelope_there_is_no_answer(peer: Any) -> None:
    assert answers(peer, [JSON, PING]) == []
    assert answers(peer, [b"x"] * 3000) == []


def test_envelopes_come_back_as_they_were(peer: Any) -> None:
    for envelope in ([b""], [b"a", b""], [b"a", b"b" * 5000, b"\0", b""]):
        peer.send_multipart([*envelope, JSON, PING])
        frames = peer.recv_multipart()
        assert frames[: len(envelope)] == envelope
        assert frames[len(envelope)] == JSON


def test_the_reply_speaks_as_the_request_does(peer: Any) -> None:
    for header in (JSON, MSGPACK):
        peer.send_multipart([b"", header, ENCODERS[header](m.GetMeter(id="nobody"))])
        _, answered, body = peer.recv_multipart()
        assert answered == header
        assert code(REPLIES.decode(header, body)) == "unknown_meter"
    peer.send_multipart([b"", b"WB9z", b""])
    assert peer.recv_multipart()[1] == MSGPACK


def test_unknown_fields_are_ignored(peer: Any) -> None:
    reply = answer(peer, JSON, request(type="ping", colour="blue", more={"a": [1]}))
    assert isinstance(reply, m.Pong)


def test_a_message_too_large_closes_only_its_connection(stack: Stack) -> None:
    largest = request(type="get_meter", id="x").ljust(LONGEST_REQUEST)
    with dealer(stack.query) as sock, stack.client() as other:
        assert code(answer(sock, JSON, largest)) == "unknown_meter"
        sock.send_multipart([b"lost", b"", JSON, largest + b" "])
        assert other.ping()
        deadline = time.monotonic() + 60
        while True:  # the socket connects again by itself
            sock.send_multipart([b"found", b"", JSON, PING])
            if sock.poll(200):
                assert sock.recv_multipart()[0] == b"found"
                break
            assert time.monotonic() < deadline


@MANY
@given(frames=st.lists(st.binary(max_size=80), min_size=1, max_size=6))
def test_random_frames(peer: Any, frames: list[bytes]) -> None:
    replies = answers(peer, frames, tag=b"\x01our own")
    assert len(replies) == int(b"" in frames)
    assert all(code(reply) in ("bad_request", "unsupported_version") for reply in replies)


@MANY
@given(header=st.sampled_from([JSON, MSGPACK]), body=st.binary(max_size=300))
def test_random_bodies(peer: Any, header: bytes, body: bytes) -> None:
    assert code(answer(peer, header, body)) == "bad_request"


NAMES = st.sampled_from(
    ["id", "step", "start_ms", "end_ms", "most", "prefix", "after", "register", "before", "at_ms"]
)
NUMBERS = (
    st.integers() | st.integers(-5, 5) | st.floats() | st.sampled_from([2**63, -(2**63), 2**64])
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=20),
    st.sampled_from(["a", "raw", "15m", "month", "1-0:1.8.0", "power_import", "0.5"]),
)
TYPES = st.sampled_from(
    [str(kind.__struct_config__.tag) for kind in m.Request.__subclasses__() if kind is not m.Change]
)
SETTINGS = st.sampled_from(["name", "time_zone", "limit_wh", "price", "modulus_wh", "max_power_w"])


@MANY
@given(kind=TYPES, fields=st.dictionaries(NAMES, VALUES, max_size=5), number=st.integers(0, 1))
def test_random_fields(peer: Any, kind: str, fields: dict[str, Any], number: int) -> None:
    """Half of the requests have an id that is one, so that handlers are reached."""
    if number:
        fields["id"] = "a"
        answer(peer, JSON, request(type="change", change={"type": "change_meter", "id": "a"}))
    reply = answer(peer, JSON, request(type=kind, **fields))
    assert code(reply) in ("", "bad_request", "unknown_meter", "no_readings"), reply


@MANY
@given(
    kind=st.sampled_from(["change_meter", "replace_meter"]),
    fields=st.dictionaries(
        SETTINGS | st.sampled_from(["time_ms", "final_wh", "initial_wh", "add"]), VALUES, max_size=4
    ),
)
def test_random_changes(peer: Any, kind: str, fields: dict[str, Any]) -> None:
    change = {"type": kind, "id": "changing", **fields}
    reply = answer(peer, JSON, request(type="change", change=change))
    assert code(reply) in ("", "bad_request", "unknown_meter"), reply
    # Whatever was accepted can be answered for.
    for question in ("get_meter", "get_total", "get_history"):
        reply = answer(peer, JSON, request(type=question, id="changing"))
        assert code(reply) in ("", "unknown_meter"), reply


def test_readings_of_any_time_and_value_can_be_asked_for(stack: Stack, peer: Any) -> None:
    order = random.Random(3)
    points = [
        (order.randrange(946_684_800_000, 1_700_000_000_000), order.randrange(10**15))
        for _ in range(40)
    ]
    feed(stack, "wild", points)
    for step in ("raw", "15m", "hour", "day", "month"):
        reply = answer(peer, JSON, request(type="get_history", id="wild", step=step, most=10_000))
        assert isinstance(reply, m.History)
    for kind in ("get_total", "get_bill", "get_latest", "get_readings"):
        assert code(answer(peer, JSON, request(type=kind, id="wild"))) == ""


# Connections


def test_silent_connections_are_closed_and_disturb_nobody(stack: Stack) -> None:
    def closed_after() -> float:
        began = time.monotonic()
        with ExitStack() as open_, stack.client() as client:
            silent = []
            for port in [stack.query_port] * 50 + [stack.live_port] * 5:
                sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
                silent.append(open_.enter_context(sock))
            undisturbed(0.05, lambda: quickness(client))
            for sock in silent:
                while sock.recv(1000):  # its greeting, then the end
                    pass
            took = time.monotonic() - began
            assert took > 4
            undisturbed(0.05, lambda: quickness(client))
        return took

    undisturbed(9, closed_after)


GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL".ljust(64, b"\0")
READY = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
TCP_GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\xff",
    b"\0" * 1000,
    b"\xff" * 1000,
    random.Random(4).randbytes(100_000),
    GREETING + b"\xff" * 1000,
    GREETING + b"\x04\xff" + b"\xff" * 300,
    GREETING + b"\x06" + b"\xff" * 8,
    GREETING + READY + b"\x02" + b"\xff" * 8 + b"x" * 1000,
    GREETING + READY + b"\x03" + b"\x7f" + b"\xff" * 7,
    GREETING + READY + b"\x00\x05hello",
    GREETING + READY + b"\x04\x05\x04JUNK",
    GREETING + READY + b"\x01\x05hello",
]


@pytest.mark.parametrize("octets", TCP_GARBAGE, ids=lambda octets: repr(octets[:12]))
def test_garbage_over_tcp(stack: Stack, octets: bytes) -> None:
    for port in (stack.query_port, stack.live_port):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
                try:
                    sock.sendall(octets)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(1000):
                        pass
                except TimeoutError:
                    raise
                except OSError:
                    pass  # closed before all was sent


def test_sockets_of_the_wrong_kind(stack: Stack) -> None:
    with ExitStack() as open_:
        for kind in (zmq.PUSH, zmq.SUB, zmq.PAIR):
            sock = open_.enter_context(dealer(stack.query, kind))
            if kind != zmq.SUB:
                sock.send_multipart([b"", JSON, PING], zmq.NOBLOCK)
        time.sleep(0.2)


def test_somebody_who_asks_and_never_listens(stack: Stack) -> None:
    with dealer(stack.query) as sock:
        for _ in range(5000):
            sock.send_multipart([b"", JSON, request(type="list_meters")])
        with stack.client() as client:
            client.ping()  # after what was asked before
            undisturbed(0.1, lambda: quickness(client))


# The live channel


def test_others_cannot_end_a_subscription(stack: Stack) -> None:
    topic = b"meter/heard\0"
    with Live(stack.live, "heard") as live, dealer(stack.live, zmq.XSUB) as other:
        assert heard(stack, live, "heard").id == "heard"
        for octets in (b"\0", b"\1", b"\2", b"\5", b"", b"x"):
            other.send(octets + topic)
        for octets in (
            b"",
            b"\0",
            b"\1",
            b"\1meter/\0",
            b"\1meter/\xff\0",
            b"\1batch\0",
            b"\1" * 900,
        ):
            other.send(octets)
        other.send_multipart([b"\5" + topic, b"\0" + topic, topic])
        time.sleep(0.1)
        assert heard(stack, live, "heard").id == "heard"
        other.send(b"\1" + b"x" * 2000)  # too large: that connection ends
        assert heard(stack, live, "heard").id == "heard"


def test_many_subscriptions_cost_little() -> None:
    """Ten thousand meters watched, in a batch as large as they come."""
    with (
        closing(Publisher("tcp://127.0.0.1:*")) as publisher,
        dealer(publisher.endpoint, zmq.XSUB) as sub,
    ):

        def publish_until(true: Callable[[], bool], readings: Readings) -> None:
            def published() -> bool:
                if publisher.heard():
                    publisher.readings(readings)
                return true()

            wait_until(published, pause=0.02)

        for number in range(12_000):
            sub.send(b"\1meter/watched-%d\0" % number)
        columns = {name: np.zeros(200_000, dtype) for name, dtype in COLUMNS.items()}
        columns["register"][:] = ENERGY_IMPORT
        columns["key_high"][:] = np.arange(200_000)
        high, low = meter_id.halves(meter_id.to_octets("watched-7"))
        columns["key_high"][5], columns["key_low"][5] = high, low
        columns["key_low"][6] = low  # half of an id is no id
        columns["value"][5] = 77
        readings = Readings(**columns)
        publish_until(lambda: len(publisher._wanted) == 10_000, readings)
        durations = []
        for _ in range(3):
            began = time.thread_time()
            publisher.readings(readings)
            durations.append(time.thread_time() - began)
        assert len(publisher._wanted) == 10_000
        topic, body = sub.recv_multipart()
        assert topic == b"meter/watched-7\0"
        (live,) = msgspec.msgpack.decode(body, type=LiveReadings).readings
        assert (live.raw, live.unit, live.obis) == (77, "Wh", "1-0:1.8.0")
        assert min(durations) < 0.2
        for number in range(12_000):
            sub.send(b"\0meter/watched-%d\0" % number)
        publish_until(lambda: not publisher._wanted, readings)
