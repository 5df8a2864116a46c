from __future__ import annotations

import string
import uuid

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry import meter_id, meter_ids

LETTERS = string.ascii_letters + string.digits
ALPHABET = LETTERS + "._:-/+@#"

names = st.builds(
    str.__add__, st.sampled_from(LETTERS), st.text(st.sampled_from(ALPHABET), max_size=63)
)
long_names = st.builds(
    str.__add__,
    st.sampled_from(LETTERS),
    st.text(st.sampled_from(ALPHABET), min_size=16, max_size=63),
)
short_names = names.map(lambda name: name[:16])


def of_rfc_9562(octets: bytes, version: int) -> uuid.UUID:
    own = bytearray(octets)
    own[6], own[8] = own[6] & 0x0F | version << 4, own[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(own))


uuids = st.builds(of_rfc_9562, st.binary(min_size=16, max_size=16), st.integers(1, 8))
# Octets close to a name or a UUID: mostly of the alphabet, zeros at the end, one put in its place.
nearly_names = st.builds(
    lambda text, place, octet: (
        (whole := text.encode().ljust(16, b"\0"))[:place] + bytes([octet]) + whole[place + 1 :]
    ),
    st.text(st.sampled_from(ALPHABET), max_size=16),
    st.integers(0, 15),
    st.integers(0, 255),
)
octets_of_any_kind = st.one_of(
    st.binary(min_size=16, max_size=16),
    nearly_names,
    uuids.map(lambda one: one.bytes),
    st.lists(st.sampled_from([0, 0x41, 0x2E, 0x80, 0xBF, 0xC0]), min_size=16, max_size=16).map(
        bytes
    ),
)


def valid(octets: list[bytes]) -> list[bool]:
    pairs = np.frombuffer(b"".join(octets), "<u8").reshape(-1, 2)
    answer: list[bool] = meter_ids.valid(pairs[:, 0], pairs[:, 1]).tolist()
    return answer


def named(octets: bytes) -> bool:
    try:
        meter_id.to_name(octets)
    except ValueError:
        return False
    return True


@settings(deadline=None)
@given(st.lists(octets_of_any_kind, max_size=40))
def test_valid_says_of_many_what_to_name_says_of_one(octets: list[bytes]) -> None:
    assert valid(octets) == [named(one) for one in octets]


def test_valid_agrees_on_every_octet_in_every_place() -> None:
    """Of a full name, of a short one, of a UUID."""
    for start in (b"abcdefghijklmnop", b"abc".ljust(16, b"\0"), uuid.UUID(int=0).bytes):
        octets = [
            start[:place] + bytes([octet]) + start[place + 1 :]
            for place in range(16)
            for octet in range(256)
        ]
        assert valid(octets) == [named(one) for one in octets]


def test_valid_agrees_on_every_version_and_variant() -> None:
    octets = []
    for version in range(256):
        for variant in range(256):
            one = bytearray(b"\x9c" * 16)
            one[6], one[8] = version, variant
            octets.append(bytes(one))
    expected = [
        octets[8] & 0xC0 == 0x80 and 1 <= octets[6] >> 4 <= 8 for octets in map(bytes, octets)
    ]
    assert valid(octets) == expected
    assert [named(one) for one in octets[::97]] == expected[::97]


def test_random_octets_are_hardly_ever_valid_and_random_uuids_always() -> None:
    random = np.random.default_rng(1)
    any_octets = random.integers(0, 256, (20_000, 16), dtype=np.uint8)
    answers = valid([row.tobytes() for row in any_octets])
    assert answers == [named(row.tobytes()) for row in any_octets]
    assert 0.10 < sum(answers) / len(answers) < 0.15  # 1/4 of the variants, half of the versions
    any_octets[:, 6] = any_octets[:, 6] & 0x0F | 0x40
    any_octets[:, 8] = any_octets[:, 8] & 0x3F | 0x80
    assert all(valid([row.tobytes() for row in any_octets]))


@settings(deadline=None)
@given(short_names)
def test_a_name_comes_back(name: str) -> None:
    octets = meter_id.to_octets(name)
    assert octets == name.encode("ascii").ljust(16, b"\0")
    assert meter_id.to_name(octets) == name
    assert valid([octets]) == [True]


