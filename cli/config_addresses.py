"""Where services listen, in the configuration, and which of them want keys."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

LOOPBACK = "127.0.0.1"


class Address(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where a service listens; a port that is None takes the service's own default."""

    address: str = LOOPBACK
    port: int | None = None


class BusAddress(Address, frozen=True):
    """Where a ZeroMQ service listens; it wants keys beyond loopback, with ``curve`` also there."""

    curve: bool = False

    @property
    def guarded(self) -> bool:
        """Whether only clients with a key are let in."""
        return self.curve or not is_loopback(self.address)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address; a name other than localhost is not known."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
