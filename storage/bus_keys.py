"""The keys of the query bus, in the key file: the collector's own, and those of its clients.

A key is a pair of CURVE keys in Z85, 40 characters each. Of a client only the public half is kept:
the secret one is shown once, when it is made. Names that start with a dot are the collector's own.
"""

from __future__ import annotations

import re
import sqlite3
import time
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import zmq

from storage import key_file
from storage.database import StorageError

SERVER, HTTP = ".server", ".http"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Role(IntEnum):
    """What a client may do; each may also do what those before it may."""

    READER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def text(self) -> str:
        """The role as people write it."""
        return self.name.lower()


ROLES = {role.text: role for role in Role}


class Pair(NamedTuple):
    """Both halves of a key, Z85."""

    public: str
    secret: str


class User(NamedTuple):
    """A client that is let in."""

    name: str
    public: str
    role: Role
    created_ms: int


def server(data: Path) -> Pair:
    """The key that the services of a data directory show; made if there is none yet."""
    return _own(data, SERVER, "server")


def http(data: Path) -> Pair:
    """The key with which the HTTP shim of a data directory asks; made if there is none yet."""
    return _own(data, HTTP, Role.READER.text)


def users(data: Path) -> dict[str, User]:
    """Who is let in, by public key; nobody where there is no key file. Raises KeyFileError."""
    return {user.public: user for user in _rows(data)}


def clients(data: Path) -> list[User]:
    """The clients' keys by name, without the collector's own. Raises KeyFileError."""
    return [user for user in _rows(data) if not user.name.startswith(".")]


def check_name(name: str) -> None:
    """Raise StorageError for what no key can be called."""
    if not _NAME.fullmatch(name):
        raise StorageError(
            f"{name!r} is no name of a key: 1 to 64 letters, digits and . _ -, "
            "starting with a letter or digit"
        )


def add(data: Path, name: str, role: Role) -> Pair:
    """Make a key for a client; its secret half is kept nowhere. Raises StorageError."""
    check_name(name)
    pair = _new_pair()
    with key_file.opened(data, create=True) as connection:
        if connection.execute("SELECT 1 FROM bus_keys WHERE name = ?", (name,)).fetchone():
            raise StorageError(
                f"there is a key of the name {name} already: "
                f"`wattbus keys remove {name}` first, or choose another name"
            )
        _insert(connection, name, pair.public, None, role.text)
    return pair


def remove(data: Path, name: str) -> None:
    """Let a client in no more. Raises StorageError where there is no such key."""
    check_name(name)
    with key_file.opened(data, create=True) as connection:
        removed = connection.execute("DELETE FROM bus_keys WHERE name = ?", (name,)).rowcount
    if not removed:
        raise StorageError(f"there is no key of the name {name}: `wattbus keys` lists them")


def _own(data: Path, name: str, role: str) -> Pair:
    with key_file.opened(data, create=True) as connection:
        found = connection.execute(
            "SELECT public, secret FROM bus_keys WHERE name = ?", (name,)
        ).fetchone()
        if found:
            return Pair(*found)
        pair = _new_pair()
        _insert(connection, name, pair.public, pair.secret, role)
        return pair


def _insert(
    connection: sqlite3.Connection, name: str, public: str, secret: str | None, role: str
) -> None:
    connection.execute(
        "INSERT INTO bus_keys VALUES (?, ?, ?, ?, ?)",
        (name, public, secret, role, int(time.time() * 1000)),
    )


def _rows(data: Path) -> list[User]:
    if not key_file.exists(data):
        return []
    with key_file.opened(data) as connection:
        found = connection.execute(
            "SELECT name, public, role, created_ms FROM bus_keys WHERE role <> 'server' "
            "ORDER BY name"
        ).fetchall()
    # A role of a later version lets nobody in.
    return [
        User(name, public, ROLES[role], created_ms)
        for name, public, role, created_ms in found
        if role in ROLES
    ]


def _new_pair() -> Pair:
    public, secret = zmq.curve_keypair()
    return Pair(public.decode(), secret.decode())
