"""The key file: all that is secret, in one SQLite file that nobody else may read.

It lies beside the database, not in it: a copy of the database tells no key. Meter keys are in
``meter_keys`` (``storage.meter_keys``), those of the query bus in ``bus_keys``
(``storage.bus_keys``); docs/security.md.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.database import StorageError

NAME = "keys.db"
_VERSION = 1
_TABLES = """
CREATE TABLE master (secret BLOB NOT NULL);
CREATE TABLE meter_keys (
    octets BLOB NOT NULL, key_id INTEGER NOT NULL, secret BLOB, created_ms INTEGER NOT NULL,
    until_ms INTEGER, PRIMARY KEY (octets, key_id)
) WITHOUT ROWID;
CREATE TABLE bus_keys (
    name TEXT PRIMARY KEY, public TEXT NOT NULL UNIQUE, secret TEXT, role TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
"""


class KeyFileError(StorageError):
    """The key file cannot be used; the text says what to do."""


def path_of(data: Path) -> Path:
    """Where the key file of a data directory is."""
    return data / NAME


def exists(data: Path) -> bool:
    """Whether there is a key file."""
    return path_of(data).exists()


@contextmanager
def opened(data: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """The key file, for one transaction; made where ``create`` says so. Raises KeyFileError."""
    path = path_of(data)
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _check(path)
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise KeyFileError(f"cannot use the key file {path}: {error}") from None
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE" if create else "BEGIN")
        _check_version(connection, path)
        yield connection
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise KeyFileError(f"cannot use the key file {path}: {error}") from None
    finally:
        connection.close()


def _check(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyFileError(
            f"others may read the key file {path}: make it yours alone "
            f"(chmod 600, chown to the user that runs wattbus)"
        )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    elif version != _VERSION:
        raise KeyFileError(f"the key file {path} is of another version of Wattbus ({version})")
