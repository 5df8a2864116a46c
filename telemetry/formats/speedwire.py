"""SMA Speedwire, what energy meters and home managers send (docs/formats.md): one datagram.

After the technical information "SMA Energy Meter protocol" (EMETER-Protokoll-TI). All integers are
big-endian and unsigned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from telemetry.registers import BY_NAME
from telemetry.rejects import Reason, RejectedError

MAGIC = b"SMA\0"
PORT = 9522
LONGEST = 1232

_BODY = 0x0010
# How many octets stand between the protocol and whose the body is.
_METER_PROTOCOLS = {0x6069: 0, 0x6081: 2}
HEAD = 10  # octets: SUSy id u16, serial number u32, ticker u32
_UNTYPED_SIZE = 4  # octets of a value of type 0, which the version of the software is
AVERAGE, COUNTER = 4, 8  # types, which are also the sizes of the values

_TOTALS = (1, 2, 3, 4, 9, 10, 13)
_OF_A_PHASE = (*_TOTALS[:-1], 11, 12, 13)
_PHASES = (20, 40, 60)
_INDEXES = (*_TOTALS, 14, *(phase + index for phase in _PHASES for index in _OF_A_PHASE))
_COUNTED = {phase + index for phase in (0, *_PHASES) for index in _TOTALS[:-1]}

Obis = tuple[int, int, int, int]  # channel, index, type, tariff

# The code of the register that keeps a value. An average is in the register's own steps (0.1 W,
# mA, mV, mHz, 0.001), a counter in Ws.
REGISTERS: dict[Obis, int] = {
    (0, index, AVERAGE, 0): BY_NAME[f"{index}.7.0"].code for index in _INDEXES
} | {
    (0, index, COUNTER, 0): BY_NAME[f"{index}.8.0"].code for index in _INDEXES if index in _COUNTED
}

WS_OF_WH = 3600
# What SMA's devices say for a value that they do not have: of unsigned and of signed numbers.
NO_VALUE = {
    AVERAGE: (0xFFFF_FFFF, 0x8000_0000),
    COUNTER: (0xFFFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000),
}


class Entry(NamedTuple):
    """A value of a body: what it is of, and the octets ``at`` to ``at + size`` it takes."""

    obis: Obis
    at: int
    size: int


@dataclass(frozen=True, slots=True)
class Telegram:
    """A meter's datagram taken apart: its entries, and where ``HEAD`` stands.

    ``read`` are the ranges of octets (first, behind the last) that say where all the others are:
    datagrams of one length that agree in them have the same entries.
    """

    protocol: int
    head: int
    entries: tuple[Entry, ...]
    read: tuple[tuple[int, int], ...]


def walk(datagram: bytes) -> Telegram:
    """Take a datagram apart; raises RejectedError with the reason."""
    if len(datagram) > LONGEST:
        raise RejectedError(Reason.OVERSIZED)
    if not datagram.startswith(MAGIC):
        raise RejectedError(Reason.FOREIGN)
    read = [(0, len(MAGIC))]
    body = None
    for at, length, tag in _tags(datagram):
        read.append((at - 4, at))
        if tag == _BODY and body is None:
            if length < 2 or at + 2 > len(datagram):
                raise RejectedError(Reason.MALFORMED)
            protocol = int.from_bytes(datagram[at : at + 2])
            if protocol not in _METER_PROTOCOLS:
                raise RejectedError(Reason.FOREIGN)
            read.append((at, at + 2))
            body = protocol, at + 2 + _METER_PROTOCOLS[protocol], at + length
    if body is None:  # somebody looks for devices
        raise RejectedError(Reason.FOREIGN)
    protocol, head, end = body
    if head + HEAD > end:
        raise RejectedError(Reason.MALFORMED)
    entries = tuple(_entries(datagram, head + HEAD, end, read))
    return Telegram(protocol, head, entries, tuple(read))


def _tags(datagram: bytes) -> Iterator[tuple[int, int, int]]:
    """Where the content of each tag starts, how long it is, and the tag; the end is the last."""
    at = len(MAGIC)
    while True:
        if at + 4 > len(datagram):
            raise RejectedError(Reason.MALFORMED)
        length = int.from_bytes(datagram[at : at + 2])
        tag = int.from_bytes(datagram[at + 2 : at + 4])
        at += 4
        # What is no meter's is told by its start, whatever may lie behind.
        if tag != _BODY and at + length > len(datagram):
            raise RejectedError(Reason.MALFORMED)
        yield at, length, tag
        at += length
        if at > len(datagram):
            raise RejectedError(Reason.MALFORMED)
        if not length and not tag:
            return


def _entries(datagram: bytes, at: int, end: int, read: list[tuple[int, int]]) -> Iterator[Entry]:
    """The entries of a body, whose octets ``at`` to ``end`` they are; adds to ``read``.

    Four zero octets, or fewer at the very end, close the list.
    """
    while at < end:
        header = datagram[at : min(at + 4, end)]
        read.append((at, at + len(header)))
        if not any(header):
            return
        if len(header) < 4:
            raise RejectedError(Reason.MALFORMED)
        channel, index, type_, tariff = header
        size = type_ or _UNTYPED_SIZE
        if at + 4 + size > end:
            raise RejectedError(Reason.MALFORMED)
        yield Entry((channel, index, type_, tariff), at + 4, size)
        at += 4 + size


class Values(NamedTuple):
    """What a datagram says, as the device says it.

    ``raw`` are the integers by channel, index, type and tariff; one that is said twice is the last.
    """

    protocol: int
    susy: int
    serial: int
    ticker: int  # ms since the device started, modulo 2**32
    raw: dict[Obis, int]


def parse(datagram: bytes) -> Values:
    """The device's own integers, exactly; raises RejectedError with the reason."""
    found = walk(datagram)
    head = datagram[found.head : found.head + HEAD]
    return Values(
        found.protocol,
        int.from_bytes(head[:2]),
        int.from_bytes(head[2:6]),
        int.from_bytes(head[6:]),
        {
            entry.obis: int.from_bytes(datagram[entry.at : entry.at + entry.size])
            for entry in found.entries
        },
    )
