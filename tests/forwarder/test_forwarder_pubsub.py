"""Requests as text, and events and answers from text, with both kinds of elements.

The notification is the draft's own (section 6).
"""

from __future__ import annotations

import xml.etree.ElementTree as StdlibTree
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from lxml import etree

from forwarder.pubsub import (
    BadItem,
    EndOfPublish,
    Event,
    InSync,
    ItemOffered,
    ItemRetracted,
    NodeGone,
    Ping,
    Publish,
    Request,
    Retract,
    StanzaError,
    Subscribe,
    Unsubscribe,
    read_answer,
    read_event,
    request_xml,
)
from schema.items import RouteItem
from schema.names import NS_EVENT, NS_IN_SYNC, NS_PUBSUB, NS_UNICAST
from schema.values import Encapsulation, NextHop

PARSERS: list[Callable[[str], Any]] = [StdlibTree.fromstring, etree.fromstring]
ITEM = RouteItem(
    ip_network("203.0.113.42/32"),
    (NextHop(ip_address("192.0.2.1"), 10000, (Encapsulation.GRE, Encapsulation.UDP)),),
    sequence_number=1,
)
ITEM_ID = "192.0.2.1:1:203.0.113.42/32"
ENTRY = (
    f'<entry xmlns="{NS_UNICAST}"><nlri><af>1</af><address>203.0.113.42/32</address></nlri>'
    "<next-hops><next-hop><af>1</af><address>192.0.2.1</address><label>10000</label>"
    "<tunnel-encapsulation-list><tunnel-encapsulation>gre</tunnel-encapsulation>"
    "<tunnel-encapsulation>udp</tunnel-encapsulation></tunnel-encapsulation-list></next-hop></next-hops>"
    "<sequence-number>1</sequence-number></entry>"
)


@pytest.mark.parametrize(
    ("request_value", "kind", "payload"),
    [
        (
            Publish("blue", ITEM_ID, ITEM),
            "set",
            f"<pubsub xmlns='{NS_PUBSUB}'><publish node='blue'><item id='{ITEM_ID}'>{ENTRY}</item></publish></pubsub>",
        ),
        (
            Retract("blue", ITEM_ID),
            "set",
            f"<pubsub xmlns='{NS_PUBSUB}'><retract node='blue' notify='true'><item id='{ITEM_ID}'/></retract></pubsub>",
        ),
        (
            Subscribe("blue", 7),
            "set",
            f"<pubsub xmlns='{NS_PUBSUB}'><subscribe node='blue' jid='host1.example.net'/>"
            "<options><instance-id>7</instance-id></options></pubsub>",
        ),
        (
            Unsubscribe("blue"),
            "set",
            f"<pubsub xmlns='{NS_PUBSUB}'><unsubscribe node='blue' jid='host1.example.net'/></pubsub>",
        ),
        (EndOfPublish(), "set", f"<in-sync xmlns='{NS_IN_SYNC}'/>"),
        (Ping(), "get", "<ping xmlns='urn:xmpp:ping'/>"),
    ],
)  # fmt: skip
def test_requests(request_value: Request, kind: str, payload: str) -> None:
    text = request_xml(request_value, stanza_id="f1", to="rs.example.net", jid="host1.example.net")
    expected = f"<iq type='{kind}' id='f1' to='rs.example.net'>{payload}</iq>"
    assert StdlibTree.canonicalize(text) == StdlibTree.canonicalize(expected)


def test_names_are_escaped() -> None:
    text = request_xml(Unsubscribe("a<b'&\"c"), stanza_id="f1", to="rs", jid="h")
    element = StdlibTree.fromstring(text)
    assert [child.get("node") for child in element[0]] == ["a<b'&\"c"]


def message(inside: str, beside: str = "") -> str:
    return f"<message xmlns='jabber:client'><event xmlns='{NS_EVENT}'>{inside}</event>{beside}</message>"


BAD_LABEL = ENTRY.replace("10000", "3")
EVENTS: list[tuple[str, str, list[Event]]] = [
    (
        "two items",
        message(f"<items node='blue'><item id='{ITEM_ID}'>{ENTRY}</item><item id='b'>{ENTRY}</item></items>"),
        [ItemOffered("blue", ITEM_ID, ITEM), ItemOffered("blue", "b", ITEM)],
    ),
    (
        "a bad item among good ones is alone in being bad",
        message(f"<items node='blue'><item id='a'>{BAD_LABEL}</item><item id='b'>{ENTRY}</item></items>"),
        [BadItem("blue", "a", "label: 3 is outside 16..1048575"), ItemOffered("blue", "b", ITEM)],
    ),
    (
        "an item without an entry",
        message("<items node='blue'><item id='a'/></items>"),
        [BadItem("blue", "a", "no entry of a known namespace in it")],
    ),
    (
        "a mixture, in order",
        message(f"<items node='blue'><retract id='a'/><item id='b'>{ENTRY}</item><retract id='c'/></items>"),
        [ItemRetracted("blue", "a"), ItemOffered("blue", "b", ITEM), ItemRetracted("blue", "c")],
    ),
    ("the marker", message("<items node='blue'/>", f"<in-sync xmlns='{NS_IN_SYNC}'/>"), [InSync("blue")]),
    ("no marker", message("<items node='blue'/>"), []),
    ("a node deleted", message("<delete node='blue'/>"), [NodeGone("blue", subscribed=False)]),
    ("a node purged", message("<purge node='blue'/>"), [NodeGone("blue", subscribed=True)]),
    (
        "a subscription ended",
        message("<subscription node='blue' jid='h' subscription='none'/>"),
        [NodeGone("blue", subscribed=False)],
    ),
    ("a subscription confirmed", message("<subscription node='blue' jid='h' subscription='subscribed'/>"), []),
    ("no node", message(f"<items><item id='a'>{ENTRY}</item></items>"), []),
    ("no item id", message(f"<items node='blue'><item>{ENTRY}</item><retract/></items>"), []),
    ("something unknown", message("<items node='blue'><x/></items><configuration node='blue'/>"), []),
    ("no event", "<message xmlns='jabber:client'><body>hello</body></message>", []),
]


@pytest.mark.parametrize("parse", PARSERS, ids=["etree", "lxml"])
@pytest.mark.parametrize(("why", "text", "events"), EVENTS, ids=[case[0] for case in EVENTS])
def test_events(parse: Callable[[str], Any], why: str, text: str, events: list[Event]) -> None:
    assert list(read_event(parse(text))) == events, why


@pytest.mark.parametrize(
    ("iq", "answer"),
    [
        ("<iq xmlns='jabber:client' type='result' id='f1'/>", None),
        (
            "<iq xmlns='jabber:client' type='error' id='f1'><pubsub xmlns='http://jabber.org/protocol/pubsub'/>"
            "<error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>not\n yours</text></error></iq>",
            StanzaError("forbidden", "not yours"),
        ),
        (
            "<iq xmlns='jabber:client' type='error' id='f1'><error type='modify'>"
            "<bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<invalid-payload xmlns='http://jabber.org/protocol/pubsub#errors'/></error></iq>",
            StanzaError("bad-request"),
        ),
        ("<iq xmlns='jabber:client' type='error' id='f1'/>", StanzaError("undefined-condition")),
    ],
)
def test_answers(iq: str, answer: StanzaError | None) -> None:
    for parse in PARSERS:
        assert read_answer(parse(iq)) == answer
