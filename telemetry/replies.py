"""Acknowledgements on their way out: where each meter's newest datagram came from, and sending."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from telemetry import addresses
from telemetry.bulk_udp import BulkSender
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats import ack
from telemetry.keys import KeyRing
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.readings import Bytes, Int64s, UInt64s

# Of how many meters the way back is known at least. It is needed from a datagram's arrival to its
# commit; a meter that is forgotten before repeats and is acknowledged then.
MOST_METERS = 1 << 18
_WAY = np.dtype([("socket", "i4"), ("key_id", "u1"), ("address", "u1", addresses.ROOM)])


class _Ways:
    """The ways back to meters, by their numbers in an index."""

    def __init__(self) -> None:
        self.index = MeterIndex()
        self.ways = np.zeros(1 << 10, _WAY)

    def keep(self, high: UInt64s, low: UInt64s, ways: npt.NDArray[np.void]) -> None:
        """Remember the last way of each meter; the arguments have shape (n,)."""
        numbers = self.index.number(high, low)
        more = len(self.index) - len(self.ways)
        if more > 0:
            self.ways = np.concatenate([self.ways, np.zeros(max(more, len(self.ways)), _WAY)])
        # Of several of one meter the last is written last.
        self.ways[numbers] = ways


class Replies:
    """Remembers where datagrams came from whose meters want to know, and tells them.

    Belongs to the receiver's thread.
    """

    def __init__(self, sockets: Mapping[socket.socket, bool]) -> None:
        """``sockets`` says of each whether it is to be sent through one datagram at a time."""
        self._senders = {
            one.fileno(): BulkSender(one, portable=portable) for one, portable in sockets.items()
        }
        # What is full becomes the elder and the elder is forgotten: memory is bounded.
        self._younger, self._elder = _Ways(), _Ways()
        self._asked = False

    def remember(
        self, sock: socket.socket, envelopes: Envelopes, rows: Int64s, key_id: Bytes, came: Bytes
    ) -> None:
        """Of n datagrams of a socket, where those came from that want an answer.

        ``rows``, of shape (n,), says where each stands in the other two: ``key_id`` names the key
        that signed it, 0: none, and ``came`` has a row of ``addresses``.
        """
        wanted = np.flatnonzero(envelopes.marks & np.uint8(Mark.ACKNOWLEDGE))
        if not len(wanted):
            return
        self._asked = True
        if len(self._younger.index) >= MOST_METERS:
            self._younger, self._elder = _Ways(), self._younger
        ways = np.zeros(len(wanted), _WAY)
        ways["socket"], ways["key_id"], ways["address"] = (
            sock.fileno(),
            key_id[rows[wanted]],
            came[rows[wanted]],
        )
        self._younger.keep(envelopes.key_high[wanted], envelopes.key_low[wanted], ways)

    def were_asked_for(self) -> bool:
        """Whether any datagram since the last call wanted an answer."""
        asked, self._asked = self._asked, False
        return asked

    def send(self, acknowledgements: npt.NDArray[np.void], ring: KeyRing) -> int:
        """Tell meters what is durable (dtype ACK), as far as they can be told; how many were.

        Each is signed as the datagram was, which was longer (docs/wire-format.md).
        """
        if not len(acknowledgements):
            return 0
        high, low = acknowledgements["key_high"], acknowledgements["key_low"]
        ways, known = self._find(high, low)
        keys = ring.keys(ring.meters(high, low), ways["key_id"])
        known &= (ways["key_id"] == 0) | (keys != UNKNOWN)
        return sum(
            self._send(sender, acknowledgements[rows], ways[rows], keys[rows], ring)
            for number, sender in self._senders.items()
            if len(rows := np.flatnonzero(known & (ways["socket"] == number)))
        )

    def _find(
        self, high: UInt64s, low: UInt64s
    ) -> tuple[npt.NDArray[np.void], npt.NDArray[np.bool_]]:
        """The newest ways to n meters, and which of these are known."""
        young, old = self._younger.index.find(high, low), self._elder.index.find(high, low)
        ways = self._younger.ways[young]
        only_old = (young == UNKNOWN) & (old != UNKNOWN)
        ways[only_old] = self._elder.ways[old[only_old]]
        return ways, (young != UNKNOWN) | only_old

    @staticmethod
    def _send(
        sender: BulkSender,
        acknowledgements: npt.NDArray[np.void],
        ways: npt.NDArray[np.void],
        keys: Int64s,
        ring: KeyRing,
    ) -> int:
        key_id = ways["key_id"]
        signing = [
            ring.acknowledgement_key(key) if own else None
            for key, own in zip(keys.tolist(), key_id.tolist(), strict=True)
        ]
        rows, lengths = ack.encode_many(acknowledgements, key_id, signing)
        return sender.send_to(rows, lengths, ways["address"])
