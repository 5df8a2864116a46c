from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from telemetry import bulk_udp
from telemetry.bulk_udp import SMALL_DATAGRAM, BulkReceiver, BulkSender
from telemetry.readings import Bytes
from telemetry.udp_socket import ask_for_buffer, kernel_drops

ROOM = 64
Pair = tuple[socket.socket, socket.socket]

ways = pytest.mark.parametrize(
    "portable",
    [
        pytest.param(
            False,
            id="in-bulk",
            marks=pytest.mark.skipif(
                bulk_udp._RECVMMSG is None or bulk_udp._SENDMMSG is None,
                reason="this system has no recvmmsg and sendmmsg",
            ),
        ),
        pytest.param(True, id="portable"),
    ],
)
counted = pytest.mark.skipif(
    bulk_udp._RECVMMSG is None, reason="only Linux tells what its kernel drops"
)


def open_pair() -> Pair:
    """A bound socket, and one that is connected to it."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    receiver.bind(("127.0.0.1", 0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(receiver.getsockname())
    return receiver, sender


@pytest.fixture
def pair() -> Iterator[Pair]:
    receiver, sender = open_pair()
    with receiver, sender:
        yield receiver, sender


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def numbered(count: int, length: int = 8) -> Bytes:
    """Rows that each say their number."""
    rows = np.zeros((count, length), np.uint8)
    rows[:, :4] = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 4)
    return rows


def take_all(receiver: BulkReceiver) -> list[tuple[bytes, int]]:
    """What is waiting: each row's octets, as far as it was filled, and its length."""
    found = []
    while len(datagrams := receiver.receive()):
        assert datagrams.lengths.dtype == np.int64
        for row, length in zip(datagrams.octets, datagrams.lengths.tolist(), strict=True):
            found.append((row[:length].tobytes(), length))
    return found


SENT = [
    b"",
    b"a",
    b"\0" * 10,
    b"x" * (ROOM - 1),
    b"y" * ROOM,
    b"",
    b"z" * (ROOM + 1),
    bytes(range(256)) * 4,
    b"w" * 65507,
    b"last",
]


@ways
def test_rows_and_lengths_are_what_was_sent(pair: Pair, portable: bool) -> None:
    sock, sender = pair
    ask_for_buffer(sock, 1 << 20)
    receiver = BulkReceiver(sock, 16, ROOM, portable=portable)
    for _ in range(2):  # the second time over rows that hold the first's octets
        for datagram in SENT:
            sender.send(datagram)
        found = take_all(receiver)
        assert [octets for octets, _ in found] == [datagram[:ROOM] for datagram in SENT]
        for datagram, (_, length) in zip(SENT, found, strict=True):
            # A full row of the portable way says "perhaps longer"; the other way knows.
            longer = len(datagram) > ROOM and portable
            assert length == (ROOM if longer else len(datagram))


@ways
def test_short_and_long_ones_in_any_company(pair: Pair, portable: bool) -> None:
    sock, sender = pair
    ask_for_buffer(sock, 1 << 20)
    receiver = BulkReceiver(sock, 16, 1300, portable=portable)
    random = np.random.default_rng(6)
    for lengths in ([72, 1, 128], [72, 129, 40, 1200], [300], [127, 0, 128], [1299, 128]):
        sent = [random.bytes(length) for length in lengths]
        for datagram in sent:
            sender.send(datagram)
        assert [octets for octets, _ in take_all(receiver)] == sent


@counted
def test_both_ways_give_the_same() -> None:
    random = np.random.default_rng(5)
    sent = [random.bytes(int(length)) for length in random.integers(0, 90, 300)]
    found = []
    for portable in (False, True):
        sock, sender = open_pair()
        with sock, sender:
            ask_for_buffer(sock, 1 << 20)
            for datagram in sent:
                sender.send(datagram)
            found.append(take_all(BulkReceiver(sock, 128, ROOM, portable=portable)))
    (bulk, portable_) = found
    assert [octets for octets, _ in bulk] == [octets for octets, _ in portable_]
    assert [min(length, ROOM) for _, length in bulk] == [length for _, length in portable_]
    assert [length for _, length in bulk] == [len(datagram) for datagram in sent]


@ways
def test_nothing_waiting_is_no_datagrams(pair: Pair, portable: bool) -> None:
    datagrams = BulkReceiver(pair[0], 4, ROOM, portable=portable).receive()
    assert len(datagrams) == 0
    assert datagrams.octets.shape == (0, ROOM)


@ways
def test_no_call_takes_more_than_was_said(pair: Pair, portable: bool) -> None:
    sock, sender = pair
    receiver = BulkReceiver(sock, 10, ROOM, portable=portable)
    assert BulkSender(sender).send(numbered(25)) == 25
    numbers: list[int] = []
    for expected in (10, 10, 5, 0):
        datagrams = receiver.receive()
        assert len(datagrams) == expected
        numbers += datagrams.octets[:, 0].tolist()
    assert numbers == list(range(25))


