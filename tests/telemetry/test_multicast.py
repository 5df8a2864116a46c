"""Groups joined on real sockets; what is sent to them goes through the loopback interface."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from telemetry import multicast
from telemetry.formats.names import GROUPS
from telemetry.multicast import UnknownInterfaceError, join
from telemetry.udp_socket import bind

GROUP, OTHER = GROUPS["speedwire"], "239.12.255.253"


@pytest.fixture(params=multicast.WILDCARDS)
def sock(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Bound to all addresses, as a listener's."""
    with bind(request.param, 0, shared=True) as sock:
        # Else what tests that run beside this one have joined would come.
        sock.setsockopt(socket.IPPROTO_IP, multicast._MULTICAST_ALL, 0)
        sock.settimeout(60)
        yield sock


def send(port: int, group: str = GROUP, octets: bytes = b"x") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(octets, (group, port))


def comes(sock: socket.socket) -> bool:
    """Whether what is sent to the group comes: before what is sent to the socket alone."""
    port = sock.getsockname()[1]
    send(port, octets=b"group")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"alone", ("127.0.0.1", port))
    first = sock.recv(10)
    if first == b"group":
        assert sock.recv(10) == b"alone"
    return first == b"group"


@pytest.mark.parametrize("interfaces", [(), ("lo",), ("127.0.0.1",), ("lo", "127.0.0.1")])
def test_what_is_sent_to_the_group_comes(sock: socket.socket, interfaces: tuple[str, ...]) -> None:
    assert not comes(sock)
    join(sock, GROUP, interfaces)
    assert comes(sock)
    join(sock, GROUP, interfaces)  # again, as after a restart
    assert comes(sock)


def test_what_others_have_joined_does_not_come(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_IP, multicast._MULTICAST_ALL, 1)
    join(sock, GROUP, ["lo"])
    port = sock.getsockname()[1]
    with bind("0.0.0.0", 0, shared=True) as other:
        join(other, OTHER, ["lo"])
        send(port, OTHER, b"other")
        assert comes(sock)


def test_an_interface_that_is_wanted_no_more_is_left(sock: socket.socket) -> None:
    elsewhere = [name for _, name in socket.if_nameindex() if name != "lo" and fit(name)]
    if not elsewhere:
        pytest.skip("this machine has one interface only")
    for once in (["lo"], ["127.0.0.1"], []):
        join(sock, GROUP, once)
        assert comes(sock)
        join(sock, GROUP, elsewhere[:1])
        assert not comes(sock)


def fit(name: str) -> bool:
    with bind("0.0.0.0", 0) as probe:
        try:
            join(probe, GROUP, [name])
        except UnknownInterfaceError:
            return False
        return True


@pytest.mark.parametrize("interface", ["nope0", "192.0.2.99", "", "127.0.0.1/8", "::1"])
def test_an_unknown_interface_changes_nothing(sock: socket.socket, interface: str) -> None:
    join(sock, GROUP, ["lo"])
    with pytest.raises(UnknownInterfaceError, match=f"^{interface!r} is no interface of this"):
        join(sock, GROUP, ["lo", interface])
    assert comes(sock)


def test_a_shared_port_gives_each_the_multicast() -> None:
    with bind("0.0.0.0", 0, shared=True) as one:
        port = one.getsockname()[1]
        with bind("0.0.0.0", port, shared=True) as other:
            for sock in (one, other):
                sock.settimeout(60)
                join(sock, GROUP, ["lo"])
            send(port)
            assert (one.recv(10), other.recv(10)) == (b"x", b"x")
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            bind("0.0.0.0", port)
