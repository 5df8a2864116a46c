"""Fixtures that every part's tests share: a whole collector on real sockets and a real database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from benchmarks.ports import free_port
from query.client import Client
from query.transport import BusError
from tests.postgresql import PostgresServer
from tests.shell import wattbus
from tests.waiting import PATIENCE, wait_until

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
PROGRAM = ("-m", "cli")  # what Python runs

# Who starts the tests in the background may have these ignored; their children would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Hundreds of processes are started here: what one has compiled the next need not compile again.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    own = Path(tempfile.gettempdir()) / f"wattbus-tests-{os.getuid()}"
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(own))

# Others use this machine, too: how long an example takes says nothing.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@dataclass
class Stack:
    """``wattbus serve`` in a process of its own, on free ports of 127.0.0.1."""

    data: Path
    flags: list[str] = field(default_factory=list)
    program: tuple[str, ...] = PROGRAM
    udp_port: int = field(default_factory=free_port)
    query_port: int = field(default_factory=free_port)
    live_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> Path:
        return self.data.parent / "serve.log"

    @property
    def udp(self) -> tuple[str, int]:
        return "127.0.0.1", self.udp_port

    @property
    def query(self) -> str:
        return f"tcp://127.0.0.1:{self.query_port}"

    @property
    def live(self) -> str:
        return f"tcp://127.0.0.1:{self.live_port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ports(self) -> list[str]:
        return [
            part
            for name in ("udp", "query", "live", "http")
            for part in (f"--{name}-port", str(getattr(self, f"{name}_port")))
        ]

    def start(self) -> None:
        """Start it and wait until it says that it is ready.

        Tests that run beside this one may have taken a port that was free a moment ago.
        """
        for _ in range(3):
            first = self._start()
            if "ready" in first or "is in use" not in self.log.read_text():
                break
            self.stop()
            self.udp_port = free_port()
            self.query_port, self.live_port, self.http_port = (free_port() for _ in range(3))
        assert "ready" in first, (first, self.log.read_text())

    def _start(self) -> str:
        """Start it; its first line."""
        flags = ["--data", str(self.data), "--time-zone", "UTC", *self.ports, *self.flags]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve", *flags],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Have it stop and wait; the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def send(self, datagrams: bytes | list[bytes]) -> None:
        """Send datagrams, each from the same socket, in order."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(self.udp)
            for number, datagram in enumerate(
                [datagrams] if isinstance(datagrams, bytes) else datagrams
            ):
                sock.send(datagram)
                if number % 500 == 499:
                    time.sleep(0.01)  # not faster than a small buffer allows

    def client(self) -> Client:
        return Client(self.query)

    def cli(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a client command against this collector, in this process."""
        return wattbus(*arguments, "--query", self.query, stdin=stdin or "", columns="100")

    def wait_for(self, meter_id: str, time_ms: int, within: float = PATIENCE) -> None:
        """Wait until a reading of that instant, or a later one, can be asked for."""

        def there(client: Client) -> bool:
            try:
                newest = [value.time_ms for value in client.latest(meter_id).registers]
            except BusError:
                return False
            return bool(newest) and max(newest) >= time_ms

        self.wait_until(there, within)

    def wait_until(self, true: Callable[[Client], T], within: float = PATIENCE) -> T:
        """Wait until something is true of the collector; the answer that was true."""
        with self.client() as client:
            return wait_until(lambda: true(client), within, 0.02)


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts collectors with flags of the test's choice, and stops them."""
    stacks: list[Stack] = []

    def make(*flags: str, data: Path | None = None, program: tuple[str, ...] = PROGRAM) -> Stack:
        stack = Stack(data or tmp_path / "data", list(flags), program)
        stacks.append(stack)
        stack.start()
        return stack

    yield make
    for stack in stacks:
        stack.stop()


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    """A fresh collector."""
    return make_stack()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; a test that needs it fails where it cannot run."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
