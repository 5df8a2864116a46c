"""The key file: all that is secret, in one SQLite file that nobody else may read.

It lies beside the database, not in it: a copy of the database tells no key. Meter keys are in
``meter_keys`` (``storage.meter_keys``), those of the query bus in ``bus_keys``
(``storage.bus_keys``); docs/security.md says what it is worth and how to keep it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import StorageError

NAME = "keys.db"
VERSION = 2
_WAIT = 5.0  # seconds for another process's transaction, which takes milliseconds
# What DLMS meters have beside a key; of version 2.
_AUTHENTICATION = """
CREATE TABLE authentication (
    octets BLOB NOT NULL, key_id INTEGER NOT NULL, secret BLOB NOT NULL,
    PRIMARY KEY (octets, key_id)
) WITHOUT ROWID
"""
_TABLES = f"""
{_AUTHENTICATION};
CREATE TABLE master (secret BLOB NOT NULL);
CREATE TABLE meter_keys (
    octets BLOB NOT NULL, key_id INTEGER NOT NULL, secret BLOB, created_ms INTEGER NOT NULL,
    until_ms INTEGER, PRIMARY KEY (octets, key_id)
) WITHOUT ROWID;
CREATE TABLE spent (digest BLOB PRIMARY KEY) WITHOUT ROWID;
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
    """Whether there is a key file; an empty one has never held a key."""
    try:
        return path_of(data).lstat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(path_of(data), error) from None


def check(data: Path) -> None:
    """Raise KeyFileError for a key file that is there and cannot be used, or is not ours alone."""
    if exists(data):
        with opened(data):
            pass


@contextmanager
def opened(data: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """The key file, for one transaction; made where ``create`` says so. Raises KeyFileError."""
    path = path_of(data)
    connection = connect(data, create=create)
    try:
        if _version(connection) == 1:
            _upgrade(connection)
        connection.execute("BEGIN IMMEDIATE" if create else "BEGIN")
        _check_version(connection, path, create=create)
        yield connection
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise _unusable(path, error) from None
    finally:
        connection.close()


def connect(data: Path, *, create: bool = False, wait: float = _WAIT) -> sqlite3.Connection:
    """A connection without a transaction, after a look at who may read the file. KeyFileError."""
    path = path_of(data)
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # never closed again while a connection has locks on it
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(path, flags, 0o600))
        _check_owner(path)
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=wait)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from None
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # a key that was removed is overwritten
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, error) from None
    return connection


def _check_owner(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path} is no plain file: put the key file itself there, no link to it")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyFileError(
            f"others may read the key file {path}: make it yours alone "
            f"(chmod 600, chown to the user that runs wattbus)"
        )


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make a file of version 1 one of version 2, unless another process has done so meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    if _version(connection) == 1:
        connection.execute(_AUTHENTICATION)
        connection.execute("PRAGMA user_version = 2")
    connection.execute("COMMIT")


def _check_version(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    version = _version(connection)
    if version == VERSION:
        return
    if version > VERSION:
        raise KeyFileError(
            f"the key file {path} is of a newer Wattbus (version {version}): install that again"
        )
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables or not create:
        raise KeyFileError(f"{path} is no key file: put yours there, or move it away")
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _unusable(path: Path, error: Exception) -> KeyFileError:
    said = error.strerror if isinstance(error, OSError) else error
    return KeyFileError(
        f"cannot use the key file {path}: {said}. Is its directory there and yours, and has the "
        "disk room? If the file is damaged, put your copy of it there (docs/security.md)"
    )
