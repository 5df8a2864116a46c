"""The way from receiver to writer: the two halves as state machines, then over real sockets."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import zmq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from storage import batch_body, handover
from storage.handover import Handover, Waiting
from storage.inbox import Inbox, Router
from telemetry.readings import Readings
from tests.examples import examples
from tests.storage.handing import enveloped, put

SILENCE = 1.0
NOW = 1_760_000_000_000


def body(readings: Readings) -> bytes:
    return batch_body.pack([(enveloped(readings), readings)])


def readings(values: list[int]) -> Readings:
    """A reading a value; the other columns follow from it."""
    value = np.array(values, np.int64)
    return Readings(
        key_high=value.astype(np.uint64) % 7,
        key_low=value.astype(np.uint64) * 3,
        epoch=np.full(len(values), 4, np.uint32),
        register=np.ones(len(values), np.uint16),
        status=np.full(len(values), 0x0101, np.uint16),
        time=value + 1_700_000_000_000,
        value=value,
    )


# What waits in the receiver


def test_what_waits_is_forgotten_once_durable() -> None:
    waiting = Waiting()
    assert waiting.oldest == 1
    assert [waiting.add(10, 4, b"", 0.0) for _ in range(3)] == [1, 2, 3]
    assert (waiting.oldest, waiting.readings, waiting.datagrams) == (1, 30, 12)
    waiting.committed(2, 1.0)
    assert (waiting.oldest, waiting.readings, waiting.datagrams) == (3, 10, 4)
    waiting.committed(1, 1.0)  # an old answer
    assert (waiting.oldest, waiting.readings) == (3, 10)
    waiting.committed(9, 1.0)
    assert (waiting.oldest, waiting.readings, waiting.last) == (4, 0, 3)


def test_only_silence_is_overdue() -> None:
    waiting = Waiting()
    assert waiting.overdue(1e9) is None
    waiting.add(1, 1, b"", 1e9)  # however long it had nothing to wait for
    waiting.add(1, 1, b"", 1e9 + 0.9)
    assert waiting.overdue(1e9 + 0.99) is None
    assert waiting.overdue(1e9 + 1.0) == 1
    assert waiting.overdue(1e9 + 1.9) is None  # asked for just now
    waiting.committed(1, 1e9 + 1.9)
    assert waiting.overdue(1e9 + 2.8) is None
    assert waiting.overdue(1e9 + 2.9) == 2


# Both halves, over a network that loses, repeats and reorders, with writers that die


class Message(NamedTuple):
    """A ``batch`` on its way."""

    number: int
    oldest: int


class HandoverMachine(RuleBasedStateMachine):
    """One receiver; writers one after the other; a batch's body is its number."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.waiting = Waiting()
        self.to_writer: list[Message] = []
        self.to_receiver: list[tuple[str, int]] = []
        self.durable: list[int] = []  # in the order of commits, over all writers
        self.confirmed = 0
        self.restart()

    def send(self, numbers: list[int]) -> None:
        self.to_writer += [Message(number, self.waiting.oldest) for number in numbers]

    # The writer, as Router and Writer are

    @rule()
    def restart(self) -> None:
        """The writer dies, with what it had taken and not committed; another one starts."""
        self.inbox: Inbox | None = None
        self.taken: list[int] = []
        self.unanswered = False

    def writer_takes(self, message: Message) -> None:
        if self.inbox is None:
            self.inbox = Inbox(message.oldest)
        verdict = self.inbox.judge(message.number, message.oldest)
        if verdict == "gap":
            if self.inbox.asked != self.inbox.expected:
                self.inbox.asked = self.inbox.expected
                self.to_receiver.append(("resend", self.inbox.expected))
            return
        self.unanswered = True
        if verdict == "take":
            self.taken.append(message.number)

    @rule()
    def all_goes_well(self) -> None:
        """What is under way is taken, committed, and the receiver hears of it."""
        for _ in range(min(2, len(self.to_writer))):
            self.writer_takes(self.to_writer.pop(0))
        self.commit(True)
        while self.to_receiver:
            self.receiver_takes(*self.to_receiver.pop(0))

    @rule(answers=st.booleans())
    def commit(self, answers: bool) -> None:
        """What was taken becomes durable; the writer may die before it says so."""
        self.durable += self.taken
        self.taken = []
        if self.unanswered and self.inbox is not None:
            if not answers:
                self.restart()
                return
            assert self.inbox.taken <= max(self.durable, default=0)
            self.to_receiver.append(("committed", self.inbox.taken))
            self.unanswered = False

    # The receiver, as Handover is

    @rule(count=st.integers(1, 4))
    def gather(self, count: int) -> None:
        for _ in range(count):
            self.send([self.waiting.add(1, 1, b"", self.now)])

    def receiver_takes(self, kind: str, number: int) -> None:
        if kind == "committed":
            again = self.waiting.committed(number, self.now)
            if again is not None:
                self.send([n for n in self.waiting.bodies if n >= again])
        else:
            self.waiting.progress = self.now
            self.send([n for n in self.waiting.bodies if n >= number])

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        overdue = self.waiting.overdue(self.now)
        if overdue is not None:
            self.send([overdue])

    # The network

    @precondition(lambda self: self.to_writer)
    @rule(data=st.data(), how=st.sampled_from(["take", "take", "take", "lose", "repeat"]))
    def network_to_writer(self, data: st.DataObject, how: str) -> None:
        at = data.draw(st.integers(0, min(3, len(self.to_writer) - 1)))
        message = self.to_writer[at] if how == "repeat" else self.to_writer.pop(at)
        if how != "lose":
            self.writer_takes(message)

    @precondition(lambda self: self.to_receiver)
    @rule(data=st.data(), how=st.sampled_from(["take", "take", "lose", "repeat"]))
    def network_to_receiver(self, data: st.DataObject, how: str) -> None:
        at = data.draw(st.integers(0, min(3, len(self.to_receiver) - 1)))
        said = self.to_receiver[at] if how == "repeat" else self.to_receiver.pop(at)
        if how != "lose":
            self.receiver_takes(*said)

    # What always holds

    @invariant()
    def nothing_is_forgotten_before_it_is_durable(self) -> None:
        forgotten = set(range(1, self.waiting.last + 1)) - set(self.waiting.bodies)
        assert forgotten <= set(self.durable)
        assert self.waiting.readings == len(self.waiting.bodies)

    @invariant()
    def first_commits_are_in_order(self) -> None:
        firsts = list(dict.fromkeys(self.durable))
        assert firsts == list(range(1, len(firsts) + 1))

    def exchange(self) -> None:
        """Everything under way arrives, and what is said to it, until all is quiet."""
        while self.to_writer or self.unanswered:
            while self.to_writer:
                self.writer_takes(self.to_writer.pop(0))
            self.commit(True)
            while self.to_receiver:
                self.receiver_takes(*self.to_receiver.pop(0))

    def teardown(self) -> None:
        """Once nothing is lost any more everything arrives within seconds, however much it is."""
        if not hasattr(self, "waiting"):
            return
        for _ in range(5):  # seconds
            self.exchange()
            if not self.waiting.bodies:
                break
            self.time_passes(SILENCE)
        assert not self.waiting.bodies
        assert set(self.durable) == set(range(1, self.waiting.last + 1))


