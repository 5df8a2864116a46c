"""What the sender can do, and a bare kernel that takes everything and looks at nothing."""

from __future__ import annotations

import multiprocessing
import select
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from benchmarks.datagrams import line_rows, made, native_rows
from benchmarks.load import Sending
from benchmarks.running import Measure, Run
from telemetry.bulk_udp import BulkReceiver
from telemetry.udp_socket import ask_for_buffer

MEASURES = (
    Measure("sent", "/s", "sent a second", more=True),
    Measure("received", "/s", "received a second", picture=True, more=True),
    Measure("lost", "%", "lost"),
    Measure("sender", "µs", "CPU of the sender, a datagram"),
    Measure("kernel", "µs", "CPU of recvmmsg, a datagram", picture=True),
)
ROUNDS = 3
_BUFFER, _MOST, _ROOM = 32 << 20, 4096, 2048
_NAP = 0.002  # seconds
_OVER = 0.3  # seconds without a datagram


@dataclass(frozen=True, slots=True)
class Limit:
    """A kind of datagram at a rate; None: all the sender can."""

    kind: str
    each: int
    rate: int | None
    datagrams: int

    @property
    def label(self) -> str:
        """A row of the table."""
        rate = f"{self.rate:,}/s" if self.rate else "all it can"
        return f"{self.kind}, {rate}"


def run(run: Run) -> None:
    """Send to somebody who throws everything away."""
    count = 5_000 if run.quick else 1_000_000
    cases = [
        Limit("native", 1, 100_000, count // 2),
        Limit("native", 1, None, count),
        Limit("native of 20", 20, None, count // 10),
        Limit("a line", 1, None, count),
        Limit("20 lines", 20, None, count // 10),
    ]
    for _ in range(run.rounds):
        for case in cases:
            run.add(case.label, "kernel", _measure(case))


def _measure(case: Limit) -> dict[str, float]:
    make = native_rows if case.kind.startswith("native") else line_rows
    meters = min(case.datagrams, 10_000)
    chunks = made(meters, max(1, case.datagrams // meters), 1_760_000_000_000, 1000, each=case.each)
    rows = np.concatenate([make(one) for one in chunks])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        ask_for_buffer(sock, _BUFFER)
        context = multiprocessing.get_context("fork")
        told, tell = context.Pipe(duplex=False)
        discarding = context.Process(target=_discard, args=(sock, tell), daemon=True)
        discarding.start()
        try:
            with Sending(sock.getsockname(), rows, case.rate) as sending:
                sent = sending.done()
            received, cpu = told.recv()
        finally:
            discarding.terminate()
            discarding.join()
    return {
        "sent": sent.datagrams / sent.seconds,
        "received": received / sent.seconds,
        "lost": 100 * (1 - received / sent.datagrams),
        "sender": sent.cpu / sent.datagrams * 1e6,
        "kernel": cpu / max(1, received) * 1e6,
    }


def _discard(sock: socket.socket, tell: Connection) -> None:
    """Take all that comes until nothing does; how many, and the CPU for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    sock.setblocking(False)
    receiver = BulkReceiver(sock, _MOST, _ROOM)
    select.select([sock], [], [])
    received, used = 0, time.process_time()
    while select.select([sock], [], [], _OVER)[0]:
        time.sleep(_NAP)
        while taken := len(receiver.receive()):
            received += taken
    tell.send((received, time.process_time() - used))
