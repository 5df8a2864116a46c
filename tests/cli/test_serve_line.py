"""``wattbus serve`` and clients of the InfluxDB line protocol: what people then see."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from influxdb import InfluxDBClient  # type: ignore[import-untyped]

from query.client import Client
from tests.conftest import ROOT, Stack

NOW_S = 1_795_428_900  # 2026-11-23T10:15:00Z
DOCUMENT = (ROOT / "docs" / "formats.md").read_text("utf-8").split("## InfluxDB line protocol")[1]
# Telegraf's plugin for Modbus, as its serializer writes it: sorted, floats, one line a metric.
TELEGRAF = (
    "cpu,cpu=cpu0,host=gateway usage_idle=97.5,usage_user=1.25 {0}000000000\n"
    "modbus,host=gateway,meter=cellar,name=SDM630,slave_id=1,type=holding_register "
    "energy_export_kwh=0,energy_import_kwh=1014.25,frequency=49.98,power=733.4000244140625,"
    "voltage_l1=229.7,voltage_l2=230.4,voltage_l3=231 {0}000000000\n"
    "modbus,host=gateway,meter=attic,name=SDM120,slave_id=2,type=holding_register "
    "energy_import_kwh=3.0005,power=-12.5 {0}000000000\n"
)


@pytest.fixture
def serve(make_stack: Callable[..., Stack], tmp_path: Path) -> Callable[[str], Stack]:
    """Starts a collector whose only listener is configured by the lines given."""

    def start(lines: str) -> Stack:
        config = tmp_path / "wattbus.toml"
        config.write_text(f"[[listeners]]\n{lines}\n", encoding="utf-8")
        return make_stack("--config", str(config))

    return start


def counted(stack: Stack) -> tuple[int, dict[str, int]]:
    """What the ledger has of the listener: accepted, and refused by reason."""
    with stack.client() as client:
        listeners = client.loss().listeners
    accepted = sum(one.accepted for one in listeners)
    return accepted, {reason: n for one in listeners for reason, n in one.rejected.items() if n}


def wait_for(stack: Stack, expected: tuple[int, dict[str, int]]) -> None:
    """Wait until the counts are these; no others may come later."""
    deadline = time.monotonic() + 60
    while (found := counted(stack)) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def live(client: Client) -> tuple[int, dict[str, int]]:
    writer = client.status().writer
    assert writer is not None
    (listener,) = writer.receivers[0].listeners
    return listener.accepted, {reason: n for reason, n in listener.refused.items() if n}


def latest(stack: Stack, meter: str) -> dict[str, Any]:
    with stack.client() as client:
        return {one.name: one.value for one in client.latest(meter).registers}


def names(stack: Stack) -> set[str]:
    with stack.client() as client:
        return {meter.id for meter in client.all_meters()}


@pytest.mark.parametrize("format", ["line", "auto"])
def test_the_influxdb_client(serve: Callable[[str], Stack], format: str) -> None:
    stack = serve(f'format = "{format}"')
    influx = InfluxDBClient("127.0.0.1", use_udp=True, udp_port=stack.udp_port)
    points = [
        {
            "measurement": "power meters",
            "tags": {"meter": meter, "room": "the one, upstairs"},
            "time": (NOW_S + number) * 10**9,
            "fields": {"energy_import": 1000 + number, "power": 12.25 * number, "note": 'a "b"'},
        }
        for meter in ("kitchen", "hall")
        for number in range(5)
    ]
    try:
        influx.write_points(points)
    finally:
        influx.close()
        influx.udp_socket.close()
    wait_for(stack, (10, {}))
    assert names(stack) == {"kitchen", "hall"}
    expected = {"energy_import": 1004, "power": 49}
    assert latest(stack, "kitchen") == latest(stack, "hall") == expected
    assert "2026-11-23 10:15:04+00:00" in stack.cli("latest", "kitchen").stdout


def test_a_line_from_the_shell(serve: Callable[[str], Stack]) -> None:
    """The one of the document: with ``nc`` where there is one, and with what bash has itself."""
    stack = serve('format = "auto"')
    said = [line for line in DOCUMENT.splitlines() if line.startswith("echo ")]
    (by_nc,) = [line for line in said if "| nc " in line]
    (by_bash,) = [line for line in said if "/dev/udp/" in line]
    lines = [by_bash, *([by_nc] if shutil.which("nc") else [])]
    for number, line in enumerate(lines, 1):
        here = line.replace("127.0.0.1/5001", f"127.0.0.1/{stack.udp_port}")
        here = here.replace("127.0.0.1 5001", f"127.0.0.1 {stack.udp_port}")
        assert str(stack.udp_port) in here
        subprocess.run(["bash", "-c", here], check=True, timeout=60)
        wait_for(stack, (number, {}))
    meter = shlex.split(by_bash)[1].split("meter=")[1].split()[0]
    assert latest(stack, meter) == {"energy_import": 12345}
    assert "arrival time" in stack.cli("latest", meter).stdout


def test_telegraf_as_it_sends(serve: Callable[[str], Stack]) -> None:
    stack = serve('format = "line"')
    stack.send([TELEGRAF.format(NOW_S).encode(), TELEGRAF.format(NOW_S + 10).encode()])
    # The host's own metrics are lines in order, without a reading.
    wait_for(stack, (4, {"no_reading": 2}))
    assert names(stack) == {"cellar", "attic"}
    assert latest(stack, "cellar") == {
        "energy_import": 1_014_250,
        "energy_export": 0,
        "frequency": Decimal("49.98"),
        "power": Decimal("733.4"),
        "voltage_l1": Decimal("229.7"),
        "voltage_l2": Decimal("230.4"),
        "voltage_l3": 231,
    }
    assert latest(stack, "attic") == {"energy_import": 3000, "power": Decimal("-12.5")}
    shown = stack.cli("latest", "cellar").stdout
    assert "energy import   1,014,250   Wh     2026-11-23 10:15:10+00:00" in shown


def test_a_large_datagram_with_a_bad_line_in_it(serve: Callable[[str], Stack]) -> None:
    stack = serve('format = "line"')
    lines = [b"m,meter=big energy_import=%di %d000000000" % (n, NOW_S + n) for n in range(1100)]
    lines[700] = b"m,meter=big energy_import=oops %d" % NOW_S
    octets = b"\n".join(lines)
    octets += b"\n#".ljust(60_000 - len(octets), b"#")
    assert len(octets) == 60_000
    stack.send(octets)
    wait_for(stack, (1099, {"malformed": 1}))
    stack.wait_until(lambda client: client.status().readings == 1099)
    with stack.client() as client:
        of_few = client.readings(
            "big", "energy_import", start_ms=1000 * (NOW_S + 690), end_ms=1000 * (NOW_S + 710)
        )
        assert live(client) == (1099, {"malformed": 1})
    assert of_few.raw == [n for n in range(690, 710) if n != 700]
    assert latest(stack, "big") == {"energy_import": 1099}


def test_an_auto_listener_takes_no_half_of_it(serve: Callable[[str], Stack]) -> None:
    stack = serve('format = "auto"')
    line = b"m,meter=cut energy_import=1i\n"
    stack.send([line * 100, line])
    wait_for(stack, (1, {"oversized": 1}))


def test_each_line_counts_by_its_own_reason(serve: Callable[[str], Stack]) -> None:
    stack = serve('format = "line"\nmeters = ["a*"]')
    stack.send(
        b"m,meter=a1 energy_import=1i\n"
        b"m,meter=a1 energy_import=\n"
        b"m energy_import=2i\n"
        b"m,meter=b1 energy_import=3i\n"
        b"m,meter=a2 colour=4i\n"
        b"m,meter=a3 energy_import=-5i\n"
        b"\n# a comment\n"
        b"m,meter=a4 energy_import=6i"
    )
    reasons = ("malformed", "meter_id", "not_allowed", "no_reading", "value")
    wait_for(stack, (2, dict.fromkeys(reasons, 1)))
    assert names(stack) == {"a1", "a4"}
    shown = stack.cli("loss").stdout
    assert all(f"rejected: {reason.replace('_', ' ')}" in shown for reason in reasons)


def test_what_the_configuration_says_of_lines(serve: Callable[[str], Stack]) -> None:
    stack = serve(
        'format = "line"\n[listeners.line]\nprecision = "s"\nmeter = ["sensor", "topic"]\n'
        '[listeners.line.registers]\ntotal = "energy_import kWh"\n"W now" = "power"'
    )
    stack.send(
        b"mqtt,host=pi,topic=tele/cellar/SENSOR total=1.0005,W\\ now=17 %d\n"
        b"mqtt,host=pi,sensor=s1,topic=x total=2i %d" % (NOW_S, NOW_S)
    )
    wait_for(stack, (2, {}))
    stack.wait_until(lambda _: names(stack) == {"tele/cellar/SENSOR", "s1"})
    assert latest(stack, "tele/cellar/SENSOR") == {"energy_import": 1000, "power": 17}
    shown = stack.cli("latest", "s1").stdout
    assert "2,000   Wh     2026-11-23 10:15:00+00:00" in shown
    assert "arrival" not in shown
