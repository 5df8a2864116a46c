"""A UDP socket: bound with a large buffer, and what the kernel tells of it."""

from __future__ import annotations

import socket
import struct
import uuid
from pathlib import Path

ASKED_BUFFER = 32 * 1024 * 1024

# Linux numbers; the kernel's DROPS is the ninth word of SO_MEMINFO (linux/sock_diag.h).
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_SO_COOKIE = 57
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def bind(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """A UDP socket bound to the address, with a large buffer; OSError when it cannot be had.

    ``shared``: other programs that ask for the same may have the port, too. All get multicast.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        # Only of a new one: asking again without privileges could make a handed-over one smaller.
        ask_for_buffer(sock, ASKED_BUFFER)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def ask_for_buffer(sock: socket.socket, octets: int) -> int:
    """Ask for a receive buffer of so many octets and return what the kernel gave.

    The kernel doubles what is asked for, for its own bookkeeping, and gives the doubled figure.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except OSError:  # not privileged, or not Linux: up to net.core.rmem_max
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def kernel_drops(sock: socket.socket) -> int | None:
    """Datagrams that the kernel dropped at this socket, modulo 2**32; None where it cannot tell."""
    size = 4 * _MEMINFO_WORDS
    try:
        words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, size)
    except OSError:
        return None
    return int(struct.unpack(f"{_MEMINFO_WORDS}I", words)[_MEMINFO_DROPS])


def name_of(sock: socket.socket) -> str:
    """A name that no other socket of this machine has had since its boot.

    Where the kernel numbers its sockets it is the same in every process that has the socket.
    """
    try:
        boot = Path(_BOOT_ID).read_text("ascii").strip()
        return f"{boot}/{sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8).hex()}"
    except OSError:
        return str(uuid.uuid4())
