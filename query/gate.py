"""Who gets in: CURVE keys and the handler of ZeroMQ's authentication protocol (ZAP, RFC 27).

A thread of its own, so that strangers are answered while the service computes and also in the
writer, which never waits for its live channel; and a context of its own, since ZeroMQ asks one
handler a context. The users are few and read anew twice a second, and before anybody is refused;
that costs less than finding out whether they have changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container
from pathlib import Path

import zmq
from zmq.utils import z85

from query.sockets import Socket
from storage import bus_keys
from storage.bus_keys import User
from storage.key_file import KeyFileError

log = logging.getLogger("gate")

DOMAIN = b"wattbus"
READ_EVERY = 0.5  # seconds
# Seconds between looks while an unknown key waits: it may have been made just now. A flood of them
# costs ten looks a second, and each stranger waits for one.
AGAIN_AFTER = 0.1
_TELL_EVERY = 60.0  # seconds between lines about refused handshakes
_ENDPOINT = "inproc://zeromq.zap.01"


class Gate:
    """The users of a data directory, and what keeps everybody else out."""

    def __init__(self, data: Path) -> None:
        """Raises KeyFileError where the key file cannot be used; makes the server's key."""
        self._data = data
        self._secret = bus_keys.server(data).secret.encode()
        self._users = bus_keys.users(data)
        self.removals = 0  # grows when somebody has to be let out
        self._refused = 0
        self._looked, self._told, self._trouble = time.monotonic(), 0.0, ""
        self._stop = threading.Event()
        self.context: zmq.Context[Socket] = zmq.Context()
        self._handler = self.context.socket(zmq.ROUTER)
        self._handler.bind(_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more; after the sockets are closed, whose last messages then leave."""
        self._stop.set()
        self._thread.join()
        self.context.term()

    def protect(self, sock: Socket) -> None:
        """Make it a CURVE server that this gate is asked about; before it is bound."""
        sock.setsockopt(zmq.CURVE_SERVER, 1)
        sock.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # no handler: nobody gets in

    def user(self, public: str) -> User | None:
        """Who has this key now; from any thread."""
        return self._users.get(public)

    def _run(self) -> None:
        unsure: list[list[bytes]] = []  # requests about keys that were not known at the last look
        while not self._stop.is_set():
            due = self._looked + (AGAIN_AFTER if unsure else READ_EVERY)
            if self._handler.poll(max(0, int((due - time.monotonic()) * 1000) + 1)):
                request = self._handler.recv_multipart()
                if not self._answer(request, certain=False):
                    unsure.append(request)
            if time.monotonic() >= due:
                self._read()
                for request in unsure:
                    self._answer(request, certain=True)
                unsure.clear()
                self._tell(time.monotonic())
        self._handler.close(linger=0)

    def _answer(self, request: list[bytes], *, certain: bool) -> bool:
        """Whether there is nothing left to say: a refusal is said only when it is certain."""
        reply = decide(request, self._users)
        if reply is None:
            return True
        refusal = reply[-4] != _LET_IN
        if refusal and not certain:
            return False
        self._refused += refusal
        self._handler.send_multipart(reply)
        return True

    def _read(self) -> None:
        """Who was known stays known while the file cannot be read: its owner may be at it."""
        self._looked = time.monotonic()
        try:
            users = bus_keys.users(self._data)
        except (KeyFileError, OSError) as error:
            if str(error) != self._trouble:
                log.error("%s; the keys known so far are in force", error)
            self._trouble = str(error)
            return
        self._trouble = ""
        gone = not self._users.keys() <= users.keys()
        self._users = users
        self.removals += gone  # only now: who looks at it finds the users without them

    def _tell(self, now: float) -> None:
        if self._refused and now - self._told >= _TELL_EVERY:
            log.warning("refused %d connections that showed unknown keys", self._refused)
            self._refused, self._told = 0, now


_LET_IN, _KEPT_OUT = b"200", b"400"


def decide(frames: list[bytes], users: Container[str]) -> list[bytes] | None:
    """The reply to a request of ZAP 1.0; None for what is none.

    A user's id is the public key: a name may be given to another key later.
    """
    try:
        start = frames.index(b"") + 1
        version, request, domain, _address, _identity, mechanism, *credentials = frames[start:]
        known = False
        if (version, domain, mechanism) == (b"1.0", DOMAIN, b"CURVE"):
            (key,) = credentials
            public = z85.encode(key).decode()
            known = public in users
    except ValueError:
        return None
    said = (_LET_IN, b"", public.encode()) if known else (_KEPT_OUT, b"unknown key", b"")
    return [*frames[:start], b"1.0", request, *said, b""]
