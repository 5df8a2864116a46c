"""The writer's half of the handover (docs/handover.md): batches in, what is durable out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from storage import batch_body
from storage.group import Group, Received
from storage.handover import ANSWER, BATCH, COMMITTED, NUMBER, REPORT, RESEND, is_receiver
from telemetry.datagrams import Mark
from telemetry.formats.ack import ACK

log = logging.getLogger("writer")

_NONE: npt.NDArray[np.void] = np.empty(0, ACK)
_NOTHING: Mapping[bytes, npt.NDArray[np.void]] = MappingProxyType({})


@dataclass
class Inbox:
    """The writer's half for one receiver: which batch comes next, and which are to be answered."""

    expected: int
    taken: int = 0  # the last number taken, answered once its commit is done
    asked: int = 0  # the number last asked for again, so that one gap asks once

    def judge(self, number: int, oldest: int) -> str:
        """What to do with a batch of this number: ``take``, ``repeat`` or ``gap``.

        What is older than the receiver's ``oldest`` is durable: a writer that was restarted may
        first see a batch that was sent before the receiver knew.
        """
        self.expected = max(self.expected, oldest)
        if number > self.expected:
            return "gap"
        if number < self.expected:
            return "repeat"
        self.expected += 1
        self.taken = number
        return "take"


class Router:
    """The writer's socket: batches in, what is durable out; changes and questions beside them."""

    def __init__(self, endpoint: str, durable: Callable[[bytes], int] = lambda _: 0) -> None:
        """``durable`` says which batch of a receiver is the last known to be committed."""
        self._durable = durable
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        # A receiver that connects again comes with the same id.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.RCVHWM, 1000)
        self._socket.bind(endpoint)
        self._inboxes: dict[bytes, Inbox] = {}
        self._unanswered: set[bytes] = set()
        self.batches: list[Received] = []
        self.awaited = False  # a meter wants to know that one of the batches is durable
        self.reports: dict[bytes, bytes] = {}
        self.requests: list[tuple[bytes, bytes, bytes, bytes]] = []

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def receive(self, timeout: float, most: int) -> int:
        """Wait for messages and take in all that are there, up to ``most`` values; how many.

        A batch without readings counts by its datagrams, as one at least.
        """
        taken = 0
        if not self._socket.poll(max(0, int(timeout * 1000))):
            return taken
        while taken < most:
            try:
                sender, kind, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if kind == BATCH:
                taken += self._batch(sender, *frames)
            else:
                self._other(sender, kind, frames)
        return taken

    def turn_away(self, seconds: float) -> None:
        """For so long take in requests and reports only; receivers will send the batches again."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.requests:
            if not self._socket.poll(int(left * 1000) + 1):
                continue
            sender, kind, *frames = self._socket.recv_multipart()
            if kind == BATCH:
                if sender in self._inboxes:
                    self._inboxes[sender].asked = 0  # the gap that this leaves is to be asked for
            else:
                self._other(sender, kind, frames)

    def _other(self, sender: bytes, kind: bytes, frames: list[bytes]) -> None:
        if kind == REPORT:
            self.reports[sender] = frames[0]
        else:
            tag, body = frames[0], frames[1] if len(frames) > 1 else b""
            self.requests.append((sender, kind, tag, body))

    def _batch(self, sender: bytes, number_: bytes, oldest_: bytes, body: bytes) -> int:
        (number,), (oldest,) = NUMBER.unpack(number_), NUMBER.unpack(oldest_)
        inbox = self._inbox(sender, oldest)
        try:
            if not is_receiver(sender):
                raise ValueError("it has not the routing id of a receiver")
            content = batch_body.unpack(body)
        except ValueError as error:
            log.error("a receiver sent what is no batch: %s", error)
            return 0
        verdict = inbox.judge(number, oldest)
        if verdict == "gap":
            if inbox.asked != inbox.expected:
                inbox.asked = inbox.expected
                self._tell(sender, RESEND, inbox.expected)
            return 0
        self._unanswered.add(sender)
        if verdict == "repeat":
            return 0
        self.batches.append(Received(sender, number, body, content))
        self.awaited |= bool((content.envelopes.marks & Mark.ACKNOWLEDGE).any())
        return max(len(content), len(content.envelopes), 1)

    def _inbox(self, sender: bytes, oldest: int) -> Inbox:
        """Of a receiver that is new to this writer, an earlier one may have committed batches."""
        inbox = self._inboxes.get(sender)
        if inbox is None:
            durable = self._durable(sender)
            inbox = self._inboxes[sender] = Inbox(max(oldest, durable + 1), durable)
        return inbox

    def take(self, now_ms: int) -> Group | None:
        """The batches received since the last call, in order."""
        if not self.batches:
            return None
        batches, self.batches, self.awaited = self.batches, [], False
        return Group(now_ms, batches)

    def committed(self, acknowledgements: Mapping[bytes, npt.NDArray[np.void]] = _NOTHING) -> None:
        """Tell the receivers that all that was taken is durable, and whom to acknowledge it."""
        for sender in self._unanswered:
            own = acknowledgements.get(sender, _NONE)
            self._tell(sender, COMMITTED, self._inboxes[sender].taken, own.tobytes())
        self._unanswered.clear()

    def answer(self, sender: bytes, tag: bytes, reply: object) -> None:
        """Answer a change or a question."""
        self._socket.send_multipart([sender, ANSWER, tag, msgspec.json.encode(reply)])

    def _tell(self, sender: bytes, kind: bytes, number: int, *more: bytes) -> None:
        self._socket.send_multipart([sender, kind, NUMBER.pack(number), *more])
