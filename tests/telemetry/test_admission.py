from __future__ import annotations

from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import admission
from telemetry.admission import EVERYWHERE, LOOPBACK, Allowed, Gate
from telemetry.datagrams import Datagrams, halves_of
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.meter_id import halves, to_name, to_octets
from telemetry.networks import network
from telemetry.readings import UInt64s
from telemetry.rejects import Reason
from tests.examples import examples

ODD = [
    *("127.0.0.1", "127.255.255.255", "128.0.0.0", "126.255.255.255", "0.0.0.0", "10.1.2.3"),
    *("::1", "::", "::2", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::127.0.0.1", "fe80::1"),
    *("::1:ffff:7f00:1", "1::ffff:7f00:1", "255.255.255.255", "2001:db8::1"),
]
addresses = (
    st.sampled_from(ODD)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.ip_addresses(v=4).map("::ffff:{}".format)
)


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = draw(addresses)
    bits = draw(st.integers(0, 32 if "." in address and ":" not in address else 128))
    return str(ip_network(f"{address}/{bits}", strict=False))


def inside(address: str, network: str) -> bool:
    """The plain reading: a mapped address is IPv4, in IPv4's networks and in mapped ones."""
    one, block = ip_address(address), ip_network(network)
    mapped = one.ipv4_mapped if isinstance(one, IPv6Address) else one
    if block.version == 4:
        return mapped is not None and mapped in block
    if mapped is not None and block.prefixlen < 96:
        return False
    return IPv6Address(f"::ffff:{mapped}" if mapped else address) in block


def everybody(count: int) -> tuple[UInt64s, UInt64s]:
    high, low = halves(to_octets("kitchen"))
    return np.full(count, high, np.uint64), np.full(count, low, np.uint64)


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(networks(), max_size=3), st.lists(addresses, min_size=1, max_size=8))
def test_networks_hold_what_they_should(blocks: list[str], sent: list[str]) -> None:
    sources = np.stack([halves_of(one) for one in sent])
    taken = Allowed(blocks).takes(sources, *everybody(len(sent))).tolist()
    assert taken == [any(inside(one, block) for block in blocks) for one in sent]


@pytest.mark.parametrize(
    ("blocks", "held"),
    [
        (LOOPBACK, {"127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"}),
        (EVERYWHERE, set(ODD)),
        (("0.0.0.0/0",), {one for one in ODD if "." in one and not one.startswith("::1")}),
        (("::/0",), {one for one in ODD if ":" in one and "ffff:1" not in one[:9]}),
        ((), set()),
    ],
)
def test_the_networks_that_people_write(blocks: tuple[str, ...], held: set[str]) -> None:
    sources = np.stack([halves_of(one) for one in ODD])
    taken = Allowed(blocks).takes(sources, *everybody(len(ODD))).tolist()
    assert {one for one, is_taken in zip(ODD, taken, strict=True) if is_taken} == held


names = st.sampled_from(["lab-1", "lab-22", "LAB-1", "kitchen", "a" * 30, "lab-1/x", "x"])
patterns = st.sampled_from(["lab-*", "lab-?", "lab-[0-9]", "*x", "kitchen", "*-*", "?", "*"])


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=8), st.lists(patterns, max_size=2))
def test_patterns_are_of_ids(sent: list[str], wanted: list[str]) -> None:
    pairs = [halves(to_octets(name)) for name in sent]
    high, low = (np.array([pair[half] for pair in pairs], np.uint64) for half in (0, 1))
    sources = np.tile(halves_of("192.0.2.1"), (len(sent), 1))
    allowed = Allowed(EVERYWHERE, wanted)
    seen = [to_name(to_octets(name)) for name in sent]
    expected = [any(fnmatchcase(one, pattern) for pattern in wanted) for one in seen]
    for _ in range(2):
        assert allowed.takes(sources, high, low).tolist() == expected
    nowhere = Allowed(("10.0.0.0/8",), wanted)
    assert not nowhere.takes(sources, high, low).any()


def test_a_long_id_fits_by_itself_and_as_its_uuid() -> None:
    name = "shellyplugpmg3-907069531520/pm1:0"
    high, low = (np.array([half] * 3, np.uint64) for half in halves(to_octets(name)))
    sources = np.array([halves_of("10.1.2.3"), halves_of("10.1.2.3"), halves_of("192.0.2.1")])
    for pattern, fits in (
        ("shelly*", True),
        ("*/pm1:0", True),
        ("*/em:0", False),
        (to_name(to_octets(name)), True),
    ):
        allowed = Allowed(["10.0.0.0/8"], [pattern])
        for _ in range(2):
            taken = allowed.takes(sources, high, low, {0: name, 2: name}).tolist()
            assert taken == [fits, pattern == to_name(to_octets(name)), False], pattern


def test_long_ids_of_json_and_of_others_are_matched() -> None:
    shelly = b'{"src":"%s","method":"NotifyStatus","params":{"pm1:0":{"apower":5}}}'
    json = b'{"meter":"%s","registers":{"energy_import":5}}'
    gate = Gate(Allowed(EVERYWHERE, ["shelly*"]), KeyRing.empty())
    for text, format_ in ((shelly, "shelly"), (json, "json")):
        datagrams = Datagrams.of(
            [text % b"shellyplug-907069531520", text % b"plug-907069531520123"]
        )
        decoded = FORMATS[format_].decoder(Options())(datagrams, 1_795_000_000_000, gate)
        assert decoded.rows.tolist() == [0]
        assert decoded.tally.refused == {Reason.NOT_ALLOWED: 1}


def test_an_id_is_looked_at_once_and_what_is_kept_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[bytes] = []
    real = to_name

    def seen(octets: bytes) -> str:
        looked.append(octets)
        return real(octets)

    monkeypatch.setattr(admission, "to_name", seen)
    monkeypatch.setattr(admission, "MOST_JUDGED", 50)
    allowed = Allowed(EVERYWHERE, ["m-1*"])

    def ask(first: int) -> list[bool]:
        pairs = [halves(to_octets(f"m-{first + n}")) for n in range(20)] * 3
        high, low = (np.array([pair[half] for pair in pairs], np.uint64) for half in (0, 1))
        sources = np.tile(halves_of("::1"), (60, 1))
        taken: list[bool] = allowed.takes(sources, high, low).tolist()
        return taken

    for _ in range(5):
        assert ask(0) == ([n == 1 or n >= 10 for n in range(20)]) * 3
    assert len(looked) == len(set(looked)) == 20
    for first in range(1000, 3000, 20):
        assert ask(first) == [first < 2000] * 60
        assert len(allowed._judged) < 50 + 20


@pytest.mark.parametrize("text", ["", "kitchen", "10.0.0.1/8", "10.0.0.0/33", "::1/129", "10/8"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        network(text)
