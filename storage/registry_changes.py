"""Changes of the registry as the writer makes them, asked for by the query service."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import sqlalchemy as sa

from storage import meters
from storage.changes import Change, ChangeMeter, ChangeRefusedError, ReplaceMeter, check
from storage.database import REFUSALS
from storage.known import Known
from storage.trouble import plain

_CHANGES: msgspec.json.Decoder[Change] = msgspec.json.Decoder(ChangeMeter | ReplaceMeter)


# Begins a transaction; raises one of REFUSALS where none can be.
Begin = Callable[[], AbstractContextManager[sa.Connection]]


def make(body: bytes, begin: Begin, known: Known, now_ms: int) -> dict[str, Any]:
    """Make a change; the answer holds the meter's number, or an error's code and message."""
    try:
        wanted = _CHANGES.decode(body)
        check(wanted)
        with begin() as connection:
            if isinstance(wanted, ReplaceMeter):
                meter = meters.replace(connection, wanted)
            else:
                meter = meters.change(connection, wanted, known.next_meter, now_ms)
    except (msgspec.MsgspecError, ChangeRefusedError) as error:
        code = getattr(error, "code", "bad_request")
        return {"error": {"code": code, "message": str(error)}}
    except REFUSALS as error:
        return {"error": {"code": "unavailable", "message": f"the database: {plain(error)}"}}
    if meter.number == known.next_meter:
        known.registered(meter.octets)
    return {"number": meter.number}
