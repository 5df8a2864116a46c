"""Strangers at the query bus: silent, half-open and garbage connections, and wrong keys."""

from __future__ import annotations

import argparse
import json
import random
import socket
import time
from collections import Counter, deque
from contextlib import suppress

import zmq

from query.credentials import Credentials
from query.handshakes import Handshakes
from query.sockets import Socket, prepare
from query.transport import BusError

_STAY = 0.5  # seconds until a stranger gives up
_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01CURVE".ljust(64, b"\0")
# What an idle connection says before it falls silent: nothing, half a greeting, a whole one.
_FIRST = b"", b"\xff\0\0\0", _GREETING
_GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\xff" * 1000,
    b"\0" * 1000,
    random.Random(4).randbytes(50_000),
    _GREETING + b"\x04\xff" + b"\xff" * 300,
    _GREETING + b"\x06" + b"\xff" * 8,
    _GREETING + b"\x04\xc8\x05HELLO" + random.Random(5).randbytes(194),
)


class Attack:
    """Keeps ``idle`` connections open and makes so many of each other kind a second."""

    def __init__(self, port: int, server: str, idle: int) -> None:
        self._there, self._wanted = ("127.0.0.1", port), idle
        self._endpoint = f"tcp://127.0.0.1:{port}"
        self._server = server
        self._pairs = [zmq.curve_keypair() for _ in range(20)]
        self._context: zmq.Context[Socket] = zmq.Context()
        self._idle: deque[socket.socket] = deque()
        self._strangers: deque[tuple[float, Socket, Handshakes]] = deque()
        self.counts: Counter[str] = Counter()

    def run(self, rate: float, seconds: float) -> None:
        """Go on for so long; ``rate`` is of garbage and of strangers each, a second."""
        began = time.monotonic()
        made = 0
        while (now := time.monotonic() - began) < seconds:
            self._keep_idle(at_once=self._wanted if not self.counts["idle"] else 20)
            while made < now * rate:
                self._garbage(made)
                self._stranger(made)
                made += 1
            self._judge(time.monotonic() - _STAY)
            time.sleep(0.01)
        self._judge(time.monotonic())

    def _keep_idle(self, at_once: int) -> None:
        """Look at the oldest ones; in place of those that were closed come new ones."""
        for _ in range(min(at_once, len(self._idle))):
            sock = self._idle.popleft()
            try:
                while sock.recv(100):
                    pass
                sock.close()
            except BlockingIOError:
                self._idle.append(sock)
            except OSError:
                sock.close()
        while len(self._idle) < self._wanted and at_once:
            sock = socket.create_connection(self._there, timeout=5)
            sock.sendall(_FIRST[self.counts["idle"] % len(_FIRST)])
            sock.setblocking(False)
            self._idle.append(sock)
            self.counts["idle"] += 1
            at_once -= 1

    def _garbage(self, number: int) -> None:
        with suppress(OSError), socket.create_connection(self._there, timeout=5) as sock:
            sock.setblocking(False)
            self.counts["garbage"] += 1
            sock.send(_GARBAGE[number % len(_GARBAGE)])

    def _stranger(self, number: int) -> None:
        public, secret = (half.decode() for half in self._pairs[number % len(self._pairs)])
        me = Credentials(name="x", role="admin", server=self._server, public=public, secret=secret)
        sock = self._context.socket(zmq.DEALER)
        prepare(sock, self._endpoint, me)
        handshakes = Handshakes(sock, self._endpoint, me)
        sock.connect(self._endpoint)
        self._strangers.append((time.monotonic(), sock, handshakes))
        self.counts["strangers"] += 1

    def _judge(self, before: float) -> None:
        """Whether those that came before an instant were refused, let in, or neither."""
        while self._strangers and self._strangers[0][0] <= before:
            _, sock, handshakes = self._strangers.popleft()
            try:
                handshakes.hear()
                self.counts["let in" if handshakes.connected else "unanswered"] += 1
            except BusError as error:
                self.counts[error.code] += 1
            handshakes.close()
            sock.close()


def main() -> None:
    """Attack, then print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--server", required=True, help="the service's public key")
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    attack = Attack(arguments.port, arguments.server, arguments.idle)
    attack.run(arguments.rate, arguments.seconds)
    print(json.dumps(attack.counts))


if __name__ == "__main__":
    main()
