"""Changes of meters' keys as the writer makes them, asked for by the query service.

A meter's key is durable in the key file before the meter is in the database: where the writer is
killed in between, it must sign before it is known, and never the other way round.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from storage import key_file, key_making, meters
from storage.changes import (
    OVERLAP_MS,
    AddMeters,
    ChangeRefusedError,
    KeyWish,
    RevokeKeys,
    RotateKey,
)
from storage.database import Begin
from storage.key_making import Told
from storage.known import Known
from telemetry import meter_id

Answer = dict[str, Any]  # as JSON for the query service


class ListKeys(msgspec.Struct, tag="list_keys", frozen=True):
    """Which keys has a meter?"""

    id: str


def answer_of(told: Told | None) -> Answer:
    """A key that was just made with its secret in hex, or the one there is without."""
    if told is None:
        return {"key_id": None, "key": None}
    return {"key_id": told.key_id, "key": told.secret.hex() if told.secret else None}


def wished(
    data: Path, wishes: dict[bytes, bool], key: str, now_ms: int, authentication: str = ""
) -> list[Told | None]:
    """Do with the keys of meters what ``key`` says (KeyWish, or 32 hex digits); their newest.

    ``wishes`` says of each meter's octets whether the meter is new; ``authentication`` is the
    authentication key, in hex, that goes with a key in hex. Raises KeyFileError and
    ChangeRefusedError.
    """
    makes = any(wishes.values()) if key == KeyWish.FIRST else key != KeyWish.NONE
    if not makes and not key_file.exists(data):
        return [None] * len(wishes)
    with key_file.opened(data, create=True) as connection:
        return [
            _wished(connection, octets, new, key, authentication, now_ms)
            for octets, new in wishes.items()
        ]


def _wished(
    connection: sqlite3.Connection,
    octets: bytes,
    new: bool,
    key: str,
    authentication: str,
    now_ms: int,
) -> Told | None:
    if key == KeyWish.NONE:
        key_making.forget(connection, octets)
        return None
    if key == KeyWish.MISSING or (key == KeyWish.FIRST and new):
        return key_making.ensure(connection, octets, now_ms)
    if key == KeyWish.FIRST:
        return key_making.told(connection, octets, now_ms)
    half = bytes.fromhex(authentication) or None
    return key_making.give(connection, octets, bytes.fromhex(key), OVERLAP_MS, now_ms, half)


def add(wanted: AddMeters, begin: Begin, known: Known, data: Path, now_ms: int) -> Answer:
    """Register those that are new; the answer has a key for each id, in their order."""
    named = {_octets(each): each for each in reversed(wanted.ids)}
    with begin() as connection:
        new = meters.register(connection, known.next_meter, named, now_ms)
        wishes = {octets: octets in new for octets in named}
        told = dict(zip(named, wished(data, wishes, wanted.key, now_ms), strict=True))
    for octets in new:
        known.registered(octets)
    return {"keys": [answer_of(told[_octets(each)]) for each in wanted.ids]}


def rotate(wanted: RotateKey, begin: Begin, data: Path, now_ms: int) -> Answer:
    """Make the meter's next key; the answer shows it."""
    octets = _known_octets(wanted.id, begin, data)
    with key_file.opened(data, create=True) as keys:
        told = key_making.rotate(keys, octets, wanted.replaces, wanted.overlap_ms, now_ms)
    return answer_of(told)


def revoke(wanted: RevokeKeys, begin: Begin, data: Path, now_ms: int) -> Answer:
    """End all keys of the meter; the answer lists them."""
    octets = _known_octets(wanted.id, begin, data)
    with key_file.opened(data, create=True) as keys:
        key_making.revoke(keys, octets, now_ms)
        listed = _listed(keys, octets)
    if not listed["keys"]:
        raise ChangeRefusedError("bad_request", f"{wanted.id} has no key that could be revoked")
    return listed


def list_keys(wanted: ListKeys, begin: Begin, data: Path) -> Answer:
    """The answer lists the meter's keys, without their secrets."""
    octets = _known_octets(wanted.id, begin, data)
    if not key_file.exists(data):
        return {"keys": []}
    with key_file.opened(data) as keys:
        return _listed(keys, octets)


def forget(data: Path, octets: bytes) -> None:
    """Remove the keys of a meter that was deleted."""
    if key_file.exists(data):
        with key_file.opened(data, create=True) as keys:
            key_making.forget(keys, octets)


def _listed(keys: sqlite3.Connection, octets: bytes) -> Answer:
    return {"keys": [dataclasses.asdict(key) for key in key_making.listed(keys, octets)]}


def _known_octets(id: str, begin: Begin, data: Path) -> bytes:
    """The octets of a meter that is registered, or has keys though it is not. Raises unknown."""
    octets = _octets(id)
    if key_file.exists(data):
        with key_file.opened(data) as keys:
            if key_making.listed(keys, octets):
                return octets
    with begin() as connection:
        if meters.find(connection, id) is None:
            raise ChangeRefusedError("unknown_meter", meters.unknown(id))
    return octets


def _octets(id: str) -> bytes:
    try:
        octets = meter_id.to_octets(id)
        meter_id.to_name(octets)  # no datagram could come from what has none
    except ValueError as error:
        raise ChangeRefusedError("bad_request", str(error)) from None
    return octets
