"""The keys of all meters as a receiver reads them from the key file (made by ``key_making``)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from storage import key_file
from storage.key_file import KeyFileError
from telemetry.keys import NEVER, KeyRing
from telemetry.meter_id import OCTETS
from telemetry.security import KEY

_AT_ONCE = 65_536  # rows
_GLANCE_MS = 50  # for another process's transaction; later the receiver looks again


def without(data: Path, octets: Iterable[bytes]) -> list[bytes]:
    """Those of many meters that have no key in the file. Raises KeyFileError."""
    wanted = list(octets)
    if not key_file.exists(data):
        return wanted
    with key_file.opened(data) as connection:
        having = {row[0] for row in connection.execute("SELECT DISTINCT octets FROM meter_keys")}
    return [each for each in wanted if each not in having]


class Keys:
    """A receiver's view of the key file; belongs to one thread."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, ...] | None = None
        self._version = -1
        self._ring: KeyRing | None = None
        self._coming: Future[KeyRing] | None = None
        self._aside = ThreadPoolExecutor(1, "keys")

    def ring(self) -> KeyRing:
        """All keys; the same object while the file has not changed, which costs some 20 µs.

        After a change the new ring is read aside, since a million keys take seconds, and answered
        by a later call. Without a file there are no keys. Raises KeyFileError for one that cannot
        be used, that others may read, or that has gone: what was answered last still rules.
        """
        path = key_file.path_of(self._data)
        if not key_file.exists(self._data):
            if self._file is not None:
                raise KeyFileError(f"the key file {path} has gone: put it back")
            if self._ring is None:
                self._ring = KeyRing.empty()
            return self._ring
        try:
            connection = self._opened(path)
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if self._version == -1:
                self._ring, self._version = self._read(), version
                connection.execute(f"PRAGMA busy_timeout = {_GLANCE_MS}")
            elif self._coming is not None:
                self._take_coming()
            elif version != self._version:
                self._coming, self._version = self._aside.submit(self._read), version
        except sqlite3.Error as error:
            if self._ring is None or "locked" not in str(error):
                raise KeyFileError(f"cannot read the key file {path}: {error}") from None
        assert self._ring is not None
        return self._ring

    def close(self) -> None:
        """Close the file; the ring is forgotten."""
        self._forget()
        self._aside.shutdown()

    def _read(self) -> KeyRing:
        with key_file.opened(self._data) as connection:
            return _load(connection, key_file.path_of(self._data))

    def _take_coming(self) -> None:
        """Answer the ring that was read aside, if it is whole."""
        if self._coming is not None and self._coming.done():
            coming, self._coming = self._coming, None
            try:
                self._ring = coming.result()
            except KeyFileError:
                self._version = -1  # to be read again
                raise

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._coming = None
        self._version = -1

    def _opened(self, path: Path) -> sqlite3.Connection:
        """The open file, opened again where another one lies now or its owner or mode is new."""
        try:
            found = path.lstat()
        except OSError as error:
            raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from None
        file = (found.st_dev, found.st_ino, found.st_mode, found.st_uid)
        if self._connection is None or file != self._file:
            self._forget()
            self._connection, self._file = key_file.connect(self._data), file
        return self._connection


def _load(connection: sqlite3.Connection, path: Path) -> KeyRing:
    """The whole table as columns, a page of rows at a time: a million keys take seconds."""
    query = (
        "SELECT octets, key_id, ifnull(until_ms, ?), k.secret, created_ms, a.secret "
        "FROM meter_keys k LEFT JOIN authentication a USING (octets, key_id)"
    )
    found = connection.execute(query, (NEVER,))
    octets, ids, until = bytearray(), [np.empty(0, np.uint8)], [np.empty(0, np.int64)]
    created = [np.empty(0, np.int64)]
    own: list[bytes | None] = []
    authentication: dict[int, bytes] = {}
    lengths: set[int] = set()
    try:
        while rows := found.fetchmany(_AT_ONCE):
            columns = tuple(zip(*rows, strict=True))
            octets += b"".join(columns[0])
            lengths.update(map(len, columns[0]))
            ids.append(np.array(columns[1], np.uint8))
            until.append(np.array(columns[2], np.int64))
            created.append(np.array(columns[4], np.int64))
            pairs = enumerate(columns[5], len(own))
            authentication |= {row: half for row, half in pairs if half is not None}
            own += columns[3]
        halves = np.frombuffer(octets, "<u8").reshape(len(own), 2).astype(np.uint64)
        whole = {None if secret is None else len(secret) for secret in own} <= {None, KEY}
        whole &= lengths <= {OCTETS}
        whole &= {len(half) for half in authentication.values()} <= {KEY}
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise KeyFileError(f"the key file {path} is damaged: put your copy of it there")
    master = connection.execute("SELECT secret FROM master").fetchone()
    return KeyRing(
        halves[:, 0].copy(),
        halves[:, 1].copy(),
        np.concatenate(ids),
        np.concatenate(until),
        own,
        master[0] if master else None,
        np.concatenate(created),
        authentication,
    )