@settings(deadline=None)
@given(uuids)
def test_a_uuid_comes_back_in_small_letters(one: uuid.UUID) -> None:
    assert meter_id.to_octets(str(one)) == meter_id.to_octets(str(one).upper()) == one.bytes
    assert meter_id.to_name(one.bytes) == str(one)


@given(st.lists(short_names | uuids.map(str) | long_names, max_size=5))
def test_many_have_the_names_that_each_has(known: list[str]) -> None:
    octets = [meter_id.to_octets(name) for name in known]
    assert meter_ids.to_names(octets) == [meter_id.to_name(own) for own in octets]


def test_octets_of_no_meter_are_refused_among_many() -> None:
    with pytest.raises(ValueError, match="neither a name nor a UUID"):
        meter_ids.to_names([b"fine".ljust(16, b"\0"), b"\xff" * 16])


@settings(deadline=None)
@given(long_names)
def test_a_longer_name_becomes_a_uuid_of_version_5(name: str) -> None:
    octets = meter_id.to_octets(name)
    shown = uuid.UUID(meter_id.to_name(octets))
    assert shown == uuid.uuid5(uuid.UUID("6b4cf0b5-8e0c-5a65-9c3e-6d1f3c1a7e01"), name)
    assert shown.version == 5
    # What is shown of an unregistered long name leads to the same meter.
    assert meter_id.to_octets(str(shown)) == octets


HEXADECIMAL = st.text(st.sampled_from("0123456789abcdefABCDEF-_+ {}"), min_size=36, max_size=36)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=80), names, HEXADECIMAL, st.uuids().map(str), uuids.map(str)))
@example("00000000-0000-0000-0000-000000000000")  # the nil UUID, and 16 octets of no meter
@example("ffffffff-ffff-ffff-ffff-ffffffffffff")
@example("41414141-4141-4141-4141-414141414141")  # the octets of the name AAAAAAAAAAAAAAAA
@example("0-1-2-3-4567890123456789012345678901")  # hyphens anywhere
@example("{6b4cf0b5-8e0c-4a65-9c3e-6d1f3c1a7e}")
@example("6b4cf0b5_8e0c_4a65_9c3e_6d1f3c1a7e01")
@example("+b4cf0b5-8e0c-4a65-9c3e-6d1f3c1a7e01")
@example("٦b4cf0b5-8e0c-4a65-9c3e-6d1f3c1a7e01")
@example("\ud800")
@example("kitchen\n")
@example("")
def test_any_text_is_refused_or_leads_to_a_meter(text: str) -> None:
    """What to_octets takes, the receiver, the writer and every answer must take too."""
    try:
        octets = meter_id.to_octets(text)
    except ValueError:
        return
    assert len(octets) == 16
    assert valid([octets]) == [True]
    shown = meter_id.to_name(octets)
    assert meter_id.to_octets(shown) == octets
    assert shown == (text if len(text) <= 16 else shown)


@settings(deadline=None)
@given(names, names)
def test_two_names_are_two_meters(one: str, other: str) -> None:
    assert (meter_id.to_octets(one) == meter_id.to_octets(other)) == (one == other)


@settings(deadline=None)
@given(short_names, uuids)
def test_a_name_is_never_a_uuid(name: str, one: uuid.UUID) -> None:
    octets = meter_id.to_octets(name)
    assert octets[8] < 0x80 <= one.bytes[8]
    assert octets != one.bytes


@pytest.mark.parametrize("name", ["a" * 65, "a b", " a", "-a", "é", "a\0", "", "a" * 1000, "#"])
def test_a_name_that_breaks_the_rule_is_told_the_rule(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"1 to 64 letters, digits and \. _ : - / \+ @ #, starting"
    ):
        meter_id.to_octets(name)


@pytest.mark.parametrize(
    "octets", [bytes(16), b"\xff" * 16, b"\0" + b"a" * 15, b"a\0b" + bytes(13), b"a b" + bytes(13)]
)
def test_octets_of_no_meter_are_told_in_hexadecimal(octets: bytes) -> None:
    with pytest.raises(ValueError, match=f"{octets.hex()} is neither a name nor a UUID"):
        meter_id.to_name(octets)


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16))
def test_the_halves_are_the_octets(octets: bytes) -> None:
    high, low = meter_id.halves(octets)
    assert meter_id.from_halves(high, low) == octets
    assert np.array([high, low], "<u8").tobytes() == octets
