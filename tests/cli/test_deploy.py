"""The units for systemd in ``deploy/``: held to the code, and to systemd where it is installed."""

from __future__ import annotations

import configparser
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.config_listeners import Listener
from cli.main import build_parser
from telemetry.udp_socket import ASKED_BUFFER
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
UPGRADING = (ROOT / "docs/upgrading.md").read_text("utf-8")


def unit(name: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string((DEPLOY / name).read_text("utf-8"))
    return parsed


def test_the_sockets_are_those_of_the_default_configuration() -> None:
    sockets = unit("wattbus.socket")["Socket"]
    assert sockets["ListenDatagram"] == f"{Listener().address}:{Listener().port}"
    assert sockets["ReceiveBuffer"] == f"{ASKED_BUFFER // 2**20}M"


def test_the_service_is_started_stopped_and_reloaded_as_the_code_needs_it() -> None:
    service = unit("wattbus.service")["Service"]
    program, *words = service["ExecStart"].split()
    assert Path(program).name == "wattbus"
    assert build_parser().parse_args(words).command == "serve"
    assert service["ExecReload"].split()[1:] == [f"-{signal.SIGHUP.name[3:]}", "$MAINPID"]
    assert service["KillMode"] == "mixed"
    assert service["NoNewPrivileges"] == "yes"
    assert service["StateDirectoryMode"] == "0700"
    assert unit("wattbus.service")["Unit"]["Requires"] == "wattbus.socket"


def test_the_document_names_the_files() -> None:
    for path in DEPLOY.iterdir():
        assert f"deploy/{path.name}" in UPGRADING


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_them(tmp_path: Path) -> None:
    program = tmp_path / "wattbus"
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    for path in DEPLOY.iterdir():
        text = path.read_text("utf-8").replace("/opt/wattbus/bin/wattbus", str(program))
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / path.name) for path in DEPLOY.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
