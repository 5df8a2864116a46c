"""Files that appear under their names only when they are whole and on the disk."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.engine import StorageError

_SPARE = 8 * 2**20  # octets that are to stay free


@contextmanager
def whole_file(file: Path, *, replace: bool) -> Iterator[Path]:
    """A path to write to; at the end of the block it is synced and renamed to ``file``.

    After an exception, Ctrl-C among them, nothing is left; what a killed process left under the
    temporary name is written over. Raises StorageError where the file may not be made.
    """
    refuse_existing(file, replace=replace)
    partial = file.with_name(file.name + ".partial")
    try:
        handle = partial.open("a+b")
    except OSError as error:
        raise StorageError(f"cannot write to {file}: {error.strerror}") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(f"another process is writing {file} already") from None
        try:
            handle.truncate(0)
            yield partial
            _sync(partial)
            refuse_existing(file, replace=replace)
            partial.replace(file)
            _sync(file.parent)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(f"cannot write {file}: {error.strerror}") from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def refuse_existing(file: Path, *, replace: bool) -> None:
    """Raise StorageError where something is in the way."""
    if file.is_dir():
        raise StorageError(f"{file} is a directory: give the name of a file in it")
    if file.exists() and not replace:
        raise StorageError(f"{file} is there already: choose another name, or --force")


def need_space(directory: Path, octets: int, what: str) -> None:
    """Raise StorageError where so much does not fit any more."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise StorageError(f"cannot write to {directory}: {error.strerror}") from None
    if free < octets + _SPARE:
        raise StorageError(
            f"{what} needs about {size_text(octets)}, and {directory} has {size_text(free)} free: "
            "make room, or choose another place"
        )


def size_text(octets: int) -> str:
    """An amount of storage for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if octets >= size:
            return f"{octets / size:.1f} {unit}"
    return f"{octets / 1000:.0f} kB"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
