"""Changes of the registry as the writer makes them, asked for by the query service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from storage import key_changes, meters, rechecks, standing
from storage.changes import (
    AddMeters,
    Change,
    ChangeMeter,
    ChangeRefusedError,
    DeleteMeter,
    RegisterMeter,
    ReplaceMeter,
    RevokeKeys,
    RotateKey,
    check,
)
from storage.database import REFUSALS, Begin
from storage.key_changes import ListKeys
from storage.key_file import KeyFileError
from storage.known import Known
from storage.trouble import plain
from storage.upkeep import Upkeep
from telemetry import meter_id

_CHANGES: msgspec.json.Decoder[Change | ListKeys] = msgspec.json.Decoder(Change | ListKeys)


@dataclass(frozen=True)
class Registry:
    """What is changed, and with what; belongs to the writer."""

    begin: Begin
    known: Known
    upkeep: Upkeep
    data: Path  # the directory of the key file


def make(body: bytes, registry: Registry, now_ms: int) -> dict[str, Any]:
    """Make a change; the answer is what docs/handover.md says, or an error's code and message."""
    try:
        wanted = _CHANGES.decode(body)
        if not isinstance(wanted, ListKeys):
            check(wanted)
        return _MAKERS[type(wanted)](wanted, registry, now_ms)
    except (msgspec.MsgspecError, ChangeRefusedError) as error:
        code = getattr(error, "code", "bad_request")
        return {"error": {"code": code, "message": str(error)}}
    except KeyFileError as error:
        return {"error": {"code": "unavailable", "message": str(error)}}
    except REFUSALS as error:
        return {"error": {"code": "unavailable", "message": f"the database: {plain(error)}"}}


def _change(wanted: ChangeMeter, registry: Registry, now_ms: int) -> dict[str, Any]:
    known = registry.known
    with registry.begin() as connection:
        meter = meters.change(connection, wanted, known.next_meter, now_ms)
        new = meter.number == known.next_meter
        if not new:
            rechecks.note(connection, meter.number)
        if not new and _moves_energy(wanted):
            registry.upkeep.sealer.rebuild_days(connection, meter)
            standing.count(connection)
        answer: dict[str, Any] = {"number": meter.number}
        if isinstance(wanted, RegisterMeter):
            wishes, half = {meter.octets: new}, wanted.authentication_key
            (told,) = key_changes.wished(registry.data, wishes, wanted.key, now_ms, half)
            answer |= key_changes.answer_of(told)
    if new:
        known.registered(meter.octets)
    return answer


def _replace(wanted: ReplaceMeter, registry: Registry, _: int) -> dict[str, Any]:
    with registry.begin() as connection:
        meter = meters.replace(connection, wanted)
        rechecks.note(connection, meter.number)
        registry.upkeep.sealer.rebuild_days(connection, meter)
        standing.count(connection)
    return {"number": meter.number}


def _moves_energy(change: ChangeMeter) -> bool:
    """Whether a change may divide a meter's energy among its days in another way."""
    settings = ("time_zone", "modulus_wh", "max_power_w")
    return any(getattr(change, name) is not msgspec.UNSET for name in settings)


def _delete(wanted: DeleteMeter, registry: Registry, _: int) -> dict[str, Any]:
    """From here on there is no such meter; its keys go last, or it could send unsigned."""
    known = registry.known
    number = registry.upkeep.deletions.delete(wanted.id, known.next_meter - 1)
    answer: dict[str, Any] = {"found": number is not None}
    if number is not None:
        known.deleted(number)
        answer["deleted"] = number
    try:
        key_changes.forget(registry.data, meter_id.to_octets(wanted.id))
    except KeyFileError as error:
        answer["error"] = {"code": "unavailable", "message": f"its keys are left: {error}"}
    return answer


def _add(wanted: AddMeters, registry: Registry, now_ms: int) -> dict[str, Any]:
    return key_changes.add(wanted, registry.begin, registry.known, registry.data, now_ms)


def _rotate(wanted: RotateKey, registry: Registry, now_ms: int) -> dict[str, Any]:
    return key_changes.rotate(wanted, registry.begin, registry.data, now_ms)


def _revoke(wanted: RevokeKeys, registry: Registry, now_ms: int) -> dict[str, Any]:
    return key_changes.revoke(wanted, registry.begin, registry.data, now_ms)


def _list_keys(wanted: ListKeys, registry: Registry, _: int) -> dict[str, Any]:
    return key_changes.list_keys(wanted, registry.begin, registry.data)


_MAKERS: dict[type, Callable[[Any, Registry, int], dict[str, Any]]] = {
    ChangeMeter: _change,
    RegisterMeter: _change,
    ReplaceMeter: _replace,
    DeleteMeter: _delete,
    AddMeters: _add,
    RotateKey: _rotate,
    RevokeKeys: _revoke,
    ListKeys: _list_keys,
}
