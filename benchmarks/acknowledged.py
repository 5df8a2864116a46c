"""Sending as meters do that want to know: signed, repeated until it is acknowledged."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage import key_file, key_making
from telemetry import security
from telemetry.bulk_udp import BulkReceiver, BulkSender
from telemetry.formats.ack import ACK
from telemetry.formats.native import FLAG_ACKNOWLEDGE, HEADER
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.readings import Bytes, Int64s

_TICK = 0.002  # seconds between bursts
_FLAGS = 2  # the octet of the flags
_AGAIN = 1.0  # seconds until a datagram is repeated
_GIVE_UP = 30.0  # seconds without any acknowledgement
_ACK_ROOM = 64


@dataclass(frozen=True, slots=True)
class Load:
    """Prepared datagrams of ``meters`` meters, round by round, and how they are to be sent."""

    rows: Bytes
    meters: int
    rate: float | None
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run took; latencies in ms."""

    seconds: float
    transmissions: int
    acknowledged: int
    p50: float
    p99: float
    acks: int


def sign(data: Path, rows: Bytes, meters: int) -> Bytes:
    """The same datagrams signed and encrypted, with a key of their own for each meter."""
    now, keys = time.time_ns() // 1_000_000, []
    with key_file.opened(data, create=True) as connection:
        for row in rows[:meters]:
            made = key_making.ensure(connection, row[4:20].tobytes(), now)
            assert made.secret is not None
            keys.append(AESGCM(made.secret))
    sealed = b"".join(
        security.seal(row.tobytes(), 1, keys[number % meters]) for number, row in enumerate(rows)
    )
    return np.frombuffer(sealed, np.uint8).reshape(len(rows), -1)


def wanting(rows: Bytes) -> Bytes:
    """The same datagrams, which want to be acknowledged."""
    rows = rows.copy()
    rows[:, _FLAGS] |= FLAG_ACKNOWLEDGE
    return rows


class _Waiting:
    """When each datagram left, and which of them are acknowledged; shape (rounds, meters)."""

    def __init__(self, rows: Bytes, meters: int) -> None:
        header = np.ndarray((meters,), HEADER, rows[:meters].copy(), strides=(rows.shape[1],))
        self._index = MeterIndex()
        self._index.add(
            header["key_high"].copy(), header["key_low"].copy(), np.arange(meters, dtype=np.int64)
        )
        rounds = len(rows) // meters
        self.left = np.full((rounds, meters), np.inf)
        self.first = np.full((rounds, meters), np.inf)
        self.done = np.zeros((rounds, meters), np.bool_)
        self._next = np.zeros(meters, np.int64)
        self.latencies: list[npt.NDArray[np.float64]] = []
        self.acks = 0

    def sent(self, rows: slice | Int64s, now: float) -> None:
        """Some datagrams left."""
        self.left.reshape(-1)[rows] = now
        first = self.first.reshape(-1)
        first[rows] = np.minimum(first[rows], now)

    def take(self, datagrams: Bytes, now: float) -> None:
        """Acknowledgements came; their tags are not what is measured here."""
        acks = np.ndarray((len(datagrams),), ACK, datagrams, 4, strides=(datagrams.shape[1],))
        self.acks += len(acks)
        meter = self._index.find(acks["key_high"].copy(), acks["key_low"].copy())
        known = meter != UNKNOWN
        meter, upto, bits = meter[known], acks["next"][known], acks["bitmap"][known]
        order = np.argsort(meter, kind="stable")
        last = order[np.flatnonzero(np.diff(meter[order], append=-1))]
        for ahead in range(64):  # numbers beyond a gap
            beyond = last[(bits[last] >> np.uint64(ahead)) & np.uint64(1) == 1]
            self._mark(meter[beyond], upto[beyond].astype(np.int64) + 1 + ahead, now)
            if not (bits[last] >> np.uint64(ahead)).any():
                break
        meter, upto = meter[last], upto[last].astype(np.int64)
        while (behind := np.flatnonzero(self._next[meter] < upto)).size:
            self._mark(meter[behind], self._next[meter[behind]], now)
            self._next[meter[behind]] += 1

    def _mark(self, meter: Int64s, sequence: Int64s, now: float) -> None:
        new = ~self.done[sequence, meter]
        self.done[sequence, meter] = True
        self.latencies.append((now - self.first[sequence[new], meter[new]]) * 1e3)

    def overdue(self, now: float) -> Int64s:
        """Rows that are to be sent again."""
        return np.flatnonzero((~self.done & (self.left < now - _AGAIN)).reshape(-1))


def send(to: tuple[str, int], load: Load) -> Outcome:
    """Send everything, and where wanted until everything is acknowledged."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.connect(to)
        sock.setblocking(False)
        sender, receiver = BulkSender(sock), BulkReceiver(sock, 4096, _ACK_ROOM)
        waiting = _Waiting(load.rows, load.meters) if load.acknowledged else None
        sent = transmissions = 0
        began = heard = looked = time.perf_counter()
        while sent < len(load.rows) or (waiting is not None and not waiting.done.all()):
            select.select([sock], [], [], _TICK)
            now = time.perf_counter()
            due = len(load.rows) if load.rate is None else int((now - began) * load.rate)
            due = min(len(load.rows), sent + 2048, due)
            taken = sender.send(load.rows[sent:due]) if due > sent else 0
            transmissions += taken
            if waiting is not None:
                waiting.sent(slice(sent, sent + taken), now)
                while len(answers := receiver.receive()):
                    waiting.take(answers.octets, time.perf_counter())
                    heard = now
                if now - looked > _AGAIN / 4:
                    looked = now
                    again = waiting.overdue(now)[:2048]
                    transmissions += sender.send(load.rows[again]) if len(again) else 0
                    waiting.sent(again, now)
                if now - heard > _GIVE_UP:
                    break
            sent += taken
        seconds = time.perf_counter() - began
    if waiting is None:
        return Outcome(seconds, transmissions, 0, 0.0, 0.0, 0)
    took = np.concatenate(waiting.latencies or [np.zeros(1)])
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    return Outcome(seconds, transmissions, int(waiting.done.sum()), p50, p99, waiting.acks)
