from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from cli.meter import run
from cli.meter_options import add_arguments
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ALERT_LIMIT, ENERGY_IMPORT, POWER_IMPORT

DATA = Path(__file__).parents[1] / "data"
CODE = (
    "import argparse, sys; from cli.meter import run;"
    "from cli.meter_options import add_arguments;"
    "parser = argparse.ArgumentParser('wattbus meter'); add_arguments(parser);"
    "sys.exit(run(parser.parse_args()))"
)
COMMAND = [sys.executable, "-W", "error", "-c", CODE]
HIGH = "100000"  # a multiplier at which a Wh takes milliseconds


@pytest.fixture
def collector() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.bind(("127.0.0.1", 0))
        yield sock


def to(collector: socket.socket) -> str:
    return f"127.0.0.1:{collector.getsockname()[1]}"


def take(collector: socket.socket) -> native.Datagram:
    return native.decode(collector.recv(2048), time.time_ns() // 1_000_000)


def values(datagram: native.Datagram) -> dict[int, int]:
    return {record.register: record.value for record in datagram.records}


def meter(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("limit", "multiplier"),
    [("--alert-limit", "--multiplier"), ("--limite-alerta", "--multiplicador")],
)
def test_both_names_of_the_old_options(
    collector: socket.socket, tmp_path: Path, limit: str, multiplier: str
) -> None:
    done = meter(
        "--id", "kitchen", "--to", to(collector), "--state", str(tmp_path / "state"),
        limit, "0.75", multiplier, "0", "--interval", "0.02", "--count", "3", "--no-ack",
        "--repeat", "0",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    datagrams = [take(collector) for _ in range(3)]
    assert {meter_id.to_name(each.octets) for each in datagrams} == {"kitchen"}
    assert [each.sequence for each in datagrams] == [0, 1, 2]
    assert [values(each).get(ALERT_LIMIT) for each in datagrams] == [750, None, None]
    assert [values(each)[POWER_IMPORT] for each in datagrams] == [0, 0, 0]
    *ticks, summary = done.stdout.splitlines()
    assert len(ticks) == 3
    assert ticks[0].endswith("kitchen  0.0 W  0.000 kWh  multiplier 0")
    assert summary == (f"kitchen: 3 datagrams sent to {to(collector)}; 0.000 kWh on the register")


def test_defaults_are_those_of_the_issue() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([])
    assert (arguments.id, str(arguments.to)) == ("meter-1", "127.0.0.1:5001")
    told = " ".join(parser.format_help().split())
    for default in ("default: 500;", "default: 1.0", "default: 10", "default: never"):
        assert default in told
    assert "wattbus meter --id demo --meters 100" in told


def test_the_default_limit_and_state(
    collector: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = meter("--id", "a/b", "--to", to(collector), "--count", "1", "--quiet", "--no-ack")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert values(take(collector))[ALERT_LIMIT] == 500_000
    assert (tmp_path / "wattbus" / "meters" / "a%2Fb.db").is_file()


def test_a_fleet(collector: socket.socket, tmp_path: Path) -> None:
    done = meter(
        "--id", "demo", "--meters", "12", "--to", to(collector),
        "--state", str(tmp_path / "state"), "--interval", "0.02", "--count", "2", "--no-ack",
    )  # fmt: skip
    assert done.returncode == 0
    names = [meter_id.to_name(take(collector).octets) for _ in range(24)]
    assert names == [f"demo-{number:02}" for number in range(1, 13)] * 2
    assert len(done.stdout.splitlines()) == 3


def test_killed_and_started_again(collector: socket.socket, tmp_path: Path) -> None:
    options = (
        "--to", to(collector), "--state", str(tmp_path / "state"),
        "--interval", "0.05", "--multiplier", HIGH, "--no-ack",
    )  # fmt: skip
    with start(*options) as process:
        energies = [values(take(collector))[ENERGY_IMPORT] for _ in range(6)]
        process.kill()
    collector.settimeout(0.2)
    while True:
        try:
            energies.append(values(take(collector))[ENERGY_IMPORT])
        except TimeoutError:
            break
    assert energies[0] == 0
    assert energies == sorted(energies)
    assert energies[-1] > 0
    done = meter(*options, "--count", "2")
    assert done.returncode == 0
    first, second = take(collector), take(collector)
    assert first.sequence in (len(energies), len(energies) + 1)
    # The state is on disk before its datagram leaves: perhaps one tick more than was heard of.
    assert energies[-1] <= values(first)[ENERGY_IMPORT] <= 3 * energies[-1]
    assert values(second)[ENERGY_IMPORT] > values(first)[ENERGY_IMPORT]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(
    collector: socket.socket, tmp_path: Path, how: signal.Signals
) -> None:
    options = (
        "--to", to(collector), "--state", str(tmp_path / "state"), "--multiplier", HIGH, "--no-ack",
    )  # fmt: skip
    with start(*options, "--interval", "0.05") as process:
        for _ in range(3):
            take(collector)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "datagrams sent to" in out.splitlines()[-1]
    sent = out.count("multiplier") + 1
    with start(*options, "--interval", "3600") as process:
        while take(collector).sequence < sent - 1:
            pass
        process.send_signal(how)
        assert process.wait(60) == 0


def test_two_processes_are_not_one_meter(collector: socket.socket, tmp_path: Path) -> None:
    options = ("--to", to(collector), "--state", str(tmp_path / "state"))
    with start(*options) as process:
        take(collector)
        second = meter(*options)
        process.terminate()
    assert second.returncode == 1
    assert "another process is this meter already" in second.stderr


def test_nobody_listens_and_then_somebody_does(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
    with start(
        "--to", f"{host}:{port}", "--state", str(tmp_path / "state"), "--interval", "0.05",
        "--no-ack",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "nothing takes the readings at" in process.stderr.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.bind((host, port))
            assert take(sock).sequence > 0
            assert "is back" in process.stderr.readline()
            process.terminate()
            _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.count("nothing takes") <= 1  # the collector's socket closed before the meter did


def test_the_reader_of_the_lines_goes_away(collector: socket.socket, tmp_path: Path) -> None:
    with start(
        "--to", to(collector), "--state", str(tmp_path / "state"), "--interval", "0.02",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""


def spawn(*arguments: str) -> pexpect.spawn:
    return pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *arguments], timeout=60, encoding="utf-8", dimensions=(24, 120)
    )


def test_a_person_changes_the_multiplier_while_it_runs(
    collector: socket.socket, tmp_path: Path
) -> None:
    child = spawn(
        "--to", to(collector), "--state", str(tmp_path / "state"), "--interval", "0.1", "--no-ack",
    )  # fmt: skip
    child.expect_exact("Type a number and Enter to change the multiplier, q to quit.")
    assert values(take(collector))[POWER_IMPORT] > 0
    child.sendline("lots")
    child.expect_exact("'lots' is no multiplier: give a number from 0 to 1,000,000, such as 1.5")
    child.sendline("0")
    child.expect_exact("multiplier 0 from the next reading on")
    while values(take(collector))[POWER_IMPORT]:
        pass
    child.sendline("2.5")
    while not values(take(collector))[POWER_IMPORT]:
        pass
    child.expect("kWh  multiplier 2.5")
    child.sendline("q")
    child.expect("meter-1: [0-9]+ datagrams sent")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_and_ctrl_d_on_a_terminal(collector: socket.socket, tmp_path: Path) -> None:
    child = spawn(
        "--to", to(collector), "--state", str(tmp_path / "state"), "--interval", "0.1", "--no-ack",
    )  # fmt: skip
    child.expect_exact("q to quit.")
    child.sendeof()  # no more to type, but it goes on
    child.expect("kWh.*kWh")
    child.sendintr()
    child.expect("meter-1: [0-9]+ datagrams sent")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_replay_twice_sends_the_same(collector: socket.socket) -> None:
    last = (14_080_862).to_bytes(8, "little")
    heard: list[list[bytes]] = []
    for _ in range(2):
        with start(
            "--id", "london", "--to", to(collector),
            "--replay", str(DATA / "home-london-halfhourly.csv.gz"),
        ) as process:  # fmt: skip
            heard.append([collector.recv(2048)])
            while not heard[-1][-1].endswith(last):
                heard[-1].append(collector.recv(2048))
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out == (
            "home-london-halfhourly.csv.gz: 35468 rows (24 repeated, 0 contradicted by a later "
            "one), 35444 intervals of 30 minutes, 27 gaps, 14080.8620026 kWh: sent as london in "
            f"{len(heard[-1])} datagrams to {to(collector)}\n"
        )
    assert heard[0] == heard[1]


@pytest.fixture
def three_seconds(tmp_path: Path) -> Path:
    path = tmp_path / "short.csv"
    path.write_text(
        "start,value\n2026-01-01T00:00:00,1\n2026-01-01T00:00:01,1\n2026-01-01T00:00:02,1\n"
    )
    return path


def test_replay_at_a_speed_with_a_limit(collector: socket.socket, three_seconds: Path) -> None:
    started = time.monotonic()
    done = meter(
        "--to", to(collector), "--replay", str(three_seconds), "--speed", "5",
        "--alert-limit", "2", "--quiet",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started >= 0.6
    datagrams = [take(collector) for _ in range(5)]
    assert [values(each) for each in datagrams] == [
        {ALERT_LIMIT: 2000}, *({ENERGY_IMPORT: energy} for energy in (0, 1000, 2000, 3000)),
    ]  # fmt: skip


def test_replay_shows_a_bar_on_a_terminal(collector: socket.socket, three_seconds: Path) -> None:
    child = spawn("--to", to(collector), "--replay", str(three_seconds), "--speed", "5")
    child.expect("meter-1 .*4/4")
    child.expect_exact("short.csv: 3 rows")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_replay_cut_short_is_no_success(collector: socket.socket, three_seconds: Path) -> None:
    with start(
        "--to", to(collector), "--replay", str(three_seconds), "--speed", "0.01",
    ) as process:  # fmt: skip
        take(collector)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "wattbus meter: stopped after 1 of 4 datagrams: replay again to send the rest\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "a b"], "argument --id: 'a b' is no meter id: a meter id is 1 to 64"),
        (["--id", "x" * 64, "--meters", "2"], "shorten --id for a fleet"),
        (["--to", "5001"], "argument --to: '5001' is not HOST:PORT"),
        (["--to", "h:0"], "'0' is no port: a number from 1 to 65535"),
        (["--multiplier", "nan"], "'nan' is no multiplier: give a number from 0 to 1,000,000"),
        (["--multiplicador", "inf"], "'inf' is no multiplier"),
        (["--multiplier", "-1"], "'-1' is no multiplier"),
        (["--multiplier", "1,5"], "such as 1.5"),
        (["--limite-alerta", "x"], "'x' is no limit: give a number of kWh from 0 to"),
        (["--alert-limit", "NaN"], "'NaN' is no limit"),
        (["--interval", "0"], "'0' is no interval in seconds: give a number from 0.01 to 86,400"),
        (["--count", "0"], "'0' is no count of datagrams: give a whole number from 1"),
        (["--meters", "1.5"], "'1.5' is no number of meters: give a whole number from 1"),
        (["--seed", "x"], "'x' is no seed"),
        (["--speed", "2"], "--speed needs --replay FILE"),
        (["--replay", "f", "--meters", "2"], "--meters has no meaning with --replay"),
        (["--key", "xyz"], "argument --key: this is no key: 32 hexadecimal digits"),
        (["--key", "00" * 16, "--meters", "2"], "needs a key of its own: give --key-file"),
        (["--key", "00" * 16, "--key-file", "f"], "--key and --key-file: give one of them"),
        (["--key-file", "no/file"], "cannot read no/file: No such file or directory"),
        (["--key-id", "2"], "--key-id needs --key or --key-file"),
        (["--key-id", "0"], "'0' is no key id: give a whole number from 1 to 255"),
        (["--sign-only"], "--sign-only needs --key or --key-file"),
        (["--repeat", "2"], "--repeat needs --no-ack"),
        (["--no-ack", "--repeat", "12"], "give a whole number from 0 to 11"),
        (["--wait", "2"], "--wait needs --count"),
        (["--no-ack", "--count", "1", "--wait", "2"], "--wait has no meaning with --no-ack"),
        (["--no-ack", "--outbox-mib", "2"], "--outbox-mib has no meaning with --no-ack"),
        (["--outbox-mib", "0"], "'0' is no size in MiB"),
        (["--replay", "f", "--no-ack"], "--no-ack has no meaning with --replay"),
        (["--replay", "no/file"], "cannot read no/file: No such file or directory"),
        (["--replay", "x", "--speed", "0"], "'0' is no speed"),
    ],
)
def test_wrong_values_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser("wattbus meter")
    add_arguments(parser)
    try:
        code: object = run(parser.parse_args(arguments))
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("start,value\n2026-01-01,1\n2026-01-02,-1\n")
    done = meter("--replay", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"wattbus meter: error: {path}: line 3: '-1' is negative")


def test_an_unknown_host(tmp_path: Path) -> None:
    done = meter("--to", "no-such-host.invalid:5001", "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    assert done.stderr.startswith("wattbus meter: cannot send to no-such-host.invalid:5001 (")
    assert "Traceback" not in done.stderr
