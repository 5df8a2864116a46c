"""A captured hour is sent again and again, shuffled, before and after a restart: nothing is new."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry import meter_id, security
from telemetry.formats.native import Record, encode
from telemetry.registers import ENERGY_IMPORT
from tests.conftest import Stack

METERS, EVERY_S = 5, 10
COUNT = 3600 // EVERY_S
NAMES = [f"cellar-{number}" for number in range(METERS)]


def captured(keys: dict[str, AESGCM]) -> list[bytes]:
    """An hour of five meters, in order; unsigned where there is no key."""
    begin = int(time.time() * 1000) - 3_600_000
    datagrams = []
    for number in range(COUNT):
        for name in NAMES:
            record = Record(ENERGY_IMPORT, begin + number * EVERY_S * 1000, number)
            plain = encode(meter_id.to_octets(name), 1, number, [record])
            datagrams.append(security.seal(plain, 1, keys[name]) if name in keys else plain)
    return datagrams


def again(stack: Stack, hour: list[bytes], seed: int) -> None:
    """Send the hour three times, each in another order."""
    with stack.client() as client:
        before = client.loss().totals.received
        for turn in range(3):
            shuffled = hour.copy()
            random.Random(seed + turn).shuffle(shuffled)
            stack.send(shuffled)
    stack.wait_until(lambda client: client.loss().totals.received == before + 3 * len(hour))


def stored(stack: Stack) -> tuple[int, int]:
    """Values kept, repeats among them, and the datagrams that were new."""
    with stack.client() as client:
        return client.status().readings, client.loss().totals.unique


def test_a_captured_hour_adds_nothing(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    keys = {}
    with stack.client() as client:
        for name in NAMES:
            _, made = client.register_with_key(name)
            assert made.key is not None
            keys[name] = AESGCM(bytes.fromhex(made.key))
    time.sleep(1.5)  # the receiver looks once a second whether there are new keys
    hour = captured(keys)
    stack.send(hour)
    stack.wait_until(lambda client: client.loss().totals.unique == len(hour))
    assert stored(stack) == (len(hour), len(hour))
    again(stack, hour, 1)
    assert stored(stack) == (len(hour), len(hour))
    assert stack.stop() == 0
    stack.start()
    again(stack, hour, 4)
    assert stored(stack) == (len(hour), len(hour))
    with stack.client() as client:
        totals = client.loss().totals
        assert totals.duplicate + totals.stale == 6 * len(hour)
        assert (totals.lost, totals.rejected) == (0, {})
        readings = client.readings(NAMES[0], most=10_000)
        assert readings.raw == list(range(COUNT))


def test_without_signatures_it_would_be_seen(make_stack: Callable[..., Stack]) -> None:
    """The control: repeats of who neither signs nor asks are kept, though they count once."""
    stack = make_stack()
    hour = captured({})
    stack.send(hour)
    stack.wait_until(lambda client: client.loss().totals.unique == len(hour))
    again(stack, hour, 1)
    values, unique = stored(stack)
    assert unique == len(hour)
    assert values == 4 * len(hour)
