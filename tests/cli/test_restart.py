"""Restarts under load: the sockets outlive the receiver and ``serve``, and no datagram is lost.

Assumed is only that the sockets' buffers hold what comes while nobody reads: here all that is
ever sent, so that a slow machine changes nothing. Where the kernel gives small buffers, less is
sent, more slowly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.load import household
from cli import hand_down
from query.client import Client
from query.transport import BusError, ServiceAwayError
from telemetry.bulk_udp import SMALL_DATAGRAM, BulkSender
from telemetry.udp_socket import bind
from tests.cli.test_serve import MakeStack, children_of, datagram, part
from tests.conftest import ROOT, Stack

METERS = 100
SECONDS = 4.0
# What a killed receiver had taken and not handed over is younger than this, on a busy machine too.
TAKEN = 0.5  # seconds
START = 1_760_000_000_000


def held_by(address: str) -> int:
    """How many small datagrams the buffer of a collector's socket holds here."""
    with bind(address, 0) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // SMALL_DATAGRAM


class Load:
    """Datagrams of many meters at 20,000 a second, from a thread; ``sent`` grows as they leave."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.rate = min(20_000, int(held_by(to[0]) / SECONDS))
        rounds = int(self.rate * SECONDS) // METERS
        self.rows = household(METERS, rounds, START, 1000)
        self.sent = self._goal = 0
        self._to, self._family = to, socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with socket.socket(self._family, socket.SOCK_DGRAM) as sock:
            sock.connect(self._to)
            sender = BulkSender(sock)
            while self.sent < len(self.rows):
                before = time.monotonic()
                time.sleep(0.002)
                due = self.sent + 1 + int((time.monotonic() - before) * self.rate)
                due = min(due, self._goal)
                while self.sent < due:
                    with contextlib.suppress(
                        ConnectionRefusedError
                    ):  # of those before: the control
                        self.sent += sender.send(self.rows[self.sent : due])

    def go(self, until: float) -> None:
        """Send on, until so large a part of it is sent."""
        self._goal = int(until * len(self.rows))

    def wait(self, until: float) -> None:
        """Wait until so large a part of it is sent."""
        while self.sent < int(until * len(self.rows)):
            time.sleep(0.002)

    def lost(self, stack: Stack) -> list[int]:
        """Which of them are not stored, by the order of sending, when no more come."""
        self.go(1.0)
        self.wait(1.0)
        # What is sent last is stored last: then no more comes.
        with socket.socket(self._family, socket.SOCK_DGRAM) as sock:
            sock.sendto(datagram("last", 0), self._to)
        stack.wait_for("last", START)
        with stack.client() as client:
            stored = client.status().readings - 1
            missing = np.ones(len(self.rows), bool)
            for meter in range(METERS):
                missing[seconds(client, meter) * METERS + meter] = False
        assert stored == 2 * (len(self.rows) - missing.sum())  # energy and power, each once
        return [int(row) for row in np.flatnonzero(missing)]


def seconds(client: Client, meter: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The rounds of which a meter's reading is stored."""
    times = client.readings(f"bench-{meter:07d}", most=10_000).time_ms
    return (np.array(times, np.int64) - START) // 1000