@ways
def test_five_thousand_at_once(pair: Pair, portable: bool) -> None:
    sock, sender = pair
    buffer = ask_for_buffer(sock, 8 << 20)
    count = min(5000, buffer // 1280)  # without privileges the buffer may be small
    rows = numbered(count)
    assert BulkSender(sender, portable=portable).send(rows) == count
    datagrams = BulkReceiver(sock, 6000, ROOM, portable=portable).receive()
    assert len(datagrams) == count
    assert (datagrams.lengths == 8).all()
    assert (datagrams.octets[:, :8] == rows).all()


@ways
def test_a_report_that_nobody_listens_is_not_a_datagram(portable: bool) -> None:
    """A connected socket is told; what arrives afterwards is taken all the same."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", closed_port()))
        sock.send(b"lost")
        receiver = BulkReceiver(sock, 4, ROOM, portable=portable)
        assert len(receiver.receive()) == 0
        assert len(receiver.receive()) == 0


@ways
def test_a_socket_that_is_gone_is_an_error(portable: bool) -> None:
    sock, sender = open_pair()
    sender.close()
    receiver = BulkReceiver(sock, 4, ROOM, portable=portable)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        receiver.receive()
    assert caught.value.errno == errno.EBADF


# Sending.


@ways
@pytest.mark.parametrize(
    "shape",
    [
        lambda rows: rows,
        lambda rows: rows[:, :5],
        lambda rows: rows[::3],
        lambda rows: rows[::-1],
        lambda rows: np.asfortranarray(rows),
        lambda rows: rows[:1],
        lambda rows: rows[:0],
        lambda rows: rows[:4, :0],
        lambda rows: np.frombuffer(rows.tobytes(), np.uint8).reshape(rows.shape),
    ],
    ids=["whole", "narrow", "thin", "backwards", "by-column", "one", "none", "empty", "read-only"],
)
def test_each_row_is_sent_once_in_order(
    pair: Pair, portable: bool, shape: Callable[[Bytes], Bytes]
) -> None:
    sock, sender = pair
    rows = shape(numbered(60))
    assert BulkSender(sender, portable=portable).send(rows) == len(rows)
    assert [octets for octets, _ in take_all(BulkReceiver(sock, 100, ROOM))] == [
        row.tobytes() for row in rows
    ]


@ways
def test_more_rows_than_one_call_takes_are_sent_in_order(pair: Pair, portable: bool) -> None:
    sock, sender = pair
    count = min(3000, ask_for_buffer(sock, 8 << 20) // 1280)
    assert BulkSender(sender, portable=portable).send(numbered(count)) == count
    sent = [octets for octets, _ in take_all(BulkReceiver(sock, 512, ROOM))]
    assert sent == [row.tobytes() for row in numbered(count)]


@ways
def test_a_refusal_reported_before_is_raised(portable: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", closed_port()))
        sock.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            BulkSender(sock, portable=portable).send(numbered(3))


@ways
def test_a_row_that_no_datagram_holds_is_an_error(pair: Pair, portable: bool) -> None:
    with pytest.raises(OSError, match="Message too long") as caught:
        BulkSender(pair[1], portable=portable).send(numbered(2, 65508))
    assert caught.value.errno == errno.EMSGSIZE


@ways
def test_fewer_are_taken_when_the_buffer_is_full(portable: bool) -> None:
    """A local socket pair, as the loopback's UDP is never full: it drops."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(near), closing(far):
        near.setblocking(False)
        far.setblocking(False)
        rows = numbered(5000)
        sender = BulkSender(near, portable=portable)
        receiver = BulkReceiver(far, 5000, ROOM, portable=portable)
        sent = sender.send(rows)
        assert 0 < sent < len(rows)
        assert sender.send(rows[sent:]) == 0
        found = take_all(receiver)
        while sent < len(rows):
            sent += sender.send(rows[sent:])
            found += take_all(receiver)
        assert [octets for octets, _ in found] == [row.tobytes() for row in rows]


# The kernel's buffer.


@pytest.mark.parametrize("octets", [16_384, 65_536, 100_000, 4 << 20])
def test_the_buffer_that_was_given_is_answered(pair: Pair, octets: int) -> None:
    sock, _ = pair
    given = ask_for_buffer(sock, octets)
    assert given == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if octets <= 100_000:  # no system's limit is so low
        assert given in (octets, 2 * octets)


@counted
@pytest.mark.parametrize("octets", [8, 56, 88])
def test_what_a_small_datagram_takes_of_the_buffer(pair: Pair, octets: int) -> None:
    """``SMALL_DATAGRAM`` is what the receiver's word on its buffer rests on."""
    sock, sender = pair
    buffer = ask_for_buffer(sock, 1 << 16)
    count = 0
    while kernel_drops(sock) == 0:
        sender.send(bytes(octets))
        count += 1
    assert buffer // SMALL_DATAGRAM == pytest.approx(count - 1, rel=0.1)


@counted
@ways
def test_the_kernel_s_drops_and_what_was_received_are_all_that_was_sent(
    pair: Pair, portable: bool
) -> None:
    sock, sender = pair
    ask_for_buffer(sock, 10_000)
    receiver = BulkReceiver(sock, 100, ROOM, portable=portable)
    assert kernel_drops(sock) == 0
    received = sent = 0
    for _ in range(3):
        sent += BulkSender(sender, portable=portable).send(numbered(2000))
        dropped = kernel_drops(sock)  # told before any later datagram is taken
        assert dropped
        received += len(take_all(receiver))
        assert received + dropped == sent
        assert kernel_drops(sock) == dropped
    assert received


@counted
def test_nothing_is_dropped_while_there_is_room(pair: Pair) -> None:
    sock, sender = pair
    BulkSender(sender).send(numbered(50))
    assert kernel_drops(sock) == 0
    assert len(take_all(BulkReceiver(sock, 100, ROOM))) == 50
    assert kernel_drops(sock) == 0
