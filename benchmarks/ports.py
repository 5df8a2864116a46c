"""Ports that nobody has."""

from __future__ import annotations

import random
import socket

# Below what systems give to outgoing connections by themselves: between the moment in which a
# port is found free and that in which it is used none of those takes it.
_FROM = range(10_000, 32_768)

_given: set[int] = set()
_chance = random.SystemRandom()  # tests seed the other one, each process alike


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One of 127.0.0.1, for a socket of this kind; none twice, for it may be used only later."""
    while True:
        port = _chance.choice(_FROM)
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
