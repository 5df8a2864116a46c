from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import keys
from telemetry.keys import KeyRing
from telemetry.meter_id import from_halves, halves
from telemetry.meter_index import UNKNOWN
from telemetry.security import acknowledgement_key, derive, seal, unseal
from tests.telemetry.rings import Key, ring_of

MASTER = bytes(range(32))
meters = st.integers(0, 6).map(lambda number: b"meter%d" % number + bytes(10))
ids = st.integers(0, 5) | st.integers(0, 255)
untils = st.none() | st.integers(0, 10)
secrets = st.none() | st.binary(min_size=16, max_size=16)


@settings(deadline=None)
@given(
    st.dictionaries(st.tuples(meters, ids.filter(bool)), st.tuples(untils, secrets), max_size=20),
    st.lists(st.tuples(meters, ids), max_size=30),
    st.integers(-1, 11),
)
def test_it_finds_what_a_dictionary_finds(
    held: dict[tuple[bytes, int], tuple[int | None, bytes | None]],
    asked: list[tuple[bytes, int]],
    now: int,
) -> None:
    rows: list[Key] = [(*key, *value) for key, value in held.items()]
    ring = ring_of(rows, MASTER)
    assert len(ring) == len(rows)
    pairs = [halves(octets) for octets, _ in asked]
    high, low = (np.array([pair[half] for pair in pairs], np.uint64) for half in (0, 1))
    numbers = ring.meters(high, low)
    owners = {octets for octets, *_ in rows}
    assert [number != UNKNOWN for number in numbers] == [octets in owners for octets, _ in asked]
    for (octets, _), number in zip(asked, numbers.tolist(), strict=True):
        if number != UNKNOWN:
            assert from_halves(*ring.owner(number)) == octets
    found = ring.keys(numbers, np.array([key_id for _, key_id in asked], np.uint8))
    expired = ring.expired(found, now)
    for key, row, over in zip(asked, found.tolist(), expired.tolist(), strict=True):
        if key not in held:
            assert row == UNKNOWN
            assert not over
            continue
        assert rows[row][:2] == key
        until, secret = held[key]
        assert over == (until is not None and now >= until)
        assert ring.secret(row) == (secret or derive(MASTER, *key))
        assert ring.acknowledgement_key(row) == acknowledgement_key(ring.secret(row))


def test_an_empty_ring_finds_nothing() -> None:
    ring, one = KeyRing.empty(), np.array([5], np.uint64)
    assert len(ring) == 0
    numbers = ring.meters(one, one)
    found = ring.keys(numbers, np.array([1], np.uint8))
    assert (numbers.tolist(), found.tolist()) == ([UNKNOWN], [UNKNOWN])
    assert not ring.expired(found, 2**62).any()


def test_a_derived_key_needs_the_master() -> None:
    ring = ring_of([(b"boiler".ljust(16, b"\0"), 1, None, None)])
    with pytest.raises(ValueError, match="without a master"):
        ring.cipher(0)


def test_ciphers_are_made_once_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST_CIPHERS", 3)
    monkeypatch.setattr(keys, "MOST_ACKNOWLEDGEMENT_KEYS", 2)
    octets = [b"meter%d" % number + bytes(10) for number in range(5)]
    ring = ring_of([(one, 1, None, None) for one in octets], MASTER)
    assert ring.cipher(0) is ring.cipher(0)
    plain = bytes([0xF5, 1, 0, 0]) + octets[4] + bytes(36)
    for row in range(5):
        ring.cipher(row)
        ring.acknowledgement_key(row)
    assert ring.cipher.cache_info().currsize == 3
    assert ring.acknowledgement_key.cache_info().currsize == 2
    assert unseal(seal(plain, 1, ring.cipher(4)), ring.cipher(4)) is not None
    assert unseal(seal(plain, 1, ring.cipher(3)), ring.cipher(4)) is None
