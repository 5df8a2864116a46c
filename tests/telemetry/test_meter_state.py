from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.meter_state import StateError, StateFile


def test_the_epoch_rises_and_registers_stay(tmp_path: Path) -> None:
    path = tmp_path / "new" / "meter.json"
    with StateFile(path) as state:
        assert (state.epoch, state.registers) == (1, {})
        state.save({"a": 5, "b": 6})
        state.save({"a": 7})
    with StateFile(path) as state:
        assert (state.epoch, state.registers) == (2, {"a": 7, "b": 6})


def test_the_epoch_is_on_disk_before_anything_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "meter.json"
    with StateFile(path):
        assert json.loads(path.read_bytes())["epoch"] == 1


def test_a_crash_while_writing_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "meter.json"

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with StateFile(path) as state:
        state.save({"a": 5})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StateError, match=r"cannot write .*No space left.*--state"):
                state.save({"a": 6})
        assert json.loads(path.read_bytes())["registers_mwh"] == {"a": 5}


def test_two_processes_cannot_hold_one_file(tmp_path: Path) -> None:
    path = tmp_path / "meter.json"
    code = (
        "import pathlib, sys; from telemetry.meter_state import StateFile;"
        "StateFile(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match="another process is this meter already"):
            StateFile(path)
        other.kill()
    with StateFile(path) as state:
        assert state.epoch == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"epoch": -1, "registers_mwh": {}}',
        b'{"epoch": 4294967295, "registers_mwh": {}}',
        b'{"epoch": 1, "registers_mwh": {"a": 1.5}}',
        b'{"epoch": 1, "registers_mwh": {"a": 1000000000000000001}}',
        b'{"epoch": 1, "meters": {}}',
        b"\xff",
    ],
)
def test_a_foreign_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meter.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"meter\.json is not the state of a meter"):
        StateFile(path)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot read the state file"):
        StateFile(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot open the state file"):
        StateFile(tmp_path / "file" / "meter.json")
