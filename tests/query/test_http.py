"""The HTTP shim in front of a whole collector: a raw socket as the old clients use it, and curl."""

from __future__ import annotations

import errno
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pycurl
import pytest
import zmq

from query import messages as m
from query.http.server import serve
from query.transport import ENCODERS, REQUESTS
from telemetry import meter_id
from telemetry.calendar import parse_instant
from telemetry.formats.native import Record, encode
from tests.query.feeding import running
from tests.waiting import PATIENCE, seconds, undisturbed

ROOT = Path(__file__).parent.parent.parent
ENERGY = 1
SAO_PAULO = ZoneInfo("America/Sao_Paulo")
START = parse_instant("2026-10-10T09:00:00", SAO_PAULO)
TEN_MINUTES = 600_000
HEAD_SECONDS = 10
# The shim alone; its bus is the first argument.
SHIM = """
import sys
from query.http.server import serve
serve("127.0.0.1", 0, sys.argv[1], lambda url: print(url, flush=True))
"""

Stack = Any  # the fixture of tests/conftest.py


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def exchange(url: str, *parts: bytes, pause: float = 0.05) -> bytes:
    """Send the parts, then read until the server closes, as the old clients do."""
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=PATIENCE) as sock:
        for number, part in enumerate(parts):
            if number:
                time.sleep(pause)
            sock.sendall(part)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    answer = b""
    while octets := sock.recv(65536):
        answer += octets
    return answer


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name, body; and what holds of every answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert headers["connection"].lower() == "close"
    assert headers["content-type"] == "application/json"
    return int(status.split()[1]), headers, body


