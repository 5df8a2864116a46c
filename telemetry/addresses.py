"""Addresses of datagrams as rows of octets, as Linux has them: ``sockaddr_in``, ``sockaddr_in6``.

Where the kernel does not fill the rows, they are made here from Python's tuples.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np

from telemetry.readings import Bytes, Int64s, UInt64s

ROOM = 32  # octets of a row; the longest address has 28
V4, V6 = 2, 10  # Linux's AF_INET and AF_INET6
_LENGTHS = np.zeros(V6 + 2, np.int64)
_LENGTHS[[V4, V6]] = 16, 28
_FAMILY = struct.Struct("=H")
_IN = struct.Struct("!2xHI")
_IN6 = struct.Struct("!2xHI16s")
_SCOPE = struct.Struct("=I")
_MAPPED = np.uint64(0xFFFF << 32)


def sources(rows: Bytes) -> UInt64s:
    """The addresses of n rows of one socket in their IPv6 form, as halves: shape (n, 2)."""
    halves = np.zeros((2, len(rows)), np.uint64).T  # each half in one piece
    if not len(rows):
        return halves
    family, stride = _family(rows[0].data), rows.strides[0]
    if family == V4:
        halves[:, 1] = np.ndarray((len(rows),), ">u4", rows, offset=4, strides=(stride,))
        halves[:, 1] |= _MAPPED
    elif family == V6:
        halves[:] = np.ndarray((len(rows), 2), ">u8", rows, offset=8, strides=(stride, 8))
    return halves


def lengths(rows: Bytes) -> Int64s:
    """How many octets of n rows their addresses take; of none, 0."""
    return _LENGTHS[np.minimum(rows[:, :2].copy().view(np.uint16)[:, 0], len(_LENGTHS) - 1)]


def pack(address: tuple[Any, ...] | None) -> bytes:
    """The row of an address as Python's sockets tell it; of none, zeros."""
    if not address:
        return bytes(ROOM)
    if len(address) == 2:
        host, port = address
        octets = _FAMILY.pack(V4) + _IN.pack(port, int(IPv4Address(host)))[2:]
    else:
        host, port, flow, scope = address
        octets = _FAMILY.pack(V6) + _IN6.pack(port, flow, _ipv6(host))[2:] + _SCOPE.pack(scope)
    return octets.ljust(ROOM, b"\0")


def unpack(row: bytes | memoryview) -> tuple[Any, ...]:
    """The address of a row as Python's sockets take it."""
    if _family(row) == V4:
        port, host = _IN.unpack_from(row)
        return str(IPv4Address(host)), port
    port, flow, octets = _IN6.unpack_from(row)
    return str(IPv6Address(octets)), port, flow, _SCOPE.unpack_from(row, 24)[0]


def _family(row: bytes | memoryview) -> int:
    (family,) = _FAMILY.unpack_from(row)
    return int(family)


def _ipv6(host: str) -> bytes:
    return IPv6Address(host.partition("%")[0]).packed
