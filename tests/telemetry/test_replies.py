from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import pytest

from telemetry import addresses, replies
from telemetry.bulk_udp import BulkSender
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats import ack
from telemetry.keys import KeyRing
from telemetry.meter_id import halves
from telemetry.replies import Replies
from tests.telemetry.rings import KEYS, MASTER, ring_of

RING = ring_of(KEYS, MASTER)
WANTED = int(Mark.NUMBERED | Mark.ACKNOWLEDGE)
ways = pytest.mark.parametrize("portable", [False, True], ids=["in-bulk", "portable"])


def meter(number: int) -> bytes:
    return b"meter-%06d" % number + bytes(4)


def envelopes(octets: list[bytes], marks: int = WANTED) -> Envelopes:
    pairs = [halves(one) for one in octets]
    count = len(octets)
    return Envelopes(
        np.array([high for high, _ in pairs], np.uint64),
        np.array([low for _, low in pairs], np.uint64),
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint32),
        np.ones(count, np.uint16),
        np.full(count, marks, np.uint8),
    )


def acks(octets: list[bytes], next_: int = 1) -> npt.NDArray[np.void]:
    return np.array([(*halves(one), 7, next_, 0) for one in octets], ack.ACK)


def rows_of(*names: tuple[object, ...]) -> npt.NDArray[np.uint8]:
    octets = b"".join(addresses.pack(name) for name in names)
    return np.frombuffer(octets, np.uint8).reshape(-1, addresses.ROOM)


def no_keys(count: int) -> npt.NDArray[np.uint8]:
    return np.zeros(count, np.uint8)


def remember(
    part: Replies,
    sock: socket.socket,
    own: Envelopes,
    key_id: npt.NDArray[np.uint8],
    came: npt.NDArray[np.uint8],
) -> None:
    """They stand in a call's rows every other one, in the opposite order."""
    rows = 2 * np.arange(len(own))[::-1]
    all_key_ids = np.full(2 * len(own), 9, np.uint8)
    all_came = np.zeros((2 * len(own), came.shape[1]), np.uint8)
    all_key_ids[rows], all_came[rows] = key_id, came
    part.remember(sock, own, rows, all_key_ids, all_came)


