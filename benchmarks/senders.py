"""Datagrams of each format into a whole collector, in turns: CPU a datagram and a reading."""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.collector import Collector
from benchmarks.made import dlms, json_text, line, native, shelly, speedwire
from benchmarks.ports import free_port
from query.client import Client
from query.messages import ListenerStatus, Status

_TICK = 0.002  # seconds between bursts
_LOOK = 0.05
_SETTLED = 0.7  # seconds in which nothing more happened


@dataclass(frozen=True, slots=True)
class Sender:
    """A row of the table: what is sent, to a listener of which format."""

    name: str
    format: str
    made: Callable[[int, int], bytes]


SENDERS = (
    Sender("native", "native", native.made),
    Sender("json", "json", json_text.made),
    Sender("line", "line", line.made),
    Sender("line, 20", "line", line.made_20),
    Sender("speedwire", "speedwire", speedwire.made),
    Sender("shelly", "shelly", shelly.made),
    Sender("dlms", "dlms", dlms.made),
)


@dataclass
class Figures:
    """Of each round: microseconds of CPU of all processes, and datagrams that did not come in."""

    datagram: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    readings: list[float] = field(default_factory=list)  # a datagram
    refused: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a collector has done of a listener's datagrams so far."""

    accepted: int
    refused: int
    dropped: int
    readings: int


def run(arguments: argparse.Namespace) -> None:
    """Send by turns, measure, print medians."""
    chosen = [one for one in SENDERS if arguments.only in (None, one.name)]
    ports = [free_port() for _ in chosen]
    listeners = [
        f'[[listeners]]\nport = {port}\nformat = "{one.format}"\n'
        for one, port in zip(chosen, ports, strict=True)
    ]
    found = {one.name: Figures() for one in chosen}
    with Collector(config="".join(listeners)) as collector, collector.client() as client:
        ports[0] = collector.udp[1]
        with multiprocessing.get_context("fork").Pool(1) as pool:  # on a core of its own
            for turn in range(arguments.rounds + 1):
                for place, one in enumerate(chosen):
                    datagrams = _prepare(one, arguments.meters, arguments.datagrams, turn)
                    before = _seen(client.status(), place), _cpu(collector)
                    pool.apply(_send, (("127.0.0.1", ports[place]), datagrams, arguments.rate))
                    after = _settled(client, collector, place)
                    if turn:  # the first makes the meters, and is not measured
                        _add(found[one.name], len(datagrams), before, after)
    _print(found, arguments.rounds * arguments.datagrams)


def _prepare(one: Sender, meters: int, count: int, turn: int) -> list[bytes]:
    first = turn * count
    return [one.made(n % meters, n // meters) for n in range(first, first + count)]


def _send(to: tuple[str, int], datagrams: list[bytes], rate: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        began, sent = time.perf_counter(), 0
        while sent < len(datagrams):
            time.sleep(_TICK)
            due = min(len(datagrams), int((time.perf_counter() - began) * rate))
            for datagram in datagrams[sent:due]:
                sock.send(datagram)
            sent = due


def _cpu(collector: Collector) -> float:
    return sum(collector.cpu().values())


def _listener(status: Status, place: int) -> ListenerStatus | None:
    receivers = status.writer.receivers if status.writer else []
    return receivers[0].listeners[place] if receivers else None


def _seen(status: Status, place: int) -> _Seen:
    assert status.writer is not None
    listener = _listener(status, place)
    if listener is None:  # it has not reported yet
        return _Seen(0, 0, 0, status.writer.readings)
    refused = sum(listener.refused.values())
    return _Seen(listener.accepted, refused, listener.kernel_drops, status.writer.readings)


def _settled(client: Client, collector: Collector, place: int) -> tuple[_Seen, float]:
    """What was done once nothing more is committed, and the CPU up to then."""
    readings, cpu, since = -1, 0.0, time.monotonic()
    while time.monotonic() - since < _SETTLED:
        time.sleep(_LOOK)
        now = _seen(client.status(), place).readings
        if now != readings:
            readings, cpu, since = now, _cpu(collector), time.monotonic()
    time.sleep(1.5)  # a receiver reports once a second
    return _seen(client.status(), place), cpu


def _add(
    figures: Figures, sent: int, before: tuple[_Seen, float], after: tuple[_Seen, float]
) -> None:
    (old, began), (new, ended) = before, after
    readings = new.readings - old.readings
    micros = (ended - began) * 1e6
    figures.datagram.append(micros / sent)
    figures.reading.append(micros / max(1, readings))
    figures.readings.append(readings / sent)
    figures.refused += new.refused - old.refused
    figures.dropped += new.dropped - old.dropped


def _print(found: dict[str, Figures], sent: int) -> None:
    print(f"{'':16}{'us a datagram':>15}{'us a reading':>14}{'readings each':>15}", end="")
    print(f"{'sent':>12}{'refused':>9}{'dropped':>9}")
    for name, figures in found.items():
        columns = (figures.datagram, figures.reading, figures.readings)
        datagram, reading, each = (statistics.median(column) for column in columns)
        print(f"{name:16}{datagram:>15.2f}{reading:>14.2f}{each:>15.2f}", end="")
        print(f"{sent:>12,}{figures.refused:>9,}{figures.dropped:>9,}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--datagrams", type=int, default=50_000, help="a round, of each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--meters", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10_000, help="datagrams a second")
    parser.add_argument("--only", choices=[one.name for one in SENDERS], help="one of them")
