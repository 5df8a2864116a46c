"""Runs the HTTP application in this process, under uvicorn."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from query.credentials import Credentials
from query.http.bus import Bus
from query.http.connection import HttpConnection
from query.http.shim import application

_BACKLOG = 1024
_GOODBYE = 0.5  # seconds in which the last answers leave


def serve(
    address: str,
    port: int,
    query_endpoint: str,
    ready: Callable[[str], None],
    me: Credentials | None = None,
) -> None:
    """Serve HTTP until SIGTERM or SIGINT; for the main thread of a process of its own.

    ``me`` is who the shim is where the query service wants a key. Port 0 takes a free one;
    ``ready`` gets the base URL as soon as connections are taken. Raises OSError when the port
    cannot be had and BusError for what is no endpoint of the bus.
    """
    where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.create_server(where[4][:2], family=where[0], backlog=_BACKLOG) as sock:
        asyncio.run(_serve(sock, query_endpoint, ready, me))


async def _serve(
    sock: socket.socket,
    query_endpoint: str,
    ready: Callable[[str], None],
    me: Credentials | None,
) -> None:
    bus = Bus(query_endpoint, me)
    config = uvicorn.Config(
        application(bus),
        http=HttpConnection,
        ws="none",
        lifespan="off",
        backlog=_BACKLOG,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
    )
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    server = _Server(config, bus, lambda: ready(url))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.serve([sock])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, bus: Bus, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._bus, self._ready = bus, ready

    def stop(self) -> None:
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn's own would raise the signal again at the end, and the process would die of it.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._bus.close()  # requests under way are answered now
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await super().shutdown(sockets)
