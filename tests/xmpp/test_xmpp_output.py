"""What the core has the session write: notifications, markers, discovery; and that stock clients take it."""

from __future__ import annotations

import pytest
from lxml import etree
from slixmpp import JID, Iq
from slixmpp.xmlstream.matcher import MatchIDSender

from routeserver.xmpp import disco, results
from routeserver.xmpp.errors import item_unknown
from routeserver.xmpp.events import Iq as Asked
from routeserver.xmpp.events import Subscribe
from routeserver.xmpp.forms import SUBSCRIBE_OPTIONS, SubscriptionOptions, options_form
from routeserver.xmpp.session import XmppSession
from tests.support.xmpp_script import SERVICE, ask, bound, stanzas

EVENT = "{http://jabber.org/protocol/pubsub#event}"
IN_SYNC = "{urn:uuid:5b92200e-ee2a-44ee-8aba-b7733baecab7}in-sync"


def message(session: XmppSession) -> etree._Element:
    (only,) = stanzas(session.data_to_send())
    assert only.tag == "{jabber:client}message"
    assert (only.get("type"), only.get("from"), only.get("to")) == ("headline", SERVICE, "forwarder@domain.org")
    assert "publisher" not in etree.tostring(only, encoding="unicode")
    return only


def test_items_go_in_one_message_of_one_node() -> None:
    session = bound()
    session.send_items("a & b", "forwarder@domain.org", ["<item id='1'><entry xmlns='x'/></item>", "<item id='2'/>"])
    (event,) = message(session)
    (items,) = event
    assert (event.tag, items.tag, items.get("node")) == (f"{EVENT}event", f"{EVENT}items", "a & b")
    assert [(child.tag, child.get("id")) for child in items] == [(f"{EVENT}item", "1"), (f"{EVENT}item", "2")]
    assert items[0][0].tag == "{x}entry"


def test_retracts_go_in_one_message() -> None:
    session = bound()
    session.send_retracts("blue", "forwarder@domain.org", ["<1>", "2"])
    ((items,),) = message(session)
    assert [(child.tag, child.get("id")) for child in items] == [(f"{EVENT}retract", "<1>"), (f"{EVENT}retract", "2")]


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\rb", " a ", "'\"<&>"])
def test_ids_come_back_as_they_were_given(name: str) -> None:
    """An item id that reads differently in a retract than in its item would leave the item with its subscribers."""
    session = bound()
    session.send_retracts("blue", "forwarder@domain.org", [name])
    session.send_result(Asked(name, None), results.published("blue", [name]))
    session.send_error(Asked(name, None), item_unknown(name))
    message, result, error = stanzas(session.data_to_send())
    assert [message[0][0][0].get("id"), result[0][0][0].get("id")] == [name, name]
    assert [result.get("id"), error.get("id")] == [name, name]


def test_the_marker_is_an_event_without_items() -> None:
    session = bound()
    session.send_in_sync("blue", "forwarder@domain.org")
    event, marker = message(session)
    assert [(items.get("node"), len(items)) for items in event] == [("blue", 0)]
    assert marker.tag == IN_SYNC


def test_every_message_has_an_id_of_its_own() -> None:
    session = bound()
    for _ in range(3):
        session.send_in_sync("blue", "forwarder@domain.org")
    session.send_items("blue", "forwarder@domain.org", [])
    session.handle_timer(20.0)
    ids = [stanza.get("id") for stanza in stanzas(session.data_to_send())]
    assert len(set(ids)) == len(ids) == 5


def test_text_is_utf_8_on_the_wire() -> None:
    session = bound()
    session.send_result(Asked("\u00e9\U0001f600", None))
    assert "\u00e9\U0001f600".encode() in session.data_to_send()


def test_the_options_in_effect_are_shown_only_to_who_used_a_form() -> None:
    request = Subscribe(Asked("1", None), "<blue>", "forwarder@domain.org", SubscriptionOptions(4, form=True))
    subscription, options = etree.fromstring(results.subscribed(request, options_form("result", 4, None)))
    assert subscription.get("node") == "<blue>"
    values = {field.get("var"): field.findtext("{*}value") for field in options.iter("{jabber:x:data}field")}
    assert values == {"FORM_TYPE": SUBSCRIBE_OPTIONS, "vpn#instance_id": "4"}


def test_the_service_describes_itself() -> None:
    session = bound()
    assert ask(session, "<query xmlns='http://jabber.org/protocol/disco#info'/>", "get", f" to='{SERVICE}'") == []
    (answer,) = stanzas(session.data_to_send())
    (query,) = answer
    identity, *features = query
    assert (answer.get("type"), answer.get("from")) == ("result", SERVICE)
    assert (identity.get("category"), identity.get("type")) == ("pubsub", "service")
    assert [feature.get("var") for feature in features] == list(disco.FEATURES)


