"""What a client asks by iq, sorted by payload: a request for the core, or an answer that can be given at once.

Every iq of type get or set gets exactly one answer (RFC 6120 section 8.2.3), so a reader here either returns one of
the two or raises the StanzaError that is the answer.  A request may be addressed to any name of the service or to
nobody; a ping also to the client's own account or domain, which is where stock clients send theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from lxml import etree

from routeserver.xmpp import disco, errors, pubsub
from routeserver.xmpp.events import EndOfPublish, Iq, Request
from routeserver.xmpp.jid import Jid, prepare_resource
from routeserver.xmpp.pubsub import Requester
from schema.names import NS_BIND, NS_DISCO_INFO, NS_DISCO_ITEMS, NS_IN_SYNC, NS_PING

Element: TypeAlias = etree._Element

_PING_TAG = f"{{{NS_PING}}}ping"
_BIND_TAG = f"{{{NS_BIND}}}bind"


def read_iq(iq: Iq, element: Element, requester: Requester) -> Request | str:
    """An iq of type get or set as a request, or as the payload of its result. Raises StanzaError."""
    payload, kind = _payload(iq, element)
    _check_addressee(iq, payload, requester)
    reader = _PAYLOADS.get(str(payload.tag))
    if reader is None:
        raise errors.service_unavailable(f"{payload.tag!s} is not understood here")
    return reader(iq, kind, payload, requester)


def read_bind(iq: Iq, element: Element) -> str | None:
    """The resource a client wants to be bound to, prepared; None if it leaves the choice (RFC 6120 section 7).

    Raises StanzaError for a bad request and ValueError for an iq that is no bind at all.
    """
    payload, kind = _payload(iq, element)
    if payload.tag != _BIND_TAG or kind != "set":
        raise ValueError("not a bind")
    wanted = payload.findtext(f"{{{NS_BIND}}}resource")
    if not wanted:
        return None
    try:
        return prepare_resource(wanted)
    except ValueError as error:
        raise errors.bad_request(str(error)) from None


def named_node(iq: Element) -> str:
    """The node a request that could not be read seems to be about; empty if it names none."""
    named = (one.get("node") for payload in iq for one in (payload, *payload))
    return next(filter(None, named), "")


def _payload(iq: Iq, element: Element) -> tuple[Element, str]:
    """The one child and the type of a request (RFC 6120 section 8.2.3)."""
    kind = element.get("type")
    if kind not in ("get", "set"):
        raise errors.bad_request("the type of an iq is get, set, result or error")
    if not iq.id:
        raise errors.bad_request("the iq has no id")
    if len(element) != 1:
        raise errors.bad_request(f"an iq of type {kind} has exactly one child")
    return element[0], kind


def _check_addressee(iq: Iq, payload: Element, requester: Requester) -> None:
    if iq.to is None:
        return
    try:
        if iq.to in requester.service:
            return
        to = Jid.parse(iq.to)
    except ValueError as error:
        raise errors.jid_malformed(str(error)) from None
    own = (requester.jid.bare, Jid("", requester.jid.domain))
    if payload.tag != _PING_TAG or to.bare not in own:
        raise errors.service_unavailable(f"{iq.to} is not served here")


def _require(kind: str, expected: str) -> None:
    if kind != expected:
        raise errors.bad_request(f"this payload goes in an iq of type {expected}")


def _read_ping(iq: Iq, kind: str, payload: Element, requester: Requester) -> str:
    """XEP-0199."""
    _require(kind, "get")
    return ""


def _read_info(iq: Iq, kind: str, query: Element, requester: Requester) -> Request | str:
    _require(kind, "get")
    return disco.read_info(iq, query.get("node"))


def _read_nodes(iq: Iq, kind: str, query: Element, requester: Requester) -> Request:
    _require(kind, "get")
    return disco.read_items(iq, query.get("node"))


def _read_pubsub(iq: Iq, kind: str, payload: Element, requester: Requester) -> Request:
    return pubsub.read_request(iq, kind, payload, requester)


def _read_in_sync(iq: Iq, kind: str, payload: Element, requester: Requester) -> EndOfPublish:
    _require(kind, "set")
    return EndOfPublish(iq)


def _read_bind(iq: Iq, kind: str, payload: Element, requester: Requester) -> Request:
    raise errors.already_bound()


_Reader: TypeAlias = Callable[[Iq, str, Element, Requester], Request | str]
_PAYLOADS: dict[str, _Reader] = {
    pubsub.PUBSUB_TAG: _read_pubsub,
    pubsub.OWNER_TAG: _read_pubsub,
    _PING_TAG: _read_ping,
    _BIND_TAG: _read_bind,
    f"{{{NS_DISCO_INFO}}}query": _read_info,
    f"{{{NS_DISCO_ITEMS}}}query": _read_nodes,
    f"{{{NS_IN_SYNC}}}in-sync": _read_in_sync,
}
