"""One HTTP/1 connection: uvicorn's, which answers one request, with limits for what comes before.

A request's head must be there within ``HEAD_SECONDS`` and ``LONGEST_HEAD`` octets. What is no
request gets its error as JSON, and is then read on and thrown away until the client ends or the
time is up: closing at once could lose the answer on its way.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

HEAD_SECONDS = 10.0
LONGEST_HEAD = 16 * 1024

_HEAD = (
    "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n"
    "Connection: close\r\n\r\n"
)


class HttpConnection(H11Protocol):
    """See the module."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._octets = 0
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take octets of the request, as long as they are few enough."""
        if self._refused:
            return
        self._octets += len(data)
        if self._request is None and self._octets > LONGEST_HEAD:
            self._refuse(431, "head_too_large", f"a request has at most {LONGEST_HEAD} octets")
        else:
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent its request and shut down its side still gets the answer."""
        return self._request is not None and not self._request.response_complete

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP."""
        if self._request is None:
            self._refuse(400, "bad_http", "this is no HTTP/1 request")
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: close what waits for nothing."""
        if self._refused:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def _request(self) -> RequestResponseCycle | None:
        """The request that is or was answered; uvicorn keeps None here before there is one."""
        return self.cycle

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refused = True
        body = msgspec.json.encode({"error": {"code": code, "message": message}})
        head = _HEAD.format(status, HTTPStatus(status).phrase, len(body))
        self.transport.write(head.encode("ascii") + body)
        self.transport.write_eof()

    def _too_late(self) -> None:
        if self._request is None:
            self.transport.abort()
