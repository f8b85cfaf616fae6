"""The HTTP API: views of the core as JSON, and nothing else but a switch for traces and one for drains.

Every answer is made in one call on the event loop, so it is a consistent picture of one moment; `revision` says which.
Lists are `{"items": […], "next-cursor": null, "revision": N}`.  Long ones come in pages: where there is more,
`next-cursor` is what to give as `cursor` for the rest.  Errors are problem details (RFC 9457), those for unknown paths
and methods included; only what cannot be read as HTTP gets aiohttp's plain text, and a line of log.

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

from routeserver.api import query as api_query
from routeserver.core import RouteServer
from routeserver.io.listen import XmppService
from routeserver.io.trace import Traces, TracesOffError
from routeserver.log import record
from routeserver.views import bgp as views_bgp
from routeserver.views import rib as views_rib
from routeserver.views import routes as views_routes
from routeserver.views import vpns as views
from schema.values import IPAddress

PREFIX = "/api/v1"
_REASON_MAX = 200


def application(
    core: RouteServer, clock: Callable[[], float], traces: Traces, xmpp: XmppService | None
) -> web.Application:
    """The API of one core; `clock` is the clock the core runs on, `xmpp` what forwarders come to, if they may."""
    server_logger.addFilter(_in_words)
    api = _Api(core, clock, traces, xmpp)
    app = web.Application(middlewares=[_problems])
    app.router.add_get("/healthz", api.healthz)
    app.router.add_get("/readyz", api.readyz)
    app.router.add_get(f"{PREFIX}/vpns", api.vpns)
    app.router.add_get(f"{PREFIX}/vpns/{{vpn}}", api.vpn)
    app.router.add_get(f"{PREFIX}/vpns/{{vpn}}/routes", api.routes)
    app.router.add_get(f"{PREFIX}/forwarders", api.forwarders)
    app.router.add_get(f"{PREFIX}/xmpp", api.xmpp)
    app.router.add_get(f"{PREFIX}/drain", api.drain_state)
    app.router.add_put(f"{PREFIX}/drain", api.drain)
    app.router.add_delete(f"{PREFIX}/drain", api.cancel_drain)
    app.router.add_get(f"{PREFIX}/rt-constraints", api.rt_constraints)
    app.router.add_get(f"{PREFIX}/bgp/rib", api.rib)
    app.router.add_get(f"{PREFIX}/bgp/neighbors", api.neighbors)
    app.router.add_get(f"{PREFIX}/bgp/neighbors/{{address}}", api.neighbor)
    app.router.add_put(f"{PREFIX}/bgp/neighbors/{{address}}/trace", api.trace)
    return app


class _Api:
    def __init__(self, core: RouteServer, clock: Callable[[], float], traces: Traces, xmpp: XmppService | None) -> None:
        self._core = core
        self._clock = clock
        self._traces = traces
        self._xmpp = xmpp

    async def healthz(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        ready, checks = views.readiness(self._core, self._clock(), self._drain_view())
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
        name, query = request.match_info["vpn"], request.query
        api_query.only(query, ("prefix", "member", "cursor", "limit"))
        prefix = api_query.given(query, "prefix", api_query.prefix)
        member = api_query.given(query, "member", api_query.jid)
        page = views_routes.routes(self._core, name, prefix, *api_query.page(query), member)
        if page is None and views.vpn(self._core, name) is not None:
            return problem(HTTPStatus.NOT_FOUND, f"{member} is not a member of VPN {name!r}")
        return _no_vpn(name) if page is None else self._page(page)

    async def forwarders(self, _request: web.Request) -> web.Response:
        return self._list(views.forwarders(self._core))

    async def xmpp(self, _request: web.Request) -> web.Response:
        return _json(views.xmpp(self._core))

    async def drain_state(self, _request: web.Request) -> web.Response:
        return _json(self._drain_view())

    async def drain(self, request: web.Request) -> web.Response:
        """Send clients to another host from now on, those that are here over some time."""
        api_query.only(request.query, ())
        host, over = api_query.drain(await request.read())
        if self._xmpp is None:
            return problem(HTTPStatus.CONFLICT, "there are no clients to send away: [xmpp] is not in the configuration")
        self._xmpp.drain(host, over)
        return _json(self._drain_view())

    async def cancel_drain(self, _request: web.Request) -> web.Response:
        """Let clients in again. Without a drain nothing changes."""
        if self._xmpp is not None:
            self._xmpp.drainer.cancel()
        return _json(self._drain_view())

    def _drain_view(self) -> dict[str, Any]:
        return {"draining": False} if self._xmpp is None else self._xmpp.drainer.view()

    async def rt_constraints(self, _request: web.Request) -> web.Response:
        return self._list(views_rib.rt_constraints(self._core))

    async def rib(self, request: web.Request) -> web.Response:
        query = request.query
        api_query.only(query, ("afi-safi", "rd", "prefix", "cursor", "limit"))
        wanted = views_rib.RibQuery(
            api_query.given(query, "afi-safi", api_query.vpn_family),
            api_query.given(query, "rd", api_query.route_distinguisher),
            api_query.given(query, "prefix", api_query.prefix),
        )
        return self._page(views_rib.rib(self._core, wanted, *api_query.page(query)))

    async def neighbors(self, _request: web.Request) -> web.Response:
        return self._list(views_bgp.neighbors(self._core, self._clock()))

    async def neighbor(self, request: web.Request) -> web.Response:
        address = _address(request)
        found = None if address is None else self._core.speaker.neighbors.get(address)
        if found is None or address is None:
            return _no_neighbor(request)
        view = views_bgp.neighbor(self._core, found, self._clock())
        return _json({**view, "trace": self._trace(address)})

    async def trace(self, request: web.Request) -> web.Response:
        """Switch on or off. A neighbor that is gone may still be switched off."""
        address = _address(request)
        is_known = address in self._core.speaker.neighbors or (address and self._traces.file_of(address))
        if address is None or not is_known:
            return _no_neighbor(request)
        try:
            if api_query.switch(await request.read()):
                self._traces.switch_on(address)
            else:
                self._traces.switch_off(address)
        except TracesOffError:
            detail = "there is nowhere to write to: bgp.trace-directory is not in the configuration"
            return problem(HTTPStatus.CONFLICT, detail)
        except OSError as error:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error.filename}: {error.strerror}")
        return _json(self._trace(address))

    def _trace(self, address: IPAddress) -> dict[str, Any]:
        file = self._traces.file_of(address)
        return {"enabled": file is not None, "file": None if file is None else str(file)}

    def _list(self, items: list[dict[str, Any]]) -> web.Response:
        return self._page(views.Page(items, None))

    def _page(self, page: views.Page) -> web.Response:
        end = api_query.cursor(page.end)
        return _json({"items": page.items, "next-cursor": end, "revision": self._core.revision})


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


def _no_neighbor(request: web.Request) -> web.Response:
    name = request.match_info["address"]
    return problem(HTTPStatus.NOT_FOUND, f"no neighbor {name!r} here; GET {PREFIX}/bgp/neighbors lists them")


def _address(request: web.Request) -> IPAddress | None:
    try:
        return ipaddress.ip_address(request.match_info["address"])
    except ValueError:
        return None


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
    """Give what a request asks for in vain, and the router's own refusals, the form of all others."""
    try:
        return await handler(request)
    except api_query.QueryError as error:
        return problem(HTTPStatus.BAD_REQUEST, str(error))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not offered; {request.path} takes {allowed}"
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, detail, {"Allow": allowed})
    except web.HTTPNotFound:
        return problem(HTTPStatus.NOT_FOUND, f"nothing is at {request.path}")
    except web.HTTPRequestEntityTooLarge:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is longer than anything asked for here")
