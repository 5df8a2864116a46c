"""The query bus with keys: honest clients among strangers, and answers over restarts."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import zmq

from benchmarks.collector import Collector
from benchmarks.ports import free_port
from query import credentials
from query import messages as m
from query.client import Client
from query.credentials import Credentials
from query.http.bus import Bus
from query.transport import BusError
from storage import bus_keys
from storage.bus_keys import Role
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT

METERS = 500
_TIME = 1_709_251_200_000
_EACH = 0.005  # seconds between an honest client's questions
_PATIENCE = 0.1  # seconds: short, so that many answers come late
_UNDER_WAY = 16
KINDS = ("client", "client", "client", "bus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m benchmarks bus``."""
    parser.add_argument("--seconds", type=float, default=60.0, help="of the attack")
    parser.add_argument("--questions", type=int, default=1_000_000, help="over the restarts")
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--only", choices=("strangers", "restarts"))


def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    with Guarded() as guarded:
        if arguments.only != "restarts":
            print_strangers(guarded, arguments.seconds)
        if arguments.only != "strangers":
            print_restarts(guarded, arguments.questions, arguments.restarts)


class Guarded(ExitStack):
    """A collector that wants keys, with ``METERS`` meters, each of another value."""

    def __enter__(self) -> Guarded:
        self.collector = self.enter_context(Collector(config="[query]\ncurve = true\n"))
        self.key = self.collector.data / "honest.wattbus-key"
        data = self.collector.data
        pair = bus_keys.add(data, "honest", Role.ADMIN)
        self.server = bus_keys.server(data).public
        me = Credentials(name="honest", role="admin", server=self.server, **pair._asdict())
        self.key.write_text(me.to_text())
        self.key.chmod(0o600)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(METERS):
                record = native.Record(ENERGY_IMPORT, _TIME, value(number))
                octets = meter_id.to_octets(name(number))
                sock.sendto(native.encode(octets, 1, 1, [record]), self.collector.udp)
                time.sleep(0.0005)
        deadline = time.monotonic() + 30
        with self.client() as client:
            while client.status().readings < METERS:
                if time.monotonic() > deadline:
                    raise RuntimeError("the readings did not arrive")
                time.sleep(0.05)
        return self

    def client(self) -> Client:
        """An honest client."""
        return Client(self.collector.query, timeout=5, key_file=self.key)


def name(number: int) -> str:
    return f"meter-{number}"


def value(number: int) -> int:
    return 1000 + 7919 * number


def right(number: int, latest: m.Latest) -> bool:
    """Whether the answer is that to the question about this meter."""
    (register,) = latest.registers
    return (latest.id, register.raw) == (name(number), value(number))


# Strangers


def strangers(
    guarded: Guarded, seconds: float, idle: int = 1000, rate: float = 100.0
) -> tuple[list[float], list[float], dict[str, int]]:
    """Durations of honest questions in quiet and under attack, s, and what became of strangers."""
    port = int(guarded.collector.query.rpartition(":")[2])
    with ExitStack() as stack:
        clients = [stack.enter_context(guarded.client()) for _ in range(4)]
        quiet = _ask_evenly(clients, seconds / 2)
        # Joined to its option, since a key may start with a dash.
        options = [f"--server={guarded.server}", f"--idle={idle}", f"--rate={rate}"]
        options.append(f"--seconds={seconds + 2}")
        attack = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bus_attack", str(port), *options],
            stdout=subprocess.PIPE,
        )
        time.sleep(2)  # until all idle ones are there
        loud = _ask_evenly(clients, seconds)
        out, _ = attack.communicate(timeout=60)
        quiet += _ask_evenly(clients, seconds / 2)
    return quiet, loud, json.loads(out)


def _ask_evenly(clients: list[Client], seconds: float) -> list[float]:
    durations = []
    began = due = time.perf_counter()
    number = 0
    while due - began < seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        client = clients[number % len(clients)]
        asked = time.perf_counter()
        latest = client.latest(name(number % METERS))
        durations.append(time.perf_counter() - asked)
        if not right(number % METERS, latest):
            raise RuntimeError("a wrong answer")
        number += 1
        due += _EACH
    return durations


