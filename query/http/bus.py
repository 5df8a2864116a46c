"""One connection to the query bus for a whole event loop: many requests under way at once.

A DEALER that sends the envelope of REQ_CORRELATE, a tag and an empty frame, so that each answer
finds its request in whatever order they come. Otherwise as ``query.connection.Connection``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import TypeVar

import msgspec
import zmq
import zmq.asyncio

from query.credentials import Credentials
from query.messages import AnyRequest, Failure, Reply
from query.sockets import connect, prepare
from query.transport import ENCODERS, MSGPACK, REPLIES, BusError, ServiceAwayError

TIMEOUT = 2.0
TRIES = 2
# Well below the service's high-water mark (1,000), beyond which its answers would be dropped.
MOST_UNDER_WAY = 64

Expected = TypeVar("Expected", bound=Reply)
Frames = list[bytes]


class Bus:
    """Asks one query service; belongs to the event loop that it was made in."""

    def __init__(self, endpoint: str, me: Credentials | None = None) -> None:
        """Raises BusError for what is no endpoint."""
        self._endpoint = endpoint
        self._tags = count()
        self._waiting: dict[bytes, asyncio.Future[Frames]] = {}
        self._free = asyncio.Semaphore(MOST_UNDER_WAY)
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        prepare(self._socket, endpoint, me)
        connect(self._socket, endpoint, "tcp://127.0.0.1:5002")
        self._receiving = asyncio.create_task(self._receive())

    def close(self) -> None:
        """Close the connection; what still waits for an answer gets ServiceAwayError."""
        self._receiving.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ServiceAwayError(self._endpoint, 0))
        self._socket.close()

    async def ask(
        self,
        request: AnyRequest,
        expected: type[Expected],
        *,
        timeout: float = TIMEOUT,
        tries: int = TRIES,
    ) -> Expected:
        """The reply; raises BusError for an error's answer and ServiceAwayError for none."""
        async with self._free:
            header, body = await self._exchange(request, timeout, tries)
        try:
            reply = REPLIES.decode(header, body)
        except (msgspec.MsgspecError, KeyError) as error:
            raise BusError("bad_reply", f"the answer cannot be read: {error}") from None
        if isinstance(reply, Failure):
            raise BusError(reply.code, reply.message)
        if not isinstance(reply, expected):
            raise BusError("bad_reply", f"{type(request).__name__} got {type(reply).__name__}")
        return reply

    async def _exchange(self, request: AnyRequest, timeout: float, tries: int) -> Frames:
        away = ServiceAwayError(self._endpoint, timeout * tries)
        if self._socket.closed:
            raise away
        tag = next(self._tags).to_bytes(8)
        answer: asyncio.Future[Frames] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = answer
        frames = [tag, b"", MSGPACK, ENCODERS[MSGPACK](request)]
        try:
            for _ in range(tries):
                with suppress(zmq.Again):  # full: the service does not take anything
                    await self._socket.send_multipart(frames, zmq.NOBLOCK)
                done, _pending = await asyncio.wait([answer], timeout=timeout)
                if done:
                    return answer.result()
        finally:
            del self._waiting[tag]
        raise away

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            answer = self._waiting.get(frames[0])
            # A second try may be answered twice, or after nobody waits any more.
            if answer and not answer.done() and len(frames) == 4:
                answer.set_result(frames[2:])
