"""What each role may ask for (docs/bus-protocol.md): one table."""

from __future__ import annotations

from msgspec import Struct

from query import messages as m
from query.transport import BusError
from storage.bus_keys import Role, User
from storage.changes import (
    AddMeters,
    ChangeMeter,
    DeleteMeter,
    RegisterMeter,
    ReplaceMeter,
    RevokeKeys,
    RotateKey,
)

LEAST: dict[type[Struct], Role] = {
    m.Ping: Role.READER,
    m.GetStatus: Role.READER,
    m.ListMeters: Role.READER,
    m.GetMeter: Role.READER,
    m.GetLatest: Role.READER,
    m.GetHistory: Role.READER,
    m.GetReadings: Role.READER,
    m.GetTotal: Role.READER,
    m.ListAlerts: Role.READER,
    m.GetBill: Role.READER,
    m.GetFleet: Role.READER,
    m.GetTop: Role.READER,
    m.GetStorage: Role.READER,
    m.GetLoss: Role.READER,
    m.ListKeys: Role.OPERATOR,
    ChangeMeter: Role.OPERATOR,
    ReplaceMeter: Role.OPERATOR,
    DeleteMeter: Role.ADMIN,
    RegisterMeter: Role.ADMIN,
    AddMeters: Role.ADMIN,
    RotateKey: Role.ADMIN,
    RevokeKeys: Role.ADMIN,
}


def permit(request: m.AnyRequest, user: User | None) -> None:
    """Raise BusError unless the user may ask for this; None is somebody whose key was removed."""
    if user is None:
        raise BusError("refused", "this key was removed: `wattbus keys` lists those that count")
    wanted = request.change if isinstance(request, m.Change) else request
    least = LEAST[type(wanted)]
    if user.role < least:
        raise BusError(
            "forbidden",
            f"this is for the role {least.text}, and the key {user.name} has the role "
            f"{user.role.text}",
        )
