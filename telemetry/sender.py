"""The shell around a simulated meter: what it measures, and the pace at which datagrams leave.

Waiting is an argument: a ``Wait`` sleeps for the seconds given and answers False to stop.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from telemetry.fleet_keys import FleetKeys
from telemetry.network import Address, Network, pending_error, writable
from telemetry.outbox import Outbox, StateError
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


class NobodyListensError(Exception):
    """Nothing takes the datagrams, and waiting longer makes no sense."""


class Post(Protocol):
    """What takes a fleet's datagrams to a collector; ``acknowledge``: they are to ask for it."""

    acknowledge: bool

    @property
    def waiting(self) -> int:
        """How many datagrams are not acknowledged."""

    def post(
        self, registers: Mapping[str, int], datagrams: Sequence[bytes], within: float, wait: Wait
    ) -> bool:
        """Take a datagram a meter, and the registers in mWh that they tell; False: told to stop.

        A large fleet's may leave ``within`` so many seconds.
        """

    def until(self, deadline: float, wait: Wait) -> bool:
        """Go on until then, by the steady clock; False: told to stop."""


class LiveSender:
    """Sends what is measured now; what nobody takes is lost, as from a meter on a cut line.

    ``tell`` is given a sentence when the collector goes and another when it is back. ``sent``
    counts the datagrams handed to the network. What a datagram says is in the outbox, which keeps
    registers and numbers, before it leaves, so that no register ever falls.
    """

    acknowledge = False
    waiting = 0

    def __init__(
        self, sock: socket.socket, address: Address, outbox: Outbox, tell: Callable[[str], None]
    ):
        self._network = Network(sock)
        self._address = address
        self._outbox = outbox
        self._tell = tell
        self._away = False
        self.sent = 0

    def post(
        self, registers: Mapping[str, int], datagrams: Sequence[bytes], within: float, wait: Wait
    ) -> bool:
        """Send a datagram a meter; a large fleet's are spread, for its buffer's sake."""
        start = time.monotonic()
        if not self._outbox.append(registers, None):
            raise StateError(f"there is no room for the registers: {self._outbox.path}")
        bursts = -(-len(datagrams) // FLEET_BURST)
        for burst in range(bursts):
            if burst and not wait(start + within * burst / bursts - time.monotonic()):
                return False
            self.send(datagrams[burst * FLEET_BURST : (burst + 1) * FLEET_BURST])
        return True

    def until(self, deadline: float, wait: Wait) -> bool:
        """Wait until then."""
        return wait(deadline - time.monotonic())

    def send(self, datagrams: Sequence[bytes]) -> None:
        """Send the datagrams now."""
        taken, trouble = self._network.send(datagrams)
        self.sent += taken
        if trouble and not self._away:
            self._tell(
                f"nothing takes the readings at {self._address} ({trouble.strerror}): "
                "they are lost until a collector listens there (wattbus serve)"
            )
        elif self._away and not trouble:
            self._tell(f"the collector at {self._address} is back")
        self._away = trouble is not None


def run_fleet(
    fleet: Fleet,
    outbox: Outbox,
    keys: FleetKeys,
    post: Post,
    wait: Wait,
    *,
    interval: float,
    count: int | None,
    alert_limit_wh: int,
    repeat: int,
    multiplier: Callable[[], float],
    show: Callable[[Measured, int | None], None] | None,
) -> bool:
    """Measure and post, at once and then every ``interval`` seconds, until the wait says to stop.

    ``count`` ends it after so many datagrams a meter: then the answer is True. Each carries the
    last ``repeat`` measurements again. ``show`` is given what was measured and how many waited,
    if they can.
    """
    tick = 0
    due = time.monotonic()
    last_ms: int | None = None
    while tick != count:
        if not post.until(due, wait):
            return False
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
        rows = fleet.datagrams(
            measured,
            now_ms,
            epoch=outbox.epoch,
            sequence=outbox.next,
            alert_limit_wh=alert_limit_wh if tick % _LIMIT_EVERY == 0 else None,
            acknowledge=post.acknowledge,
            repeat=repeat,
        )
        waited = post.waiting
        if not post.post(fleet.registers(), keys.datagrams(rows), interval, wait):
            return False
        if show is not None:
            show(measured, waited if post.acknowledge else None)
        tick += 1
        # Ticks missed while this process stood still are not caught up.
        due = max(due + interval, time.monotonic())
    return True


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
            if taken and not _refused(pending_error(self._socket)):
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
                    writable(self._socket)
                except ConnectionRefusedError:
                    return False
        return True


def _refused(error: OSError | None) -> bool:
    """Whether the error is a refusal; another one is raised."""
    if error is not None and not isinstance(error, ConnectionRefusedError):
        raise error
    return error is not None
