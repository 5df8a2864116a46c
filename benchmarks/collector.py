"""A collector under test, on free ports and a fresh directory, and its CPU time."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from benchmarks.ports import free_port
from query.client import Client

_ANSWERS_WITHIN = 60.0  # seconds


class Collector:
    """Started on entering, stopped and removed on leaving."""

    def __init__(
        self,
        data: Path | None = None,
        program: tuple[str, ...] = ("cli", "serve"),
        *,
        config: str = "",
        quiet: bool = False,
    ) -> None:
        """``data``: a directory that is there already, and stays; ``program``: another module.

        ``config`` is the text of a configuration; ``quiet``: what it says is shown only where it
        does not start.
        """
        self._keep = data is not None
        self.data = data or Path(tempfile.mkdtemp(prefix="wattbus-bench-"))
        self.udp = "127.0.0.1", free_port()
        ports = {name: free_port() for name in ("query", "live", "http")}
        self.query = f"tcp://127.0.0.1:{ports['query']}"
        flags = [f"--{name}-port={port}" for name, port in ports.items()]
        flags += [f"--udp-port={self.udp[1]}"]
        self.flags = [f"--data={self.data}", "--time-zone=UTC"]  # of its parts, wherever they are
        if config:
            (self.data / "wattbus.toml").write_text(config, "utf-8")
            self.flags += [f"--config={self.data / 'wattbus.toml'}"]
        self._said = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115 (closed on leaving)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *program, *flags, *self.flags],
            env=_compiling(),
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops it
        )
        assert self._process.stdout is not None
        try:
            if "ready" not in self._process.stdout.readline():
                raise RuntimeError(f"the collector did not start\n{self._what_it_said()}")
            parent = psutil.Process(self._process.pid)
            children = {_name(child): child for child in parent.children()}
            self.processes = children | {"serve": parent}
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._said is not None:
            self._said.close()
        if not self._keep:
            shutil.rmtree(self.data, ignore_errors=True)

    def _what_it_said(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

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

    def peaks(self) -> dict[str, float]:
        """The most that was ever resident, in MiB of each process (Linux)."""
        return {name: peak(process.pid) for name, process in self.processes.items()}


def first_answer(data: Path, meter: str) -> float:
    """Seconds from the start of a query service of its own on the data to its first answer."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "query", f"--data={data}", f"--query-port={port}"],
        stderr=subprocess.DEVNULL,
    )
    try:
        # Only then a client, which would wait longer and longer between its tries to connect.
        while time.perf_counter() - began < _ANSWERS_WITHIN:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.005)
        with Client(f"tcp://127.0.0.1:{port}", timeout=_ANSWERS_WITHIN, tries=1) as client:
            client.latest(meter)
        return time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def peak(pid: int) -> float:
    """The most that was ever resident of a process, MiB; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def _compiling() -> dict[str, str]:
    """Our variables without the one, usual in containers, that has each process compile anew.

    What pip installs is compiled.
    """
    return {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    flags = next(place for place, word in enumerate(command) if word.startswith("--"))
    return str(command[flags - 1])
