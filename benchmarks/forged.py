"""Forged datagrams beside real, signed meters: what they cost, and that nothing is lost or sent."""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.load import household
from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.bulk_udp import BulkSender
from telemetry.counts import Counts
from telemetry.datagrams import Datagrams, Envelopes
from telemetry.formats.ack import ACK
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.keys import NEVER, KeyRing
from telemetry.listener import Listener
from telemetry.readings import Bytes, Readings
from telemetry.receiver import receive
from telemetry.security import seal
from telemetry.udp_socket import bind

_START = 1_795_428_900_000  # ms
_METERS = 2000
_BATCH = 4096
_TICK = 0.002
_MASTER = bytes(range(32))


class _Counting:
    """A sink that is never full and only counts."""

    def __init__(self) -> None:
        self.accepted = 0

    def full(self) -> bool:
        return False

    def put(self, envelopes: Envelopes, readings: Readings) -> None:
        self.accepted += len(envelopes)

    def count(self, counts: Counts) -> None:
        pass

    def acknowledgements(self) -> npt.NDArray[np.void]:
        return np.empty(0, ACK)

    def tick(self) -> float:
        return 1.0

    def close(self) -> None:
        pass


def _ring(meters: int, first: int = 0) -> KeyRing:
    """Key 1 of so many meters of the household, but for the ``first``."""
    halves = household(meters, 1, 0, 0)[first:, 4:20].copy().view(np.uint64)
    count = len(halves)
    until, none = np.full(count, NEVER), [None] * count
    return KeyRing(halves[:, 0], halves[:, 1], np.ones(count, np.uint8), until, none, _MASTER)


def _signed(rows: Bytes, ring: KeyRing, *, encrypt: bool) -> Bytes:
    """The rows, signed with key 1 of their meters."""
    halves = rows[:, 4:20].copy().view(np.uint64)
    keys = ring.keys(ring.meters(halves[:, 0], halves[:, 1]), np.ones(len(rows), np.uint8))
    signed = (
        seal(row.tobytes(), 1, ring.cipher(key), encrypt=encrypt)
        for row, key in zip(rows, keys.tolist(), strict=True)
    )
    return np.frombuffer(b"".join(signed), np.uint8).reshape(len(rows), -1)


def _forged(ring: KeyRing, how: str) -> Bytes:
    """Datagrams as meters sign them, but with wrong tags, of meters without keys, or both."""
    rows = _signed(household(_METERS, 3, _START, 1000)[:_BATCH], ring, encrypt=True).copy()
    rows[:, -1] ^= 1
    strangers = {"unknown": slice(None), "known": slice(0), "mixed": slice(None, None, 2)}[how]
    rows[strangers, 4:10] = np.frombuffer(b"forged", np.uint8)
    return rows


def run(arguments: argparse.Namespace) -> None:
    """First the decoder alone, then a receiver on loopback."""
    ring = _ring(_METERS)
    plain = household(_METERS, 3, _START, 1000)[:_BATCH]
    print(f"the decoder alone, {_BATCH} datagrams of 2 readings at once, us of CPU a datagram:")
    for name, rows, keys in (
        ("unsigned, no keys at all", plain, KeyRing.empty()),
        ("unsigned, others have keys", plain, _ring(2 * _METERS, _METERS)),
        ("signed", _signed(plain, ring, encrypt=False), ring),
        ("signed and encrypted", _signed(plain, ring, encrypt=True), ring),
        ("forged, of meters with keys", _forged(ring, "known"), ring),
        ("forged, of meters without", _forged(ring, "unknown"), ring),
    ):
        print(f"  {name:<28} {_decoding(rows, keys):6.2f}")
    for how in ("unknown", "known", "mixed"):
        _receiving(arguments, ring, how)


