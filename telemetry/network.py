"""The way to a collector: its address, the socket, and datagrams in bulk."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from telemetry.bulk_udp import BulkSender
from telemetry.readings import Bytes

_BUFFER_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """``HOST:PORT``, an IPv6 address in brackets; ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not colon or not bare or (":" in bare and not host.startswith("[")):
            raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:5001 or [::1]:5001")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{port!r} is no port: a number from 1 to 65535")
        return cls(bare, int(port))


def connect(address: Address) -> socket.socket:
    """A non-blocking UDP socket connected to the address; OSError when the host is unknown."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    # IPv4 first: "localhost" is also ::1, where a collector listens only when told to.
    family, kind, protocol, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


class Network:
    """Datagrams of any lengths through a connected socket, in bulk."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._bulk = BulkSender(sock)

    def send(self, datagrams: Sequence[bytes]) -> tuple[int, OSError | None]:
        """How many were taken, and what the network reported on them or on those before."""
        # Before: what came in since. After: what a collector on this machine refused at once,
        # which the bulk call does not say.
        trouble = pending_error(self._socket)
        lengths = np.array([len(datagram) for datagram in datagrams])
        taken = 0
        for length in np.unique(lengths).tolist():
            octets = b"".join(each for each in datagrams if len(each) == length)
            count, refused = self._send_all(np.frombuffer(octets, np.uint8).reshape(-1, length))
            taken += count
            trouble = refused or trouble
        return taken, pending_error(self._socket) or trouble

    def _send_all(self, rows: Bytes) -> tuple[int, OSError | None]:
        trouble: OSError | None = None
        sent = 0
        while sent < len(rows):
            try:
                sent += self._bulk.send(rows[sent:])
            except OSError as error:
                # The first report may be on datagrams that left earlier; these deserve their try.
                if trouble:
                    break
                trouble = error
                continue
            if sent < len(rows) and not writable(self._socket):
                break
        return sent, trouble


def pending_error(sock: socket.socket) -> OSError | None:
    """What the network reported on datagrams sent before; asking clears it."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return OSError(code, os.strerror(code)) if code else None


def writable(sock: socket.socket) -> bool:
    """Wait until the send buffer has room again; False if that takes too long."""
    return bool(select.select([], [sock], [], _BUFFER_WAIT)[1])
