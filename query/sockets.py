"""The sockets of the query bus and the live channel, with every bound (docs/bus-protocol.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import zmq

from query.credentials import Credentials
from query.transport import LONGEST_MESSAGE, BusError

if TYPE_CHECKING:  # only HTTP needs it: others start without asyncio
    from zmq.asyncio import Socket as AsyncSocket

Socket = zmq.Socket[bytes]

HANDSHAKE_WITHIN = 5000  # ms
HEARTBEAT_EVERY, HEARTBEAT_WITHIN = 10_000, 30_000  # ms
MOST_WAITING = 1000  # messages, each way, a connection
BACKLOG = 1024  # connections that the kernel holds until they are taken
_CURVE_ADDS = 64  # octets at most that CURVE adds to a frame on the wire, where MAXMSGSIZE counts
_BOTH = (
    (zmq.HANDSHAKE_IVL, HANDSHAKE_WITHIN),
    (zmq.HEARTBEAT_IVL, HEARTBEAT_EVERY),
    (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_WITHIN),
    (zmq.HEARTBEAT_TTL, HEARTBEAT_WITHIN),  # asks the other side to notice as soon
    (zmq.SNDHWM, MOST_WAITING),
    (zmq.RCVHWM, MOST_WAITING),
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 60),  # seconds
    (zmq.TCP_KEEPALIVE_INTVL, 10),
    (zmq.TCP_KEEPALIVE_CNT, 3),
)


class Guard(Protocol):
    """What makes a socket let in only clients that are known: ``query.gate.Gate``."""

    @property
    def context(self) -> zmq.Context[Socket]:
        """Where the sockets must be made: ZeroMQ asks the gate of the same context."""

    def protect(self, sock: Socket) -> None:
        """Set what the socket needs, before it is bound."""


def listen(
    kind: int, address: str, longest: int, linger: int, guard: Guard | None = None
) -> tuple[Socket, str]:
    """A socket that serves the outside at ``tcp://host:port``, with its bounds, and its endpoint.

    ``longest`` is of a frame that comes in, in octets; ``linger`` in ms. Without a guard anybody is
    let in. Raises zmq.ZMQError when the address cannot be had.
    """
    context: zmq.Context[Socket] = zmq.Context.instance() if guard is None else guard.context
    sock = context.socket(kind)
    for option, value in (
        *_BOTH,
        (zmq.LINGER, linger),
        (zmq.MAXMSGSIZE, longest + (_CURVE_ADDS if guard else 0)),
        (zmq.BACKLOG, BACKLOG),
        (zmq.IPV6, int("[" in address)),
    ):
        sock.setsockopt(option, value)
    try:
        if guard is not None:
            guard.protect(sock)
        sock.bind(address)
    except zmq.ZMQError:
        sock.close()
        raise
    return sock, sock.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


def prepare(sock: Socket | AsyncSocket, endpoint: str, me: Credentials | None) -> None:
    """Set what a client's socket needs before it connects: its bounds, and who it is."""
    for option, value in (
        *_BOTH,
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, LONGEST_MESSAGE + (_CURVE_ADDS if me else 0)),
        (zmq.RECONNECT_IVL_MAX, 1000),
        (zmq.IPV6, int("[" in endpoint)),
    ):
        sock.setsockopt(option, value)
    if me is not None:
        sock.setsockopt_string(zmq.CURVE_PUBLICKEY, me.public)
        sock.setsockopt_string(zmq.CURVE_SECRETKEY, me.secret)
        sock.setsockopt_string(zmq.CURVE_SERVERKEY, me.server)


def connect(sock: Socket | AsyncSocket, endpoint: str, example: str) -> None:
    """Connect, or close the socket and raise BusError for what is no endpoint."""
    try:
        sock.connect(endpoint)
    except zmq.ZMQError as error:
        sock.close()
        raise BusError(
            "bad_endpoint", f"{endpoint!r} is no address such as {example}: {error}"
        ) from None
