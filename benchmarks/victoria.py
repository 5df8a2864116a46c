"""VictoriaMetrics on this machine, to keep the same readings as Wattbus in the same run."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

BINARY = "victoria-metrics"
_STARTS_WITHIN, _STOPS_WITHIN, _MERGES_WITHIN = 30.0, 60.0, 120.0  # seconds


class VictoriaMetrics:
    """A server of its own in a directory of its own, started on entering, removed on leaving."""

    def __init__(self) -> None:
        """Raises RuntimeError where it is not installed or does not start."""
        binary = shutil.which(BINARY)
        if binary is None:
            raise RuntimeError(f"{BINARY} is not installed")
        self._directory = Path(tempfile.mkdtemp(prefix="wattbus-victoria-"))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port: int = sock.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [
                    binary,
                    f"-storageDataPath={self._directory}",
                    f"-httpListenAddr=127.0.0.1:{self._port}",
                    "-retentionPeriod=100y",
                    "-loggerLevel=ERROR",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._wait_started()
        except BaseException:
            self.remove()
            raise

    def _wait_started(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._ask("GET", "/health")
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{BINARY} did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def load(self, lines: list[str]) -> None:
        """Import series, each a line of JSON as ``/api/v1/import`` takes them."""
        self._ask("POST", "/api/v1/import", "\n".join(lines).encode())

    def count(self, query: str, at_ms: int) -> int:
        """The one number that an instant query gives, 0 without a result."""
        body = self._ask("GET", f"/api/v1/query?query={query}&time={at_ms // 1000}&nocache=1")
        found = json.loads(body)["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    def settle(self) -> None:
        """Have it merge everything, as it would in time; wait until its size stays."""
        self._ask("GET", "/internal/force_flush")
        self._ask("GET", "/internal/force_merge")
        deadline, last = time.monotonic() + _MERGES_WITHIN, -1
        while time.monotonic() < deadline and (size := self._octets("data")) != last:
            last = size
            time.sleep(2)

    def stop(self) -> dict[str, int]:
        """End it cleanly; the octets of its readings and of its index on disk."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_STOPS_WITHIN)
        return {name: self._octets(name) for name in ("data", "indexdb")}

    def remove(self) -> None:
        """End it if it is still there, and remove its directory."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _octets(self, name: str) -> int:
        # Parts that are being merged go away while they are looked at.
        total = 0
        for path in (self._directory / name).rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
        return total

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_MERGES_WITHIN)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{BINARY} answered {answer.status} to {path}: {said[:200]!r}")
        return said
