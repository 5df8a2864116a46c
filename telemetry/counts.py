"""What a receiver has counted since its batch before, as it travels to the writer as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec


class ListenerCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one listener, for instance ``udp 127.0.0.1:5001``.

    ``drops`` is the kernel's own count at the socket, modulo 2**32, and ``socket`` names that
    socket on this machine since its boot: who has counted the same socket before counts on.
    ``back_pressure`` are those of the drops, since the last time, that fell while the receiver had
    stopped taking datagrams.
    """

    listener: str
    accepted: int = 0
    refused: dict[str, int] = {}
    socket: str | None = None
    drops: int | None = None
    back_pressure: int = 0


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of all listeners; ``meters`` are refusals by meter: key_high, key_low, reason, how many.

    ``names`` are ids of meters that their octets do not tell.
    """

    listeners: list[ListenerCounts] = []
    meters: list[tuple[int, int, str, int]] = []
    names: list[str] = []


def joined(parts: Iterable[Counts]) -> Counts:
    """What was counted one after the other, as one."""
    listeners: dict[tuple[str, str | None], ListenerCounts] = {}
    meters: Counter[tuple[int, int, str]] = Counter()
    names: dict[str, None] = {}
    for part in parts:
        for one in part.listeners:
            before = listeners.get((one.listener, one.socket))
            listeners[one.listener, one.socket] = _added(before, one) if before else one
        for high, low, reason, refused in part.meters:
            meters[high, low, reason] += refused
        names |= dict.fromkeys(part.names)
    refusals = [(*key, refused) for key, refused in meters.items()]
    return Counts(list(listeners.values()), refusals, list(names))


def _added(before: ListenerCounts, after: ListenerCounts) -> ListenerCounts:
    return ListenerCounts(
        listener=after.listener,
        accepted=before.accepted + after.accepted,
        refused=dict(Counter(before.refused) + Counter(after.refused)),
        socket=after.socket,
        drops=before.drops if after.drops is None else after.drops,
        back_pressure=before.back_pressure + after.back_pressure,
    )
