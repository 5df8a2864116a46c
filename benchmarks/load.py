"""Load that is not the bottleneck: prepared datagrams, sent in bulk at a fixed rate."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import numpy as np

from telemetry.bulk_udp import BulkSender
from telemetry.formats.native import RECORD, encode_same_shape
from telemetry.readings import Bytes
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT

_TICK = 0.002  # seconds between bursts


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run of sending did."""

    datagrams: int
    seconds: float
    cpu: float


def household(meters: int, rounds: int, start_ms: int, step_ms: int) -> Bytes:
    """``rounds`` datagrams of energy and power from each meter, round by round, ready to send."""
    rng = np.random.default_rng(1)
    count = meters * rounds
    names = np.char.mod("bench-%07d", np.arange(meters)).astype("S16")
    keys = names.view(np.uint64).reshape(meters, 2)
    power = rng.integers(50, 4000, count)
    energy = (power.reshape(rounds, meters).cumsum(axis=0) * step_ms // 3_600_000).ravel()
    records = np.zeros((count, 2), RECORD)
    records["register"] = ENERGY_IMPORT, POWER_IMPORT
    records["value"] = np.stack([energy, power * 10], axis=1)
    return encode_same_shape(
        np.tile(keys[:, 0], rounds),
        np.tile(keys[:, 1], rounds),
        np.ones(count, np.uint32),
        np.repeat(np.arange(rounds, dtype=np.uint32), meters),
        start_ms + np.repeat(np.arange(rounds, dtype=np.int64), meters) * step_ms,
        records,
    )


def send(to: tuple[str, int], rows: Bytes, rate: float | None) -> Sent:
    """Send the rows at so many a second, or as fast as the sender can."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        sender = BulkSender(sock)
        began, used, sent = time.perf_counter(), time.process_time(), 0
        while sent < len(rows):
            if rate is None:
                due = min(len(rows), sent + 1024)
            else:
                time.sleep(_TICK)
                due = min(len(rows), int((time.perf_counter() - began) * rate))
            sent += sender.send(rows[sent:due])
        return Sent(sent, time.perf_counter() - began, time.process_time() - used)
