from __future__ import annotations

import itertools
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from telemetry import meter_id, receiver
from telemetry.admission import LOOPBACK, Allowed
from telemetry.bulk_udp import BulkSender
from telemetry.counts import Counts
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats import ack, native
from telemetry.formats.ack import ACK
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.listener import Listener, describe
from telemetry.readings import Bytes, Readings, Status
from telemetry.receiver import receive
from telemetry.registers import ENERGY_IMPORT
from telemetry.rejects import Reason
from telemetry.replies import Replies
from telemetry.security import seal
from telemetry.udp_socket import bind, kernel_drops, name_of
from tests.telemetry.rings import KEYS, MASTER, ring_of
from tests.waiting import PATIENCE, seconds, undisturbed, wait_until

NOW = 1_795_428_900_000
NOBODY_S = KeyRing.empty()
RING = ring_of(KEYS, MASTER)
KITCHEN = b"kitchen".ljust(16, b"\0")
JSON = b'{"meter":"kitchen","registers":{"energy_import":%d}}'
# An unsigned datagram of 5 Wh in each format that is not native.
OTHERS = {
    "json": JSON % 5,
    "line": b"meters,meter=kitchen energy_import=5i",
    "shelly": b'{"src":"plug","method":"NotifyStatus","params":{"pm1:0":{"aenergy":{"total":5}}}}',
    "dlms": bytes.fromhex(
        "000100010066002d0f40000000000102020309060100010800ff060000"
        "000502020f00161e020209060000600100ff0a0468616c6c"
    ),
    "speedwire": bytes.fromhex(
        "534d4100 00180010 6069 015d 71557e2a 00000001 00010800 0000000000004650 00000000"
    ),
}

MOST_SENT = 65_507  # octets, over IPv4


def no_keys() -> KeyRing:
    return NOBODY_S


@dataclass
class Kept:
    """A sink that keeps readings, and is full when it holds ``most``."""

    most: float = float("inf")
    parts: list[Readings] = field(default_factory=list)
    held: int = 0
    calls: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    envelopes: list[Envelopes] = field(default_factory=list)
    counted: list[Counts] = field(default_factory=list)
    durable: list[npt.NDArray[np.void]] = field(default_factory=list)

    def full(self) -> bool:
        self.threads.add(threading.get_ident())
        return self.held >= self.most

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        self._called("put")
        assert int(envelopes.count.sum()) == len(readings)
        self.envelopes.append(envelopes)
        self.parts.append(readings)
        self.held += len(readings)

    def count(self, counts: Counts) -> None:
        self._called("count")
        self.counted.append(counts)

    def acknowledgements(self) -> npt.NDArray[np.void]:
        self.threads.add(threading.get_ident())
        return self.durable.pop() if self.durable else np.empty(0, ACK)

    def tick(self) -> float:
        self._called("tick")
        return 1.0

    def close(self) -> None:
        self._called("close")

    def _called(self, name: str) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append(name)

    @property
    def readings(self) -> Readings:
        return Readings.concatenate(self.parts)

    @property
    def values(self) -> list[int]:
        values: list[int] = self.readings.value.tolist()
        return values


def numbered(count: int, first: int = 0) -> Bytes:
    """Native datagrams of one reading each, whose values are their numbers."""
    records = np.zeros((count, 1), native.RECORD)
    records["register"] = ENERGY_IMPORT
    records["value"][:, 0] = np.arange(first, first + count)
    high, low = (np.full(count, half, np.uint64) for half in np.frombuffer(KITCHEN, "<u8"))
    epoch, sequence = np.zeros(count, np.uint32), np.arange(first, first + count).astype(np.uint32)
    return native.encode_same_shape(high, low, epoch, sequence, np.full(count, NOW), records)


def one(value: int) -> bytes:
    return bytes(numbered(1, value)[0])


Open = Callable[..., Listener]


