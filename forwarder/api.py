"""The HTTP API on a unix socket: JSON to agent calls and back, nothing else.

    PUT    /api/v1/vifs/{id}   {"vpn": …, "interface": …, "addresses": […], "mac"?, "rate"?, "mode"?,
                                "prefixes"?: […], "sequence-number"?, "local-preference"?}
    DELETE /api/v1/vifs/{id}
    PUT    /api/v1/drain, DELETE /api/v1/drain
    PUT    /api/v1/external    {"role": "active" or "standby"}
    GET    /api/v1/drain, /external, /vifs, /vifs/{id}, /vifs/{id}/trace?destination=&source=,
           /routes?vpn=&vif=&prefix=, /labels, /drops, /status

PUT and DELETE are idempotent and keyed by the attachment id, so a hook may repeat them; deleting what is not there
succeeds.  Errors are RFC 9457 problem documents whose `detail` names the object, the reason and what to do next.  The
socket is readable by its owner only: who may attach may join any VPN this host is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from forwarder.agent import Agent
from forwarder.api_report import (
    Json,
    drain_report,
    drop_reports,
    label_reports,
    route_report,
    status_report,
    trace_report,
    vif_report,
)
from forwarder.attachments import AttachmentError, Mode, parse_attachment
from forwarder.dataplane.values import DataplaneError
from forwarder.external.role import NotRedundantError
from forwarder.external.table import Role
from forwarder.labels import AllocationError
from forwarder.state import StateError
from forwarder.vifs import ConflictError
from schema.values import DEFAULT_LOCAL_PREFERENCE

if TYPE_CHECKING:
    from forwarder.external.service import ExternalService

_PREFIX = "/api/v1"
_VIF = _PREFIX + "/vifs/{id:[^/]+}"
"""Every character an id may have: aiohttp's own idea of a segment leaves braces out."""
_PIECE = 200
"""Routes looked at in one turn of the loop."""
_SOCKET_UMASK = 0o177
_STATUS: dict[type[Exception], tuple[int, str]] = {
    AttachmentError: (400, "The attachment is not well-formed"),
    msgspec.MsgspecError: (400, "The request body cannot be used"),
    UnicodeDecodeError: (400, "The request body cannot be used"),
    ConflictError: (409, "Another attachment is in the way"),
    NotRedundantError: (409, "There is no other forwarder"),
    AllocationError: (507, "Nothing left to give out"),
    DataplaneError: (500, "The data plane refused"),
    StateError: (500, "The state file cannot be written"),
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """The socket cannot be opened; the text names it and the reason."""


class _Body(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    vpn: str
    interface: str
    addresses: list[str]
    mac: str | None = None
    rate: str | None = None
    mode: str = Mode.POINT_TO_POINT.value
    prefixes: list[str] = []
    sequence_number: int | None = None
    local_preference: int = DEFAULT_LOCAL_PREFERENCE


class _Role(msgspec.Struct, forbid_unknown_fields=True):
    role: Role


class Api:
    """Serves one agent; `start` opens the socket, `stop` removes it."""

    def __init__(self, agent: Agent, path: Path) -> None:
        self.external: ExternalService | None = None
        """Once it is started, if there is to be one."""
        self._agent = agent
        self._path = path
        application = web.Application(middlewares=[_problems])
        application.add_routes(
            [
                web.put(_VIF, self._attach),
                web.delete(_VIF, self._detach),
                web.get(_VIF, self._vif),
                web.get(_VIF + "/trace", self._trace),
                web.get(_PREFIX + "/vifs", self._vifs),
                web.put(_PREFIX + "/drain", self._drain),
                web.delete(_PREFIX + "/drain", self._undrain),
                web.get(_PREFIX + "/drain", self._drained),
                web.get(_PREFIX + "/external", self._external),
                web.put(_PREFIX + "/external", self._external),
                web.get(_PREFIX + "/routes", self._routes),
                web.get(_PREFIX + "/labels", self._labels),
                web.get(_PREFIX + "/drops", self._drops),
                web.get(_PREFIX + "/status", self._status),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> None:
        """Raises ApiError."""
        await self._runner.setup()
        await web.SockSite(self._runner, _listening_socket(self._path)).start()

    async def stop(self) -> None:
        await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _attach(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_Body)
        attachment = parse_attachment(request.match_info["id"], **msgspec.structs.asdict(body))
        served, is_new = await self._agent.attach(attachment)
        return _json(vif_report(self._agent, served), status=201 if is_new else 200)

    async def _detach(self, request: web.Request) -> web.Response:
        attachment_id = request.match_info["id"]
        return _json({"id": attachment_id, "was-attached": await self._agent.detach(attachment_id)})

    async def _drain(self, _: web.Request) -> web.Response:
        return _json(drain_report(await self._agent.draining.drain()))

    async def _undrain(self, _: web.Request) -> web.Response:
        return _json(drain_report(await self._agent.draining.undrain()))

    async def _external(self, request: web.Request) -> web.Response:
        """End-systems behind this forwarder; with PUT, whether it is the one that serves them."""
        if self.external is None:
            return _problem(404, "No end-systems", "no [external] is configured: nobody is behind this forwarder")
        if request.method == "PUT":
            await self.external.take(msgspec.json.decode(await request.read(), type=_Role).role)
        return _json(self.external.report())

    async def _drained(self, _: web.Request) -> web.Response:
        return _json(drain_report(self._agent.draining.report()))

    async def _vif(self, request: web.Request) -> web.Response:
        attachment_id = request.match_info["id"]
        vif = self._agent.vifs.get(attachment_id)
        return _not_attached(attachment_id) if vif is None else _json(vif_report(self._agent, vif))

    async def _trace(self, request: web.Request) -> web.Response:
        addresses = [request.query.get(key) for key in ("destination", "source")]
        try:
            destination, source = (None if text is None else ip_address(text) for text in addresses)
        except ValueError as error:
            return _problem(400, "No address", str(error))
        if destination is None:
            return _problem(400, "No address", "`destination` says where the packet is to go")
        attachment_id = request.match_info["id"]
        if self._agent.vifs.get(attachment_id) is None:
            return _not_attached(attachment_id)
        return _json(trace_report(self._agent, self._agent.trace(attachment_id, destination, source)))

    async def _vifs(self, _: web.Request) -> web.Response:
        return self._list([vif_report(self._agent, vif) for vif in self._agent.vifs])

    async def _routes(self, request: web.Request) -> web.Response:
        """Put together in pieces, between which events of VPNs go on."""
        filters = {key: request.query[key] for key in ("vpn", "vif", "prefix") if key in request.query}
        items: list[msgspec.Raw] = []
        routes = self._agent.fib.each_route()
        while piece := list(islice(routes, _PIECE)):
            reports = (route_report(self._agent, route) for route in piece)
            chosen = (r for r in reports if all(r[key] == value for key, value in filters.items()))
            items += [msgspec.Raw(msgspec.json.encode(report)) for report in chosen]
            await asyncio.sleep(0)
        return self._list(items)

    async def _drops(self, _: web.Request) -> web.Response:
        """Asked in a thread: it takes some processes, and events of VPNs go on."""
        return self._list(drop_reports(self._agent, await asyncio.to_thread(self._agent.drops)))

    async def _labels(self, _: web.Request) -> web.Response:
        return self._list(label_reports(self._agent, time.time()))

    async def _status(self, _: web.Request) -> web.Response:
        return _json(status_report(self._agent))

    def _list(self, items: Sequence[Json | msgspec.Raw]) -> web.Response:
        return _json({"items": items, "next-cursor": None, "revision": self._agent.revision})


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except tuple(_STATUS) as error:
        status, title = next(_STATUS[kind] for kind in _STATUS if isinstance(error, kind))
        return _problem(status, title, str(error))
    except web.HTTPException as error:
        return _problem(error.status, error.reason, f"{request.method} {request.path}: {error.reason}")


def _json(body: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _problem(status: int, title: str, detail: str) -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/problem+json")


def _not_attached(attachment_id: str) -> web.Response:
    detail = f"attachment {attachment_id} is not known here; `forwarder get vifs` lists those that are"
    return _problem(404, "Not attached", detail)


def _listening_socket(path: Path) -> socket.socket:
    """A socket of our own at `path`; one left by a forwarder that is gone is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            _refuse_if_answered(path)
            path.unlink()
        _bind(listening, path)
    except OSError as error:
        listening.close()
        raise ApiError(f"{path}: {error.strerror or error}") from None
    return listening


def _bind(listening: socket.socket, path: Path) -> None:
    """Nobody else's from the first moment on. Only the socket: a directory needs its own permissions."""
    umask = os.umask(_SOCKET_UMASK)
    try:
        listening.bind(str(path))
    finally:
        os.umask(umask)


def _refuse_if_answered(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise OSError("another forwarder answers there")
