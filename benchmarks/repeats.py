"""Readings lost when a datagram carries the last K readings again, by loss: a seeded network."""

from __future__ import annotations

import argparse

import numpy as np

from telemetry import meter_id
from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.datagrams import Datagrams
from telemetry.formats import native_bulk
from telemetry.keys import KeyRing
from telemetry.registers import ENERGY_IMPORT
from telemetry.simulator import Fleet

_START_MS = 1_790_000_000_000
_INTERVAL_MS = 10_000
_GATE = Gate(Allowed(LOOPBACK), KeyRing.empty())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--meters", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--ticks", type=int, default=500, help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Print a table: the loss of datagrams, and of readings with 0, 1 and 2 repeats."""
    print("datagrams lost   readings lost with K=0       K=1       K=2")
    for loss in (0.01, 0.05, 0.2):
        shares = [lost(arguments.meters, arguments.ticks, loss, repeat) for repeat in range(3)]
        print(f"{loss:13.0%}   {shares[0]:22.3%} {shares[1]:9.3%} {shares[2]:9.3%}")


def lost(meters: int, ticks: int, loss: float, repeat: int) -> float:
    """The share of readings that never arrived, as a collector decodes the datagrams."""
    chance = np.random.default_rng(1)
    fleet = Fleet([f"m-{number}" for number in range(meters)], 0, {})
    came: set[tuple[int, int]] = set()
    for tick in range(ticks):
        now = _START_MS + tick * _INTERVAL_MS
        measured = fleet.step(now, _INTERVAL_MS, utc_offset_ms=0, multiplier=1)
        rows = fleet.datagrams(measured, now, epoch=1, sequence=tick, repeat=repeat)
        arrived = rows[chance.random(meters) >= loss]
        datagrams = Datagrams.of([row.tobytes() for row in arrived])
        readings = native_bulk.decode(datagrams, now, _GATE).readings
        energy = readings.take(np.flatnonzero(readings.register == ENERGY_IMPORT))
        came.update(zip(energy.key_high.tolist(), energy.time.tolist(), strict=True))
    assert len({meter_id.to_octets(name)[:8] for name in fleet.ids}) == meters
    # The last readings of all could not be repeated any more.
    counted = ticks - repeat
    last = _START_MS + counted * _INTERVAL_MS
    return 1 - sum(time < last for _, time in came) / (meters * counted)
