"""Frames and codecs of the query bus (docs/bus-protocol.md), and one request over ZeroMQ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec
import zmq

from query.messages import AnyReply, AnyRequest, Failure

LONGEST_MESSAGE = 16 * 1024 * 1024
LONGEST_REQUEST = 64 * 1024

Message = TypeVar("Message")


class BusError(Exception):
    """What the service, or the way to it, answered instead of a reply; see the table of codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServiceAwayError(BusError):
    """No answer came in time, after all tries."""

    def __init__(self, endpoint: str, seconds: float) -> None:
        super().__init__(
            "away",
            f"no answer from {endpoint} within {seconds:g} s: is `wattbus serve` running there?",
        )


class Codec(Generic[Message]):
    """Encodes anything and decodes one union of messages, in the header's encoding."""

    def __init__(self, union: Any) -> None:
        self.decoders: dict[bytes, Callable[[bytes], Message]] = {
            MSGPACK: msgspec.msgpack.Decoder(union).decode,
            JSON: msgspec.json.Decoder(union).decode,
        }

    def decode(self, header: bytes, body: bytes) -> Message:
        """The message; raises msgspec.MsgspecError, or KeyError for an unknown header."""
        return self.decoders[header](body)


# The first frame: protocol and version, then the encoding of the second.
MSGPACK = b"WB1m"
JSON = b"WB1j"
ENCODERS: dict[bytes, Callable[[Any], bytes]] = {
    MSGPACK: msgspec.msgpack.Encoder().encode,
    JSON: msgspec.json.Encoder().encode,
}
REQUESTS: Codec[AnyRequest] = Codec(AnyRequest)
REPLIES: Codec[AnyReply] = Codec(AnyReply)


class Connection:
    """A request socket that survives a service that dies: each try is answered or forgotten.

    REQ with REQ_RELAXED and REQ_CORRELATE (the lazy pirate of the ZeroMQ guide): a late answer to
    an earlier try is dropped. Not thread-safe.
    """

    def __init__(self, endpoint: str, timeout: float, tries: int) -> None:
        self.endpoint, self.timeout, self.tries = endpoint, timeout, tries
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = self._context.socket(zmq.REQ)
        for option, value in (
            (zmq.REQ_RELAXED, 1),
            (zmq.REQ_CORRELATE, 1),
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, LONGEST_MESSAGE),
            (zmq.SNDTIMEO, int(timeout * 1000)),
            (zmq.RCVTIMEO, int(timeout * 1000)),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.IMMEDIATE, 1),  # nothing is kept for a service that is away, and done later
            (zmq.IPV6, int("[" in endpoint)),
        ):
            self._socket.setsockopt(option, value)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise BusError(
                "bad_endpoint", f"{endpoint!r} is no address such as tcp://127.0.0.1:5002: {error}"
            ) from None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, request: AnyRequest) -> AnyReply:
        """The reply; raises BusError for an error's answer and ServiceAwayError for none."""
        reply = _decode(self._exchange(_encode(request)))
        if isinstance(reply, Failure):
            raise BusError(reply.code, reply.message)
        return reply

    def _exchange(self, body: bytes) -> list[bytes]:
        for _ in range(self.tries):
            # Never poll, then receive: what poll sees may be a late answer, which receiving drops.
            with suppress(zmq.Again):
                self._socket.send_multipart([MSGPACK, body])
                return self._socket.recv_multipart()
        raise ServiceAwayError(self.endpoint, self.timeout * self.tries)


def _encode(request: AnyRequest) -> bytes:
    try:
        return ENCODERS[MSGPACK](request)
    except (UnicodeEncodeError, OverflowError) as error:
        raise BusError("bad_request", f"the request cannot be sent: {error}") from None


def _decode(frames: list[bytes]) -> AnyReply:
    try:
        header, body = frames
        return REPLIES.decode(header, body)
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise BusError("bad_reply", f"the answer cannot be read: {error}") from None


def listen(kind: int, address: str, longest: int, linger: int) -> tuple[zmq.Socket[bytes], str]:
    """A socket that serves the outside at ``tcp://host:port``, with its bounds, and its endpoint.

    ``longest`` is of a message that comes in, in octets; ``linger`` in ms. Raises zmq.ZMQError when
    the address cannot be had.
    """
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    for option, value in (
        (zmq.LINGER, linger),
        (zmq.MAXMSGSIZE, longest),
        (zmq.HANDSHAKE_IVL, 5000),
        (zmq.HEARTBEAT_IVL, 10_000),
        (zmq.HEARTBEAT_TIMEOUT, 30_000),
        (zmq.SNDHWM, 1000),
        (zmq.RCVHWM, 1000),
        (zmq.IPV6, int("[" in address)),
    ):
        sock.setsockopt(option, value)
    try:
        sock.bind(address)
    except zmq.ZMQError:
        sock.close()
        raise
    return sock, sock.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
