"""Answers about the keys of meters, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable

from cli.answers import ID, METER, meter_record, moment, time_text
from cli.render import Answer, Column
from query import messages as m

_MADE = (Column("key_id", "key id", str), Column("key", "key"))


def registered(meter: m.MeterInfo, made: m.MadeKey, note: str) -> Answer:
    """A meter with its newest key, whose secret is there only if it was just made."""
    record = {**meter_record(meter), "key_id": made.key_id, "key": made.key}
    return Answer((*METER, *_MADE), [record], record, card=True, note=note)


def made_key(made: m.MadeKey, note: str) -> Answer:
    """A meter's next key."""
    record = {"id": made.id, "key_id": made.key_id, "key": made.key}
    return Answer((ID, *_MADE), [record], record, card=True, note=note)


def made_keys(found: Iterable[m.MadeKey]) -> Answer:
    """Many keys, as they are made; for the devices, hence as CSV."""
    records = ({"id": made.id, "key_id": made.key_id, "key": made.key} for made in found)
    return Answer((ID, *_MADE), records, csv=True)


_KEYS = (
    Column("key_id", "key id", str, right=True),
    Column("state", "state", drop=3),
    Column("kind", "kind", drop=1),
    Column("since", "since", moment, drop=2),
    Column("until", "until", moment),
)


def keys(reply: m.Keys, zone: str, empty: str, note: str = "") -> Answer:
    """A meter's keys without their secrets, the oldest first."""
    newest = max((key.created_ms for key in reply.keys if key.valid(reply.now_ms)), default=None)
    records = [
        {
            "key_id": key.key_id,
            "state": _state(key, reply.now_ms, newest),
            "kind": "derived" if key.derived else "stored",
            "since": time_text(key.created_ms, zone),
            "until": time_text(key.until_ms, zone),
        }
        for key in reply.keys
    ]
    return Answer(_KEYS, records, empty=empty, note=note)


def _state(key: m.KeyInfo, now_ms: int, newest_ms: int | None) -> str:
    if not key.valid(now_ms):
        return "ended"
    return "in use" if key.created_ms == newest_ms else "ending"
