"""The JSON datagram (docs/wire-format.md): for people with ``nc`` and for microcontrollers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import msgspec
import numpy as np

from telemetry import meter_id
from telemetry.admission import Gate
from telemetry.clock import plausible
from telemetry.datagrams import Datagrams, Decoded, Envelopes, Tally
from telemetry.formats.native import LONGEST
from telemetry.formats.native_checks import Sieve
from telemetry.meter_index import UNKNOWN
from telemetry.readings import Int64s, Readings, Status
from telemetry.registers import BY_NAME, Quantity, Register
from telemetry.rejects import Reason, RejectedError

_MISSING = Decimal(-1)  # what devices send for an energy they do not have
_LATEST = Decimal(10**11)  # seconds; far beyond any clock, and still a 64-bit count of ms
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_FIELDS = {"meter", "time", "registers", "epoch"}
_DECODER = msgspec.json.Decoder(float_hook=Decimal)  # decimals keep what was written
Row = tuple[int, int, int, int, int, int, int]  # in the order of readings.COLUMNS


class _Head(NamedTuple):
    high: int
    low: int
    epoch: int
    said: object  # of the time
    registers: dict[str, object]
    name: str


def decode(datagrams: Datagrams, arrival: int, gate: Gate) -> Decoded:
    """Datagrams that arrived at ``arrival`` (ms, UTC): their readings and what was refused why."""
    tally = Tally()
    heads: list[tuple[int, _Head]] = []
    for row, datagram in enumerate(datagrams.each()):
        try:
            heads.append((row, _head(datagram)))
        except RejectedError as rejected:
            tally.refuse(rejected.reason)
    named: Int64s = np.array([row for row, _ in heads], np.int64)
    high, low = (np.array([head[half] for _, head in heads], np.uint64) for half in (0, 1))
    sieve = Sieve(gate.ring, tally, np.ones(len(heads), np.bool_), gate.ring.meters(high, low))
    long = {at: head.name for at, (_, head) in enumerate(heads) if meter_id.is_long(head.name)}
    taken = gate.allowed.takes(datagrams.sources[named], high, low, long)
    sieve.refuse(Reason.NOT_ALLOWED, ~taken)
    sieve.refuse(Reason.UNSIGNED, sieve.meters != UNKNOWN)
    found: list[Row] = []
    rows: list[int] = []
    starts: list[int] = []
    for number in np.flatnonzero(sieve.passed).tolist():
        row, head = heads[number]
        try:
            own = _rows(head, arrival)
        except RejectedError as rejected:
            tally.refuse(rejected.reason)
        else:
            tally.accepted += 1
            if meter_id.is_long(head.name):
                tally.names.add(head.name)
            rows.append(row)
            starts.append(len(found))
            found += own
    readings = _columns(found)
    envelopes = Envelopes.unnumbered(readings, np.array(starts, np.int64))
    return Decoded(readings, envelopes, np.array(rows, np.int64), tally)


def _columns(rows: list[Row]) -> Readings:
    high, low, epoch, register, status, time, value = zip(*rows, strict=True) if rows else [()] * 7
    return Readings(
        np.array(high, np.uint64),
        np.array(low, np.uint64),
        np.array(epoch, np.uint32),
        np.array(register, np.uint16),
        np.array(status, np.uint16),
        np.array(time, np.int64),
        np.array(value, np.int64),
    )


def decode_one(datagram: bytes, arrival: int) -> list[Row]:
    """The readings of one datagram that may come in; raises RejectedError with the reason."""
    return _rows(_head(datagram), arrival)


def _head(datagram: bytes) -> _Head:
    """What can be said before it is known whether the datagram may come in: above all, whose."""
    if len(datagram) > LONGEST:
        raise RejectedError(Reason.OVERSIZED)
    body = _parse(datagram)
    name, registers, epoch = body.get("meter"), body.get("registers"), body.get("epoch", 0)
    if not isinstance(name, str) or not isinstance(registers, dict) or not _is_u32(epoch):
        raise RejectedError(Reason.TYPE)
    try:
        high, low = meter_id.halves(meter_id.to_octets(name))
    except ValueError:
        raise RejectedError(Reason.METER_ID) from None
    return _Head(high, low, epoch, body.get("time"), registers, name)


def _rows(head: _Head, arrival: int) -> list[Row]:
    time, status = _instant(head.said, arrival)
    return [
        (head.high, head.low, head.epoch, register.code, status, time, raw)
        for register, raw in _values(head.registers)
    ]


def _parse(datagram: bytes) -> dict[str, Any]:
    try:
        body = _DECODER.decode(datagram)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidOperation):
        raise RejectedError(Reason.MALFORMED) from None
    if not isinstance(body, dict):
        raise RejectedError(Reason.MALFORMED)
    if not body.keys() <= _FIELDS:
        raise RejectedError(Reason.TYPE)
    return body


def _is_u32(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _instant(said: object, arrival: int) -> tuple[int, int]:
    """The instant in ms and the status bits for what the field ``time`` said."""
    if said is None:
        return arrival, Status.ARRIVAL_TIME
    if isinstance(said, bool):
        raise RejectedError(Reason.TYPE)
    if isinstance(said, int | Decimal):
        if not -_LATEST < said < _LATEST:
            raise RejectedError(Reason.TIME)
        stated = int(said * 1000)
    elif isinstance(said, str):
        stated = _iso(said)
    else:
        raise RejectedError(Reason.TYPE)
    return (stated, 0) if plausible(stated, arrival) else (arrival, Status.ARRIVAL_TIME)


def _iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise RejectedError(Reason.TIME)
        return (moment - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        raise RejectedError(Reason.TIME) from None


def _values(registers: dict[str, object]) -> list[tuple[Register, int]]:
    """The registers that carry a value, with their raw integers."""
    said: set[int] = set()
    values: list[tuple[Register, int]] = []
    for name, value in registers.items():
        register = BY_NAME.get(name)
        if register is None or register.code in said:
            raise RejectedError(Reason.REGISTER)
        said.add(register.code)
        if value is None or (register.quantity is Quantity.ENERGY and value == _MISSING):
            continue
        if type(value) is not int and not isinstance(value, Decimal):
            raise RejectedError(Reason.TYPE)
        values.append((register, _raw(register, Decimal(value))))
    if not values:
        raise RejectedError(Reason.REGISTER)
    return values


def _raw(register: Register, value: Decimal) -> int:
    # Compared in the register's unit first: rounding a number of a thousand digits costs.
    if not register.value(register.minimum) <= value <= register.value(register.maximum):
        raise RejectedError(Reason.VALUE)
    return register.raw(value)