class Ends:
    """Sockets of the collector and of meters."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def bind(self, host: str = "127.0.0.1") -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setblocking(False)
        try:
            sock.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        return sock


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def heard(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(2048))
        except BlockingIOError:
            return found


@ways
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_meter_is_told_where_its_newest_came_from(
    ends: Ends, host: str, portable: bool
) -> None:
    collector, *meters = (ends.bind(host) for _ in range(4))
    part = Replies({collector: portable})
    first, second, third = (sock.getsockname() for sock in meters)
    a, b, c = meter(1), meter(2), meter(3)
    remember(part, collector, envelopes([a, b, a]), no_keys(3), rows_of(first, second, third))
    assert part.send(acks([a, b, c], 5), KeyRing.empty()) == 2
    expected = [ack.Ack(b, 7, 5, 0)], [ack.Ack(a, 7, 5, 0)]
    assert heard(meters[0]) == []
    for sock, told in zip(meters[1:], expected, strict=True):
        assert [ack.decode(one) for one in heard(sock)] == told
    remember(part, collector, envelopes([a]), no_keys(1), rows_of(first))
    assert part.send(acks([a], 6), KeyRing.empty()) == 1
    assert [ack.decode(one) for one in heard(meters[0])] == [ack.Ack(a, 7, 6, 0)]


@ways
def test_the_answer_leaves_from_the_socket_that_was_asked(ends: Ends, portable: bool) -> None:
    one, other, far = ends.bind(), ends.bind(), ends.bind()
    part = Replies({one: portable, other: portable})
    for sock, number in ((one, 1), (other, 2)):
        remember(part, sock, envelopes([meter(number)]), no_keys(1), rows_of(far.getsockname()))
    assert part.send(acks([meter(2), meter(1)]), KeyRing.empty()) == 2
    came = dict(far.recvfrom(100) for _ in range(2))
    assert {ack.decode(said).octets: at for said, at in came.items()} == {  # type: ignore[union-attr]
        meter(1): one.getsockname(),
        meter(2): other.getsockname(),
    }


@ways
def test_a_signed_datagram_gets_a_signed_answer(ends: Ends, portable: bool) -> None:
    collector, far = ends.bind(), ends.bind()
    part = Replies({collector: portable})
    (boiler, first, *_), (_, second, *_), (attic, seventh, *_) = KEYS[:3]
    octets, key_id = [boiler, attic, meter(1)], np.array([second, seventh, 0], np.uint8)
    remember(part, collector, envelopes(octets), key_id, rows_of(*[far.getsockname()] * 3))
    assert part.send(acks(octets), RING) == 3
    said = {one[4:20]: one for one in heard(far)}
    assert sorted(map(len, said.values())) == [36, 52, 52]
    for row, owner in ((1, boiler), (2, attic)):
        key = RING.acknowledgement_key(row)
        assert ack.decode(said[owner], key) == ack.Ack(owner, 7, 1, 0)
        assert ack.decode(said[owner], RING.acknowledgement_key(0)) is None
    assert first != second
    assert [said[boiler][3], said[attic][3], said[meter(1)][3]] == [second, seventh, 0]


@ways
def test_where_the_key_is_gone_nothing_is_said(ends: Ends, portable: bool) -> None:
    collector, far = ends.bind(), ends.bind()
    part = Replies({collector: portable})
    octets, key_id = [KEYS[0][0], meter(1)], np.array([1, 0], np.uint8)
    remember(part, collector, envelopes(octets), key_id, rows_of(*[far.getsockname()] * 2))
    assert part.send(acks(octets), KeyRing.empty()) == 1
    assert [one[4:20] for one in heard(far)] == [meter(1)]


def test_what_did_not_ask_is_not_remembered(ends: Ends) -> None:
    collector, far = ends.bind(), ends.bind()
    part = Replies({collector: False})
    name = rows_of(far.getsockname())
    remember(part, collector, envelopes([meter(1)], int(Mark.NUMBERED)), no_keys(1), name)
    assert part.send(acks([meter(1)]), KeyRing.empty()) == 0
    assert part.send(acks([]), KeyRing.empty()) == 0


@ways
def test_one_that_cannot_be_reached_keeps_no_other_from_being_told(
    ends: Ends, portable: bool
) -> None:
    collector, far = ends.bind(), ends.bind()
    part = Replies({collector: portable})
    octets = [meter(number) for number in range(5)]
    nowhere = "255.255.255.255", 9  # sending there is not permitted
    names = [nowhere, far.getsockname(), ("127.0.0.1", 0), far.getsockname(), nowhere]
    remember(part, collector, envelopes(octets), no_keys(5), rows_of(*names))
    assert part.send(acks(octets), KeyRing.empty()) == 2
    assert [one[4:20] for one in heard(far)] == [octets[1], octets[3]]


@ways
def test_thousands_in_one_go(ends: Ends, portable: bool) -> None:
    collector, far = ends.bind(), ends.bind()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    count = min(2500, far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 1280)
    part = Replies({collector: portable})
    octets = [meter(number) for number in range(count)]
    remember(
        part, collector, envelopes(octets), no_keys(count), rows_of(*[far.getsockname()] * count)
    )
    assert part.send(acks(octets), KeyRing.empty()) == count
    assert [one[4:20] for one in heard(far)] == octets


def test_what_is_remembered_is_bounded_and_the_newest_stay(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MOST_METERS", 100)
    collector, far = ends.bind(), ends.bind()
    part = Replies({collector: False})
    sent = [meter(number) for number in range(1000)]
    for start in range(0, 1000, 25):
        some = sent[start : start + 25]
        remember(part, collector, envelopes(some), no_keys(25), rows_of(*[far.getsockname()] * 25))
        assert len(part._younger.index) + len(part._elder.index) <= 200
    assert part.send(acks(sent[-100:]), KeyRing.empty()) == 100
    heard(far)
    assert part.send(acks(sent[:800]), KeyRing.empty()) == 0
    # One that is in both is told where its newest came from.
    other = ends.bind()
    remember(part, collector, envelopes(sent[-1:]), no_keys(1), rows_of(other.getsockname()))
    remember(part, collector, envelopes(sent[:25]), no_keys(25), rows_of(*[far.getsockname()] * 25))
    assert part.send(acks(sent[-1:]), KeyRing.empty()) == 1
    assert len(heard(other)) == 1


def test_the_elder_ways_are_taken_where_there_are_no_younger(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "MOST_METERS", 2)
    collector, first, second = ends.bind(), ends.bind(), ends.bind()
    part = Replies({collector: False})
    for numbers, sock in (((1, 2), first), ((3, 4), second)):
        some = [meter(number) for number in numbers]
        remember(part, collector, envelopes(some), no_keys(2), rows_of(*[sock.getsockname()] * 2))
    assert part.send(acks([meter(1), meter(4)]), KeyRing.empty()) == 2
    assert [one[4:20] for one in heard(first)] == [meter(1)]
    assert [one[4:20] for one in heard(second)] == [meter(4)]


def test_a_full_send_buffer_loses_the_rest() -> None:
    """A local socket, as the loopback's UDP is never full: it drops."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        while True:
            try:
                near.send(b"x")
            except BlockingIOError:
                break
        far.recv(10), far.recv(10)
        rows = np.tile(np.arange(5, dtype=np.uint8)[:, None], (1, 52))
        nobody = np.zeros((5, addresses.ROOM), np.uint8)
        sent = BulkSender(near).send_to(rows, np.full(5, 36), nobody)
        far.setblocking(False)
        told = [one for one in heard(far) if one != b"x"]
    assert sent == len(told) == 2
    assert told == [bytes([0]) * 36, bytes([1]) * 36]


@pytest.mark.parametrize("key_id", [0, 1])
def test_an_answer_is_shorter_than_any_datagram_it_answers(key_id: int) -> None:
    key = RING.acknowledgement_key(0) if key_id else None
    shortest = 40 + 16 + (16 if key_id else 0)
    _, lengths = ack.encode_many(acks([KEYS[0][0]]), np.array([key_id], np.uint8), [key])
    assert lengths.tolist() == [52 if key_id else 36]
    assert lengths[0] < shortest


def test_it_is_told_once_whether_any_wanted_an_answer(ends: Ends) -> None:
    collector, far = ends.bind(), ends.bind()
    part, name = Replies({collector: False}), rows_of(far.getsockname())
    remember(part, collector, envelopes([meter(1)], int(Mark.NUMBERED)), no_keys(1), name)
    assert not part.were_asked_for()
    remember(part, collector, envelopes([meter(1)]), no_keys(1), name)
    assert part.were_asked_for()
    assert not part.were_asked_for()
