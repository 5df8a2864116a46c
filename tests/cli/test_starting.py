"""What a process imports before it does its work: most of a start is imports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ports import free_port
from tests.conftest import ROOT
from tests.waiting import PATIENCE

DECODERS = {"telemetry.formats.table", "telemetry.formats.dlms", "telemetry.formats.line"}
SERVER = {"alembic", "psycopg", "sqlalchemy.dialects.postgresql"}
TERMINAL = {"rich", "prompt_toolkit", "query.client"}
HTTP = {"uvicorn", "starlette", "query.http.server"}


@pytest.mark.parametrize(
    ("program", "ready", "needed", "slow"),
    [
        (
            "serve",
            "Wattbus is ready",
            "cli.child",
            DECODERS | SERVER | HTTP | {"numpy", "sqlalchemy", "zmq", "asyncio", "cryptography"},
        ),
        ("receiver", "listening on", "telemetry.formats.table", SERVER | HTTP | {"sqlalchemy"}),
        ("writer", "writing to", "sqlalchemy", DECODERS | SERVER | HTTP),
        ("query", "answering on", "sqlalchemy", DECODERS | SERVER | HTTP),
        (
            "http",
            "answering on",
            "uvicorn",
            DECODERS | SERVER | {"numpy", "sqlalchemy", "cryptography"},
        ),
    ],
)
def test_it_begins_without_what_it_does_not_need(
    tmp_path: Path, program: str, ready: str, needed: str, slow: set[str]
) -> None:
    ports = [f"--{name}-port={free_port()}" for name in ("udp", "query", "live", "http")]
    # Told by -X, only of this process and not of its children, as each module is imported.
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "cli", program, f"--data={tmp_path}", *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    imported, said = set[str](), ""
    for line in process.stdout:
        told = re.fullmatch(r"import time:[ \d]+\|[ \d]+\| +(\S+)\n", line)
        if told:
            imported.add(told.group(1))
        elif ready in line:
            break
        else:
            said += line
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert needed in imported, said
    assert not imported & (slow | TERMINAL), said


@pytest.mark.parametrize("words", [("status",), ("serve",), ("repl",)])
def test_ctrl_c_while_it_imports_ends_it_without_a_word(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.fullmatch(r"import time:.*\| +tomllib\n", line):  # all of them read a configuration
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in said
