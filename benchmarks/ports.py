"""Ports that nobody has."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port(kind: socket.SocketKind) -> int:
    """One of 127.0.0.1, for a socket of this kind; none twice, for it may be used only later."""
    while True:
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
