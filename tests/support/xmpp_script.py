"""XMPP conversations without sockets: a session at any stage, and scripts of what goes in and must come out.

A script (tests/corpus/xmpp/conversations) opens with `#` lines that say in prose what it shows, then has one
direction after the other:

    service: JID         at the top: the configured JID, when it is not the draft's constant
    tls: KIND=NAME …     TLS is up; KIND is xmpp, dns or ip; no names means no client certificate
    login: JID/RESOURCE  everything up to a bound resource, its output not looked at
    C: …                 octets of the client, as they stand; indented lines go on
    S: …                 what the server must then have written, exactly
    E: …                 what the driver or the core must have been told, by the event's repr
    A: …                 the core answers what the last `E:` told with good news (see `_answer`)

Consecutive `C:` lines are one read, and also fed octet by octet; `S:` and `E:` after them hold for both.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from routeserver.xmpp import disco, events, forms, results
from routeserver.xmpp.accounts import Accounts
from routeserver.xmpp.management import Resumptions
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits, Unfinished

CONVERSATIONS = sorted((Path(__file__).parent.parent / "corpus" / "xmpp" / "conversations").glob("*.txt"))
DOMAIN = "rs.example.net"
SERVICE = "route-server@ietf.org"
CLIENT = "forwarder@domain.org"
STREAM_NS = "http://etherx.jabber.org/streams"
HEADER = (
    f"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='{STREAM_NS}'"
    f" to='{DOMAIN}' version='1.0' xml:lang='en'>"
).encode()
STARTTLS = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
AUTH = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
STREAM_END = b"</stream:stream>"


def bind(resource: str) -> bytes:
    return (
        f"<iq type='set' id='b1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource>"
        "</bind></iq>"
    ).encode()


def new_session(
    service: str = SERVICE,
    limits: StreamLimits | None = None,
    now: float = 0.0,
    unfinished: Unfinished | None = None,
    accounts: Accounts | None = None,
    ids: str = "s",
    resumptions: Resumptions[XmppSession] | None = None,
) -> XmppSession:
    """A session just connected; its stream ids are s1, s2, …"""
    counter = itertools.count(1)
    new_id = lambda: f"{ids}{next(counter)}"  # noqa: E731
    shared = (unfinished, accounts, resumptions)
    return XmppSession(DOMAIN, service, new_id, limits or StreamLimits(), now, *shared)


def secured(certificate: ClientCertificate | None, now: float = 0.0, **settings: object) -> XmppSession:
    """A session whose TLS is up, its output so far drained."""
    session = new_session(now=now, **settings)  # type: ignore[arg-type]
    session.receive_data(HEADER + STARTTLS, now)
    session.data_to_send()
    session.tls_established(certificate)
    return session


def authenticated(jid: str = CLIENT, now: float = 0.0, **settings: object) -> XmppSession:
    """A session that may bind."""
    session = secured(ClientCertificate(xmpp_addresses=(jid,)), now, **settings)
    session.receive_data(HEADER + AUTH + HEADER, now)
    session.data_to_send()
    return session


def bound(jid: str = CLIENT, resource: str = "vpn", **settings: object) -> XmppSession:
    """A session that may ask, bound at time 0."""
    session = authenticated(jid, **settings)
    session.receive_data(bind(resource), 0.0)
    session.data_to_send()
    return session


def feed(session: XmppSession, data: bytes, size: int | None = None, now: float = 0.0) -> list[events.XmppEvent]:
    """Give the session octets, whole or in pieces of `size`."""
    size = size or max(len(data), 1)
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return [event for piece in pieces for event in session.receive_data(piece, now)]


def stanzas(sent: bytes) -> list[etree._Element]:
    """What was written inside a stream, its end left out, as elements."""
    text = sent.decode().removesuffix(STREAM_END.decode())
    opening, end = f"<stream:stream xmlns='jabber:client' xmlns:stream='{STREAM_NS}'>", STREAM_END.decode()
    if text.startswith("<?xml"):
        text = text[text.index("<stream:stream") :]
        return list(etree.fromstring(text + end))
    return list(etree.fromstring(opening + text + end))


def ask(session: XmppSession, payload: str, kind: str = "set", attributes: str = "") -> list[events.XmppEvent]:
    """Send an iq with id q1."""
    return session.receive_data(f"<iq type='{kind}' id='q1'{attributes}>{payload}</iq>".encode(), 0.0)


def ask_pubsub(session: XmppSession, operation: str, kind: str = "set") -> list[events.XmppEvent]:
    """Send an iq with the pub-sub operation given as text."""
    return ask(session, f"<pubsub xmlns='http://jabber.org/protocol/pubsub'>{operation}</pubsub>", kind)


@dataclass(frozen=True)
class Direction:
    """One line of a script, with those that go on."""

    line: int
    verb: str
    text: str


def read_script(path: Path) -> Iterator[Direction]:
    pending: Direction | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] == " " and pending is not None:
            pending = Direction(pending.line, pending.verb, f"{pending.text}\n{line}")
            continue
        if pending is not None:
            yield pending
        verb, colon, text = line.partition(":")
        if not colon:
            raise ValueError(f"{path}:{number}: not a direction")
        pending = Direction(number, verb, text.strip())
    if pending is not None:
        yield pending


def play(path: Path, size: int | None) -> XmppSession:
    """Run a script, feeding pieces of `size` octets; AssertionError names the line that was not kept."""
    session = new_session()
    told: list[events.XmppEvent] = []
    last: events.XmppEvent | None = None
    for direction in _joined(read_script(path)):
        place = f"{path.name}:{direction.line}"
        match direction.verb:
            case "service":
                session = new_session(direction.text)
            case "tls":
                told += session.tls_established(_certificate(direction.text))
            case "login":
                _log_in(session, direction.text)
            case "C":
                told += feed(session, direction.text.encode(), size)
            case "A" if last is not None:
                _answer(session, last, direction.text)
            case "S":
                assert session.data_to_send().decode() == direction.text, place
            case "E":
                last = told.pop(0) if told else None
                assert repr(last) == direction.text, place
            case verb:
                raise ValueError(f"{place}: no direction {verb!r}")
    assert session.data_to_send() == b"", f"{path.name}: more was written"
    assert told == [], f"{path.name}: more was told"
    return session


def _joined(script: Iterator[Direction]) -> Iterator[Direction]:
    """Consecutive lines of one speaker as one."""
    for verb, group in itertools.groupby(script, lambda direction: direction.verb):
        directions = list(group)
        if verb in ("C", "S"):
            yield Direction(directions[0].line, verb, "".join(direction.text for direction in directions))
        else:
            yield from directions


def _certificate(names: str) -> ClientCertificate | None:
    if not names:
        return None
    pairs = [name.partition("=")[::2] for name in names.split()]
    return ClientCertificate(
        tuple(name for kind, name in pairs if kind == "xmpp"),
        tuple(name for kind, name in pairs if kind == "dns"),
        tuple(ipaddress.ip_address(name) for kind, name in pairs if kind == "ip"),
    )


def _log_in(session: XmppSession, jid: str) -> None:
    bare, _, resource = jid.partition("/")
    session.receive_data(HEADER + STARTTLS, 0.0)
    session.data_to_send()
    session.tls_established(ClientCertificate(xmpp_addresses=(bare,)))
    session.receive_data(HEADER + AUTH + HEADER + bind(resource), 0.0)
    session.data_to_send()


def _answer(session: XmppSession, request: events.XmppEvent, text: str) -> None:
    """What a core would say that finds nothing wrong with the request; `text` are its items or its VPNs."""
    match request:
        case events.Subscribe(iq=iq, options=options):
            given = 7 if options.instance_id is None else options.instance_id
            session.send_result(iq, results.subscribed(request, forms.options_form("result", given, options.vlan_id)))
        case events.Publish(iq=iq, node=node, items=items):
            session.send_result(iq, results.published(node, [item.id or "made-here" for item in items]))
        case events.GetItems(iq=iq, node=node):
            session.send_result(iq, results.retrieved(node, [text]))
        case events.DiscoverNodes(iq=iq):
            session.send_node_list(iq, text.split())
        case events.DiscoverNode():
            session.send_result(request.iq, disco.node(request, ""))
        case events.Unsubscribe(iq=iq) | events.Retract(iq=iq) | events.EndOfPublish(iq=iq):
            session.send_result(iq)
        case _:
            raise ValueError(f"{request} is not a request")