@pytest.fixture
def listen() -> Iterator[Open]:
    """Opens listeners on free ports, and closes their sockets."""
    with ExitStack() as stack:

        def open_(
            format_: str = "native",
            *,
            portable: bool = False,
            address: str = "127.0.0.1",
            allowed: Allowed | None = None,
            interval_ms: int = 0,
        ) -> Listener:
            sock = stack.enter_context(bind(address, 0))
            allowed = allowed or Allowed(LOOPBACK)
            return Listener(
                sock, FORMATS[format_], allowed, portable=portable, interval_ms=interval_ms
            )

        yield open_


@contextmanager
def sender_to(listener: Listener) -> Iterator[socket.socket]:
    with socket.socket(listener.sock.family, socket.SOCK_DGRAM) as sock:
        sock.connect(listener.sock.getsockname())
        yield sock


@contextmanager
def receiving(
    sink: Kept,
    *listeners: Listener,
    keys: Callable[[], KeyRing] = no_keys,
    clock: Callable[[], float] = lambda: NOW / 1000,
) -> Iterator[None]:
    """``receive`` in a thread of its own; it is stopped, and must stop, at the end."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            receive(list(listeners), sink, stop, keys, clock)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not failed
    assert sink.threads == {thread.ident}
    assert sink.calls.count("close") == 1
    assert sink.calls[-2:] == ["tick", "close"]


ways = pytest.mark.parametrize("portable", [False, True], ids=["in-bulk", "portable"])


@ways
def test_everything_sent_arrives_once_and_is_counted(listen: Open, portable: bool) -> None:
    listener, sink = listen(portable=portable), Kept()
    bad = {
        Reason.FOREIGN: b"",
        Reason.SHORT: one(0)[:-1],
        Reason.OVERSIZED: one(0) + bytes(1177),
        Reason.VERSION: b"\xf5\x02" + one(0)[2:],
        Reason.FLAGS: b"\xf5\x01\x80" + one(0)[3:],
        Reason.UNKNOWN_KEY: b"\xf5\x01\x00\x01" + one(0)[4:] + bytes(16),
        Reason.COUNT: one(0) + b"\0",
        Reason.METER_ID: one(0)[:4] + bytes(16) + one(0)[20:],
        Reason.REGISTER: one(0)[:40] + b"\xff\xff" + one(0)[42:],
        Reason.VALUE: one(0)[:-8] + b"\xff" * 8,
    }
    each, bursts = 200, 15
    with sender_to(listener) as sock, receiving(sink, listener):
        bulk = BulkSender(sock)
        for number in range(bursts):
            assert bulk.send(numbered(each, number * each)) == each
            for octets in bad.values():
                sock.send(octets)
            expected = (number + 1) * (each + len(bad))
            wait_until(lambda expected=expected: listener.received == expected)  # type: ignore[misc]
    assert sink.values == list(range(each * bursts))
    assert listener.tally.accepted == each * bursts
    assert listener.tally.refused == Counter(dict.fromkeys(bad, bursts))
    assert listener.dropped == 0


@ways
@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.longest < MOST_SENT])
def test_what_is_longer_than_any_datagram_of_the_format_is_oversized(
    listen: Open, portable: bool, name: str
) -> None:
    listener, sink = listen(name, portable=portable), Kept()
    start = {"json": b"{", "shelly": b'{"src"', "dlms": b"\0\1"}.get(name, b"\xf5")
    longest = FORMATS[name].longest
    room = longest + 1 + -(longest + 1) % 64
    with sender_to(listener) as sock, receiving(sink, listener):
        for length in (longest + 1, max(longest + 1, room - 1), room, room + 1, 9000, MOST_SENT):
            sock.send(start.ljust(length, b" "))
        wait_until(lambda: listener.received == 6)
    assert listener.tally.refused == {Reason.OVERSIZED: 6}


@ways
def test_lines_fill_a_datagram_but_where_formats_are_told_apart(
    listen: Open, portable: bool
) -> None:
    """What has no room there is refused as a whole, though the cut would leave good lines."""
    line, auto = listen("line", portable=portable), listen("auto", portable=portable)
    sink = Kept()
    longest = FORMATS["auto"].longest
    with sender_to(line) as to_line, sender_to(auto) as to_auto, receiving(sink, line, auto):
        for number, length in enumerate((longest, longest + 1, longest + 2, MOST_SENT)):
            to_line.send(lines_of(length, number))
            to_auto.send(lines_of(length, number + 10))
        wait_until(lambda: line.received + auto.tally.refused.total() >= 4 + 3)
        wait_until(lambda: 3 in sink.values)
    count = {length: lines_of(length, 0).count(b"\n") for length in (longest, MOST_SENT)}
    assert Counter(sink.values)[3] == count[MOST_SENT] > 1000
    assert not line.tally.refused
    assert auto.tally.refused == {Reason.OVERSIZED: 3}
    assert Counter(sink.values)[10] == count[longest] == auto.tally.accepted


def lines_of(length: int, value: int) -> bytes:
    """A datagram of so many octets: lines of 64 octets, and a comment."""
    line = b"e,meter=m energy_import=%di %d" % (value, 10**6 * NOW)
    line = line.ljust(63) + b"\n"
    return (line * ((length - 1) // 64)).ljust(length, b"#")


def test_one_of_exactly_the_longest_is_taken(listen: Open) -> None:
    listener, sink = listen("auto"), Kept()
    records = [native.Record(ENERGY_IMPORT, NOW, value) for value in range(74)]
    with sender_to(listener) as sock, receiving(sink, listener):
        sock.send(native.encode(KITCHEN, 0, 0, records))
        sock.send((JSON % 74).ljust(1232))
        wait_until(lambda: listener.received == 2)
    assert sink.values == list(range(75))


@ways
def test_a_full_sink_leaves_datagrams_to_the_kernel_and_they_come_later(
    listen: Open, portable: bool
) -> None:
    listener, sink = listen(portable=portable), Kept(most=100)
    with sender_to(listener) as sock, receiving(sink, listener):
        bulk = BulkSender(sock)
        bulk.send(numbered(100))
        wait_until(lambda: listener.received == 100)
        bulk.send(numbered(150, 100))
        ticks = sink.calls.count("tick")
        wait_until(lambda: sink.calls.count("tick") > ticks + 5)  # it goes on, but takes nothing
        assert listener.received == 100
        sink.most = float("inf")
        wait_until(lambda: listener.received == 250)
    assert sink.values == list(range(250))
    assert listener.dropped == 0


@ways
def test_sent_is_accepted_and_refused_and_dropped_exactly(
    listen: Open, monkeypatch: pytest.MonkeyPatch, portable: bool
) -> None:
    """A flood while the sink is full, and more of it while it is not."""
    monkeypatch.setattr("telemetry.udp_socket.ASKED_BUFFER", 65_536)
    listener, sink = listen(portable=portable), Kept(most=0)
    if kernel_drops(listener.sock) is None:
        pytest.skip("only Linux tells what its kernel drops")
    sent = 0
    with sender_to(listener) as sock, receiving(sink, listener):
        bulk = BulkSender(sock)
        sent += bulk.send(numbered(1000))
        assert kernel_drops(listener.sock)
        wait_until(lambda: listener.dropped == kernel_drops(listener.sock))
        assert listener.received == 0
        while_full = listener.dropped
        assert listener.holds == pytest.approx(1000 - while_full, rel=0.1)
        sink.most = float("inf")
        for number in range(1, 6):
            sent += bulk.send(numbered(1000, 1000 * number))
            sock.send(b"foreign")
            sent += 1
        wait_until(lambda: listener.received + listener.dropped == sent)
    assert listener.tally.accepted + listener.tally.refused.total() + listener.dropped == sent
    assert listener.tally.accepted == len(sink.values) == len(set(sink.values))
    assert sink.values == sorted(sink.values)
    assert set(listener.tally.refused) <= {Reason.FOREIGN}


@ways
def test_stop_takes_what_is_waiting(listen: Open, portable: bool) -> None:
    """More than one call takes; and what a full socket buffer holds where it is small."""
    listener, sink = listen(portable=portable), Kept()
    count = min(6000, listener.holds * 9 // 10)
    with sender_to(listener) as sock:
        assert BulkSender(sock).send(numbered(count)) == count
    stop = threading.Event()
    stop.set()
    receive([listener], sink, stop, no_keys)
    assert sink.values == list(range(count))
    assert listener.received == count
    assert sink.calls[-3:] == ["count", "tick", "close"]


def test_stop_at_a_full_sink_puts_nothing_more_into_it(listen: Open) -> None:
    listener, sink = listen(), Kept(most=0)
    with sender_to(listener) as sock:
        sock.send(one(1))
    stop = threading.Event()
    stop.set()
    receive([listener], sink, stop, no_keys)
    assert sink.calls == ["tick", "close"]
    assert listener.received == 0


@dataclass
class Followed(Kept):
    """A sink during whose every call another datagram arrives, as in heavy traffic one does."""

    sock: socket.socket | None = None

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        super().put(envelopes, readings)
        assert self.sock
        assert self.held < 100, "it goes on and on"
        self.sock.send(one(self.held))


@ways
def test_stop_comes_to_an_end_while_datagrams_go_on_arriving(listen: Open, portable: bool) -> None:
    listener = listen(portable=portable)
    stop = threading.Event()
    stop.set()
    with sender_to(listener) as sock:
        sink = Followed(sock=sock)
        sock.send(one(0))
        receive([listener], sink, stop, no_keys)
    assert sink.values == [0]
    assert sink.calls == ["put", "count", "tick", "close"]


def test_what_goes_on_arriving_does_not_keep_the_sink_from_its_turn(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when every call comes back full."""
    monkeypatch.setattr("telemetry.listener.MOST_A_CALL", 1)
    monkeypatch.setattr("telemetry.udp_socket.ASKED_BUFFER", 8192)
    listener = listen()
    stop = threading.Event()
    stop.set()
    with sender_to(listener) as sock:
        sink = Followed(sock=sock)
        sock.send(one(0))
        receive([listener], sink, stop, no_keys)
    assert listener.holds <= len(sink.values) <= 2 * listener.holds + 1


