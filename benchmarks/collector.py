"""A collector under test, on free ports and a fresh directory, and its CPU time."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from query.client import Client


def _free(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Collector:
    """Started on entering, stopped and removed on leaving."""

    def __init__(self) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="wattbus-bench-"))
        self.udp = "127.0.0.1", _free(socket.SOCK_DGRAM)
        ports = {name: _free(socket.SOCK_STREAM) for name in ("query", "live", "http")}
        self.query = f"tcp://127.0.0.1:{ports['query']}"
        flags = [f"--{name}-port={port}" for name, port in ports.items()]
        flags += [f"--udp-port={self.udp[1]}", f"--data={self.data}", "--time-zone=UTC"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "serve", *flags],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if "ready" not in self._process.stdout.readline():
            raise RuntimeError("the collector did not start")
        parent = psutil.Process(self._process.pid)
        self.processes = {_name(child): child for child in parent.children()} | {"serve": parent}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        shutil.rmtree(self.data, ignore_errors=True)

    def client(self) -> Client:
        """A client of it."""
        return Client(self.query, timeout=30)

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU, user and system, that each process has used so far."""
        used = {}
        for name, process in self.processes.items():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[name] = times.user + times.system
        return used

    def memory(self) -> dict[str, float]:
        """Resident MiB of each process."""
        return {name: p.memory_info().rss / 2**20 for name, p in self.processes.items()}


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    return str(command[command.index("cli.main") + 1])
