"""Ports that nobody has."""

from __future__ import annotations

import random
import socket

# Below what systems give to outgoing connections by themselves: between the moment in which a
# port is found free and that in which it is used none of those takes it.
_FROM = range(10_000, 32_768)

_KINDS = socket.SOCK_STREAM, socket.SOCK_DGRAM
_given: set[int] = set()
_chance = random.SystemRandom()  # tests seed the other one, each process alike


def free_port() -> int:
    """One of 127.0.0.1, for TCP and UDP: some servers want both of one number.

    None twice, for it may be used only later.
    """
    while True:
        port = _chance.choice(_FROM)
        if port not in _given and all(_free(kind, port) for kind in _KINDS):
            _given.add(port)
            return port


def _free(kind: socket.SocketKind, port: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
