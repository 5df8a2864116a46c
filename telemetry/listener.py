"""A listener: a UDP socket bound to one format, whose datagrams it takes, what it has counted."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from telemetry.admission import Allowed, Gate
from telemetry.bulk_udp import SMALL_DATAGRAM, BulkReceiver
from telemetry.counts import ListenerCounts
from telemetry.datagrams import Tally
from telemetry.formats import native
from telemetry.formats.options import Options
from telemetry.formats.table import Format
from telemetry.keys import KeyRing
from telemetry.replies import Replies
from telemetry.sink import Sink
from telemetry.spacing import Spacing
from telemetry.udp_socket import kernel_drops, name_of

MOST_A_CALL = 4096
MOST_ROOM = 64 * 1024 * 1024  # octets of all rows of a listener


@dataclass
class Listener:
    """One UDP socket bound to one format, what it takes, and what it has counted since it started.

    ``interval_ms`` above 0 thins what it takes. ``back_pressure`` are those of the ``dropped`` that
    fell while the sink was full.
    """

    sock: socket.socket
    format: Format
    allowed: Allowed
    portable: bool = False
    options: Options = field(default_factory=Options)
    interval_ms: int = 0
    tally: Tally = field(default_factory=Tally)
    dropped: int = 0
    back_pressure: int = 0
    buffer: int = 0
    busiest: float = 0.0  # datagrams a second, the highest rate over one second
    _drops: int | None = None
    _second: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        self.buffer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.sock.setblocking(False)
        room = self.format.longest + 1  # a full row is longer than any datagram of the format
        # Whole lines of the processor's cache, an odd number: of rows that lie a power of two apart
        # all beginnings would have to share a few places of it.
        room += -room % 64
        room += 0 if room % 128 else 64
        self.most = min(MOST_A_CALL, MOST_ROOM // room)
        self._bulk = BulkReceiver(self.sock, self.most, room, portable=self.portable)
        self._decode = self.format.decoder(self.options)
        self._spacing = Spacing(self.interval_ms) if self.interval_ms else None
        self.gate = Gate(self.allowed, KeyRing.empty())
        self.place = _place(self.sock)
        self._name = name_of(self.sock)
        self._drops = None if kernel_drops(self.sock) is None else 0
        self._told = ListenerCounts(self.place, socket=self._name, drops=self._drops)

    @property
    def holds(self) -> int:
        """How many small datagrams the socket buffer holds."""
        return self.buffer // SMALL_DATAGRAM

    @property
    def received(self) -> int:
        """Datagrams taken from the socket."""
        return self.tally.accepted + self.tally.refused.total()

    def take(self, sink: Sink, replies: Replies, arrival: int) -> int:
        """Decode what is waiting, one call's worth, into the sink; how many datagrams it was."""
        datagrams = self._bulk.receive()
        if len(datagrams):
            decoded = self._decode(datagrams, arrival, self.gate)
            self.tally.add(decoded.tally)
            if len(decoded.envelopes):
                envelopes, readings = decoded.envelopes, decoded.readings
                key_id, came = native.key_ids(datagrams.octets), self._bulk.addresses
                replies.remember(self.sock, envelopes, decoded.rows, key_id, came)
                if self._spacing is not None:
                    envelopes, readings = self._spacing.thin(envelopes, readings, arrival)
                sink.put(envelopes, readings)
        return len(datagrams)

    def let_go(self, sink: Sink, now_ms: int | None) -> None:
        """Give the sink what was held back for too long, or at the end (None) all of it."""
        if self._spacing is None:
            return
        held = self._spacing.rest() if now_ms is None else self._spacing.overdue(now_ms)
        if len(held[0]):
            sink.put(*held)

    def measure(self, now: float, *, held: bool = False) -> None:
        """Read the kernel's count of drops and, once a second, the rate.

        ``held``: nothing has been taken since the last time because the sink was full.
        """
        drops = kernel_drops(self.sock)
        if drops is not None:
            new = (drops - (self._drops or 0)) % 2**32
            self.dropped += new
            self.back_pressure += new if held else 0
            self._drops = drops
        since, before = self._second
        if now - since >= 1.0:
            if since:
                self.busiest = max(self.busiest, (self.received - before) / (now - since))
            self._second = now, self.received

    def counts(self) -> ListenerCounts | None:
        """What was counted since the last call; None: nothing."""
        so_far = ListenerCounts(
            self.place,
            self.tally.accepted,
            {reason.value: count for reason, count in self.tally.refused.items()},
            self._name,
            self._drops,
            self.back_pressure,
        )
        told, self._told = self._told, so_far
        if so_far == told:
            return None
        return ListenerCounts(
            self.place,
            so_far.accepted - told.accepted,
            {
                reason: new
                for reason, count in so_far.refused.items()
                if (new := count - told.refused.get(reason, 0))
            },
            self._name,
            self._drops,
            so_far.back_pressure - told.back_pressure,
        )


def _place(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"udp [{host}]:{port}" if ":" in host else f"udp {host}:{port}"


def describe(listener: Listener) -> str:
    """One line for the log: where it listens, for what, from whom, and what its buffer holds."""
    allowed = listener.allowed
    networks = " and ".join(allowed.networks) or "nowhere"
    meters = "" if "*" in allowed.meters else f" of {' and '.join(allowed.meters) or 'no meter'}"
    seconds = listener.interval_ms // 1000
    thinned = f"thinned to one reading in {seconds} s, " if seconds else ""
    return (
        f"listening on {listener.place} for {listener.format.name} datagrams, {thinned}"
        f"unsigned ones{meters} only from {networks}; the socket buffer of "
        f"{listener.buffer // 1024} KiB holds {listener.holds} small datagrams: "
        f"{listener.holds / 100_000:.2f} s at 100,000 a second"
    )
