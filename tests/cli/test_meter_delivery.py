"""``wattbus meter`` with acknowledgements, against a collector on a real socket."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry import meter_id
from tests.delivery.collector_socket import SocketCollector

ROOT = Path(__file__).parents[2]
KEY = bytes(range(16))


def command(collector: SocketCollector, state: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-W", "error", "-m", "cli", "meter", "--to", collector.to),
        *("--state", str(state / "meter.db"), "--interval", "0.05", *arguments),
    ]


def meter(
    collector: SocketCollector, state: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(collector, state, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_all_are_acknowledged(tmp_path: Path) -> None:
    with SocketCollector() as collector:
        done = meter(collector, tmp_path, "--count", "5", "--wait", "30")
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.stored == 5
    lines = done.stdout.splitlines()
    assert "waiting 0" in lines[0]
    assert "all are acknowledged; 0.000 kWh on the register" in lines[-1]


@pytest.mark.parametrize("more", [[], ["--sign-only"]])
def test_signed_with_a_key_file(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "key").write_text(f"kitchen {KEY.hex()}\nother {KEY[::-1].hex()}\n")
    (tmp_path / "key").chmod(0o600)
    with SocketCollector(keys={meter_id.to_octets("kitchen"): KEY}) as collector:
        done = meter(
            collector, tmp_path, "--id", "kitchen", "--key-file", str(tmp_path / "key"),
            "--key-id", "3", "--count", "3", "--wait", "30", *more,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (collector.stored, collector.refused) == (3, 0)
    assert {datagram[2:4] for datagram in collector.came} == {b"\x01\x03" if more else b"\x03\x03"}


def test_acknowledgements_of_another_key_are_not_believed(tmp_path: Path) -> None:
    octets = meter_id.to_octets("kitchen")
    with SocketCollector(keys={octets: KEY}) as collector:
        collector._genuine = lambda *_: True  # type: ignore[method-assign]
        done = meter(
            collector, tmp_path, "--id", "kitchen", "--key", KEY[::-1].hex(),
            "--count", "2", "--wait", "1",
        )  # fmt: skip
    assert collector.stored == 2
    assert done.returncode == 1
    assert "2 datagrams are not acknowledged yet: they are kept in" in done.stderr


def test_a_key_file_that_others_may_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY.hex())
    (tmp_path / "key").chmod(0o640)
    with SocketCollector() as collector:
        done = meter(collector, tmp_path, "--key-file", str(tmp_path / "key"))
    assert done.returncode == 2
    assert "others may read this key file: chmod 600" in done.stderr


def test_nobody_answers_then_ctrl_c_then_somebody_does(tmp_path: Path) -> None:
    with SocketCollector(silent=True) as silent:
        port = silent.port
        with subprocess.Popen(
            command(silent, tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            assert f"no acknowledgement comes from {silent.to}" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "datagrams are not acknowledged yet: they are kept in" in err
        assert err.count("no acknowledgement") == 0  # said once
    refused = meter(silent, tmp_path, "--no-ack", "--count", "1")
    assert refused.returncode == 1
    assert "start once without --no-ack to deliver them" in refused.stderr
    with SocketCollector(port=port) as collector:
        done = meter(collector, tmp_path, "--count", "1", "--wait", "60")
    assert done.returncode == 0
    assert "datagrams from before wait in" in done.stdout.splitlines()[0]
    assert f"the collector at {silent.to} is back: " in done.stderr
    numbers = sorted(key[2] for key in collector.collector.stored)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20
