"""The HTTP application: paths to requests of the query bus, its errors to statuses (docs/http.md).

Every answer is JSON and closes the connection: the old clients read until it is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from query import messages as m
from query.http import answers
from query.http.bus import Bus
from query.transport import BusError

log = logging.getLogger("query.http")

# The status of each error code of the bus; any other is the service's own fault.
_STATUS = {"unknown_meter": 404, "bad_request": 400, "away": 503, "unavailable": 503}
_BAD_GATEWAY = 502
_RETRY_AFTER = {503: {"Retry-After": "2"}}
# What the router itself refuses.
_ROUTER = {
    404: ("not_found", "there is only /, /?id=<meter> and /healthz"),
    405: ("method_not_allowed", "only GET and HEAD"),
}
_PING_TIMEOUT = 1.0

_encode = msgspec.json.Encoder(decimal_format="number").encode
_Endpoint = Callable[[Request], Awaitable[Response]]


def application(bus: Bus) -> Starlette:
    """The ASGI application over one connection to the bus."""
    places = asyncio.Semaphore(answers.METERS_AT_ONCE)

    async def meters(request: Request) -> Response:
        # A plus is a plus: ids may have one, and never the space that HTML forms mean by it.
        query = QueryParams(request.scope["query_string"].replace(b"+", b"%2B"))
        meter = query.get("id")
        if meter is None:
            return _json(200, await answers.all_meters(bus, places))
        return _json(200, {meter: await answers.one_meter(bus, meter)})

    async def health(_request: Request) -> Response:
        pong = await bus.ask(m.Ping(), m.Pong, timeout=_PING_TIMEOUT, tries=1)
        return _json(200, {"status": "ok", "version": pong.version})

    routes = [Route("/", _guarded(meters)), Route("/healthz", _guarded(health))]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    app.router.redirect_slashes = False
    return app


def _guarded(endpoint: _Endpoint) -> _Endpoint:
    """The endpoint, its errors turned into answers."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except BusError as error:
            return _error(_STATUS.get(error.code, _BAD_GATEWAY), error.code, str(error))
        except Exception:
            log.exception("a request failed")
            return _error(500, "internal", "the HTTP service failed; see its log")

    return guarded


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, message = _ROUTER[error.status_code]
    return _error(error.status_code, code, message, error.headers)


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    headers = headers or _RETRY_AFTER.get(status)
    return _json(status, {"error": {"code": code, "message": message}}, headers)


def _json(status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
    headers = {"Connection": "close", **(headers or {})}
    return Response(_encode(content), status, headers, "application/json")