def get(url: str, target: str = "/", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """What an old client gets."""
    status, headers, body = parse(
        exchange(url, f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    )
    assert method == "HEAD" or int(headers["content-length"]) == len(body)
    return status, headers, body


def error_code(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    assert isinstance(error["message"], str)
    assert error["message"]
    code: str = error["code"]
    return code


def readings(id: str, first_ms: int, every_ms: int, values: list[int]) -> list[bytes]:
    """The datagrams of an energy register that shows these values in turn."""
    records = [Record(ENERGY, first_ms + n * every_ms, wh) for n, wh in enumerate(values)]
    octets = meter_id.to_octets(id)
    return [
        encode(octets, 1, start, records[start : start + 70])
        for start in range(0, len(records), 70)
    ]


@contextmanager
def shim(query: str, errors: int = subprocess.DEVNULL) -> Iterator[tuple[str, Any]]:
    """The shim alone as a process, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SHIM, query],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A collector of several tests, each of which has meters of its own."""
    with running(tmp_path_factory.mktemp("http")) as one:
        yield one


@pytest.fixture
def lonely() -> Iterator[str]:
    """A shim whose bus nobody answers."""
    with shim("tcp://127.0.0.1:1") as (url, _):
        yield url


def test_old_keys_of_a_meter(shared: Stack) -> None:
    with shared.client() as client:
        client.register("kitchen", time_zone="America/Sao_Paulo")
    values = [1_000_000, 1_001_170, 1_335_680, 1_933_004]
    shared.send(readings("kitchen", START, TEN_MINUTES, values))
    shared.wait_for("kitchen", START + 3 * TEN_MINUTES)
    shared.wait_until(lambda client: bool(client.alerts("kitchen").alerts))
    status, _, body = get(shared.http, "/?id=kitchen")
    assert status == 200
    # As text: numbers are exact decimals, without a binary float's tail.
    assert body.decode() == (
        '{"kitchen":{"consumo_atual_kWh":"597.324","consumo_kwh":597.324,'
        '"consumo_total_kWh":933.004,'
        '"alerta":"10/10/2026 09:30:00 - ALERTA: Consumo muito alto: 933.00 kWh",'
        '"Fatura_Atual":[{"data_hora":"10/10/2026 09:10:00","consumo_kwh":1.17},'
        '{"data_hora":"10/10/2026 09:20:00","consumo_kwh":334.51},'
        '{"data_hora":"10/10/2026 09:30:00","consumo_kwh":597.324}],'
        '"Valor_da_Fatura":"R$ 466.50"}}'
    )


def test_current_bill_is_that_of_the_last_reading(shared: Stack) -> None:
    with shared.client() as client:
        client.register("hall", time_zone="America/Sao_Paulo")
        client.register("attic", time_zone="America/Sao_Paulo")
    november = parse_instant("2026-11-01T00:00:00", SAO_PAULO)
    # The limit was crossed in October; November has one reading, so no whole interval yet.
    shared.send(readings("hall", november - 1_800_000, 1_000_000, [0, 600_000, 600_250]))
    # Its only other reading is from September.
    shared.send(readings("attic", november - 40 * 86_400_000, 1, [5]))
    shared.send(readings("attic", november + 60_000, 1, [100_005]))
    shared.wait_for("hall", november + 200_000)
    shared.wait_for("attic", november + 60_000)
    shared.wait_until(lambda client: bool(client.alerts("hall").alerts))
    hall = json.loads(get(shared.http, "/?id=hall")[2])["hall"]
    assert hall["consumo_atual_kWh"] == "0.250"
    assert hall["consumo_total_kWh"] == 600.25
    assert hall["alerta"] == ""
    assert hall["Fatura_Atual"] == []
    attic = json.loads(get(shared.http, "/?id=attic")[2])["attic"]
    assert attic["consumo_atual_kWh"] == "100.000"
    assert attic["consumo_kwh"] == 100


def test_long_bill_comes_whole(shared: Stack) -> None:
    count = m.MOST_ROWS + 500
    shared.send(readings("busy", START, 10_000, list(range(0, count * 3, 3))))
    shared.wait_for("busy", START + (count - 1) * 10_000)
    answer = json.loads(get(shared.http, "/?id=busy")[2])["busy"]
    assert [row["consumo_kwh"] for row in answer["Fatura_Atual"]] == [0.003] * (count - 1)


def test_ids(stack: Stack) -> None:
    with stack.client() as client:
        client.register("a+b/c#1")
        client.register("quiet")
    nothing = {
        "consumo_atual_kWh": "0.000",
        "consumo_kwh": 0,
        "consumo_total_kWh": 0,
        "alerta": "",
        "Fatura_Atual": [],
        "Valor_da_Fatura": "R$ 0.00",
    }
    for target in ("/?id=a+b/c%231", "/?id=%61%2Bb%2fc%231", "/?x=1&id=a%2Bb/c%231"):
        status, _, body = get(stack.http, target)
        assert (status, json.loads(body)) == (200, {"a+b/c#1": nothing}), target
    # Registered, and no reading yet.
    assert json.loads(get(stack.http, "/")[2]) == {"a+b/c#1": nothing, "quiet": nothing}
    refused = {
        "/?id=nobody": (404, "unknown_meter"),
        "/?id=": (400, "bad_request"),
        "/?id=-x": (400, "bad_request"),
        "/?id=a%20b": (400, "bad_request"),
        "/?id=%00": (400, "bad_request"),
        "/?id=%ff%fe": (400, "bad_request"),
        "/?id=%E2%9A%A1": (400, "bad_request"),
        "/?id=%ed%a0%80": (400, "bad_request"),
        "/?id=" + "a" * 65: (400, "bad_request"),
        "/?id='%3B%20DROP%20TABLE%20meters": (400, "bad_request"),
        "/nothing": (404, "not_found"),
        "/healthz/": (404, "not_found"),
        "//": (404, "not_found"),
    }
    for target, expected in refused.items():
        status, _, body = get(stack.http, target)
        assert (status, error_code(body)) == expected, target


def test_thousand_meters_and_many_connections(stack: Stack) -> None:
    ids = [f"m{number:04}" for number in range(1000)]
    for name in ids:
        stack.send(readings(name, START, TEN_MINUTES, [0, 1170, 2000]))
    stack.wait_until(lambda client: client.status().readings == 3 * len(ids))
    undisturbed(15, lambda: seconds(lambda: get(stack.http, "/")))  # about 2 s when idle
    answer = json.loads(get(stack.http, "/")[2])
    assert list(answer) == ids
    assert {meter["consumo_total_kWh"] for meter in answer.values()} == {2}
    with ThreadPoolExecutor(200) as pool:
        together = threading.Barrier(200)

        def ask(id: str) -> tuple[int, list[str]]:
            together.wait()
            status, _, body = get(stack.http, f"/?id={id}")
            return status, list(json.loads(body))

        found = list(pool.map(ask, ids[:200]))
    assert found == [(200, [name]) for name in ids[:200]]


def curl(url: str, **options: object) -> tuple[int, str, bytes]:
    """Status, headers and body that curl gets."""
    body, head = BytesIO(), BytesIO()
    handle = pycurl.Curl()
    try:
        for name, value in {
            "URL": url,
            "WRITEFUNCTION": body.write,
            "HEADERFUNCTION": head.write,
            "NOPROXY": "*",
            "TIMEOUT": 60,
            **options,
        }.items():
            handle.setopt(getattr(pycurl, name), value)
        handle.perform()
        status: int = handle.getinfo(pycurl.RESPONSE_CODE)
    finally:
        handle.close()
    return status, head.getvalue().decode("ascii").lower(), body.getvalue()


def test_curl(shared: Stack) -> None:
    with shared.client() as client:
        client.register("cellar")
    url = f"{shared.http}/?id=cellar"
    status, head, body = curl(url)
    assert (status, list(json.loads(body))) == (200, ["cellar"])
    assert "connection: close" in head
    status, head, nothing = curl(url, NOBODY=True)
    assert (status, nothing) == (200, b"")
    assert f"content-length: {len(body)}" in head
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        status, head, body = curl(url, CUSTOMREQUEST=method)
        assert (status, error_code(body)) == (405, "method_not_allowed")
        assert {"get", "head"} == set(
            next(line for line in head.split("\r\n") if line.startswith("allow: "))[7:].split(", ")
        )
    assert curl(url, CUSTOMREQUEST="POST", POSTFIELDS="x" * 100_000)[0] in (405, 431)
    status, _, body = curl(f"{shared.http}/healthz")
    assert status == 200
    assert json.loads(body).keys() == {"status", "version"}
    assert json.loads(body)["status"] == "ok"


def test_how_old_clients_speak(shared: Stack) -> None:
    with shared.client() as client:
        client.register("cellar")
    expected = get(shared.http, "/?id=cellar")[2]
    for parts in (
        [b"GET /?id=cellar HTTP/1.0\r\n\r\n"],
        [b"GET /?id=ce", b"llar HTTP/1.1\r\nHo", b"st: x\r\n\r", b"\n"],
        [b"GET /?id=cellar HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"],
        [b"GET /?id=cellar HTTP/1.1\r\nHost: x\r\n\r\n" * 2],
        [b"GET /?id=cellar HTTP/1.1\r\nHost: [\r\n\r\n"],
    ):
        status, headers, body = parse(exchange(shared.http, *parts))
        assert (status, body) == (200, expected), parts
        assert int(headers["content-length"]) == len(body)
    # One that shuts down its own side after the request, as `nc -N` does.
    with socket.create_connection(("127.0.0.1", port_of(shared.http)), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /?id=cellar HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert parse(read_all(sock))[2] == expected


def test_service_away_and_back(stack: Stack) -> None:
    with shim(stack.query) as (url, _):
        assert get(url, "/healthz")[0] == 200
        stack.stop()
        for target in ("/healthz", "/?id=kitchen", "/"):
            status, headers, body = get(url, target)
            assert (status, error_code(body)) == (503, "away"), target
            assert int(headers["retry-after"]) > 0
        stack.start()
        deadline = time.monotonic() + 60
        while get(url, "/healthz")[0] != 200:
            assert time.monotonic() < deadline


def test_garbage_is_refused(lonely: str) -> None:
    for octets, expected in (
        (b"\x00\xff\xfe\r\n\r\n", (400, "bad_http")),
        (b"hello\r\n\r\n", (400, "bad_http")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "bad_http")),
        (b"GET /?id=\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", (400, "bad_http")),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400, "bad_http")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, (431, "head_too_large")),
        (b"GET /" + b"a" * 1_000_000, (431, "head_too_large")),
        (b"\0" * 20_000, (431, "head_too_large")),
    ):

        def answered(octets: bytes = octets, expected: tuple[int, str] = expected) -> None:
            status, _, body = parse(exchange(lonely, octets))
            assert (status, error_code(body)) == expected, octets[:60]

        undisturbed(5, lambda answered=answered: seconds(answered))  # type: ignore[misc]


def test_slow_heads_are_closed_and_others_served(lonely: str) -> None:
    def silent() -> float:
        began = time.monotonic()
        assert exchange(lonely) == b""
        return time.monotonic() - began

    def dripping() -> float:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port_of(lonely)), timeout=0.5) as sock:
            sock.sendall(b"GET /?id=x HTTP/1.1\r\n")
            while time.monotonic() - began < 4 * HEAD_SECONDS:
                try:
                    sock.sendall(b"A: x\r\n")
                    if not sock.recv(100):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        return time.monotonic() - began

    def other() -> None:
        assert get(lonely, "/nothing")[0] == 404

    def closed_after() -> float:
        with ThreadPoolExecutor(60) as pool:
            slow = [pool.submit(way) for way in (silent, dripping) for _ in range(30)]
            time.sleep(1)
            undisturbed(2, lambda: seconds(other))
            took = [closed.result() for closed in slow]
        assert min(took) > HEAD_SECONDS - 1
        return max(took)

    undisturbed(HEAD_SECONDS + 5, closed_after)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once(number: int) -> None:
    undisturbed(3, lambda: stopped_after(number))  # within one on an idle machine


