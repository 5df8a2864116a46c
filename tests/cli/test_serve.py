"""``wattbus serve``: starting, stopping, and what is kept when its parts are killed."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from cli.main import main
from query.client import Client
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT
from tests.conftest import ROOT, Stack
from tests.waiting import PATIENCE, undisturbed

START = 1_760_000_000_000
PARTS = ("writer", "receiver", "query", "http")
MakeStack = Callable[..., Stack]


def datagram(id: str, number: int) -> bytes:
    """A meter's reading of second ``number``; its register is 3 Wh for each."""
    record = native.Record(ENERGY_IMPORT, START + 1000 * number, 3 * number)
    return native.encode(meter_id.to_octets(id), 1, number, [record])


def serve(stack: Stack, part: str = "serve", *flags: str) -> list[str]:
    """The command that serves, or one part of it."""
    own = ["--data", str(stack.data), *stack.ports]
    return [sys.executable, "-m", "cli", part, *own, *flags]


def part_of(process: psutil.Process) -> str:
    """The name of the part that a child process of ``serve`` is."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        for at, word in enumerate(words[:-1]):
            if word in ("cli", "cli.main") or word.startswith("import sys"):
                return words[at + 1]
    return ""


def children(pid: int) -> dict[str, psutil.Process]:
    return {part_of(child): child for child in psutil.Process(pid).children()}


def children_of(stack: Stack) -> dict[str, psutil.Process]:
    assert stack.process is not None
    return children(stack.process.pid)


def part(stack: Stack, name: str, other_than: int = 0, within: float = PATIENCE) -> psutil.Process:
    """The process of a part, once it is there."""
    deadline = time.monotonic() + within
    while True:
        found = children_of(stack).get(name)
        if found is not None and found.pid != other_than:
            return found
        assert time.monotonic() < deadline, f"there is no {name}"
        time.sleep(0.05)


def end(processes: list[psutil.Process], within: float) -> None:
    """Wait until they have ended by themselves."""
    _, alive = psutil.wait_procs(processes, within)
    for process in alive:
        process.kill()
    assert not alive


def stored(client: Client, id: str) -> list[tuple[int, int]]:
    """Every reading of a meter, each instant once, page by page."""
    rows: list[tuple[int, int]] = []
    start: int | None = None
    while True:
        page = client.readings(id, start_ms=start, most=10_000)
        rows += zip(page.time_ms, page.raw, strict=True)
        if page.next is None:
            return rows
        start = page.next


def registers(client: Client) -> list[list[int]]:
    """The energy register of each of the demo's meters, reading by reading."""
    meters = [meter.id for meter in client.all_meters("demo-")]
    return [[raw for _, raw in stored(client, name)] for name in meters]


def expected(count: int) -> list[tuple[int, int]]:
    return [(START + 1000 * n, 3 * n) for n in range(count)]


def all_are_stored(stack: Stack, id: str, count: int, within: float = PATIENCE) -> None:
    """Exactly the readings 0 to count - 1, and their energy."""
    stack.wait_for(id, START + 1000 * (count - 1), within)
    # Patient: a writer that has just come back is still being caught up with.
    deadline = time.monotonic() + within
    with stack.client() as client:
        while (rows := stored(client, id)) != expected(count):
            assert time.monotonic() < deadline, f"{len(rows)} of {count} are stored"
            time.sleep(0.1)
        assert client.total(id).wh == 3 * (count - 1)


class Stream:
    """A meter that sends so many readings a second, from a thread, until it is told to stop."""

    def __init__(self, stack: Stack, id: str, rate: int) -> None:
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(stack.udp, id, rate), daemon=True)
        self._thread.start()

    def _run(self, where: tuple[str, int], id: str, rate: int) -> None:
        began = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not self._stop.wait(0.005):
                due = int((time.monotonic() - began) * rate)
                while self.sent < due:
                    sock.sendto(datagram(id, self.sent), where)
                    self.sent += 1

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.sent


# Stopping


def test_all_that_was_received_is_committed(make_stack: MakeStack, tmp_path: Path) -> None:
    count = 20_000

    def stopped_after() -> float:
        stack = make_stack(data=Path(tempfile.mkdtemp(dir=tmp_path)) / "data")
        processes = list(children_of(stack).values())
        assert len(processes) == len(PARTS)
        stack.send([datagram("a", number) for number in range(count)])
        began = time.monotonic()
        assert stack.stop(signal.SIGTERM) == 0
        took = time.monotonic() - began
        end(processes, 0.1)
        again = make_stack(data=stack.data)
        all_are_stored(again, "a", count)
        again.stop()
        return took

    undisturbed(10, stopped_after)


