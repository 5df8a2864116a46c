"""The lock of a data directory: whoever holds it is the only one to write there."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.database import StorageError
from storage.own_files import LOCK


@contextmanager
def only_writer(data: Path) -> Iterator[None]:
    """Hold the directory's lock, making the directory if need be.

    Raises StorageError when it cannot be written to, or another process holds the lock.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / LOCK).open("a+")
    except OSError as error:
        raise StorageError(f"cannot write to {data} (--data): {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"another wattbus writes to {data} already: stop it, or choose another --data"
            ) from None
        yield
