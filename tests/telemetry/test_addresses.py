from __future__ import annotations

import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import addresses
from telemetry.bulk_udp import BulkReceiver
from telemetry.datagrams import halves_of

ports = st.integers(0, 65535)
v4 = st.tuples(st.ip_addresses(v=4).map(str), ports)
v6 = st.tuples(
    st.ip_addresses(v=6).map(str), ports, st.integers(0, 2**20 - 1), st.integers(0, 2**32 - 1)
)


@given(st.lists(v4, max_size=4) | st.lists(v6, max_size=4))
def test_what_is_packed_is_unpacked(told: list[tuple[str, int]]) -> None:
    octets = b"".join(addresses.pack(one) for one in told)
    rows = np.frombuffer(octets, np.uint8).reshape(-1, addresses.ROOM)
    assert [addresses.unpack(row.data) for row in rows] == told
    assert addresses.sources(rows).tolist() == [halves_of(one[0]).tolist() for one in told]
    assert addresses.lengths(rows).tolist() == [16 if len(one) == 2 else 28 for one in told]


def test_no_address_is_nowhere() -> None:
    row = np.frombuffer(addresses.pack(None), np.uint8)[None]
    assert addresses.sources(row).tolist() == [[0, 0]]
    assert addresses.lengths(row).tolist() == [0]


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_s_rows_are_ours(host: str, portable: bool) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM) as to,
        socket.socket(family, socket.SOCK_DGRAM) as one,
        socket.socket(family, socket.SOCK_DGRAM) as other,
    ):
        to.setblocking(False)
        receiver = BulkReceiver(to, 4, 64, portable=portable)
        for sock in (to, one, other):
            try:
                sock.bind((host, 0))
            except OSError:
                pytest.skip(f"this machine has no {host}")
        for _ in range(3):  # the kernel writes over how long addresses may be
            for sender in (one, other, one):
                sender.sendto(b"x", to.getsockname())
            datagrams = receiver.receive()
            rows = receiver.addresses[:3]
            told = [one.getsockname(), other.getsockname(), one.getsockname()]
            assert [addresses.unpack(row.data) for row in rows] == told
            assert [row.tobytes() for row in rows] == [addresses.pack(name) for name in told]
            assert datagrams.sources.tolist() == [halves_of(host).tolist()] * 3
