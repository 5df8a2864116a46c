"""The spool's own small file: which spool it is, how many writers it had, of which database."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Self

from storage.database import StorageError

_HEAD = struct.Struct("<4sI")
_BODY = struct.Struct("<3Q")
_MAGIC = b"WBS1"
_NAME = "state"


@dataclass(frozen=True, slots=True)
class State:
    """What ``state`` holds (docs/spool-format.md)."""

    id: int
    generation: int
    database: int

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The state of the spool in a directory, None if it is new; StorageError on damage."""
        path = directory / _NAME
        try:
            octets = path.read_bytes()
        except FileNotFoundError:
            return None
        body = octets[_HEAD.size :]
        head = _HEAD.pack(_MAGIC, zlib.crc32(body))
        if len(body) != _BODY.size or octets[: _HEAD.size] != head:
            raise StorageError(f"{path} is damaged: restore it, or move it and all beside it away")
        return cls(*_BODY.unpack(body))

    def next_generation(self) -> Self:
        """The state once another writer has started."""
        return changed(self, generation=self.generation + 1)

    def of_database(self, database: int) -> Self:
        """The state once a database was opened."""
        return changed(self, database=database)


def replace(directory: Path, state: State) -> None:
    """Make the state durable, as a whole or not at all. Raises OSError."""
    body = _BODY.pack(state.id, state.generation, state.database)
    new = directory / f"{_NAME}.new"
    with new.open("wb") as file:
        file.write(_HEAD.pack(_MAGIC, zlib.crc32(body)) + body)
        file.flush()
        os.fsync(file.fileno())
    new.rename(directory / _NAME)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
