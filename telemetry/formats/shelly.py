"""Notifications of Shelly devices, Gen2 and later, sent over UDP (docs/formats.md, "Shelly").

JSON-RPC frames with ``src``, the device's id. NotifyStatus tells what changed of its components,
NotifyFullStatus tells all; each component that meters is a meter of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from telemetry.admission import Gate
from telemetry.clock import plausible
from telemetry.datagrams import Datagrams, Decoded, Tally
from telemetry.formats.gather import Message, gather
from telemetry.formats.shelly_status import KINDS, doubt, registers
from telemetry.readings import Status
from telemetry.rejects import Reason, RejectedError

LONGEST = 4095  # octets; the full status of a device with four metered channels has 2,500
STARTS = (b'{"src"', b'{"dst"', b'{"id"', b'{"method"', b'{ "src"')

_STATUSES = ("NotifyStatus", "NotifyFullStatus")
_COMPONENT = re.compile(r"([a-z][a-z0-9]*):([0-9]{1,5})")
_LATEST = Decimal(10**11)  # seconds; far beyond any clock, and still a 64-bit count of ms
_SPACE = b" \t\r\n"
_DAMAGED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidOperation)


class _Frame(msgspec.Struct):
    id: int | str | None = None
    src: str | None = None
    method: str | None = None
    params: dict[str, msgspec.Raw] | None = None


_FRAME = msgspec.json.Decoder(_Frame)
# Decimals keep what was written.
_STATUS = msgspec.json.Decoder(dict[str, Any] | None, float_hook=Decimal)
_TIME = msgspec.json.Decoder(float_hook=Decimal)


def decode(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
    """Datagrams that arrived at ``arrival`` (ms, UTC): their readings and what was refused why.

    Where the rows have no room for LONGEST octets, a datagram that was cut is oversized.
    """
    tally = Tally()
    longest = min(LONGEST, datagrams.octets.shape[1])
    messages: list[Message] = []
    rows: list[int] = []
    for row, (datagram, length) in enumerate(
        zip(datagrams.each(), datagrams.lengths.tolist(), strict=True)
    ):
        try:
            if length > longest:
                raise RejectedError(Reason.OVERSIZED)
            found = decode_one(datagram, arrival)
        except RejectedError as rejected:
            tally.refuse(rejected.reason)
        else:
            messages += found
            rows += [row] * len(found)
    return gather(messages, rows, datagrams, gate, tally)


def decode_one(datagram: bytes, arrival: int) -> list[Message]:
    """The messages of a datagram, one a metered component; raises RejectedError without any."""
    frame = _frame(datagram)
    if frame.method not in _STATUSES:  # an event, a request, a response
        raise RejectedError(Reason.FOREIGN if frame.src is None else Reason.NO_READING)
    if frame.src is None or frame.params is None:
        raise RejectedError(Reason.MALFORMED)
    try:
        time, status = _instant(frame.params, arrival)
        found: dict[str, tuple[dict[int, int], int]] = {}
        for component, values, doubted in _components(frame.params):
            before, doubted_before = found.get(component, ({}, 0))
            found[component] = before | values, doubted_before | doubted
    except (*_DAMAGED, ValueError):
        raise RejectedError(Reason.MALFORMED) from None
    messages = [
        Message(f"{frame.src}/{component}", [*values.items()], time, status | doubted)
        for component, (values, doubted) in found.items()
        if values
    ]
    if not messages:
        raise RejectedError(Reason.NO_READING)
    return messages


def _frame(datagram: bytes) -> _Frame:
    """A frame of the protocol; others share the port: log lines, other JSON."""
    try:
        frame = _FRAME.decode(datagram)
    except _DAMAGED:
        ours = datagram.lstrip(_SPACE).startswith(STARTS)
        raise RejectedError(Reason.MALFORMED if ours else Reason.FOREIGN) from None
    if frame.method is None and frame.id is None:
        raise RejectedError(Reason.FOREIGN)
    return frame


def _instant(params: dict[str, msgspec.Raw], arrival: int) -> tuple[int, int]:
    """The frame's instant in ms and the status bits; a device without the time tells its uptime."""
    said = _TIME.decode(params["ts"]) if "ts" in params else None
    if said is None:
        return arrival, Status.ARRIVAL_TIME
    if type(said) is not int and not isinstance(said, Decimal):
        raise ValueError("a time is a number")
    if -_LATEST < said < _LATEST:
        stated = round(Decimal(said) * 1000)
        if plausible(stated, arrival):
            return stated, 0
    return arrival, Status.ARRIVAL_TIME


def _components(params: dict[str, msgspec.Raw]) -> Iterator[tuple[str, dict[int, int], int]]:
    """The meter, the registers and the doubt of each component that is one that meters."""
    for key, status in params.items():
        named = _COMPONENT.fullmatch(key)
        kind = KINDS.get(named[1]) if named else None
        if named is None or kind is None:
            continue
        said = _STATUS.decode(status)
        if said is not None:
            yield f"{kind.meter}:{named[2]}", registers(kind, said), doubt(said)
