"""One request at a time over ZeroMQ, again and again until it is answered."""

from __future__ import annotations

import time
from contextlib import suppress

import msgspec
import zmq

from query import sockets
from query.credentials import Credentials
from query.handshakes import Handshakes
from query.messages import AnyReply, AnyRequest, Failure
from query.transport import ENCODERS, MSGPACK, REPLIES, BusError, ServiceAwayError


class Connection:
    """A request socket that survives a service that dies: each try is answered or forgotten.

    REQ with REQ_RELAXED and REQ_CORRELATE (the lazy pirate of the ZeroMQ guide): a late answer to
    an earlier try is dropped. Not thread-safe.
    """

    def __init__(
        self, endpoint: str, timeout: float, tries: int, me: Credentials | None = None
    ) -> None:
        """``timeout`` in seconds is of each try. Raises BusError for what is no endpoint."""
        self.endpoint, self.timeout, self.tries = endpoint, timeout, tries
        self._me = me
        self._context: zmq.Context[sockets.Socket] = zmq.Context.instance()
        self._open()

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.REQ)
        sockets.prepare(self._socket, self.endpoint, self._me)
        for option, value in (
            (zmq.REQ_RELAXED, 1),
            (zmq.REQ_CORRELATE, 1),
            (zmq.RCVTIMEO, int(self.timeout * 1000)),
            (zmq.IMMEDIATE, 1),  # nothing is kept for a service that is away, and done later
        ):
            self._socket.setsockopt(option, value)
        self._handshakes = Handshakes(self._socket, self.endpoint, self._me)
        try:
            sockets.connect(self._socket, self.endpoint, "tcp://127.0.0.1:5002")
        except BusError:
            self._handshakes.monitor.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLOUT)
        self._poller.register(self._handshakes.monitor, zmq.POLLIN)

    def close(self) -> None:
        """Close the socket."""
        self._handshakes.close()
        self._socket.close()

    def ask(self, request: AnyRequest) -> AnyReply:
        """The reply; raises BusError for an error's answer and ServiceAwayError for none."""
        reply = _decode(self._exchange(_encode(request)))
        if isinstance(reply, Failure):
            raise BusError(reply.code, reply.message)
        return reply

    def _exchange(self, body: bytes) -> list[bytes]:
        for _ in range(self.tries):
            # A send says by itself whether a service is there: only where none is, we wait for it.
            if not self._sent(body) and not (self._can_send() and self._sent(body)):
                continue
            # Never poll, then receive: what poll sees may be a late answer, which receiving drops.
            with suppress(zmq.Again):
                return self._socket.recv_multipart()
        raise ServiceAwayError(self.endpoint, self.timeout * self.tries)

    def _sent(self, body: bytes) -> bool:
        try:
            self._socket.send_multipart([MSGPACK, body], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _can_send(self) -> bool:
        """Whether a service is there, in time. Raises BusError if it does not let us in."""
        deadline = time.monotonic() + self.timeout
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(self._poller.poll(int(left * 1000) + 1))
            if self._socket in ready:
                return True
            try:
                self._handshakes.hear()
            except BusError:
                self.close()
                self._open()  # for the next request: it may be let in by then
                raise
        return False


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
