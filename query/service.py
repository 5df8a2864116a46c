"""The query service: answers the bus from the database, sends changes on to the writer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import zmq
from sqlalchemy.exc import DBAPIError

from query import key_replies, losses
from query import messages as m
from query.asking import Answers
from query.gate import Gate
from query.handlers import answer, meter_info
from query.replies import Asked, Replies
from query.roles import permit
from query.sockets import listen
from query.transport import ENCODERS, LONGEST_REQUEST, MSGPACK, REQUESTS, BusError
from storage import handover
from storage.changes import ChangeRefusedError, check
from storage.defaults import Defaults
from storage.engine import Database, StorageError, reason
from storage.ladder import KEEP_ALL, Policy
from storage.queries import Reader

log = logging.getLogger("query")

_IDLE = 250  # milliseconds between looks at the journal and at the stop flag when nobody asks
_AT_ONCE = 64  # requests, before the writer is heard and the stop flag looked at
_MOST_FORWARDED = 1000
_WRITER_WITHIN = 1.5  # seconds in which the writer answers


@dataclass(frozen=True, slots=True)
class _Asker:
    """Where a reply goes and how it is encoded; with a gate, the public key that was let in."""

    envelope: list[bytes]
    header: bytes
    public: str


_ForWriter = m.GetStatus | m.GetLoss | m.ListKeys | m.Change


@dataclass(frozen=True, slots=True)
class _Forwarded:
    """A request that waits for the writer."""

    asker: _Asker
    request: _ForWriter
    deadline: float


class Service:
    """One ROUTER socket; everything happens on the thread that calls ``run``."""

    def __init__(
        self,
        database: Database,
        address: str,
        writer_endpoint: str,
        defaults: Defaults,
        version: str,
        policy: Policy = KEEP_ALL,
        gate: Gate | None = None,
    ) -> None:
        """Bind ``address`` (``tcp://host:port``); raises zmq.ZMQError when it cannot be had.

        Without a gate whoever reaches it may do everything.
        """
        self._gate = gate
        self._database, self._defaults, self._version = database, defaults, version
        self._policy = policy
        self._reader: Reader | None = None
        self._replies = Replies()  # of this reader
        self._started = _now_ms()
        self._seen = 0, 0, 0, 0  # meters, readings, octets, damaged rows
        self._socket, self.endpoint = listen(
            zmq.ROUTER, address, LONGEST_REQUEST, linger=1000, guard=gate
        )
        self._writer = handover.dealer(writer_endpoint)
        self._forwarded: dict[bytes, _Forwarded] = {}
        self._tags = 0

    def run(self, stop: threading.Event) -> None:
        """Answer until ``stop`` is set."""
        self._keep_up()  # while others start: the first question need not wait for it
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._writer, zmq.POLLIN)
        while not stop.is_set():
            ready = dict(poller.poll(_IDLE))
            if self._socket in ready:
                self._take_requests()
            if self._writer in ready:
                self._take_answer()
            if self._forwarded:
                self._give_up()
            if not ready:
                self._keep_up()
        self._socket.close()
        self._writer.close()
        if self._reader is not None:
            self._reader.close()

    def _keep_up(self) -> None:
        """Take in what was committed while nobody asks, so that the next question finds it."""
        with suppress(BusError), self._snapshot():  # said to whoever asks
            pass

    @contextmanager
    def _snapshot(self) -> Iterator[Reader]:
        """The database as it is now; what it cannot answer becomes a BusError."""
        try:
            if self._reader is not None and self._reader.moved:  # restored from a backup
                self._reader.close()
                self._reader = None
            if self._reader is None:
                self._reader, self._replies = Reader(self._database), Replies()
            with self._reader.snapshot():
                yield self._reader
        except (StorageError, DBAPIError) as error:
            raise BusError("unavailable", f"the database: {reason(error)}") from None

    def _take_requests(self) -> None:
        """Those that wait, but no more than the writer's answers can wait for."""
        with suppress(zmq.Again):
            for _ in range(_AT_ONCE):
                if self._gate is None:
                    self._take_request(self._socket.recv_multipart(zmq.NOBLOCK), "")
                else:  # frames that are not copied tell who sent them
                    parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                    public = str(parts[0].get("User-Id"))
                    self._take_request([part.bytes for part in parts], public)

    def _take_request(self, frames: list[bytes], public: str) -> None:
        # Everything up to the empty frame is the way back (ZeroMQ's RFC 28).
        try:
            split = frames.index(b"", 1) + 1
        except ValueError:
            return  # nowhere to send an error to
        envelope, rest = frames[:split], frames[split:]
        header = rest[0] if rest and rest[0] in ENCODERS else MSGPACK
        asker = _Asker(envelope, header, public)
        self._reply(asker, partial(self._dispatch, asker, rest))

    def _dispatch(self, asker: _Asker, frames: list[bytes]) -> m.Reply | bytes | None:
        """The reply, or its octets; None if the writer has been asked for it."""
        if len(frames) != 2:
            raise BusError(
                "bad_request", f"a request is a header and a body, not {len(frames)} frames"
            )
        header, body = frames
        if header not in ENCODERS:
            raise BusError("unsupported_version", f"{header[:8]!r} is not WB1m or WB1j")
        try:
            request = REQUESTS.decode(header, body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BusError("bad_request", f"the body is no request: {error}") from None
        if self._gate is not None:
            permit(request, self._gate.user(asker.public))
        if isinstance(request, m.Change):
            check(request.change)
            self._forward(asker, request, handover.CHANGE, msgspec.json.encode(request.change))
            return None
        if isinstance(request, m.ListKeys):
            self._forward(asker, request, handover.CHANGE, msgspec.json.encode(request))
            return None
        if isinstance(request, m.GetStatus):
            self._forward(asker, request, handover.STATUS, b"")
            return None
        if isinstance(request, m.GetLoss):
            self._forward(asker, request, handover.LOSS, self._question(request))
            return None
        return self._answer(request, (header, body))

    def _answer(self, request: m.AnyRequest, asked: Asked) -> bytes:
        """The octets of the reply to a request that only reads, made or remembered."""
        with self._snapshot() as reader:
            found = self._replies.find(reader, request, asked)
            if found is not None:
                return found
            source = Answers(reader, self._defaults, self._policy, self._version, _now_ms)
            reply = ENCODERS[asked[0]](answer(request, source))
            if source.timeless:
                self._replies.keep(reader, request, asked, reply)
            return reply

    def _question(self, request: m.GetLoss) -> bytes:
        if request.id is None:
            return msgspec.json.encode(losses.question(request, None))
        with self._snapshot() as reader:
            return msgspec.json.encode(losses.question(request, reader))

    def _forward(self, asker: _Asker, request: _ForWriter, kind: bytes, body: bytes) -> None:
        if len(self._forwarded) >= _MOST_FORWARDED:
            raise BusError("unavailable", "too many requests wait for the writer: try again")
        self._tags += 1
        tag = self._tags.to_bytes(8, "little")
        deadline = time.monotonic() + _WRITER_WITHIN
        self._forwarded[tag] = _Forwarded(asker, request, deadline)
        self._writer.send_multipart([kind, tag, body])

    def _take_answer(self) -> None:
        frames = self._writer.recv_multipart()
        if len(frames) != 3 or frames[0] != handover.ANSWER:
            return
        waiting = self._forwarded.pop(frames[1], None)
        if waiting is None:
            return  # answered after we gave up
        self._reply(waiting.asker, partial(self._told, waiting.request, frames[2]))

    def _told(self, request: _ForWriter, answered: bytes) -> m.Reply:
        told = msgspec.json.decode(answered)
        if isinstance(request, m.GetStatus):
            return self._status(msgspec.convert(told, m.WriterStatus))
        if isinstance(request, m.GetLoss):
            return self._lost(request, told)
        if "error" in told:
            raise BusError(told["error"]["code"], told["error"]["message"])
        if "number" not in told:
            return key_replies.reply(request, told)
        with self._snapshot() as reader:
            meter = meter_info(reader.by_number(told["number"]), self._defaults)
        if "key_id" in told:
            return m.Registered(meter=meter, made=key_replies.made_key(meter.id, told))
        return meter

    def _lost(self, request: m.GetLoss, told: dict[str, Any]) -> m.Loss:
        try:
            with self._snapshot() as reader:
                return losses.reply(request, told, reader)
        except BusError:
            if request.id is not None:
                raise
            return losses.unnamed(told)

    def _give_up(self) -> None:
        """Answer for a writer that is away."""
        now = time.monotonic()
        for tag, waiting in list(self._forwarded.items()):
            if now < waiting.deadline:
                break  # they are in the order of their deadlines
            del self._forwarded[tag]
            self._reply(waiting.asker, partial(self._without_writer, waiting.request))

    def _without_writer(self, request: _ForWriter) -> m.Reply:
        if isinstance(request, m.GetStatus):
            return self._status(None)
        if isinstance(request, m.GetLoss):
            with self._snapshot() as reader:
                return losses.from_tables(request, reader)
        raise BusError(
            "unavailable",
            "the writer does not answer; a change may or may not be made: try again",
        )

    def _status(self, writer: m.WriterStatus | None) -> m.Status:
        away = None
        try:
            with self._snapshot() as reader:
                self._seen = (
                    reader.meter_count(),
                    reader.readings(),
                    reader.octets,
                    reader.damaged,
                )
        except BusError as error:
            if writer is None or not writer.spooling:
                raise
            away = str(error)
        meters, readings, octets, damaged = self._seen
        return m.Status(
            version=self._version,
            now_ms=_now_ms(),
            started_ms=self._started,
            meters=meters,
            readings=readings,
            database_octets=octets,
            writer=writer,
            away=away,
            damaged_rows=damaged,
        )

    def _reply(self, asker: _Asker, make: Callable[[], m.Reply | bytes | None]) -> None:
        """Send what ``make`` answers, if it does, or the error that it raises."""
        try:
            reply = make()
        except (BusError, ChangeRefusedError) as error:
            reply = m.Failure(code=error.code, message=str(error))
        except Exception:
            log.exception("a request failed")
            reply = m.Failure(code="internal", message="the service failed; see its log")
        if reply is None:
            return
        body = reply if isinstance(reply, bytes) else ENCODERS[asker.header](reply)
        with suppress(zmq.ZMQError):  # the asker is gone, or does not read: it will ask again
            self._socket.send_multipart([*asker.envelope, asker.header, body], zmq.NOBLOCK)


def _now_ms() -> int:
    return int(time.time() * 1000)
