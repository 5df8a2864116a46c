"""What was received, lost and refused, as the bus tells it (docs/bus-protocol.md, ``loss``)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa

from storage import accounts, deliveries, intake, schema
from storage.accounts import DELETED
from storage.columns import DamagedError
from storage.deliveries import COUNTS
from storage.intake import Sums
from telemetry.readings import Int64s

_LEDGER, _DELIVERIES = schema.ledger.c, schema.deliveries.c
_NAMES = ("unique", "duplicate", "stale", "out_of_order", "late", "lost")  # COUNTS on the bus


class Question(msgspec.Struct, frozen=True):
    """About one meter, or which lost most: ``most`` of them after the first ``skip``."""

    number: int | None
    most: int
    skip: int


QUESTIONS: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)


def _counts(counts: Int64s) -> dict[str, Any]:
    named = dict(zip(_NAMES, counts.tolist(), strict=True))
    return {"received": named["unique"] + named["duplicate"] + named["stale"], **named}


def totals(counts: Int64s, sums: Sums) -> dict[str, Any]:
    """Of all meters, and of all listeners."""
    rejected, drops = Counter[str](), Counter[str]()
    for refused in sums.refused.values():
        rejected.update(refused)
    for listener in sums.listeners.values():
        drops.update(listener)
    return {
        **_counts(counts),
        "rejected": dict(sorted(rejected.items())),
        "kernel_drops": drops["kernel_drops"],
        "back_pressure_drops": drops["back_pressure_drops"],
    }


def listeners(sums: Sums) -> list[dict[str, Any]]:
    """Each listener, by name."""
    return [
        {
            "listener": listener,
            **{name: sums.listeners[listener][name] for name in intake.LISTENER},
            "rejected": dict(sorted(sums.refused.get(listener, {}).items())),
        }
        for listener in sorted(sums.listeners)
    ]


def meter(number: int, counts: Int64s) -> dict[str, Any]:
    """One meter, which has no name here."""
    return {"number": number, **_counts(counts)}


def from_tables(connection: sa.Connection, asked: Question) -> dict[str, Any]:
    """The answer while the writer is away: as of the newest commit that there is.

    Which meters lost most is as of the last time that their rows were written.
    """
    sums = intake.read(connection)
    newest = connection.execute(
        sa.select(_DELIVERIES.committed_ms, _DELIVERIES.body)
        .order_by(_DELIVERIES.id.desc())
        .limit(1)
    ).one_or_none()
    try:
        counts = deliveries.decode(newest.body)[1] if newest else accounts.Accounts().totals
    except DamagedError:
        counts = accounts.load(connection).totals
    if asked.number is None:
        page = _worst(connection, asked)
    else:
        page = [meter(asked.number, accounts.of_meter(connection, asked.number))]
    return {
        "as_of_ms": newest.committed_ms if newest else None,
        "totals": totals(counts, sums),
        "listeners": listeners(sums),
        "meters": page[: asked.most],
        "more": len(page) > asked.most,
    }


def _worst(connection: sa.Connection, asked: Question) -> list[dict[str, Any]]:
    rows = connection.execute(
        sa.select(_LEDGER.meter, *(_LEDGER[name] for name in COUNTS))
        .where(_LEDGER.lost > 0, _LEDGER.meter != DELETED)
        .order_by(_LEDGER.lost.desc(), _LEDGER.meter)
        .limit(asked.most + 1)
        .offset(asked.skip)
    )
    return [meter(number, np.array(counts, np.int64)) for number, *counts in rows]