PUBSUB = "http://jabber.org/protocol/pubsub"
ENTRY = (
    "<entry xmlns='urn:ietf:params:xml:ns:bgp:l3vpn:unicast'><nlri><af>1</af><address>10.0.0.1</address></nlri>"
    "<next-hops><next-hop><af>1</af><address>192.0.2.1</address><label>16</label></next-hop></next-hops></entry>"
)
OPERATIONS = {
    "subscribe": ("set", "<subscribe node='blue' jid='forwarder@domain.org'/>"),
    "publish": ("set", f"<publish node='blue'><item id='x'>{ENTRY}</item></publish>"),
    "item-ids": ("set", f"<publish node='blue'><item id='x'>{ENTRY}</item></publish>"),
    "delete-items": ("set", "<retract node='blue'><item id='x'/></retract>"),
    "retract-items": ("set", "<retract node='blue'><item id='x'/></retract>"),
    "retrieve-items": ("get", "<items node='blue'/>"),
    "rsm": ("get", "<items node='blue'/><set xmlns='http://jabber.org/protocol/rsm'/>"),
    "create-nodes": ("set", "<create node='blue'/>"),
    "publish-options": ("set", f"<publish node='blue'><item id='x'>{ENTRY}</item></publish><publish-options/>"),
    "retrieve-affiliations": ("get", "<affiliations/>"),
    "retrieve-default-sub": ("get", "<default/>"),
    "retrieve-subscriptions": ("get", "<subscriptions/>"),
    "subscription-options": ("get", "<options node='blue' jid='forwarder@domain.org'/>"),
}
OWNERS = {
    "config-node": ("set", "<configure node='blue'/>"),
    "retrieve-default": ("get", "<default/>"),
    "delete-nodes": ("set", "<delete node='blue'/>"),
    "purge-nodes": ("set", "<purge node='blue'/>"),
    "modify-affiliations": ("set", "<affiliations node='blue'/>"),
    "manage-subscriptions": ("set", "<subscriptions node='blue'/>"),
}
SHOWN = {"access-whitelist", "meta-data", "persistent-items", "publish-node-full", "publisher-affiliation"}
"""Features that are no operation of their own; tests/core/test_pubsub_queries.py looks at each."""
TOLD = {"subscription-notifications"}
"""What the service does unasked; tests/core/test_provisioning.py looks at it."""


def test_every_feature_announced_is_looked_at() -> None:
    prefix = f"{PUBSUB}#"
    announced = {feature.removeprefix(prefix) for feature in disco.FEATURES if feature.startswith(prefix)}
    assert announced == SHOWN | TOLD | (announced & OPERATIONS.keys())


@pytest.mark.parametrize("feature", OWNERS)
def test_what_only_owners_do_is_neither_announced_nor_served(feature: str) -> None:
    session = bound()
    kind, operation = OWNERS[feature]
    assert ask(session, f"<pubsub xmlns='{PUBSUB}#owner'>{operation}</pubsub>", kind) == []
    assert f"feature='{feature}'".encode() in session.data_to_send()
    assert f"{PUBSUB}#{feature}" not in disco.FEATURES


@pytest.mark.parametrize("feature", OPERATIONS)
def test_a_feature_is_announced_if_and_only_if_its_operation_is_served(feature: str) -> None:
    session = bound()
    kind, operation = OPERATIONS[feature]
    events = ask(session, f"<pubsub xmlns='{PUBSUB}'>{operation}</pubsub>", kind)
    assert bool(events) == (f"{PUBSUB}#{feature}" in disco.FEATURES)
    assert (b"<unsupported " in session.data_to_send()) != bool(events)


@pytest.mark.parametrize("to", [SERVICE, "rs.example.net", "route-server@ietf.org/x", None])
@pytest.mark.parametrize("payload", ["<ping xmlns='urn:xmpp:ping'/>", "<unknown xmlns='urn:example'/>"])
def test_slixmpp_finds_the_answer_to_its_request(to: str | None, payload: str) -> None:
    """Its matcher wants the answer from where the request went, or, without `to`, from nowhere or itself."""
    session = bound()
    ask(session, payload, "get", f" to='{to}'" if to else "")
    (answer,) = stanzas(session.data_to_send())
    criteria = {"id": "q1", "self": JID("forwarder@domain.org/vpn"), "peer": JID(to or "")}
    iq = Iq()
    iq.xml.attrib.update({name: str(value) for name, value in answer.attrib.items()})
    assert MatchIDSender(criteria).match(iq)
