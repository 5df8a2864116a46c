"""The shell's commands against a whole collector, and what is said when they go wrong."""

from __future__ import annotations

import csv
import gc
import io
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import zmq

from benchmarks.ports import free_port
from cli import actions
from cli.commands import COMMANDS
from cli.main import build_parser, main
from cli.starting import importing
from query import messages as m
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT
from tests.conftest import ROOT, Stack
from tests.shell import wattbus
from tests.waiting import wait_until

HOUR = 3_600_000
MARCH = 1709272800000  # 2024-03-01T00:00:00-06:00, Chicago's
EACH = 62  # records a datagram: 31 instants of two registers


def rising(id: str, start_ms: int, step_ms: int, count: int, wh: int) -> list[bytes]:
    """Datagrams of a meter whose register rises by ``wh`` a step, from 0."""
    records = [
        record
        for n in range(count)
        for record in (
            native.Record(ENERGY_IMPORT, start_ms + n * step_ms, n * wh),
            native.Record(POWER_IMPORT, start_ms + n * step_ms, wh * 10),
        )
    ]
    octets = meter_id.to_octets(id)
    return [
        native.encode(octets, 1, number, records[first : first + EACH])
        for number, first in enumerate(range(0, len(records), EACH))
    ]


def feed(stack: Stack, id: str, start_ms: int, step_ms: int, count: int, wh: int) -> None:
    stack.send(rising(id, start_ms, step_ms, count, wh))
    stack.wait_for(id, start_ms + (count - 1) * step_ms)


def asked(stack: Stack, *words: str) -> Any:
    done = stack.cli(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout, parse_float=Decimal)


@pytest.fixture
def kitchen(stack: Stack) -> Stack:
    """A meter in Chicago with 1.5 kWh in every hour of March 2024, where the clock changes."""
    added = asked(stack, "meters", "add", "kitchen", "--unsigned", "--time-zone", "America/Chicago")
    assert added["time_zone"] == "America/Chicago"
    feed(stack, "kitchen", MARCH, HOUR, 31 * 24, 1500)
    return stack


def test_consumption(kitchen: Stack) -> None:
    total = asked(kitchen, "total", "kitchen")
    assert total == {
        "id": "kitchen",
        "kwh": "1114.500",
        "start": "2024-03-01T00:00:00-06:00",
        "end": "2024-04-01T00:00:00-05:00",
        "flags": [],
    }
    # A naive time is the meter's own: the day on which the clock is put forward has 23 hours.
    day = asked(kitchen, "total", "kitchen", "--from", "2024-03-10", "--to", "2024-03-11")
    assert day["kwh"] == "34.500"
    days = asked(kitchen, "history", "kitchen")
    assert [day["kwh"] for day in days[8:11]] == ["36.000", "34.500", "36.000"]
    assert days[9]["start"] == "2024-03-10T00:00:00-06:00"
    assert days[9]["end"] == "2024-03-11T00:00:00-05:00"
    assert sum(Decimal(day["kwh"]) for day in days) == Decimal("1114.5")
    hours = asked(
        kitchen, "history", "kitchen", "--step", "hour", "--from", "2024-03-31T20:00-05:00"
    )
    assert [hour["kwh"] for hour in hours] == ["1.500"] * 4
    (month,) = asked(kitchen, "history", "kitchen", "--step", "month")
    assert month["kwh"] == "1114.500"
    assert asked(kitchen, "history", "kitchen", "--from", "2025-01-01") == []
    assert "1,114.500" in kitchen.cli("total", "kitchen").stdout

    rows = list(csv.DictReader(io.StringIO(kitchen.cli("history", "kitchen", "--csv").stdout)))
    assert [row["kwh"] for row in rows] == [day["kwh"] for day in days]


