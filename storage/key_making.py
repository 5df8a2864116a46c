"""The keys of meters in the key file: made, rotated, revoked, forgotten.

A key whose secret is NULL is derived from the master key, the meter's octets and the key id. So
that no secret ever comes back, a key id that was used before gets a secret of its own, and so do
all keys of a meter whose keys were forgotten (table ``spent``). docs/security.md says why.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass, field

from storage.changes import LAST_KEY_ID, ChangeRefusedError
from telemetry.security import KEY, MASTER, derive

_FIRST_ID = 1
TOLD_AGAIN_MS = 60_000


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret; instants in ms of Unix time, ``until_ms`` None: it does not end."""

    key_id: int
    derived: bool
    created_ms: int
    until_ms: int | None

    def valid(self, now_ms: int) -> bool:
        """Whether datagrams signed with it are taken."""
        return self.until_ms is None or now_ms < self.until_ms


@dataclass(frozen=True, slots=True)
class Told:
    """A meter's newest key; its secret only where it was made a moment ago, and is to be shown."""

    key_id: int
    secret: bytes | None = field(repr=False)


def listed(connection: sqlite3.Connection, octets: bytes) -> list[Key]:
    """The keys of a meter, those that have ended among them, the oldest first."""
    rows = connection.execute(
        "SELECT key_id, secret IS NULL, created_ms, until_ms FROM meter_keys WHERE octets = ? "
        "ORDER BY created_ms",
        (octets,),
    )
    return [Key(key_id, bool(derived), created, until) for key_id, derived, created, until in rows]


def newest(connection: sqlite3.Connection, octets: bytes, now_ms: int) -> Key | None:
    """The key that a meter is to sign with; None if none is valid."""
    valid = [key for key in listed(connection, octets) if key.valid(now_ms)]
    return valid[-1] if valid else None


def told(connection: sqlite3.Connection, octets: bytes, now_ms: int) -> Told | None:
    """A meter's newest key; None if none is valid.

    For a minute after a key was made its secret is told again: an answer may get lost.
    """
    key = newest(connection, octets, now_ms)
    if key is None:
        return None
    fresh = abs(now_ms - key.created_ms) < TOLD_AGAIN_MS
    return Told(key.key_id, _secret(connection, octets, key.key_id) if fresh else None)


def ensure(connection: sqlite3.Connection, octets: bytes, now_ms: int) -> Told:
    """A meter's newest key, made if it has none."""
    return told(connection, octets, now_ms) or _add(connection, octets, None, 0, now_ms)


def give(
    connection: sqlite3.Connection,
    octets: bytes,
    secret: bytes,
    overlap_ms: int,
    now_ms: int,
    authentication: bytes | None = None,
) -> Told:
    """Make ``secret`` a meter's newest key; the others end after the overlap.

    ``authentication`` is the authentication key of a DLMS meter that goes with it. Given again it
    changes nothing but that. One that was used before, by whatever meter, is refused: two
    datagrams could be signed with one nonce. Raises ChangeRefusedError.
    """
    key = newest(connection, octets, now_ms)
    if key is not None and _secret(connection, octets, key.key_id) == secret:
        _authenticate(connection, octets, key.key_id, authentication)
        return Told(key.key_id, secret)
    used = connection.execute("SELECT 1 FROM meter_keys WHERE secret = ?", (secret,)).fetchone()
    own = (_secret(connection, octets, each.key_id) for each in listed(connection, octets))
    if used or secret in own:
        raise ChangeRefusedError(
            "bad_request", "this key was used before: draw another (openssl rand -hex 16)"
        )
    made = _add(connection, octets, secret, overlap_ms, now_ms)
    _authenticate(connection, octets, made.key_id, authentication)
    return made


def _authenticate(
    connection: sqlite3.Connection, octets: bytes, key_id: int, secret: bytes | None
) -> None:
    """Keep the authentication key of a key, if there is one."""
    if secret is not None:
        row = (octets, key_id, secret)
        connection.execute("INSERT OR REPLACE INTO authentication VALUES (?, ?, ?)", row)