def print_strangers(guarded: Guarded, seconds: float) -> None:
    quiet, loud, counts = strangers(guarded, seconds)
    print(f"{seconds:g} s with strangers: {counts}")
    for when, durations in (("quiet", quiet), ("attacked", loud)):
        p50, p99 = np.percentile(durations, (50, 99)) * 1000
        print(f"  {when:<9} {len(durations):,} questions, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    ratio = np.percentile(loud, 99) / np.percentile(quiet, 99)
    print(f"  p99 is {ratio:.2f} times its quiet value (target: under 2)")


# Restarts


class Questions:
    """What all askers share: how many answers there are, wrong ones, and ones that did not come."""

    def __init__(self, context: Any) -> None:
        self.answers = context.Value("q", 0)
        self.wrong = context.Value("q", 0)
        self.unanswered = context.Value("q", 0)
        self.stop: Event = context.Event()

    def judge(self, number: int, latest: m.Latest) -> None:
        """Count an answer."""
        with self.answers:
            self.answers.value += 1
        if not right(number, latest):
            with self.wrong:
                self.wrong.value += 1

    def failed(self, error: BusError) -> None:
        """Count a question without an answer in time; any other error is one."""
        if error.code != "away":
            raise error
        with self.unanswered:
            self.unanswered.value += 1


def restarts(
    guarded: Guarded, questions: int, kills: int, kinds: tuple[str, ...] = KINDS
) -> Questions:
    """Ask that often while a query service of its own is frozen, killed and started again.

    Frozen for longer than the askers wait, it answers late; killed, it does not at all.
    """
    context = multiprocessing.get_context("spawn")
    shared = Questions(context)
    port = free_port()
    askers = [
        context.Process(target=_ask, args=(kind, port, str(guarded.key), shared, seed))
        for seed, kind in enumerate(kinds)
    ]
    service = _service(guarded, port)
    order = random.Random(7)
    try:
        for asker in askers:
            asker.start()
        for kill in range(1, kills + 1):
            while shared.answers.value < questions * (kill - 0.5) / kills:
                _look(askers)
            service.send_signal(signal.SIGSTOP)
            time.sleep(_PATIENCE * (1 + order.random()))
            service.send_signal(signal.SIGCONT)
            while shared.answers.value < questions * kill / kills:
                _look(askers)
            service.kill()
            service.wait()
            service = _service(guarded, port)
            if kill % 10 == 0:
                print(
                    f"  {kill} restarts, {shared.answers.value:,} answers, "
                    f"{shared.wrong.value} of them wrong",
                    flush=True,
                )
    finally:
        shared.stop.set()
        for asker in askers:
            if asker.pid is not None:
                asker.join(20)
        service.kill()
        service.wait()
    return shared


def _look(askers: list[Any]) -> None:
    if not all(asker.is_alive() for asker in askers):
        raise RuntimeError("an asker ended")
    time.sleep(0.01)


def _service(guarded: Guarded, port: int) -> subprocess.Popen[bytes]:
    """A query service beside the collector's own, as soon as it listens."""
    collector = guarded.collector
    service = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "query", f"--query-port={port}", *collector.flags],
        stderr=subprocess.DEVNULL,
    )
    while service.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.02)
    return service


def _ask(kind: str, port: int, key: str, shared: Questions, seed: int) -> None:
    endpoint, order = f"tcp://127.0.0.1:{port}", random.Random(seed)
    if kind == "bus":
        asyncio.run(_ask_many(endpoint, credentials.read(key), shared, order))
        return
    with Client(endpoint, timeout=_PATIENCE, tries=1, key_file=key) as client:
        if kind == "uncorrelated":  # takes what comes for the answer to what it asked last
            client._connection._socket.setsockopt(zmq.REQ_CORRELATE, 0)
        while not shared.stop.is_set():
            number = order.randrange(METERS)
            try:
                shared.judge(number, client.latest(name(number)))
            except BusError as error:
                shared.failed(error)


async def _ask_many(
    endpoint: str, me: Credentials, shared: Questions, order: random.Random
) -> None:
    """Many questions at once over one connection."""
    bus = Bus(endpoint, me)

    async def ask() -> None:
        while not shared.stop.is_set():
            number = order.randrange(METERS)
            request = m.GetLatest(id=name(number))
            try:
                shared.judge(number, await bus.ask(request, m.Latest, timeout=_PATIENCE, tries=1))
            except BusError as error:
                shared.failed(error)

    await asyncio.gather(*(ask() for _ in range(_UNDER_WAY)))
    bus.close()


def print_restarts(guarded: Guarded, questions: int, kills: int) -> None:
    began = time.monotonic()
    shared = restarts(guarded, questions, kills)
    print(
        f"{kills} services killed and as many frozen under {shared.answers.value:,} answers from "
        f"{len(KINDS)} clients in {time.monotonic() - began:.0f} s: {shared.wrong.value} answers "
        f"to another question (target: 0), {shared.unanswered.value:,} questions given up"
    )