def test_latest_readings_bill_and_status(kitchen: Stack) -> None:
    latest = asked(kitchen, "latest", "kitchen")
    assert latest["1-0:1.8.0"] == {
        "name": "energy_import",
        "value": 1_114_500,
        "unit": "Wh",
        "time": "2024-04-01T00:00:00-05:00",
        "flags": [],
    }
    assert latest["1-0:1.7.0"]["value"] == Decimal("1500.0")

    readings = asked(
        kitchen, "readings", "kitchen", "--register", "power_import", "--to", "2024-03-01T02:00"
    )
    assert readings == [
        {"time": f"2024-03-01T0{n}:00:00-06:00", "value": value, "unit": "W"}
        for n, value in enumerate([Decimal("1500.0")] * 2)
    ]

    bill = asked(kitchen, "bill", "kitchen", "--month", "2024-03")
    assert (bill["kwh"], bill["price"], bill["amount"]) == ("1114.500", "0.50", "557.25")
    assert bill["complete"] is True
    assert asked(kitchen, "bill", "kitchen", "--at", "2024-03-15T12:00") == bill
    assert "R$ 557.25" in kitchen.cli("bill", "kitchen").stdout

    assert asked(kitchen, "ping")["protocol"] == m.PROTOCOL
    assert asked(kitchen, "status")["meters"] == 1
    assert "accepted" in kitchen.cli("status").stdout


def test_settings_and_alerts(stack: Stack) -> None:
    asked(stack, "meters", "add", "roof", "--unsigned", "--limit", "1.5", "--name", "The roof")
    changed = asked(stack, "meters", "set", "roof", "--price", "0.75", "--max-power", "13.8")
    assert changed == asked(stack, "meters", "show", "roof")
    assert changed["price"] == "0.75"
    assert changed["max_power_kw"] == "13.800"
    assert changed["set"] == ["name", "limit", "price", "max_power"]
    assert asked(stack, "meters", "set", "roof", "--price", "default")["price"] == "0.50"

    feed(stack, "roof", MARCH, HOUR, 4, 1000)
    (alert,) = wait_until(lambda: asked(stack, "alerts", "roof"))
    assert (alert["id"], alert["kwh"], alert["limit_kwh"]) == ("roof", "2.000", "1.500")
    assert asked(stack, "alerts") == [alert]

    replaced = stack.cli(
        *("meters", "replace", "roof", "--final", "3.5", "--initial", "0"),
        *("--at", "2024-03-01T09:30"),
    )
    assert replaced.returncode == 0, replaced.stderr
    assert [meter["id"] for meter in asked(stack, "meters")] == ["roof"]
    assert asked(stack, "meters", "ki") == []
    assert "no meter's id starts with ki" in stack.cli("meters", "ki").stdout


def test_many_rows_and_a_reader_that_leaves(stack: Stack) -> None:
    feed(stack, "fast", MARCH, 60_000, 10_050, 1)
    rows = asked(stack, "history", "fast", "--step", "raw")
    assert len(rows) == 10_049
    assert rows[-1]["kwh"] == "0.001"
    command = f"{sys.executable} -m cli readings fast --csv --query {stack.query}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("time,value,unit\n0\n", "")


NOBODY = "wattbus: there is no meter 'nobody'"


