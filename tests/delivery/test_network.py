"""The bad network of the other tests is as bad as it says, and no worse."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from itertools import pairwise

import pytest

from telemetry.udp_socket import ask_for_buffer
from tests.delivery.network import Network, Weather

COUNT = 5000
BAD = Weather(loss=0.3, repeats=0.05, jitter=0.2)


def open_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ask_for_buffer(sock, 8 << 20)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(0.5)
    return sock


def exchange(up: Weather, down: Weather, seed: int) -> tuple[list[int], list[int], Network]:
    """What a collector that answers each number gets, and what the meter gets back."""
    with open_socket() as meter, open_socket() as collector:
        network = Network(collector.getsockname(), up, down, seed)
        with network:
            for number in range(COUNT):
                meter.sendto(number.to_bytes(4, "big"), network.address)
                if number % 100 == 99:
                    time.sleep(0.002)
            arrived = drain(collector, answer=True)
            answers = drain(meter)
            assert network.quiet
        return arrived, answers, network


def drain(sock: socket.socket, answer: bool = False) -> list[int]:
    found: list[int] = []
    while True:
        try:
            datagram, sender = sock.recvfrom(64)
        except TimeoutError:
            return found
        found.append(int.from_bytes(datagram, "big"))
        if answer:
            sock.sendto(datagram, sender)


def test_a_good_network_changes_nothing() -> None:
    arrived, answers, network = exchange(Weather(), Weather(), 1)
    assert arrived == answers == list(range(COUNT))
    assert (network.sent.taken, network.sent.lost, network.sent.handed_on) == (COUNT, 0, COUNT)


def test_a_bad_network_loses_repeats_and_reorders_both_ways() -> None:
    arrived, answers, network = exchange(BAD, BAD, 1)
    assert network.sent.taken == COUNT
    assert network.sent.lost == pytest.approx(0.3 * COUNT, rel=0.1)
    assert len(set(arrived)) == COUNT - network.sent.lost
    assert network.sent.handed_on == len(arrived)
    twice = Counter(Counter(arrived).values())[2]
    assert twice == len(arrived) - len(set(arrived)) == pytest.approx(0.035 * COUNT, rel=0.3)
    assert sum(one > other for one, other in pairwise(arrived)) > COUNT // 10
    assert network.answered.taken == len(arrived)
    assert network.answered.lost == pytest.approx(0.3 * len(arrived), rel=0.1)
    assert network.answered.handed_on == len(answers)


def test_chance_is_the_seed_alone() -> None:
    fates = [[BAD.arrivals(random.Random(seed)) for seed in range(50)] for _ in range(2)]
    assert fates[0] == fates[1]
    late = [after for arrivals in fates[0] for after in arrivals]
    assert 0.1 < max(late) < 0.2


def test_each_meter_is_an_address_of_its_own() -> None:
    with open_socket() as one, open_socket() as other, open_socket() as collector:
        with Network(collector.getsockname(), Weather(), Weather(), 1) as network:
            senders = {}
            for meter in (one, other, one):
                meter.sendto(b"x", network.address)
                _, sender = collector.recvfrom(64)
                senders[meter] = sender
                collector.sendto(str(meter.fileno()).encode(), sender)
                assert meter.recv(64) == str(meter.fileno()).encode()
        assert senders[one] != senders[other]
