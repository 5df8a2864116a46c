"""Load that is not the bottleneck: prepared datagrams, sent in bulk at a fixed rate."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import time
from dataclasses import dataclass
from typing import Self

import numpy as np

from benchmarks.datagrams import made, native_rows
from telemetry.bulk_udp import BulkSender
from telemetry.readings import Bytes

_TICK = 0.002  # seconds between bursts
_MOST = 1024  # datagrams of a call


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run of sending did."""

    datagrams: int
    seconds: float
    cpu: float


def household(meters: int, rounds: int, start_ms: int, step_ms: int) -> Bytes:
    """``rounds`` datagrams of energy and power from each meter, round by round, ready to send."""
    return np.concatenate([native_rows(one) for one in made(meters, rounds, start_ms, step_ms)])


def send(to: tuple[str, int], rows: Bytes, rate: float | None) -> Sent:
    """Send the rows at so many a second, or as fast as the sender can."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        sender = BulkSender(sock)
        began, used, sent = time.perf_counter(), time.process_time(), 0
        while sent < len(rows):
            if rate is None:
                due = min(len(rows), sent + _MOST)
            else:
                time.sleep(_TICK)
                due = min(len(rows), int((time.perf_counter() - began) * rate))
            sent += sender.send(rows[sent:due])
        return Sent(sent, time.perf_counter() - began, time.process_time() - used)


class Sending:
    """Sending in a process of its own, from entering on; ended on leaving."""

    def __init__(self, to: tuple[str, int], rows: Bytes, rate: float | None) -> None:
        # Forked, so that what is prepared is not copied.
        context = multiprocessing.get_context("fork")
        self._told, tell = context.Pipe(duplex=False)
        self._process = context.Process(target=_send, args=(to, rows, rate, tell), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._told.close()

    @property
    def going_on(self) -> bool:
        """Whether it is still at it."""
        return self._process.is_alive() and not self._told.poll()

    def done(self) -> Sent:
        """What it did, once it is through."""
        while not self._told.poll(0.2):
            if not self._process.is_alive():
                raise RuntimeError("the sender ended")
        said = self._told.recv()
        if not isinstance(said, Sent):
            raise RuntimeError(f"the sender ended: {said}")
        return said


def _send(to: tuple[str, int], rows: Bytes, rate: float | None, tell: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert isinstance(tell, multiprocessing.connection.Connection)
    try:
        tell.send(send(to, rows, rate))
    except OSError as error:
        tell.send(str(error))