def test_what_the_service_or_the_meters_zone_refuses(stack: Stack) -> None:
    asked(stack, "meters", "add", "kitchen", "--unsigned")
    for words, message in {
        "total nobody": NOBODY,
        "meters set nobody --limit 1": NOBODY,
        "total nobody --from 2024-03-01": NOBODY,
        "history kitchen --from yesterday": "--from: not a date or time in ISO 8601: 'yesterday'",
        "history kitchen --from 2024-03-02 --to 2024-03-01": "--to must be later than --from",
        "history kitchen --from 0002-01-01": "start_ms is ms of Unix time, 1900 to 2200",
    }.items():
        done = stack.cli(*words.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    unbilled = stack.cli("bill", "kitchen")
    assert unbilled.returncode == 1
    assert "has no energy readings to bill yet" in unbilled.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("total", "the following arguments are required: ID"),
        ("total a b", "unrecognized arguments: b"),
        ("total -x", "required: ID"),
        ("total a!", "is no meter id"),
        ("total kitchen --json --csv", "not allowed with argument"),
        ("history kitchen --step week", "invalid choice: 'week'"),
        ("history kitchen --step", "expected one argument"),
        ("meters add kitchen --limit 0,5", "decimals follow a point"),
        ("meters add kitchen --limit -5", "a number, not negative"),
        ("meters add kitchen --time-zone Mars", "is no time zone"),
        ("meters replace kitchen --final 1", "required: --initial"),
        ("bill kitchen --month march", "is no month"),
        ("ping --timeout 0", "is no time to wait"),
    ],
)
def test_what_cannot_be_parsed(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("meters set kitchen", "nothing to set: give an option such as --limit 500"),
        ("bill kitchen --month 2024-03 --at 2024-03-01", "leave one out"),
        ("ping --query nonsense", "is no address such as tcp://127.0.0.1:5002"),
    ],
)
def test_what_cannot_be_meant(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_a_service_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    assert main(["total", "kitchen", "--query", endpoint, "--timeout", "0.1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"no answer from {endpoint} within 0.1 s: is `wattbus serve` running" in captured.err


def test_an_interrupt_is_quiet() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as mute:
        mute.linger = 0
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        command = [sys.executable, "-m", "cli", "total", "kitchen"]
        with subprocess.Popen(
            [*command, "--query", f"tcp://127.0.0.1:{port}", "--timeout", "30"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            assert mute.poll(20_000)
            time.sleep(0.3)  # it has asked, and now it waits
            asking.send_signal(signal.SIGINT)
            assert asking.communicate(timeout=60) == ("", "")
            assert asking.returncode == 130


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_help_has_examples_that_parse(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.name.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert command.summary.split(",")[0] in out
    assert command.examples
    for example in command.examples:
        assert f"  wattbus {example}\n" in out
        assert build_parser().parse_args(shlex.split(example)).run.args == (command,)


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTBUS_QUERY", "tcp://10.0.0.1:5002")
    assert build_parser().parse_args(["ping"]).query == "tcp://10.0.0.1:5002"
    given = build_parser().parse_args(["ping", "--query", "tcp://10.0.0.2:5002"])
    assert given.query == "tcp://10.0.0.2:5002"


def test_pages_are_followed_to_the_end_as_they_are_needed() -> None:
    asked_for: list[int | None] = []

    def ask(before: int | None) -> m.AlertPage:
        asked_for.append(before)
        return m.AlertPage(alerts=[], next={None: 7, 7: 3}.get(before))

    pages: Iterator[m.AlertPage] = actions.follow(ask, None)
    assert asked_for == [None]
    assert len(list(pages)) == 3
    assert asked_for == [None, 7, 3]


@pytest.mark.parametrize("command", ["latest", "--help", "--version", "meter"])
def test_what_is_asked_from_the_shell_imports_nothing_that_serves(command: str) -> None:
    # On a small machine imports are seconds, and of a question nearly all.
    program = "import sys; from cli.main import build_parser; build_parser(sys.argv[1]);"
    program += "print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, command], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert "cli.main" in imported
    serving = {"cli.serve", "cli.config", "telemetry.receiver", "storage.writer", "query.service"}
    assert not imported & (serving | {"sqlalchemy"})


def test_imports_are_not_searched_for_garbage() -> None:
    seen: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(note)
    try:
        with importing():
            assert len([[] for _ in range(10_000)]) == 10_000
            assert seen == []
        assert gc.isenabled()
        gc.collect()
        assert seen
    finally:
        gc.callbacks.remove(note)


def test_a_step_that_there_is_not_is_answered_with_those_that_there_are() -> None:
    ended = wattbus("history", "kitchen", "--step", "fortnight")
    assert ended.returncode == 2
    assert "'raw', '15m', 'hour', 'day', 'month'" in ended.stderr