def test_stopped_while_it_starts(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    process = subprocess.Popen(
        serve(stack),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(psutil.Process(process.pid).children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    begun = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "ready" not in said
    end(begun, 0.1)


def test_a_chatty_sender_is_thinned_and_no_energy_is_lost(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    """Two collectors are sent the same, a reading each second; one keeps one a minute."""
    config = tmp_path / "thin.toml"
    config.write_text("[[listeners]]\ninterval_s = 60\n")
    # In the middle the register falls from 4,134 to 3 Wh.
    sent = [(START + 1000 * n, 4000 + 9 * n // 20) for n in range(300)]
    sent += [(START + 1000 * n, 3 + (n - 300) // 5) for n in range(300, 600)]
    octets = meter_id.to_octets("a")
    chatty = [
        native.encode(octets, 1, number, [native.Record(ENERGY_IMPORT, *one)])
        for number, one in enumerate(sent)
    ]
    plain = make_stack(data=tmp_path / "plain")
    thin = make_stack("--config", str(config), data=tmp_path / "thin")
    for stack in (plain, thin):
        stack.send(chatty)
        stack.wait_until(lambda client: client.loss().totals.received == 600)
        assert stack.stop(signal.SIGTERM) == 0
    # The last reading was held back until the stop.
    plain, thin = make_stack(data=plain.data), make_stack(data=thin.data)
    with plain.client() as all_, thin.client() as some:
        assert stored(all_, "a") == sent
        kept = stored(some, "a")
        assert (kept[0], kept[-1]) == (sent[0], sent[-1])
        assert {sent[299], sent[300]} <= set(kept) < set(sent)
        assert len(kept) <= 600 // 60 + 2 + 1 + 6
        assert some.total("a").wh == all_.total("a").wh == 9 * 299 // 20 + 3 + 299 // 5
        counts = some.loss().totals
        # Of a datagram of which nothing is stored nobody knows whether it was late.
        assert counts.late == len(kept) - 1
        assert msgspec.structs.replace(counts, late=600) == all_.loss().totals
        assert counts.unique == 600


def test_what_is_held_back_leaves_with_the_receiver(make_stack: MakeStack, tmp_path: Path) -> None:
    """When the collector starts anew, while it goes on."""
    config = tmp_path / "thin.toml"
    config.write_text("[[listeners]]\ninterval_s = 3600\n")
    stack = make_stack("--config", str(config))
    stack.send([datagram("a", number) for number in range(9)])
    stack.wait_until(lambda client: client.loss().totals.received == 9)
    with stack.client() as client:
        assert stored(client, "a") == expected(9)[:1]
    before = part(stack, "receiver")
    assert stack.process is not None
    stack.process.send_signal(signal.SIGHUP)
    end([before], PATIENCE)
    stack.wait_for("a", START + 8000)
    with stack.client() as client:
        assert stored(client, "a") == [expected(9)[0], expected(9)[8]]
        assert client.loss().totals.received == 9


# Killing


def test_the_writer_is_killed_in_a_stream(make_stack: MakeStack) -> None:
    stack = make_stack()
    stream = Stream(stack, "a", 2000)
    for _ in range(2):
        stack.wait_until(lambda client: client.status().readings > 1000)
        time.sleep(0.7)
        killed = part(stack, "writer")
        killed.kill()
        part(stack, "writer", other_than=killed.pid)
        time.sleep(1.0)
    sent = stream.stop()
    assert sent > 4000
    all_are_stored(stack, "a", sent)
    assert "writer ended (killed by SIGKILL): starting it again" in stack.log.read_text()
    assert stack.stop(signal.SIGINT) == 0
    again = make_stack(data=stack.data)
    all_are_stored(again, "a", sent)


def test_the_receiver_is_killed(make_stack: MakeStack, tmp_path: Path) -> None:
    undisturbed(
        6, lambda: back_after(make_stack(data=Path(tempfile.mkdtemp(dir=tmp_path)) / "data"))
    )


def back_after(stack: Stack) -> float:
    """Kill the receiver in a stream; seconds until what is sent anew can be asked for."""
    durable = 3000
    stack.send([datagram("a", number) for number in range(durable)])
    all_are_stored(stack, "a", durable)
    stream = Stream(stack, "b", 500)
    stack.wait_for("b", START + 500)
    killed = part(stack, "receiver")
    killed.kill()
    gone = time.monotonic()
    part(stack, "receiver", other_than=killed.pid)
    before = stream.sent
    stack.wait_for("b", START + 1000 * before + 1)
    back = time.monotonic() - gone
    sent = stream.stop()
    stack.wait_for("b", START + 1000 * (sent - 1))
    with stack.client() as client:
        kept = stored(client, "b")
        assert stored(client, "a") == expected(durable)
        assert client.total("a").wh == 3 * (durable - 1)
    # What is there is right, and only what was under way or came meanwhile is not.
    assert set(kept) <= set(expected(sent))
    assert sent - len(kept) <= 500 * (back + 0.5)
    stack.stop()
    return back


def test_who_answers_is_killed(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.send([datagram("a", 0), datagram("a", 1)])
    stack.wait_for("a", START + 1000)
    killed = [part(stack, name) for name in ("query", "http")]
    for process in killed:
        process.kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{stack.http}/?id=a", timeout=PATIENCE) as answer:
                assert b'"consumo_kwh"' in answer.read()
            break
        except (OSError, urllib.error.URLError):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with stack.client() as client:
        assert client.total("a").wh == 3
    for name, process in zip(("query", "http"), killed, strict=True):
        assert part(stack, name).pid != process.pid


@pytest.mark.parametrize("part", ["writer", "receiver", "query"])
def test_a_part_is_killed_before_it_is_ready(tmp_path: Path, part: str) -> None:
    stack = Stack(tmp_path / "data")
    process = subprocess.Popen(
        serve(stack), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while part not in (found := children(process.pid)):
            assert process.poll() is None
            time.sleep(0.001)
        found[part].kill()
        assert process.stdout is not None
        assert "is ready" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert f"{part} ended (killed by SIGKILL): starting it again" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


def test_serve_itself_is_killed_before_its_parts_are_ready(tmp_path: Path) -> None:
    """They end with it, without a word of theirs."""
    stack = Stack(tmp_path / "data")
    process = subprocess.Popen(serve(stack), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(found := children(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    _, said = process.communicate(timeout=PATIENCE)
    psutil.wait_procs(list(found.values()), PATIENCE)
    assert not [child for child in found.values() if child.is_running()]
    assert "Traceback" not in said


def test_serve_itself_is_killed(make_stack: MakeStack) -> None:
    # A home takes a watt-hour in half a minute: of so many some have soon.
    stack = make_stack("--demo", "60")
    stack.wait_until(lambda client: any(raw[-1] > raw[0] for raw in registers(client)))
    stack.send([datagram("a", number) for number in range(100)])
    all_are_stored(stack, "a", 100)
    assert stack.process is not None
    part(stack, "meter")
    orphans = list(children_of(stack).values())
    assert len(orphans) == len(PARTS) + 1
    stack.process.kill()
    stack.process.wait()
    assert stack.process.stdout is not None
    stack.process.stdout.close()
    stack.process = None
    end(orphans, PATIENCE)
    again = make_stack(data=stack.data)
    all_are_stored(again, "a", 100)
    again.send([datagram("a", number) for number in range(100, 200)])
    all_are_stored(again, "a", 200)


# Ports


@contextlib.contextmanager
def taken(port: int, kind: socket.SocketKind) -> Iterator[None]:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        yield


def in_use(name: str, protocol: str, port: int) -> str:
    return (
        f"wattbus: {protocol} 127.0.0.1:{port} is in use, perhaps by another wattbus: "
        f"choose another port with --{name}-port"
    )


@pytest.mark.parametrize(
    ("name", "command", "protocol"),
    [
        ("udp", "receiver", "udp"),
        ("query", "query", "tcp"),
        ("live", "writer", "tcp"),
        ("http", "http", "http"),
    ],
)
def test_a_port_in_use(tmp_path: Path, name: str, command: str, protocol: str) -> None:
    stack = Stack(tmp_path / "data")
    port = getattr(stack, f"{name}_port")
    with taken(port, socket.SOCK_DGRAM if name == "udp" else socket.SOCK_STREAM):
        done = subprocess.run(
            serve(stack, command), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == in_use(name, protocol, port)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["udp", "http"])  # of the parts, one early and the last
def test_serve_with_a_port_in_use(tmp_path: Path, name: str) -> None:
    stack = Stack(tmp_path / "data")
    port = getattr(stack, f"{name}_port")
    begun: set[psutil.Process] = set()
    with taken(port, socket.SOCK_DGRAM if name == "udp" else socket.SOCK_STREAM):
        process = subprocess.Popen(
            serve(stack, "serve", "--demo", "2"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                begun |= set(psutil.Process(process.pid).children())
            time.sleep(0.05)
        out, said = process.communicate()
    assert process.returncode == 2, said
    assert [line for line in said.splitlines() if line.startswith("wattbus: ")] == [
        in_use(name, name, port)
    ]
    assert "Traceback" not in said
    assert out == ""
    assert len(begun) == (0 if name == "udp" else len(PARTS))  # serve itself holds the UDP sockets
    end(list(begun), 0.1)


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    for part_name, option in (("receiver", "--udp-port"), ("query", "--query-port")):
        done = subprocess.run(
            serve(stack, part_name, "--address", "192.0.2.1"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("wattbus: cannot listen on ")
        assert option in done.stderr


# What it starts


def test_the_demo_and_what_it_says_to_try(make_stack: MakeStack) -> None:
    stack = make_stack("--demo", "3")
    assert stack.process is not None
    assert stack.process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("Ctrl-C"):
        lines.append(stack.process.stdout.readline().strip())
    assert f"wattbus latest demo-1 --query {stack.query}" in lines
    assert f"curl '{stack.http}/?id=demo-1'" in lines
    assert f"wattbus meter --id kitchen --to 127.0.0.1:{stack.udp_port}" in lines
    nc = next(line for line in lines if " | nc " in line)
    assert nc.endswith(f"nc -u -w1 127.0.0.1 {stack.udp_port}")
    names = ["demo-1", "demo-2", "demo-3"]

    def thrice(client: Client) -> bool:
        return [len(raw) >= 3 for raw in registers(client)] == [True] * 3

    stack.wait_until(thrice)
    stack.send(nc.split("'")[1].encode())
    stack.wait_for("shed", 0)
    with stack.client() as client:
        assert [meter.id for meter in client.all_meters()] == [*names, "shed"]
        for values in registers(client):
            assert values == sorted(values)
    assert stack.cli("latest", "demo-1").returncode == 0
    assert "nothing takes the readings" not in stack.log.read_text()  # it waits for the receiver


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[tuple[Stack, dict[str, subprocess.Popen[str]]]]:
    """The four parts, each started alone."""
    stack = Stack(tmp_path / "data")
    started: dict[str, subprocess.Popen[str]] = {}
    with (tmp_path / "parts.log").open("a") as log:
        for name in ("receiver", "query", "http", "writer"):  # the writer last: they wait for it
            started[name] = subprocess.Popen(
                serve(stack, name),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
    yield stack, started
    for process in started.values():
        if process.poll() is None:
            process.kill()
            process.wait()


def test_each_part_alone(by_hand: tuple[Stack, dict[str, subprocess.Popen[str]]]) -> None:
    stack, started = by_hand
    deadline = time.monotonic() + 60
    while True:  # the receiver has no other way to say that it listens
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(stack.udp)
            probe.send(b"?")
            time.sleep(0.05)
            if not probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                break
        assert time.monotonic() < deadline
    stack.send([datagram("a", number) for number in range(1000)])
    all_are_stored(stack, "a", 1000)
    with urllib.request.urlopen(f"{stack.http}/?id=a", timeout=PATIENCE) as answer:
        assert answer.status == 200
    # The writer may go and come; the others stay.
    started["writer"].send_signal(signal.SIGTERM)
    assert started["writer"].wait(PATIENCE) == 0
    stack.send([datagram("a", number) for number in range(1000, 1500)])
    with (stack.data.parent / "parts.log").open("a") as log:
        started["writer"] = subprocess.Popen(
            serve(stack, "writer"),
            cwd=ROOT,
            stderr=log,
            text=True,
        )
    all_are_stored(stack, "a", 1500)
    for name in ("http", "receiver", "query", "writer"):
        started[name].send_signal(signal.SIGINT if name == "query" else signal.SIGTERM)
        assert started[name].wait(PATIENCE) == 0, name
    said = (stack.data.parent / "parts.log").read_text()
    assert "Traceback" not in said, said


def test_a_demo_has_a_number_of_meters(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0", "-1", "x", "100001", "²"):
        with pytest.raises(SystemExit) as ended:
            main(["serve", f"--demo={wrong}"])
        assert ended.value.code == 2
        assert "1 to 100000 meters" in capsys.readouterr().err
