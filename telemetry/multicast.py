"""Multicast groups: which of this machine's interfaces a UDP socket takes a group's datagrams from.

RFC 1112 for IPv4; the memberships belong to the socket and stay when it is handed over.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address

WILDCARDS = ("0.0.0.0", "::")  # what a socket must be bound to, so that a group's arrive
_MULTICAST_ALL = 49  # linux/in.h
_ANY = b"\0" * 4
# What joining says of an interface that has no IPv4 or no multicast, and of one too many.
_UNFIT = {errno.ENODEV, errno.EADDRNOTAVAIL, errno.EINVAL, errno.EOPNOTSUPP}
_FULL = {errno.ENOBUFS, errno.ENOMEM}


class UnknownInterfaceError(ValueError):
    """No interface of this machine has this name or address."""

    def __init__(self, interface: str) -> None:
        known = ", ".join(name for _, name in socket.if_nameindex())
        super().__init__(
            f"{interface!r} is no interface of this machine that takes multicast: give the name "
            f"of one ({known}) or its IPv4 address"
        )


def join(sock: socket.socket, group: str, interfaces: Sequence[str] = ()) -> None:
    """Take the datagrams of a group from these interfaces, by name or IPv4 address, and no others.

    None: from all that there are now. Raises UnknownInterfaceError, and nothing has changed then.
    May be called again, with the same or other interfaces.
    """
    every = [number for number, _ in socket.if_nameindex()]
    wanted = {_number(group, interface, every) for interface in interfaces} or {*every}
    _only_joined(sock)
    for number in every:
        option = socket.IP_ADD_MEMBERSHIP if number in wanted else socket.IP_DROP_MEMBERSHIP
        _ask(sock, option, _by_number(group, number))


def _only_joined(sock: socket.socket) -> None:
    """Linux gives a socket what any program of the machine has joined, unless told not to."""
    try:
        sock.setsockopt(socket.IPPROTO_IP, _MULTICAST_ALL, 0)
    except OSError:  # not Linux
        return


def _number(group: str, interface: str, every: Sequence[int]) -> int:
    """The number of an interface that a group can be joined on; the kernel says which it is."""
    try:
        request = socket.inet_aton(group) + IPv4Address(interface).packed
    except AddressValueError:
        try:
            request = _by_number(group, socket.if_nametoindex(interface))
        except OSError:
            raise UnknownInterfaceError(interface) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if not _ask(probe, socket.IP_ADD_MEMBERSHIP, request):
            raise UnknownInterfaceError(interface)
        left = (_ask(probe, socket.IP_DROP_MEMBERSHIP, _by_number(group, one)) for one in every)
        return next(number for number, here in zip(every, left, strict=True) if here)


def _by_number(group: str, number: int) -> bytes:
    return socket.inet_aton(group) + _ANY + struct.pack("@i", number)  # struct ip_mreqn


def _ask(sock: socket.socket, option: int, request: bytes) -> bool:
    """Join or leave; whether there is such an interface. What is so already is as good."""
    try:
        sock.setsockopt(socket.IPPROTO_IP, option, request)
    except OSError as error:
        if error.errno in _UNFIT:
            return False
        if error.errno not in (errno.EADDRINUSE, *_FULL):
            raise
    return True