def drops(port: int) -> int:
    """What the kernel has dropped at the UDP sockets of this port."""
    lines = [
        line.split()
        for name in ("udp", "udp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return sum(int(words[-1]) for words in lines if words[1].endswith(f":{port:04X}"))


@pytest.fixture(params=["127.0.0.1", "::1"])
def stack(request: pytest.FixtureRequest, make_stack: MakeStack, tmp_path: Path) -> Stack:
    """A collector whose first listener is at either kind of address."""
    file = tmp_path / "wattbus.toml"
    file.write_text(f'[[listeners]]\naddress = "{request.param}"\n')
    return make_stack("--config", str(file))


def address_of(stack: Stack) -> tuple[str, int]:
    text = (stack.data.parent / "wattbus.toml").read_text()
    return text.split('"')[1], stack.udp_port


def said(stack: Stack, what: str, times: int = 1) -> None:
    """Wait until the log says it so many times."""
    deadline = time.monotonic() + 60
    while stack.log.read_text().count(what) < times:
        assert time.monotonic() < deadline, stack.log.read_text()
        time.sleep(0.02)


# The receiver


def restarts(stack: Stack, load: Load, how: str) -> list[tuple[int, int]]:
    """End the receiver three times amid what is sent; between which datagrams, each time."""
    ends = []
    for number in range(3):
        load.go((number + 1) / 3)
        load.wait((number + 0.3) / 3)
        receiver = part(stack, "receiver")
        before = load.sent
        getattr(receiver, how)()
        with contextlib.suppress(psutil.NoSuchProcess):
            receiver.wait(60)
        ends.append((before, load.sent + 100))  # a burst was under way
        said(stack, " listening on udp ", 2 + number)
        # The next one is to be ended with nothing but fresh datagrams in its hands.
        load.wait((number + 1) / 3)
        newest = (load.sent - 1) // METERS
        stack.wait_for("bench-0000000", START + 1000 * newest)
    return ends


def test_a_killed_receiver_loses_only_what_it_had_taken(stack: Stack) -> None:
    load = Load(address_of(stack))
    kills = restarts(stack, load, "kill")
    lost = load.lost(stack)
    assert drops(stack.udp_port) == 0
    # Of what came while there was none, nothing is lost.
    taken = TAKEN * load.rate
    astray = [row for row in lost if not any(a - taken <= row < b for a, b in kills)]
    assert not astray, (len(lost), astray[:5], kills)


def test_a_stopped_receiver_loses_nothing(stack: Stack) -> None:
    load = Load(address_of(stack))
    restarts(stack, load, "terminate")
    assert load.lost(stack) == []
    assert drops(stack.udp_port) == 0
    assert stack.log.read_text().count("receiver ended (exit code 0): starting it again") == 3


# Everything


def ready_again(stack: Stack) -> None:
    """Read what ``serve`` prints until it says once more that it is ready."""
    assert stack.process is not None
    assert stack.process.stdout is not None
    while "is ready" not in (line := stack.process.stdout.readline()):
        assert line, stack.log.read_text()  # it has ended


def hang_up(stack: Stack) -> None:
    assert stack.process is not None
    stack.process.send_signal(signal.SIGHUP)


def hang_up_under(load: Load, stack: Stack) -> int:
    """Have it start anew under load; what was sent when there was no receiver any more."""
    receiver = part(stack, "receiver")
    load.go(0.4)
    load.wait(0.1)
    hang_up(stack)
    receiver.wait(60)
    gone = load.sent
    load.go(1.0)
    return gone


def test_starting_anew_loses_nothing(stack: Stack) -> None:
    load = Load(address_of(stack))
    before = {process.pid for process in children_of(stack).values()}
    hang_up_under(load, stack)
    ready_again(stack)
    assert load.lost(stack) == []
    assert drops(stack.udp_port) == 0
    assert before.isdisjoint(process.pid for process in children_of(stack).values())
    log = stack.log.read_text()
    assert f"SIGHUP: starting anew as wattbus {version()}\n" in log
    host, port = address_of(stack)
    name = f"udp [{host}]:{port}" if ":" in host else f"udp {host}:{port}"
    assert f"keeping {name} for who comes next" in log
    assert log.count(f"holding {name}") == 2


def version() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.split()[-1]


# The same without the sockets: the tests above would see it.
WITHOUT = (
    "import sys; from cli import main, serve; serve.sockets.open_all = lambda _: [];"
    "serve.sockets.keep = lambda *_: []; sys.exit(main.main())"
)


@pytest.mark.parametrize("how", ["kill", "terminate", "hang up"])
def test_without_the_sockets_datagrams_are_lost(make_stack: MakeStack, how: str) -> None:
    stack = make_stack(program=("-c", WITHOUT))
    load = Load(("127.0.0.1", stack.udp_port))
    if how == "hang up":
        gone = hang_up_under(load, stack)
    else:
        load.go(0.4)
        load.wait(0.1)
        receiver = part(stack, "receiver")
        getattr(receiver, how)()
        receiver.wait(60)
        gone = load.sent
        load.go(1.0)
    said(stack, " listening on udp ", 2)
    assert sum(row > gone + 100 for row in load.lost(stack)) > 0.1 * load.rate


def test_twice_in_a_row_and_then_a_stop(make_stack: MakeStack) -> None:
    stack = make_stack()
    assert stack.process is not None
    for _ in range(20):  # one of them while one program becomes the next
        hang_up(stack)
        time.sleep(0.1)
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(60) == 0
    assert "Traceback" not in stack.log.read_text()


def test_a_configuration_that_would_not_start_changes_nothing(stack: Stack) -> None:
    file = stack.data.parent / "wattbus.toml"
    good = file.read_text()
    before = {process.pid for process in children_of(stack).values()}

    def refused(text: str, because: str) -> None:
        file.write_text(text)
        hang_up(stack)
        said(stack, f"SIGHUP: going on as before: {because}")

    refused("nonsense = 1", f"{file}:1: unknown key 'nonsense'")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        refused(f"{good}[[listeners]]\nport = {port}\n", f"udp 127.0.0.1:{port} is in use")
    assert before == {process.pid for process in children_of(stack).values()}
    # A listener that is new, and free by now, is bound before anything is stopped.
    hang_up(stack)
    ready_again(stack)
    with stack.client() as client:

        def both() -> bool:
            writer = client.status().writer
            return bool(writer and writer.receivers and len(writer.receivers[-1].listeners) == 2)

        deadline = time.monotonic() + 60
        while not both():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_version_that_does_not_start_changes_nothing(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    program = f"import os, sys; from cli import main; os.path.exists({str(broken)!r}) and "
    program += "sys.exit('no such thing'); sys.exit(main.main())"
    stack = make_stack(program=("-c", program))
    broken.touch()
    before = {process.pid for process in children_of(stack).values()}
    hang_up(stack)
    said(stack, "SIGHUP: going on as before: what is installed does not start: no such thing")
    assert before == {process.pid for process in children_of(stack).values()}


def test_a_closed_terminal_stops_it(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    log = (tmp_path / "log").open("wb")
    pid, terminal = os.forkpty()
    if not pid:  # in the session of the new terminal
        with contextlib.suppress(BaseException):
            os.chdir(ROOT)
            os.dup2(log.fileno(), 2)
            command = [sys.executable, "-m", "cli", "serve", "--data", str(stack.data)]
            os.execv(sys.executable, [*command, *stack.ports])
        os._exit(1)
    log.close()
    printed = b""
    while b"Ctrl-C" not in printed:
        printed += os.read(terminal, 4096)
    serve = psutil.Process(pid)
    parts = serve.children()
    os.close(terminal)
    _, alive = psutil.wait_procs([serve, *parts], 60)
    for process in alive:
        process.kill()
    assert not alive
    assert "SIGHUP" not in (tmp_path / "log").read_text()


# Handed over by somebody else, as systemd does it: sd_listen_fds(3)

ACTIVATE = """
import os, sys
given = [os.dup(int(number)) for number in sys.argv[1].split(",")]
given = [os.dup2(os.dup2(fd, 100 + at), 200 + at) for at, fd in enumerate(given)]
for at, fd in enumerate(given):
    os.dup2(fd, 3 + at)
os.closerange(3 + len(given), 1000)
os.environ["LISTEN_PID"] = sys.argv[2] if sys.argv[2] != "own" else str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(given))
os.environ["LISTEN_FDNAMES"] = ":".join(["wattbus.socket"] * len(given))
os.execv(sys.argv[3], sys.argv[3:])
"""


def activated(fds: list[int], command: list[str], *, pid: str = "own") -> list[str]:
    return [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), pid, *command]


@contextlib.contextmanager
def running(command: list[str], log: Path, fds: list[int]) -> Iterator[subprocess.Popen[str]]:
    with log.open("a") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True, pass_fds=fds
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def wattbus(stack: Stack, program: str, *flags: str) -> list[str]:
    own = ["--data", str(stack.data), *stack.ports, "--time-zone", "UTC"]
    return [sys.executable, "-m", "cli", program, *own, *flags]


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Sockets as a service manager holds them: one of each kind of address, at one port."""
    with bind("127.0.0.1", 0) as four, bind("::1", 0) as six:
        yield [four, six]


def all_of(client: Client, values: int) -> None:
    """Wait until so many values are stored, and no more."""
    stored, deadline = 0, time.monotonic() + 60
    while stored < values:
        assert time.monotonic() < deadline, f"{stored} of {values} values are stored"
        time.sleep(0.05)
        with contextlib.suppress(BusError, ServiceAwayError):  # nothing is there yet
            stored = client.status().readings
    assert stored == values


def test_serve_takes_the_sockets_of_a_service_manager(
    tmp_path: Path, sockets: list[socket.socket]
) -> None:
    four, six = sockets
    stack = Stack(tmp_path / "data", udp_port=six.getsockname()[1])
    file = tmp_path / "wattbus.toml"
    other = f'[[listeners]]\naddress = "localhost"\nport = {four.getsockname()[1]}\n'
    file.write_text(f'[[listeners]]\naddress = "::1"\n{other}')
    fds = [sock.fileno() for sock in sockets]  # not in the configuration's order
    command = activated(fds, wattbus(stack, "serve", "--config", str(file)))
    load = None
    for when in (0.3, 0.7, 1.0):  # stopped and started under load
        with running(command, stack.log, fds) as process:
            assert process.stdout is not None
            assert "is ready" in process.stdout.readline(), stack.log.read_text()
            if load is None:
                load = Load(("127.0.0.1", four.getsockname()[1]))
                more = Load(("::1", six.getsockname()[1]))
            load.go(min(1.0, when + 0.2))  # some of it while there is no collector
            more.go(1.0)
            load.wait(when)
            if when == 1.0:
                more.wait(1.0)
                # Both sent the same.
                assert len(load.rows) == len(more.rows)
                with stack.client() as client:
                    all_of(client, 4 * len(load.rows))


def test_a_receiver_alone_takes_them(tmp_path: Path, sockets: list[socket.socket]) -> None:
    four, _ = sockets
    stack = Stack(tmp_path / "data", udp_port=four.getsockname()[1])
    rows = household(METERS, 30, START, 1000)
    with (
        running(wattbus(stack, "writer"), stack.log, []),
        running(wattbus(stack, "query"), stack.log, []),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        stack.client() as client,
    ):
        sock.connect(four.getsockname())
        for third in range(3):
            half = third * 1000 + 500
            for row in rows[third * 1000 : half][:200]:  # few: default buffers are small
                sock.send(row)
            sent = 200 * (2 * third + 1)
            with running(
                activated([four.fileno()], wattbus(stack, "receiver")), stack.log, [four.fileno()]
            ):
                for row in rows[half:][:200]:
                    sock.send(row)
                all_of(client, 2 * (sent + 200))


@pytest.mark.parametrize("program", ["receiver", "serve"])
def test_sockets_that_do_not_match(
    tmp_path: Path, sockets: list[socket.socket], program: str
) -> None:
    stack = Stack(tmp_path / "data")
    here = sockets[0].getsockname()[1]
    six = sockets[1].getsockname()[1]
    with socket.socket() as tcp, (tmp_path / "file").open("w") as file:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        cases = [
            (
                [sockets[0].fileno(), sockets[1].fileno()],
                "the sockets handed over do not match the configuration: none is for the listener "
                f"udp 127.0.0.1:{stack.udp_port}; no listener is for udp 127.0.0.1:{here}; "
                f"no listener is for udp [::1]:{six}. Give [[listeners]] and the socket unit's "
                "ListenDatagram= the same addresses and ports",
            ),
            *(
                (
                    [wrong.fileno()],
                    "what was handed over as 'wattbus.socket' is no UDP socket: in a socket unit, "
                    "name listeners with ListenDatagram= only",
                )
                for wrong in (tcp, file)
            ),
        ]
        for fds, complaint in cases:
            done = subprocess.run(
                activated(fds, wattbus(stack, program)),
                cwd=ROOT,
                pass_fds=fds,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1] == f"wattbus: {complaint}"
            assert "Traceback" not in done.stderr


def test_what_was_handed_to_another_process_is_left(
    tmp_path: Path, sockets: list[socket.socket]
) -> None:
    stack = Stack(tmp_path / "data")
    fds = [sockets[0].fileno()]
    command = activated(fds, wattbus(stack, "receiver"), pid=str(os.getpid()))
    with running(command, stack.log, fds):
        said(stack, f"listening on udp 127.0.0.1:{stack.udp_port} ")


SHOW = """
import os, socket
count = int(os.environ["LISTEN_FDS"])
print(os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_FDNAMES"])
for fd in range(3, 3 + count):
    print(socket.socket(fileno=os.dup(fd)).getsockname()[1])
print([fd for fd in map(int, os.listdir("/proc/self/fd")) if 3 + count <= fd < 1000][:-1])
"""


@pytest.mark.parametrize("count", [1, 2, 12])
def test_handing_down_puts_them_in_order_wherever_they_are(count: int) -> None:
    with contextlib.ExitStack() as held:
        bound = [held.enter_context(bind("127.0.0.1", 0)) for _ in range(count)]
        # Reversed, so that each is where another one belongs, when they begin at 3.
        fds = [sock.fileno() for sock in reversed(bound)]
        inner = hand_down.launcher([sys.executable, "-c", SHOW], list(range(3 + count - 1, 2, -1)))
        done = subprocess.run(
            activated(fds, inner), pass_fds=fds, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        first, *ports, others = done.stdout.splitlines()
        assert first == f"True {':'.join(['udp'] * count)}"
        assert [int(port) for port in ports] == [sock.getsockname()[1] for sock in bound]
        assert others == "[]"


def test_signals_are_heard_that_came_while_it_became_the_next() -> None:
    program = (
        "import signal, os; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM});"
        "from cli import anew;"  # whose libraries start threads
        "os.kill(os.getpid(), signal.SIGTERM); told = anew.Signals();"
        "print(told.stop.is_set(), told.again.is_set())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True False\n", done.stderr