def test_two_listeners_each_of_its_format(listen: Open) -> None:
    first, second = listen("native"), listen("json")
    sink = Kept()
    with (
        sender_to(first) as to_native,
        sender_to(second) as to_json,
        receiving(sink, first, second),
    ):
        for number in range(50):
            to_native.send(one(number))
            to_json.send(JSON % (1000 + number))
        to_native.send(JSON % 1)
        to_json.send(one(1))
        wait_until(lambda: first.received + second.received == 102)
    assert sorted(sink.values) == [*range(50), *range(1000, 1050)]
    for listener, reason in ((first, Reason.FOREIGN), (second, Reason.MALFORMED)):
        assert (listener.tally.accepted, listener.tally.refused) == (50, {reason: 1})


def test_one_listener_of_both_formats_keeps_the_order_of_arrival(listen: Open) -> None:
    """Of two values for one instant the later is the current one, whichever way it came."""
    listener, sink = listen("auto"), Kept()
    said = b'{"meter":"kitchen","time":%d,"registers":{"energy_import":%d}}'
    with sender_to(listener) as sock:
        for number in range(0, 40, 2):
            sock.send(said % (NOW // 1000, number))
            sock.send(one(number + 1))
        with receiving(sink, listener):
            wait_until(lambda: listener.received == 40)
    assert sink.values == list(range(40))
    assert set(sink.readings.time.tolist()) == {NOW}


def test_a_listener_that_is_flooded_does_not_keep_another_from_being_heard(listen: Open) -> None:
    flooded, quiet = listen("native"), listen("json")
    sink, over = Kept(), threading.Event()

    def flood() -> None:
        with sender_to(flooded) as sock:
            bulk, rows = BulkSender(sock), numbered(512)
            while not over.is_set():
                bulk.send(rows)

    numbers = itertools.count()

    def heard() -> None:
        number = next(numbers)
        sock.send(JSON % number)
        wait_until(lambda: quiet.received > number)

    thread = threading.Thread(target=flood)
    with sender_to(quiet) as sock, receiving(sink, flooded, quiet):
        thread.start()
        try:
            for _ in range(20):
                undisturbed(2, lambda: seconds(heard))
        finally:
            over.set()
            thread.join()
    assert quiet.tally.accepted == next(numbers)


def test_the_time_of_arrival_is_the_clock_s(listen: Open) -> None:
    listener, sink = listen("json"), Kept()
    with sender_to(listener) as sock, receiving(sink, listener):
        sock.send(JSON % 5)
        wait_until(lambda: listener.received == 1)
    readings = sink.readings
    assert (readings.time.tolist(), readings.status.tolist()) == ([NOW], [Status.ARRIVAL_TIME])


def test_the_sink_has_its_turn_when_nothing_arrives(listen: Open) -> None:
    sink = Kept()
    with receiving(sink, listen()):
        wait_until(lambda: sink.calls.count("tick") >= 3)
    assert "put" not in sink.calls


@pytest.mark.parametrize(("address", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_sentence_on_the_buffer(listen: Open, address: str, shown: str) -> None:
    try:
        listener = listen("auto", address=address)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    port = listener.sock.getsockname()[1]
    given = listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    found = re.fullmatch(
        rf"listening on udp {re.escape(shown)}:{port} for auto datagrams, "
        r"unsigned ones only from 127.0.0.0/8 and ::1/128; the socket buffer of "
        r"(\d+) KiB holds (\d+) small datagrams: (\d+\.\d\d) s at 100,000 a second",
        describe(listener),
    )
    assert found
    assert int(found[1]) == given // 1024
    assert int(found[2]) == given // 832
    assert float(found[3]) == pytest.approx(given / 832 / 100_000, abs=0.005)


def test_the_buffer_really_holds_what_the_sentence_says(
    listen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.udp_socket.ASKED_BUFFER", 100_000)
    listener = listen()
    if kernel_drops(listener.sock) is None:
        pytest.skip("only Linux tells what its kernel drops")
    with sender_to(listener) as sock:
        BulkSender(sock).send(numbered(2 * listener.holds))
    dropped = kernel_drops(listener.sock)
    assert dropped == pytest.approx(listener.holds, rel=0.1)


def test_the_busiest_second(listen: Open) -> None:
    listener, sink = listen(), Kept()
    with sender_to(listener) as sock:
        replies = Replies({listener.sock: False})

        def arrive(count: int, now: float) -> float:
            BulkSender(sock).send(numbered(count))
            taken = 0
            while taken < count:
                taken += listener.take(sink, replies, NOW)
            listener.measure(now)
            return listener.busiest

        listener.measure(100.0)
        assert arrive(30, 100.5) == 0.0  # no second is over yet
        assert arrive(70, 101.0) == 100.0
        assert arrive(20, 102.0) == 100.0  # a quieter one
        assert arrive(200, 106.0) == 100.0  # 50 a second for four
        assert arrive(240, 107.5) == 160.0
        sock.send(b"refused ones count too")
        assert arrive(199, 108.5) == 200.0


def test_the_busiest_second_is_measured_while_receiving(listen: Open) -> None:

    def apart() -> float:
        """By what part the rate as it is told differs from that over all of the time."""
        listener, sink = listen(), Kept()
        with sender_to(listener) as sock, receiving(sink, listener):
            start = time.monotonic()
            while listener.busiest == 0.0:
                sock.send(one(1))
                time.sleep(0.002)
                assert time.monotonic() - start < PATIENCE
            rate = listener.received / (time.monotonic() - start)
        return abs(listener.busiest - rate) / rate

    undisturbed(0.3, apart)


@pytest.mark.parametrize("holds", [157, 512, 10_082])
def test_naps_follow_the_rate(holds: int) -> None:
    """A quarter of the buffer gathers in a nap, but no more than the processor's cache likes."""
    gathers = min(2048, holds // 4)
    for rate in (10, 10_000, 100_000, 400_000):
        nap = receiver.LONGEST_NAP
        for _ in range(24):
            nap = receiver._next_nap(nap, int(rate * nap), holds)
            assert receiver.SHORTEST_NAP <= nap <= receiver.LONGEST_NAP
        wanted = max(receiver.SHORTEST_NAP, gathers / rate)
        assert nap <= 1.25 * wanted
        assert nap >= min(receiver.LONGEST_NAP, wanted) / 2


def test_an_address_that_cannot_be_had_leaves_no_socket_behind(listen: Open) -> None:
    port = listen().sock.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", port)  # an unclosed socket would be a warning, and so an error


# Who gets in, who is told, what is counted.


def signed_one(value: int, key_id: int = 1, *, acknowledge: bool = False) -> bytes:
    octets = KEYS[0][0]
    record = native.Record(ENERGY_IMPORT, NOW, value)
    datagram = native.encode(octets, 0, value, [record], acknowledge=acknowledge)
    row = next(row for row, key in enumerate(KEYS) if key[:2] == (octets, key_id))
    return seal(datagram, key_id, RING.cipher(row))


@ways
@pytest.mark.parametrize("name", FORMATS)
def test_unsigned_datagrams_come_from_allowed_networks_only(
    listen: Open, portable: bool, name: str
) -> None:
    home = listen(name, portable=portable)
    away = listen(name, portable=portable, allowed=Allowed(["10.0.0.0/8", "::/0"]))
    sink = Kept()
    datagram = OTHERS.get(name, one(5))
    with sender_to(home) as to_home, sender_to(away) as to_away, receiving(sink, home, away):
        for sock in (to_home, to_away):
            sock.send(datagram)
        wait_until(lambda: home.received + away.received == 2)
    assert (home.tally.accepted, away.tally.accepted) == (1, 0)
    assert away.tally.refused == {Reason.NOT_ALLOWED: 1}
    assert sink.values == [5]


@ways
def test_keys_are_looked_at_again_and_again(listen: Open, portable: bool) -> None:
    listener, sink = listen(portable=portable, allowed=Allowed([])), Kept()
    rings = [KeyRing.empty()]
    with sender_to(listener) as sock, receiving(sink, listener, keys=lambda: rings[0]):
        sock.send(signed_one(1))
        wait_until(lambda: listener.received == 1)
        assert listener.tally.refused == {Reason.UNKNOWN_KEY: 1}
        rings[0] = RING
        wait_until(lambda: listener.gate.ring is RING)
        sock.send(signed_one(2))
        wait_until(lambda: listener.received == 2)
        rings[0] = KeyRing.empty()
        wait_until(lambda: listener.gate.ring is not RING)
        sock.send(signed_one(3))
        wait_until(lambda: listener.received == 3)
    assert sink.values == [2]
    assert [part.marks.tolist() for part in sink.envelopes] == [[Mark.NUMBERED | Mark.SIGNED]]


@ways
def test_a_meter_is_told_what_became_durable(listen: Open, portable: bool) -> None:
    listener, sink = listen("auto", portable=portable), Kept()
    key = RING.acknowledgement_key(1)
    with (
        sender_to(listener) as quiet,
        sender_to(listener) as sock,
        receiving(sink, listener, keys=lambda: RING),
    ):
        quiet.send(one(9))
        sock.send(signed_one(7, 2, acknowledge=True))
        wait_until(lambda: listener.received == 2)
        rows = [(*meter_id.halves(octets), 0, 8, 0) for octets in (KEYS[0][0], KITCHEN)]
        sink.durable.append(np.array(rows, ACK))
        sock.settimeout(PATIENCE)
        assert ack.decode(sock.recv(100), key) == ack.Ack(KEYS[0][0], 0, 8, 0)
        quiet.settimeout(0.1)
        with pytest.raises(TimeoutError):
            quiet.recv(100)


def test_what_becomes_durable_when_the_sink_closes_is_told(listen: Open) -> None:
    class Last(Kept):
        def close(self) -> None:
            super().close()
            self.durable.append(np.array([(*meter_id.halves(KITCHEN), 0, 1, 0)], ACK))

    listener, sink = listen(), Last()
    with sender_to(listener) as sock:
        record = native.Record(ENERGY_IMPORT, NOW, 1)
        with receiving(sink, listener):
            sock.send(native.encode(KITCHEN, 0, 0, [record], acknowledge=True))
            wait_until(lambda: listener.received == 1)
        sock.settimeout(PATIENCE)
        assert ack.decode(sock.recv(100)) == ack.Ack(KITCHEN, 0, 1, 0)


def summed(sink: Kept) -> tuple[Counter[str], Counter[str], Counter[tuple[int, int, str]]]:
    """All counts that were handed over: by what, by reason, by meter and reason."""
    counts, refused, meters = Counter[str](), Counter[str](), Counter[tuple[int, int, str]]()
    for handed in sink.counted:
        for of in handed.listeners:
            counts.update(accepted=of.accepted, back_pressure=of.back_pressure)
            refused.update(of.refused)
        for high, low, reason, count in handed.meters:
            meters[high, low, reason] += count
    return counts, refused, meters


def test_counts_are_handed_over_once(listen: Open) -> None:
    listener, sink = listen(), Kept()
    host, port = listener.sock.getsockname()
    boiler = KEYS[0][0]
    with sender_to(listener) as sock, receiving(sink, listener, keys=lambda: RING):
        for number in range(30):
            sock.send(one(number))
            sock.send(signed_one(number))
            sock.send(signed_one(number)[:-1] + b"\0" * (number != -1))
            sock.send(b"x")
            sock.send(native.encode(boiler, 0, 0, [native.Record(ENERGY_IMPORT, NOW, 1)]))
            time.sleep(0.08)
        wait_until(lambda: listener.received == 150)
        wait_until(lambda: len(sink.counted) >= 2)  # about once a second, not only at the end
    counts, refused, meters = summed(sink)
    forged = listener.tally.refused[Reason.FORGED]
    assert 28 <= forged <= 30  # a tag may end in a zero octet
    assert counts == {"accepted": listener.tally.accepted, "back_pressure": 0}
    assert listener.tally.accepted == 90 - forged
    assert refused == {"forged": forged, "foreign": 30, "unsigned": 30}
    halves = meter_id.halves(boiler)
    assert meters == {(*halves, "forged"): forged, (*halves, "unsigned"): 30}
    names = {(of.listener, of.socket) for handed in sink.counted for of in handed.listeners}
    assert names == {(f"udp {host}:{port}", name_of(listener.sock))}
    assert not listener.tally.meters


def test_where_nothing_happens_nothing_is_handed_over(listen: Open) -> None:
    sink = Kept()
    with receiving(sink, listen()):
        time.sleep(1.3)
    assert sink.counted == []


def test_sockets_have_names_of_their_own(listen: Open) -> None:
    first, second = listen().sock, listen().sock
    assert name_of(first) != name_of(second)
    with socket.socket(fileno=os.dup(first.fileno())) as again:
        if kernel_drops(first) is not None:
            assert name_of(again) == name_of(first)


@ways
def test_drops_while_the_sink_is_full_are_told_from_others(
    listen: Open, monkeypatch: pytest.MonkeyPatch, portable: bool
) -> None:
    monkeypatch.setattr("telemetry.udp_socket.ASKED_BUFFER", 65_536)
    listener, sink = listen(portable=portable), Kept()
    if kernel_drops(listener.sock) is None:
        pytest.skip("only Linux tells what its kernel drops")
    with sender_to(listener) as sock:
        bulk = BulkSender(sock)
        bulk.send(numbered(1000))
        before = kernel_drops(listener.sock)
        with receiving(sink, listener):
            wait_until(lambda: listener.received + listener.dropped == 1000)
            assert (listener.dropped, listener.back_pressure) == (before, 0)
            sink.most = 0
            ticks = sink.calls.count("tick")
            wait_until(lambda: sink.calls.count("tick") > ticks + 1)  # it has seen that
            bulk.send(numbered(1000))
            both = kernel_drops(listener.sock)
            sink.most = float("inf")
            wait_until(lambda: listener.received + listener.dropped == 2000)
    assert before
    assert both
    assert both > before
    assert (listener.dropped, listener.back_pressure) == (both, both - before)
    counts, _, _ = summed(sink)
    assert counts == {"accepted": 2000 - both, "back_pressure": both - before}
    assert sink.counted[-1].listeners[-1].drops == both


# Thinned


def second(value: int) -> bytes:
    """A datagram of second ``value`` of the meter's own clock."""
    return b'{"meter":"kitchen","time":%d,"registers":{"energy_import":%d}}' % (
        NOW // 1000 + value,
        value,
    )


def test_a_thinned_listener_counts_every_datagram_and_keeps_the_last_reading(listen: Open) -> None:
    listener, sink = listen("json", interval_ms=60_000), Kept()
    other = listen("json")
    with sender_to(listener) as sock, sender_to(other) as plain, receiving(sink, listener, other):
        for number in range(90):
            sock.send(second(number))
        wait_until(lambda: sum(map(len, sink.envelopes)) == 90)
        assert sink.values == [0, 60]
        plain.send(second(91))
        plain.send(second(92))
        wait_until(lambda: sink.values == [0, 60, 91, 92])
    # NOW is a whole minute. Stopped, it gives up what it held back.
    assert sink.values == [0, 60, 91, 92, 89]
    marks = np.concatenate([part.marks for part in sink.envelopes])
    assert len(marks) == 90 + 2 + 1
    assert np.flatnonzero(marks & Mark.UNCOUNTED).tolist() == [92]


def test_what_is_held_back_leaves_when_its_sender_falls_silent(listen: Open) -> None:
    listener, sink = listen("json", interval_ms=60_000), Kept()
    now = [NOW / 1000]
    with sender_to(listener) as sock, receiving(sink, listener, clock=lambda: now[0]):
        for number in range(3):
            sock.send(second(number))
        wait_until(lambda: sum(map(len, sink.envelopes)) == 3)
        now[0] += 119
        time.sleep(1.2)  # it looks once a second
        assert sink.values == [0]
        now[0] += 1
        wait_until(lambda: sink.values == [0, 2])
    assert sink.values == [0, 2]


def test_what_wants_an_acknowledgement_is_not_thinned(listen: Open) -> None:
    listener, sink = listen(interval_ms=3_600_000), Kept()
    with sender_to(listener) as sock, receiving(sink, listener):
        for number in range(100):
            record = native.Record(ENERGY_IMPORT, NOW + 1000 * number, number)
            sock.send(native.encode(KITCHEN, 1, number, [record], acknowledge=True))
        wait_until(lambda: sum(map(len, sink.envelopes)) == 100)
        assert sink.values == list(range(100))


def test_the_log_says_what_is_thinned(listen: Open) -> None:
    assert "json datagrams, thinned to one reading in 60 s, unsigned" in describe(
        listen("json", interval_ms=60_000)
    )
