"""The shell around a simulated meter: its UDP socket, and the pace at which datagrams leave.

Waiting is an argument: a ``Wait`` sleeps for the seconds given and answers False to stop.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from telemetry.bulk_udp import BulkSender
from telemetry.meter_state import StateFile
from telemetry.readings import Bytes
from telemetry.simulator import LONGEST_STEP_MS, Fleet, Measured

Wait = Callable[[float], bool]

# A collector's 4 MiB socket buffer holds some 10,000 small datagrams; it takes 400,000 a second.
FLEET_BURST = 1000
# A replay's datagrams are full ones: a default socket buffer holds 92, for a pause of 25 ms.
REPLAY_BURST = 16
REPLAY_PAUSE = 0.005
_LIMIT_EVERY = 30  # datagrams of a meter
_RETRY_AFTER = 0.1
_PATIENCE = 10.0
_BUFFER_WAIT = 1.0


class NobodyListensError(Exception):
    """Nothing takes the datagrams, and waiting longer makes no sense."""


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


class LiveSender:
    """Sends what is measured now; what nobody takes is lost, as from a meter on a cut line.

    ``tell`` is given a sentence when the collector goes and another when it is back. ``sent``
    counts the datagrams handed to the network.
    """

    def __init__(self, sock: socket.socket, address: Address, tell: Callable[[str], None]):
        self._socket = sock
        self._bulk = BulkSender(sock)
        self._address = address
        self._tell = tell
        self._away = False
        self.sent = 0

    def send(self, rows: Bytes) -> None:
        """Send the rows, of shape (n, octets), a datagram each."""
        # Before: what the network has reported on earlier datagrams since. After: what a collector
        # on this machine refused at once, which the bulk call does not say.
        trouble = _pending_error(self._socket)
        trouble = self._send_all(rows) or trouble
        trouble = _pending_error(self._socket) or trouble
        if trouble and not self._away:
            self._tell(
                f"nothing takes the readings at {self._address} ({trouble.strerror}): "
                "they are lost until a collector listens there (wattbus serve)"
            )
        elif self._away and not trouble:
            self._tell(f"the collector at {self._address} is back")
        self._away = trouble is not None

    def _send_all(self, rows: Bytes) -> OSError | None:
        trouble: OSError | None = None
        while len(rows):
            try:
                taken = self._bulk.send(rows)
            except OSError as error:
                # The first report may be on datagrams that left earlier; these deserve their try.
                if trouble:
                    return error
                trouble = error
                continue
            self.sent += taken
            rows = rows[taken:]
            if len(rows) and not _writable(self._socket):
                return trouble
        return trouble


def run_fleet(
    fleet: Fleet,
    state: StateFile,
    sender: LiveSender,
    wait: Wait,
    *,
    interval: float,
    count: int | None,
    alert_limit_wh: int,
    multiplier: Callable[[], float],
    show: Callable[[Measured], None] | None,
) -> None:
    """Measure and send, at once and then every ``interval`` seconds, until the wait says to stop.

    ``count`` ends it after so many datagrams a meter. What a datagram says is on disk before it
    leaves, so that no register ever falls. ``show`` is given what was sent.
    """
    sequence = 0
    due = time.monotonic()
    last_ms: int | None = None
    while sequence != count and wait(due - time.monotonic()):
        now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        # By the steady clock, as the wall clock may be set; the first reading counts nothing.
        steady_ms = int(now * 1000)
        elapsed_ms = 0 if last_ms is None else min(steady_ms - last_ms, LONGEST_STEP_MS)
        last_ms = steady_ms
        measured = fleet.step(
            now_ms,
            elapsed_ms,
            utc_offset_ms=time.localtime(now_ms // 1000).tm_gmtoff * 1000,
            multiplier=multiplier(),
        )
        limit = alert_limit_wh if sequence % _LIMIT_EVERY == 0 else None
        rows = fleet.datagrams(
            measured, now_ms, epoch=state.epoch, sequence=sequence, alert_limit_wh=limit
        )
        state.save(fleet.registers())
        bursts = -(-len(rows) // FLEET_BURST)
        for burst in range(bursts):
            # A large fleet is spread over the interval, for the sake of the collector's buffer.
            if burst and not wait(now + interval * burst / bursts - time.monotonic()):
                return
            sender.send(rows[burst * FLEET_BURST : (burst + 1) * FLEET_BURST])
        if show is not None:
            show(measured)
        sequence += 1
        # Ticks missed while this process stood still are not caught up.
        due = max(due + interval, time.monotonic())


class ReplaySender:
    """Sends a replay's datagrams so that a collector loses none of them.

    A burst that is refused is sent again, with the one before it, as a refusal may come late; after
    ``patience`` seconds of refusals alone it gives up.
    """

    def __init__(
        self, sock: socket.socket, address: Address, wait: Wait, *, patience: float = _PATIENCE
    ):
        self._socket = sock
        self._address = address
        self._wait = wait
        self._patience = patience

    def send(
        self,
        datagrams: Sequence[bytes],
        progress: Callable[[int], None],
        leaves: Sequence[float] | None = None,
    ) -> int:
        """Send all, and answer how many were taken: fewer when the wait says to stop.

        ``leaves`` are the seconds after the start at which each leaves, ascending; without them
        they leave as fast as a collector takes them. ``progress`` is told how many are done.
        Raises NobodyListensError, and OSError when the network cannot be used.
        """
        due = np.zeros(len(datagrams)) if leaves is None else np.asarray(leaves, np.float64)
        started = time.monotonic()
        done = furthest = 0
        refused_since: float | None = None
        while done < len(datagrams):
            elapsed = time.monotonic() - started
            if due[done] > elapsed:
                if not self._wait(due[done] - elapsed):
                    break
                continue
            end = min(done + REPLAY_BURST, int(due.searchsorted(elapsed, side="right")))
            taken = self._send_burst(datagrams[done:end])
            going = self._wait(REPLAY_PAUSE)
            if taken and not _refused(_pending_error(self._socket)):
                done = end
                # Passing where it was refused is what shows that somebody listens again.
                if done > furthest:
                    furthest, refused_since = done, None
                progress(done)
            else:
                done = max(0, done - REPLAY_BURST)
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > self._patience:
                    raise NobodyListensError(
                        f"nothing has listened at {self._address} for {self._patience:g} seconds: "
                        "start the collector (wattbus serve), then replay again"
                    )
                going = going and self._wait(_RETRY_AFTER)
            if not going:
                break
        return done

    def _send_burst(self, datagrams: Sequence[bytes]) -> bool:
        """Whether no datagram of the burst was refused, as far as is known by now."""
        for datagram in datagrams:
            while True:
                try:
                    self._socket.send(datagram)
                    break
                except BlockingIOError:
                    _writable(self._socket)
                except ConnectionRefusedError:
                    return False
        return True


def _pending_error(sock: socket.socket) -> OSError | None:
    """What the network reported on datagrams sent before; asking clears it."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return OSError(code, os.strerror(code)) if code else None


def _refused(error: OSError | None) -> bool:
    """Whether the error is a refusal; another one is raised."""
    if error is not None and not isinstance(error, ConnectionRefusedError):
        raise error
    return error is not None


def _writable(sock: socket.socket) -> bool:
    """Wait until the send buffer has room again; False if that takes too long."""
    return bool(select.select([], [sock], [], _BUFFER_WAIT)[1])