def _decoding(rows: Bytes, ring: KeyRing) -> float:
    octets = np.zeros((len(rows), 1280), np.uint8)
    octets[:, : rows.shape[1]] = rows
    home = Datagrams.of([b""]).sources
    datagrams = Datagrams(
        octets, np.full(len(rows), rows.shape[1], np.int64), np.tile(home, (len(rows), 1))
    )
    gate = Gate(Allowed(LOOPBACK), ring)
    took = []
    for _ in range(60):
        began = time.process_time()
        FORMATS["native"].decoder(Options())(datagrams, _START, gate)
        took.append(time.process_time() - began)
    return median(took) / len(rows) * 1e6


def _receiving(arguments: argparse.Namespace, ring: KeyRing, how: str) -> None:
    """One receiver, one who forges as fast as is asked, and meters at their pace."""
    context = multiprocessing.get_context("fork")
    sock = bind("127.0.0.1", 0)
    name = sock.getsockname()
    ours, theirs = context.Pipe()
    collector = context.Process(target=_collect, args=(sock, ring, theirs))
    collector.start()
    sock.close()
    count = arguments.datagrams // 3
    seconds = count / arguments.rate
    real = household(_METERS, max(1, int(seconds)), _START, 1000)
    real = _signed(real, ring, encrypt=True)
    ours.recv()
    heard = context.Queue()
    forger = context.Process(
        target=_send, args=(name, _forged(ring, how), count, arguments.rate, heard)
    )
    forger.start()
    answered = _pace(name, real, len(real), 2000.0)
    forged_seconds, forged_answered = heard.get()
    forger.join()
    time.sleep(0.5)
    ours.send(None)
    accepted, refused, drops, cpu = ours.recv()
    collector.join()
    total = accepted + sum(refused.values())
    print(
        f"{how}: {count:,} forged at {count / forged_seconds:,.0f} a second beside {len(real):,} "
        f"real at 2,000 a second"
    )
    print(f"  rejected {sum(refused.values()):,} {refused}, {drops:,} dropped by the kernel")
    print(f"  real ones lost: {len(real) - accepted:,}; datagrams sent out: ", end="")
    print(f"{answered + forged_answered:,}")
    print(f"  CPU {cpu / total * 1e6:.2f} us a datagram: {total / cpu:,.0f} a second and core")


def _collect(sock: socket.socket, ring: KeyRing, pipe: Connection) -> None:
    listener = Listener(sock, FORMATS["native"], Allowed(LOOPBACK))
    sink, stop = _Counting(), threading.Event()

    def wait() -> None:
        pipe.recv()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    pipe.send(None)
    used = time.process_time()
    receive([listener], sink, stop, lambda: ring, lambda: _START / 1000)
    used = time.process_time() - used
    refused = {reason.value: count for reason, count in listener.tally.refused.items()}
    pipe.send((sink.accepted, refused, listener.dropped, used))


def _send(
    to: tuple[str, int],
    rows: Bytes,
    count: int,
    rate: float,
    heard: multiprocessing.Queue[tuple[float, int]],
) -> None:
    began = time.perf_counter()
    answered = _pace(to, rows, count, rate)
    heard.put((time.perf_counter() - began - 1.0, answered))


def _pace(to: tuple[str, int], rows: Bytes, count: int, rate: float) -> int:
    """Send so many of the rows, round and round, at so many a second; how many answers came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        sender, sent, began = BulkSender(sock), 0, time.perf_counter()
        while sent < count:
            time.sleep(_TICK)
            due = min(count, int((time.perf_counter() - began) * rate))
            while sent < due:
                at = sent % len(rows)
                sent += sender.send(rows[at : at + due - sent])
        sock.settimeout(1.0)
        return _answers(lambda: sock.recv(2048))


def _answers(hear: Callable[[], bytes]) -> int:
    heard = 0
    while True:
        try:
            hear()
        except TimeoutError:
            return heard
        heard += 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--datagrams", type=int, default=1_000_000, help="forged ones, in all")
    parser.add_argument("--rate", type=float, default=100_000, help="forged ones a second")
