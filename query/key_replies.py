"""Replies made of what the writer answers, where that is more than a meter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from query import messages as m
from storage.changes import AddMeters, DeleteMeter, RevokeKeys, RotateKey


def made_key(id: str, told: dict[str, Any]) -> m.MadeKey:
    """A meter's newest key."""
    return m.MadeKey(id=id, key_id=told["key_id"], key=told["key"])


def reply(request: m.ListKeys | m.Change, told: dict[str, Any]) -> m.Reply:
    """The reply to a request whose answer names no meter's number."""
    wanted = request.change if isinstance(request, m.Change) else request
    return _REPLIES[type(wanted)](wanted, told)


def _deleted(wanted: DeleteMeter, told: dict[str, Any]) -> m.Reply:
    return m.Deleted(id=wanted.id, found=told["found"])


def _rotated(wanted: RotateKey, told: dict[str, Any]) -> m.Reply:
    return made_key(wanted.id, told)


def _added(wanted: AddMeters, told: dict[str, Any]) -> m.Reply:
    rows = zip(wanted.ids, told["keys"], strict=True)
    return m.MadeKeys(keys=[made_key(meter, made) for meter, made in rows])


def _listed(wanted: m.ListKeys | RevokeKeys, told: dict[str, Any]) -> m.Reply:
    keys = [m.KeyInfo(**key) for key in told["keys"]]
    return m.Keys(id=wanted.id, now_ms=time.time_ns() // 1_000_000, keys=keys)


_REPLIES: dict[type, Callable[[Any, dict[str, Any]], m.Reply]] = {
    DeleteMeter: _deleted,
    RotateKey: _rotated,
    AddMeters: _added,
    RevokeKeys: _listed,
    m.ListKeys: _listed,
}
