"""Acknowledged delivery, the shell: between the outbox on disk, the rules, and the socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from telemetry.bulk_udp import BulkReceiver
from telemetry.delivery import Delivery, Numbers
from telemetry.formats import ack_bulk
from telemetry.meter_index import MeterIndex
from telemetry.network import Address, Network
from telemetry.outbox import Outbox
from telemetry.sender import FLEET_BURST, Wait

_MOST_ACKS = 4096  # a call
_ROOM = 64  # octets: an acknowledgement is at most 52
_BURST_PAUSE = 0.01  # seconds between bursts of FLEET_BURST
_ACK_PAUSE = 0.02  # for acknowledgements to gather
_LONGEST_PAUSE = 1.0


class Courier:
    """Keeps a fleet's datagrams in the outbox until a collector has acknowledged them.

    ``meters`` knows the fleet's places, ``keys`` are acknowledgement keys by place. ``tell`` is
    given a sentence when the collector goes, when it is back and has caught up, and when the
    outbox is full. ``sent`` counts datagrams handed to the network, repeats too, and ``unkept``
    those that there was no room to keep.
    """

    acknowledge = True

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        outbox: Outbox,
        meters: MeterIndex,
        keys: Mapping[int, bytes],
        tell: Callable[[str], None],
    ):
        self._network = Network(sock)
        self._receiver = BulkReceiver(sock, _MOST_ACKS, _ROOM)
        self._address, self._outbox, self._tell = address, outbox, tell
        self._meters, self._keys = meters, keys
        self._delivery = Delivery(len(meters))
        for first, end in outbox.waiting():
            self._delivery.add(first, end)
        self._chance = np.random.default_rng()
        # Datagrams that wait from when nobody answered, and have not been delivered since.
        self._backlog = self._behind = self.waiting
        self._away = self._full = False
        self.sent = self.unkept = 0

    @property
    def waiting(self) -> int:
        """How many datagrams are not acknowledged."""
        return self._delivery.waiting

    def post(
        self, registers: Mapping[str, int], datagrams: Sequence[bytes], _within: float, _wait: Wait
    ) -> bool:
        """Keep a datagram a meter, with the registers it tells, and send what is due."""
        first = Numbers(np.arange(len(datagrams)), self._outbox.epoch, self._outbox.next)
        kept = self._outbox.append(registers, datagrams)
        if kept:
            self._delivery.add(first, first.sequence + 1)
        else:
            self.unkept += len(datagrams)
        self._look_full(not kept)
        self._deliver()
        return True

    def until(self, deadline: float, wait: Wait, *, idle: bool = False) -> bool:
        """Deliver until the deadline, or with ``idle`` until nothing waits; False: told to stop."""
        while True:
            pause = self._deliver()
            left = deadline - time.monotonic()
            if left <= 0 or (idle and not self.waiting):
                return wait(0)
            if not wait(min(left, pause)):
                return False

    def _deliver(self) -> float:
        """Take what came, send what is due; the seconds until there may be more to do."""
        now = time.monotonic()
        self._take(now)
        due = self._delivery.due(now)
        burst = due.first(FLEET_BURST)
        trouble: OSError | None = None
        if len(burst):
            self.sent += len(burst)
            # What the network refuses is like what it loses: it is sent again.
            _, trouble = self._network.send(self._outbox.octets(burst))
            self._delivery.sent(burst, now, self._chance.random(len(burst)))
        self._look_away(trouble)
        if len(due) > len(burst):
            return _BURST_PAUSE
        pause = _ACK_PAUSE if self._delivery.expecting else _LONGEST_PAUSE
        return max(0.001, min(pause, self._delivery.next_due() - time.monotonic()))

    def _take(self, now: float) -> None:
        acks = ack_bulk.decode(self._receiver.receive(), self._meters, self._keys)
        if not len(acks):
            return
        before = self.waiting
        removed = self._delivery.acknowledged(acks, now)
        if len(removed):
            # On disk before anything else is sent: see Delivery.acknowledged.
            self._outbox.remove(removed)
        if self._away and self._delivery.heard == now:
            self._away = False
            self._backlog = self._behind = before
        if self._behind > 0:
            self._behind -= before - self.waiting
            if self._behind <= 0:
                self._tell(
                    f"the collector at {self._address} is back: "
                    f"{self._backlog:,} datagrams that waited are delivered"
                )

    def _look_away(self, trouble: OSError | None) -> None:
        if self._away or not self._delivery.silent:
            return
        self._away, self._behind = True, 0
        why = f" ({trouble.strerror})" if trouble else ""
        self._tell(
            f"no acknowledgement comes from {self._address}{why}: readings are kept in "
            f"{self._outbox.path} until a collector answers there (wattbus serve); "
            "--no-ack sends without keeping"
        )

    def _look_full(self, full: bool) -> None:
        if full and not self._full:
            self._tell(
                f"the outbox {self._outbox.path} is full: readings are not kept until a collector "
                "has taken some; the registers count on (--outbox-mib gives more room)"
            )
        elif self._full and not full:
            self._tell(f"the outbox has room again: {self.unkept:,} datagrams were not kept")
        self._full = full
