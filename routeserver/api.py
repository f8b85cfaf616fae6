"""The read-only HTTP API: views of the core as JSON, and nothing else.

Every answer is made in one call on the event loop, so it is a consistent picture of one moment; `revision` says which.
Lists are `{"items": […], "next-cursor": null, "revision": N}`.  Errors are problem details (RFC 9457), those for
unknown paths and methods included; only what cannot be read as HTTP gets aiohttp's plain text, and a line of log.

`/healthz` says that the event loop turns; `/readyz` whether forwarders can be served, with the single checks when
asked `?verbose`.  A BGP neighbor that is down is shown and fails neither.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from routeserver import views
from routeserver.core import RouteServer
from routeserver.log import record
from schema.values import IPNetwork

PREFIX = "/api/v1"
_REASON_MAX = 200


def application(core: RouteServer, clock: Callable[[], float]) -> web.Application:
    """The API of one core; `clock` is the clock the core runs on."""
    server_logger.addFilter(_in_words)
    api = _Api(core, clock)
    app = web.Application(middlewares=[_problems])
    app.router.add_get("/healthz", api.healthz)
    app.router.add_get("/readyz", api.readyz)
    app.router.add_get(f"{PREFIX}/vpns", api.vpns)
    app.router.add_get(f"{PREFIX}/vpns/{{vpn}}", api.vpn)
    app.router.add_get(f"{PREFIX}/vpns/{{vpn}}/routes", api.routes)
    app.router.add_get(f"{PREFIX}/forwarders", api.forwarders)
    app.router.add_get(f"{PREFIX}/bgp/neighbors", api.neighbors)
    return app


class _Api:
    def __init__(self, core: RouteServer, clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock

    async def healthz(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        ready, checks = views.readiness(self._core, self._clock())
        body: dict[str, Any] = {"ready": ready}
        if "verbose" in request.query:
            body["checks"] = checks
        return _json(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def vpns(self, _request: web.Request) -> web.Response:
        return self._list(views.vpns(self._core))

    async def vpn(self, request: web.Request) -> web.Response:
        name = request.match_info["vpn"]
        vpn = views.vpn(self._core, name)
        return _no_vpn(name) if vpn is None else _json(vpn)

    async def routes(self, request: web.Request) -> web.Response:
        name, prefix = request.match_info["vpn"], None
        if "prefix" in request.query:
            try:
                prefix = _prefix(request.query["prefix"])
            except ValueError as error:
                return problem(HTTPStatus.BAD_REQUEST, f"prefix: {error}")
        routes = views.routes(self._core, name, prefix)
        return _no_vpn(name) if routes is None else self._list(routes)

    async def forwarders(self, _request: web.Request) -> web.Response:
        return self._list(views.forwarders(self._core))

    async def neighbors(self, _request: web.Request) -> web.Response:
        return self._list(views.neighbors(self._core))

    def _list(self, items: list[dict[str, Any]]) -> web.Response:
        return _json({"items": items, "next-cursor": None, "revision": self._core.revision})


def problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """A problem details object (RFC 9457 section 3) of the type `about:blank`: the status says what kind it is."""
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/problem+json", headers=headers
    )


def _json(body: object, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _no_vpn(name: str) -> web.Response:
    return problem(HTTPStatus.NOT_FOUND, f"no VPN {name!r} here; GET {PREFIX}/vpns lists them")


def _prefix(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def _in_words(entry: logging.LogRecord) -> bool:
    """Whether aiohttp's record is of a fault of ours; what a client sent that is no HTTP needs no traceback."""
    error = entry.exc_info[1] if entry.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    record(logging.INFO, "api.request.refused", reason=" ".join(error.message.split())[:_REASON_MAX])
    return False


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Give the router's own refusals the form of all others."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not offered; {request.path} takes {allowed}"
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, detail, {"Allow": allowed})
    except web.HTTPNotFound:
        return problem(HTTPStatus.NOT_FOUND, f"nothing is at {request.path}")
