"""Changes of the registry as the writer makes them, asked for by the query service."""

from __future__ import annotations

from typing import Any

import msgspec

from storage import meters
from storage.changes import Change, ChangeRefusedError, DeleteMeter, ReplaceMeter, check
from storage.database import REFUSALS, Begin
from storage.deletion import Deletions
from storage.known import Known
from storage.trouble import plain
from storage.upkeep import Upkeep

_CHANGES: msgspec.json.Decoder[Change] = msgspec.json.Decoder(Change)


def make(body: bytes, begin: Begin, known: Known, upkeep: Upkeep, now_ms: int) -> dict[str, Any]:
    """Make a change; the answer holds the meter's number, or an error's code and message.

    Of a deletion it holds whether the meter was ``found``, and its number as ``deleted``.
    """
    try:
        wanted = _CHANGES.decode(body)
        check(wanted)
        if isinstance(wanted, DeleteMeter):
            return _delete(wanted, known, upkeep.deletions)
        with begin() as connection:
            if isinstance(wanted, ReplaceMeter):
                meter = meters.replace(connection, wanted)
            else:
                meter = meters.change(connection, wanted, known.next_meter, now_ms)
            if meter.number < known.next_meter and _moves_energy(wanted):
                upkeep.sealer.rebuild_days(connection, meter)
    except (msgspec.MsgspecError, ChangeRefusedError) as error:
        code = getattr(error, "code", "bad_request")
        return {"error": {"code": code, "message": str(error)}}
    except REFUSALS as error:
        return {"error": {"code": "unavailable", "message": f"the database: {plain(error)}"}}
    if meter.number == known.next_meter:
        known.registered(meter.octets)
    return {"number": meter.number}


def _moves_energy(change: Change) -> bool:
    """Whether a change may divide a meter's energy among its days in another way."""
    if isinstance(change, ReplaceMeter):
        return True
    settings = ("time_zone", "modulus_wh", "max_power_w")
    return any(getattr(change, name, msgspec.UNSET) is not msgspec.UNSET for name in settings)


def _delete(wanted: DeleteMeter, known: Known, deletions: Deletions) -> dict[str, Any]:
    """From here on there is no such meter."""
    number = deletions.delete(wanted.id, known.next_meter - 1)
    if number is None:
        return {"found": False}
    known.deleted(number)
    return {"found": True, "deleted": number}
