"""The state file of a simulated meter or fleet: its epoch and its registers, over restarts.

A JSON file, replaced as a whole, so that a crash at any moment leaves the old one or the new one.
A lock beside it keeps a second process from sending as the same meter.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import msgspec

from telemetry.simulator import HIGHEST_REGISTER_MWH

_Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]  # one more must fit the datagram
_MilliwattHours = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_REGISTER_MWH)]


class StateError(Exception):
    """The state cannot be read, written or had for oneself; the text says what to do."""


class _State(msgspec.Struct, forbid_unknown_fields=True):
    epoch: _Epoch = 0
    registers_mwh: dict[str, _MilliwattHours] = {}


class StateFile:
    """A state file held by this process, from opening it to ``close``.

    Opening starts a new epoch, which is on disk before the constructor returns. ``registers`` are
    in mWh by meter id; those of meters that are not saved again are kept.
    """

    def __init__(self, path: Path):
        """Raises StateError."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(
                _beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise _failed("open", path, error) from None
        try:
            self._take_lock()
            state = self._read()
            self.epoch = state.epoch + 1
            self.registers = state.registers_mwh
            self.save({})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, registers: Mapping[str, int]) -> None:
        """Keep the registers, in mWh by id; they are on disk on return. Raises StateError."""
        self.registers.update(registers)
        content = msgspec.json.encode(_State(self.epoch, self.registers))
        new = _beside(self.path, ".new")
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise _failed("write", self.path, error) from None

    def close(self) -> None:
        """Let another process have the file."""
        os.close(self._lock)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"another process is this meter already (it holds {self.path}): "
                "stop it, or give another --id or --state"
            ) from None

    def _read(self) -> _State:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_State)
        except FileNotFoundError:
            return _State()
        except OSError as error:
            raise _failed("read", self.path, error) from None
        except msgspec.MsgspecError as error:
            raise StateError(
                f"{self.path} is not the state of a meter ({error}): "
                "mend it, or move it away to start from zero"
            ) from None


def _beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


def _failed(verb: str, path: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot {verb} the state file {path}: {error.strerror}: give another place with --state"
    )