def stopped_after(number: int) -> float:
    """Seconds from the signal to the end, with a question under way."""
    with shim("tcp://127.0.0.1:1", subprocess.PIPE) as (url, process):
        silent = socket.create_connection(("127.0.0.1", port_of(url)))
        asking = socket.create_connection(("127.0.0.1", port_of(url)))
        asking.sendall(b"GET /?id=x HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(number)
        with silent, asking:
            status, _, body = parse(read_all(asking))
            assert (status, error_code(body)) == (503, "away")
            assert silent.recv(1) == b""
        assert process.wait(PATIENCE) == 0
        took = time.monotonic() - began
        assert process.stderr is not None
        with process.stderr as errors:
            assert errors.read() == ""
    return took


def test_port_in_use_is_an_os_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="in use") as caught,
    ):
        serve("127.0.0.1", taken.getsockname()[1], "tcp://127.0.0.1:1", print)
    assert caught.value.errno == errno.EADDRINUSE


@contextmanager
def nonsense(answer: Callable[[m.AnyRequest], m.Reply]) -> Iterator[str]:
    """A service that answers what it should not."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            if router.poll(50):
                *envelope, header, body = router.recv_multipart()
                reply = answer(REQUESTS.decode(header, body))
                router.send_multipart([*envelope, header, ENCODERS[header](reply)])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()
        router.close(0)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("internal", 502), ("bad_request", 400), ("unavailable", 503), ("what_is_this", 502)],
)
def test_errors_of_the_bus(code: str, expected: int) -> None:
    with nonsense(lambda _: m.Failure(code, "a sentence")) as query, shim(query) as (url, _):
        status, _, body = get(url, "/?id=x")
        assert (status, json.loads(body)) == (
            expected,
            {"error": {"code": code, "message": "a sentence"}},
        )


def test_what_nobody_expected(tmp_path: Path) -> None:
    def answer(request: m.AnyRequest) -> m.Reply:
        if not isinstance(request, m.GetMeter | m.GetBill):
            return m.Pong(version="1", protocol=1)
        return m.Bill("x", "No/Such_Zone", 0, 1, 0, 0, True, Decimal(1), "R$", Decimal(0), [])

    with (
        (tmp_path / "log").open("w") as log,
        nonsense(answer) as query,
        shim(query, log.fileno()) as (url, _),
    ):
        status, _, body = get(url, "/?id=x")
        assert (status, error_code(body)) == (500, "internal")
        assert b"No/Such_Zone" not in body
        status, _, body = get(url, "/")
        assert (status, error_code(body)) == (502, "bad_reply")
    written = (tmp_path / "log").read_text()
    assert written.count("a request failed") == 1
    assert written.count("ZoneInfoNotFoundError: ") == 1