def rotate(
    connection: sqlite3.Connection, octets: bytes, replaces: int, overlap_ms: int, now_ms: int
) -> Told:
    """Make the key after ``replaces``, the newest that is known to who asks, 0 for none.

    The others end after the overlap. Asked again within a minute it answers the same key. Raises
    ChangeRefusedError where the newest is another.
    """
    key = newest(connection, octets, now_ms)
    current = 0 if key is None else key.key_id
    theirs = "SELECT 1 FROM authentication WHERE octets = ? AND key_id = ?"
    if connection.execute(theirs, (octets, current)).fetchone():
        raise ChangeRefusedError(
            "bad_request",
            "a DLMS meter gets its keys from whoever runs it: give the new ones with "
            "`wattbus meters add ID --key HEX --authentication-key HEX`",
        )
    if current == replaces:
        return _add(connection, octets, None, overlap_ms, now_ms)
    if key is not None and abs(now_ms - key.created_ms) < TOLD_AGAIN_MS:
        before = listed(connection, octets)[-2:-1]
        replaced = {each.key_id for each in before}
        if not any(each.valid(key.created_ms) for each in before):
            replaced.add(0)
        if replaces in replaced:
            return Told(current, _secret(connection, octets, current))
    raise ChangeRefusedError(
        "bad_request", f"its newest valid key is {current or 'none'}, not {replaces or 'none'}"
    )


def revoke(connection: sqlite3.Connection, octets: bytes, now_ms: int) -> None:
    """End all keys of a meter. It stays a meter with keys: what it sends unsigned is refused."""
    connection.execute(
        "UPDATE meter_keys SET until_ms = ? WHERE octets = ? "
        "AND (until_ms IS NULL OR until_ms > ?)",
        (now_ms, octets, now_ms),
    )


def forget(connection: sqlite3.Connection, octets: bytes) -> None:
    """Remove all keys of a meter; the derived ones never come back."""
    connection.execute("DELETE FROM authentication WHERE octets = ?", (octets,))
    removed = connection.execute("DELETE FROM meter_keys WHERE octets = ?", (octets,)).rowcount
    if removed:
        digest = _digest(_master(connection), octets)
        connection.execute("INSERT OR IGNORE INTO spent VALUES (?)", (digest,))


def _add(
    connection: sqlite3.Connection,
    octets: bytes,
    secret: bytes | None,
    overlap_ms: int,
    now_ms: int,
) -> Told:
    """Add a key under the next id that is not valid; the others end after the overlap."""
    keys = {key.key_id: key for key in listed(connection, octets)}
    last = next(reversed(keys), LAST_KEY_ID)
    turn = (
        (last + step - _FIRST_ID) % LAST_KEY_ID + _FIRST_ID for step in range(1, LAST_KEY_ID + 1)
    )
    free = (key_id for key_id in turn if key_id not in keys or not keys[key_id].valid(now_ms))
    key_id = next(free, None)
    if key_id is None:
        raise ChangeRefusedError(
            "bad_request", f"all its {LAST_KEY_ID} key ids are valid still: wait for some to end"
        )
    end = now_ms + overlap_ms
    connection.execute(
        "UPDATE meter_keys SET until_ms = ? WHERE octets = ? "
        "AND (until_ms IS NULL OR until_ms > ?)",
        (end, octets, end),
    )
    if secret is None and (key_id in keys or _is_spent(connection, octets)):
        secret = secrets.token_bytes(KEY)
    # Later than all others, whatever the clock says: the newest is the one to sign with.
    created = max(now_ms, *(key.created_ms + 1 for key in keys.values()), 0)
    whose = (octets, key_id)
    connection.execute("DELETE FROM authentication WHERE octets = ? AND key_id = ?", whose)
    connection.execute(
        "INSERT OR REPLACE INTO meter_keys VALUES (?, ?, ?, ?, NULL)",
        (octets, key_id, secret, created),
    )
    return Told(key_id, _secret(connection, octets, key_id))


def _secret(connection: sqlite3.Connection, octets: bytes, key_id: int) -> bytes:
    query = "SELECT secret FROM meter_keys WHERE octets = ? AND key_id = ?"
    stored: bytes | None = connection.execute(query, (octets, key_id)).fetchone()[0]
    return derive(_master(connection), octets, key_id) if stored is None else stored


def _master(connection: sqlite3.Connection) -> bytes:
    """The master key, made where there is none yet."""
    row = connection.execute("SELECT secret FROM master").fetchone()
    if row is None:
        row = (secrets.token_bytes(MASTER),)
        connection.execute("INSERT INTO master VALUES (?)", row)
    master: bytes = row[0]
    return master


def _is_spent(connection: sqlite3.Connection, octets: bytes) -> bool:
    digest = _digest(_master(connection), octets)
    return bool(connection.execute("SELECT 1 FROM spent WHERE digest = ?", (digest,)).fetchone())


def _digest(master: bytes, octets: bytes) -> bytes:
    """What is kept of a meter whose keys were forgotten."""
    return hashlib.blake2b(octets, key=master, person=b"wattbus spent", digest_size=16).digest()