TestHandover = HandoverMachine.TestCase
TestHandover.settings = settings(max_examples=examples(300), stateful_step_count=40, deadline=None)


def test_all_the_rest_follows_what_ends_a_silence() -> None:
    waiting = Waiting()
    for _ in range(100):
        waiting.add(1, 1, b"", 0.0)
    assert waiting.committed(10, 0.5) is None
    assert waiting.overdue(1.5) == 11
    assert waiting.committed(10, 1.6) is None  # an old answer
    assert waiting.committed(11, 1.7) == 12
    assert waiting.committed(12, 1.8) is None
    assert waiting.overdue(2.9) == 13
    assert waiting.committed(100, 3.0) is None  # nothing is left
    assert waiting.oldest == 101


def test_a_new_writer_first_sees_what_was_sent_before_the_last_confirmation() -> None:
    """Batch 6 left when 1 was the oldest; by now 1 to 5 are durable and forgotten."""
    inbox = Inbox(1)
    assert inbox.judge(6, oldest=1) == "gap"
    assert inbox.judge(6, oldest=6) == "take"
    assert inbox.judge(7, oldest=1) == "take"
    assert inbox.judge(3, oldest=1) == "repeat"
    assert (inbox.expected, inbox.taken) == (8, 7)


# Real sockets


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/writer"


