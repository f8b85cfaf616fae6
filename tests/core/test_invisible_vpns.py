"""A VPN one may not use is answered for as one that is not there: whatever is asked, octet for octet."""

from __future__ import annotations

import pytest

from routeserver.xmpp.errors import Refusal
from schema.items import entry_xml
from schema.names import NS_DISCO_INFO, NS_DISCO_ITEMS, NS_PUBSUB, NS_PUBSUB_OWNER
from tests.support.conversation import Conversation, Forwarder
from tests.support.routes import item, vpn

_ENTRY = entry_xml(item("10.0.0.1/32"))
_JID = "jid='h2.example.net'"
_REQUESTS = [
    ("set", f"<subscribe node='{{}}' {_JID}/>"),
    ("set", f"<subscribe node='{{}}' {_JID}/><options><instance-id>1</instance-id></options>"),
    ("set", f"<unsubscribe node='{{}}' {_JID}/>"),
    ("get", f"<options node='{{}}' {_JID}/>"),
    ("set", f"<options node='{{}}' {_JID}><instance-id>1</instance-id></options>"),
    ("set", f"<publish node='{{}}'><item id='there'>{_ENTRY}</item></publish>"),
    ("set", f"<publish node='{{}}'><item>{_ENTRY}</item></publish>"),
    ("set", "<retract node='{}'><item id='there'/></retract>"),
    ("set", "<retract node='{}'><item id='absent'/></retract>"),
    ("get", "<items node='{}'/>"),
    ("get", "<items node='{}' max_items='1'/>"),
    ("get", "<items node='{}'><item id='there'/></items>"),
    ("get", "<items node='{}'/><set xmlns='http://jabber.org/protocol/rsm'><after>there</after></set>"),
    ("get", "<subscriptions node='{}'/>"),
    ("get", "<affiliations node='{}'/>"),
    ("get", f"<configure xmlns='{NS_PUBSUB_OWNER}' node='{{}}'/>"),
    ("set", f"<configure xmlns='{NS_PUBSUB_OWNER}' node='{{}}'/>"),
    ("set", f"<delete xmlns='{NS_PUBSUB_OWNER}' node='{{}}'/>"),
    ("set", "<create node='{}'/>"),
]
_HIDDEN, _ABSENT = "red", "mauve"


def _talk() -> tuple[Conversation, Forwarder, Forwarder]:
    """A VPN with an item, a member and a stranger to it, who has a VPN of its own."""
    talk = Conversation(vpn("red", ["64512:200"], members=("h1.example.net",)), vpn("blue", ["64512:100"]))
    member, stranger = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    member.subscribe("red")
    member.publish("red", ("there", item("10.0.0.1/32")))
    return talk, member, stranger


def _said(talk: Conversation, forwarder: Forwarder, payload: str, kind: str) -> bytes:
    before = len(forwarder.sent)
    forwarder.send(f"<iq type='{kind}' id='q'>{payload}</iq>".encode())
    talk.turn()
    return forwarder.sent[before:]


def _wrapped(request: str) -> str:
    around = NS_PUBSUB_OWNER if NS_PUBSUB_OWNER in request else NS_PUBSUB
    return f"<pubsub xmlns='{around}'>{request}</pubsub>"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        *((kind, _wrapped(request)) for kind, request in _REQUESTS),
        ("get", f"<query xmlns='{NS_DISCO_INFO}' node='{{}}'/>"),
        ("get", f"<query xmlns='{NS_DISCO_ITEMS}' node='{{}}'/>"),
    ],
)
def test_hidden_is_answered_as_absent(kind: str, payload: str) -> None:
    talk, member, stranger = _talk()
    revision = talk.core.revision
    hidden = _said(talk, stranger, payload.format(_HIDDEN), kind)
    absent = _said(talk, stranger, payload.format(_ABSENT), kind)
    assert hidden == absent.replace(_ABSENT.encode(), _HIDDEN.encode())
    assert b" type='error'" in hidden
    assert talk.core.revision == revision
    assert member.items("red").keys() == {"there"}


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (f"<query xmlns='{NS_DISCO_ITEMS}'/>", {"blue"}),
        (_wrapped("<affiliations/>"), {"blue"}),
        (_wrapped("<subscriptions/>"), set()),
    ],
)
def test_lists_leave_out_what_is_hidden(payload: str, shown: set[str]) -> None:
    _, member, stranger = _talk()
    answers = {f: f.ask(payload, "get").element for f in (stranger, member)}
    nodes = {f: {e.get("node") for e in answer.iter() if e.get("node") is not None} for f, answer in answers.items()}
    assert nodes[stranger] == shown
    assert nodes[member] == shown | {"red"}
    assert b"red" not in stranger.sent


def test_the_log_is_told_what_the_stranger_is_not() -> None:
    """The operator has to see the difference between a wrong name and a wrong certificate."""
    talk, _, stranger = _talk()
    refusals: list[Refusal] = []
    stranger.session.refused = lambda session, refusal: refusals.append(refusal)
    for node in (_HIDDEN, _ABSENT):
        _said(talk, stranger, _wrapped(f"<items node={node!r}/>"), "get")
    assert [(refusal.cause, refusal.node, refusal.reason) for refusal in refusals] == [
        ("not-a-member", "red", "h2.example.net is not a member of VPN red"),
        ("unknown-node", "mauve", "no VPN 'mauve' here"),
    ]
