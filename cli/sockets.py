"""The listeners' UDP sockets: bound here, or taken over from who holds them (sd_listen_fds(3)).

A socket that somebody else holds too outlives its receiver, and what the kernel has put into its
buffer waits for the next one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from cli.config_listeners import Listener
from cli.hand_down import COUNT, FIRST, NAMES, PID
from cli.starting import StartError, in_use
from telemetry import multicast
from telemetry.udp_socket import bind


def open_all(listeners: Sequence[Listener]) -> list[socket.socket]:
    """A socket for each listener, in their order: those handed over, if any were, else bound.

    Raises StartError when they are not the listeners' or cannot be had.
    """
    handed = take_over()
    if not handed:
        return bind_all(listeners)
    matched = _match(listeners, handed)
    missing = [_of(wanted) for wanted, sock in zip(listeners, matched, strict=True) if not sock]
    surplus = [_name(sock) for sock in handed if sock not in matched]
    if missing or surplus:
        complaint = [f"none is for the listener {where}" for where in missing]
        complaint += [f"no listener is for {where}" for where in surplus]
        raise StartError(
            f"the sockets handed over do not match the configuration: {'; '.join(complaint)}. "
            "Give [[listeners]] and the socket unit's ListenDatagram= the same addresses and ports"
        )
    sockets = [sock for sock in matched if sock is not None]
    for wanted, sock in zip(listeners, sockets, strict=True):
        _join(wanted, sock)
    return sockets


def take_over() -> list[socket.socket]:
    """The UDP sockets that were handed over to this process; it keeps them from its children.

    Raises StartError for what is no UDP socket.
    """
    for_whom, count, names = (os.environ.pop(name, "") for name in (PID, COUNT, NAMES))
    if for_whom != str(os.getpid()) or not count.isdecimal():
        return []
    known = names.split(":")
    taken = []
    for number, fd in enumerate(range(FIRST, FIRST + int(count))):
        name = known[number] if number < len(known) else "unknown"
        os.set_inheritable(fd, False)
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            raise StartError(_no_udp(name)) from None
        if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartError(_no_udp(name))
        taken.append(sock)
    return taken


def bind_all(listeners: Sequence[Listener]) -> list[socket.socket]:
    """A new socket for each listener; StartError when one cannot be had."""
    return keep(listeners, [])


def keep(listeners: Sequence[Listener], held: Sequence[socket.socket]) -> list[socket.socket]:
    """For each listener the socket that is held already, else a new one; StartError if it cannot.

    What is held and not wanted is the caller's to close.
    """
    sockets = []
    for number, (wanted, sock) in enumerate(zip(listeners, _match(listeners, held), strict=True)):
        option = "--udp-port" if number == 0 else f"the port of listener {number + 1} in the file"
        try:
            shared = wanted.group is not None
            sockets.append(sock or bind(wanted.address, wanted.port, shared=shared))
        except socket.gaierror:
            raise StartError(f"{wanted.address!r} is no address of this machine") from None
        except OSError as error:
            raise in_use("udp", wanted.address, wanted.port, option, error) from None
        _join(wanted, sockets[-1])
    return sockets


def _join(listener: Listener, sock: socket.socket) -> None:
    """Have the socket take what the listener's devices send to all."""
    if listener.group is not None:
        try:
            multicast.join(sock, listener.group, listener.interfaces)
        except multicast.UnknownInterfaceError as error:
            raise StartError(f"the interfaces of {_of(listener)}: {error}") from None


def describe(sockets: Sequence[socket.socket]) -> str:
    """Their addresses, for the log."""
    return ", ".join(map(_name, sockets))


def _match(
    listeners: Sequence[Listener], held: Sequence[socket.socket]
) -> list[socket.socket | None]:
    """The socket at each listener's address, each once; port 0 is any port of it."""
    free, matched = list(held), []
    for listener in listeners:
        family, addresses = _addresses(listener)
        found = None
        for sock in free:
            host, port, *_ = sock.getsockname()
            if sock.family == family and host in addresses and listener.port in (0, port):
                found = sock
                free.remove(sock)
                break
        matched.append(found)
    return matched


def _addresses(listener: Listener) -> tuple[int, set[str | int]]:
    family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
    try:
        found = socket.getaddrinfo(listener.address, None, family, socket.SOCK_DGRAM)
    except socket.gaierror:  # binding it will say so
        found = []
    return family, {where[0] for *_, where in found}


def _of(listener: Listener) -> str:
    return _text(listener.address, listener.port)


def _name(sock: socket.socket) -> str:
    host, port, *_ = sock.getsockname()
    return _text(host, port)


def _text(host: str, port: int) -> str:
    return f"udp [{host}]:{port}" if ":" in host else f"udp {host}:{port}"


def _no_udp(name: str) -> str:
    return (
        f"what was handed over as {name!r} is no UDP socket: "
        "in a socket unit, name listeners with ListenDatagram= only"
    )