@pytest.fixture
def receiver(endpoint: str) -> Iterator[Handover]:
    made = Handover(endpoint, lambda waiting: f'{{"waiting":{waiting}}}'.encode())
    yield made
    made._socket.close()


class WriterThread:
    """A Router that takes and commits, in memory, until it is killed."""

    def __init__(self, endpoint: str, *, confirms: bool = True) -> None:
        self.committed: list[int] = []
        self.reports: list[bytes] = []
        self._stop = threading.Event()
        self._confirms = confirms
        self._router = Router(endpoint)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._router.receive(0.02, 1_000_000)
            taken = self._router.take(NOW)
            if taken is not None:
                self.committed += taken.contents.value.tolist()
            if self._confirms:
                self._router.committed()
            self.reports = list(self._router.reports.values())
        self._router.close()

    def kill(self) -> None:
        self._stop.set()
        self._thread.join()


def tick_until(receiver: Handover, delivered: int, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while receiver.undelivered > delivered:
        assert time.monotonic() < deadline, f"{receiver.undelivered} are not confirmed"
        receiver.tick()
        time.sleep(0.002)


def test_over_sockets(endpoint: str, receiver: Handover) -> None:
    writer = WriterThread(endpoint)
    put(receiver, readings([1, 2]))
    put(receiver, readings([3]))
    assert receiver.undelivered == 3
    tick_until(receiver, 0)
    put(receiver, readings(list(range(4, 20_004))))  # large enough to leave at once
    assert receiver._waiting.last == 2
    put(receiver, readings([99_999]))
    receiver.close()
    writer.kill()
    assert writer.committed == [*range(1, 20_004), 99_999]
    assert writer.reports == [b'{"waiting":3}']


def test_the_writer_comes_later(endpoint: str, receiver: Handover) -> None:
    for value in range(5):
        put(receiver, readings([value]))
        receiver.tick()
        time.sleep(0.011)
        receiver.tick()
    assert receiver.undelivered == 5
    writer = WriterThread(endpoint)
    tick_until(receiver, 0)
    writer.kill()
    assert writer.committed == [0, 1, 2, 3, 4]


def test_a_router_that_dies_and_a_new_one(endpoint: str, receiver: Handover) -> None:
    """What the first took and never confirmed goes to the next, and what came in between."""
    value = 0

    def gather(batches: int) -> None:
        nonlocal value
        for _ in range(batches):
            put(receiver, readings([value]))
            value += 1
            receiver._send(time.monotonic())
            receiver._hear(time.monotonic())

    durable: list[int] = []
    for turn in range(3):
        writer = WriterThread(endpoint)
        gather(50)
        tick_until(receiver, 0)
        writer.kill()
        durable += writer.committed
        deaf = WriterThread(endpoint, confirms=False)
        gather(50)
        deadline = time.monotonic() + 60
        while len(deaf.committed) < 10 and time.monotonic() < deadline:
            receiver.tick()
            time.sleep(0.01)
        assert deaf.committed, turn
        deaf.kill()
        gather(20)
        assert receiver.undelivered >= 70
    last = WriterThread(endpoint)
    tick_until(receiver, 0, 15)
    last.kill()
    durable += last.committed
    assert sorted(set(durable)) == list(range(value))
    firsts = list(dict.fromkeys(durable))
    assert firsts == sorted(firsts)


def test_a_new_writer_behind_what_was_confirmed(endpoint: str) -> None:
    """Batches that were under way while others were confirmed do not stop the next writer."""
    socket = handover.dealer(endpoint, receiver=True)
    try:
        first = Router(endpoint)
        number = struct.Struct("<Q").pack
        for n in range(1, 6):
            socket.send_multipart([b"batch", number(n), number(1), body(readings([n]))])
        deadline = time.monotonic() + 60
        while len(first.batches) < 5 and time.monotonic() < deadline:
            first.receive(0.1, 100)
        first.committed()
        assert socket.poll(5000)
        assert socket.recv_multipart() == [b"committed", number(5), b""]
        first.close()
        second = Router(endpoint)
        # Sent before the confirmation was heard, seen by the second writer first; what is sent
        # while the first one closes is lost.
        deadline = time.monotonic() + 60
        while not socket.poll(200) and time.monotonic() < deadline:
            socket.send_multipart([b"batch", number(6), number(1), body(readings([6]))])
            second.receive(0.2, 100)
        assert socket.poll(0)
        assert socket.recv_multipart() == [b"resend", number(1)]
        # All the receiver still has.
        socket.send_multipart([b"batch", number(6), number(6), body(readings([6]))])
        deadline = time.monotonic() + 60
        while not second.batches and time.monotonic() < deadline:
            second.receive(0.1, 100)
        second.committed()
        assert socket.poll(5000)
        assert socket.recv_multipart() == [b"committed", number(6), b""]
        second.close()
    finally:
        socket.close()


def test_two_receivers_and_a_question(endpoint: str) -> None:
    router = Router(endpoint)
    sockets = [handover.dealer(endpoint, receiver=at < 2) for at in range(3)]
    number = struct.Struct("<Q").pack
    try:
        for at, socket in enumerate(sockets[:2]):
            for n in (1, 2):
                own = body(readings([10 * at + n]))
                socket.send_multipart([b"batch", number(n), number(1), own])
        sockets[2].send_multipart([b"status", b"tag"])
        sockets[2].send_multipart([b"change", b"gat", b"{}"])
        deadline = time.monotonic() + 60
        taken = 0
        while (taken < 4 or len(router.requests) < 2) and time.monotonic() < deadline:
            taken += router.receive(0.1, 100)
        assert taken == 4
        read = router.take(NOW)
        assert read is not None
        assert sorted(read.contents.value.tolist()) == [1, 2, 11, 12]
        assert router.take(NOW) is None
        requests = [(kind, tag, body) for _, kind, tag, body in router.requests]
        assert requests == [(b"status", b"tag", b""), (b"change", b"gat", b"{}")]
        router.answer(router.requests[0][0], b"tag", {"a": 1})
        router.committed()
        for socket in sockets[:2]:
            assert socket.poll(5000)
            assert socket.recv_multipart() == [b"committed", number(2), b""]
        assert sockets[2].poll(5000)
        assert sockets[2].recv_multipart() == [b"answer", b"tag", b'{"a":1}']
        router.committed()  # nothing new: says nothing
        assert not sockets[0].poll(50)
    finally:
        for socket in sockets:
            socket.close()
        router.close()


def test_a_batch_does_not_wait_for_a_turn_that_comes_too_late(
    endpoint: str, receiver: Handover
) -> None:
    """Turns 20 ms apart: what is 10 ms old only then leaves with the turn before."""
    router = Router(endpoint)
    receiver.tick()
    for turn in range(1, 4):
        time.sleep(0.02)
        own = readings([turn])
        receiver.put(enveloped(own), own)
        receiver.tick()
        assert receiver._waiting.last == turn
    # But turns that follow each other at once gather.
    for _ in range(3):
        own = readings([9])
        receiver.put(enveloped(own), own)
        receiver.tick()
    assert receiver._waiting.last == 3
    router.close()


def test_full(receiver: Handover, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datagrams count as their readings do."""
    monkeypatch.setattr(handover, "MOST_WAITING", 6)
    assert not receiver.full()
    put(receiver, readings([1, 2]))
    assert not receiver.full()
    put(receiver, readings([3]))
    assert receiver.full()
    receiver._send(time.monotonic())
    assert receiver.full()


def test_closing_without_a_writer_gives_up(
    endpoint: str, receiver: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_CLOSE_WITHIN", 0.3)
    put(receiver, readings([1, 2]))
    began = time.monotonic()
    receiver.close()
    assert 0.2 < time.monotonic() - began < 3
    assert receiver.undelivered == 2
    assert receiver._socket.closed
    assert isinstance(receiver._socket, zmq.Socket)
