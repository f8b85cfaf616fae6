"""Requests that are refused: the rows of XEP-0060's error tables and RFC 6120's rules of iq and address.

Every refusal answers its own iq, with a text, and leaves the stream as it was.
"""

from __future__ import annotations

import pytest

from routeserver.xmpp import errors
from routeserver.xmpp.events import GetConfiguration, Iq, Publish, StreamClosed, Subscribe
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from tests.support.xmpp_script import ask, ask_pubsub, bound, stanzas

NS_STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
NS_PUBSUB_ERRORS = "{http://jabber.org/protocol/pubsub#errors}"
PUBSUB, OWNER = "http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/pubsub#owner"
SUBSCRIBE = "<subscribe node='blue' jid='forwarder@domain.org'/>"
FORM = "<options><x xmlns='jabber:x:data' type='submit'>{}</x></options>"
INSTANCE = "<field var='vpn#instance_id'><value>{}</value></field>"
VLAN = "<field var='vpn#vlan_id'><value>{}</value></field>"
MINE = "node='blue' jid='forwarder@domain.org'"
RSM = "<set xmlns='http://jabber.org/protocol/rsm'>{}</set>"
ITEMS = "<items node='blue'/>"


def entry(
    address: str = "10.0.0.1/32",
    label: str = "16",
    tail: str = "",
    ns: str = "urn:ietf:params:xml:ns:bgp:l3vpn:unicast",
) -> str:
    return (
        f"<entry xmlns='{ns}'><nlri><af>1</af><address>{address}</address></nlri><next-hops><next-hop><af>1</af>"
        f"<address>192.0.2.1</address><label>{label}</label></next-hop></next-hops>{tail}</entry>"
    )


HOP = entry().partition("<next-hops>")[2].partition("</next-hops>")[0]


def publish(*items: str) -> str:
    return f"<publish node='blue'>{''.join(items)}</publish>"


def item(payload: str, item_id: str = "x") -> str:
    return f"<item id='{item_id}'>{payload}</item>"


def refusal(session: XmppSession) -> tuple[str, str, str | None, str | None]:
    """Type, condition, pub-sub child and its feature, of the one answer; the rest of its form is checked here."""
    (answer,) = stanzas(session.data_to_send())
    assert (answer.tag, answer.get("type"), answer.get("id")) == ("{jabber:client}iq", "error", "q1")
    assert answer.get("to") == "forwarder@domain.org/vpn"
    (error,) = answer
    condition, text, *child = error
    assert str(condition.tag).startswith(NS_STANZAS)
    assert text.tag == f"{NS_STANZAS}text"
    assert text.text
    kind, name = str(error.get("type")), str(condition.tag).removeprefix(NS_STANZAS)
    if not child:
        return kind, name, None, None
    assert str(child[0].tag).startswith(NS_PUBSUB_ERRORS)
    return kind, name, str(child[0].tag).removeprefix(NS_PUBSUB_ERRORS), child[0].get("feature")


def assert_still_there(session: XmppSession) -> None:
    (event,) = ask_pubsub(session, SUBSCRIBE)
    assert event == Subscribe(Iq("q1", None), "blue", "forwarder@domain.org")


BAD = ("modify", "bad-request")
PAYLOAD = (*BAD, "invalid-payload", None)
OPTIONS = (*BAD, "invalid-options", None)


@pytest.mark.parametrize(
    ("operation", "refused"),
    [
        # XEP-0060 section 6.1.3.1: the jid is the sender's
        ("<subscribe node='blue' jid='other@domain.org'/>", (*BAD, "invalid-jid", None)),
        ("<subscribe node='blue' jid='forwarder@domain.org.'/>", None),
        ("<subscribe node='blue' jid='FORWARDER@domain.org/x'/>", None),
        ("<subscribe node='blue' jid='@'/>", (*BAD, "invalid-jid", None)),
        ("<subscribe node='blue' jid=''/>", (*BAD, "invalid-jid", None)),
        ("<subscribe node='blue'/>", (*BAD, "jid-required", None)),
        ("<subscribe jid='forwarder@domain.org'/>", (*BAD, "nodeid-required", None)),
        # section 6.3.7: options follow, once, without node or jid
        ("<options><instance-id>1</instance-id></options>" + SUBSCRIBE, (*BAD, None, None)),
        (SUBSCRIBE + "<options node='blue'/>", (*BAD, None, None)),
        (SUBSCRIBE + "<options jid='forwarder@domain.org'/>", (*BAD, None, None)),
        (SUBSCRIBE + "<options/><options/>", (*BAD, None, None)),
        (SUBSCRIBE + SUBSCRIBE, (*BAD, None, None)),
        (SUBSCRIBE + "<configure/>", (*BAD, None, None)),
        (SUBSCRIBE + "<options/>", None),
        (SUBSCRIBE + "<options><no-ribout/></options>", None),
        # section 6.3.6.2: instance ids are 16 bits
        (SUBSCRIBE + "<options><instance-id>65536</instance-id></options>", OPTIONS),
        (SUBSCRIBE + "<options><instance-id>-1</instance-id></options>", OPTIONS),
        (SUBSCRIBE + "<options><instance-id/></options>", OPTIONS),
        (SUBSCRIBE + "<options><instance-id>\u0661</instance-id></options>", OPTIONS),
        (SUBSCRIBE + "<options><instance-id>000001</instance-id></options>", OPTIONS),
        (SUBSCRIBE + "<options><instance-id>1</instance-id><instance-id>2</instance-id></options>", OPTIONS),
        (SUBSCRIBE + FORM.format(INSTANCE.format("x")), OPTIONS),
        (SUBSCRIBE + FORM.format(INSTANCE.format("")), OPTIONS),
        (SUBSCRIBE + FORM.format("<field var='vpn#instance_id'/>"), OPTIONS),
        (SUBSCRIBE + FORM.format(INSTANCE.format(1) + INSTANCE.format(2)), OPTIONS),
        (SUBSCRIBE + FORM.format("<field var='FORM_TYPE'><value>jabber:iq:register</value></field>"), OPTIONS),
        (SUBSCRIBE + FORM.format("<field var='FORM_TYPE'/>"), OPTIONS),
        (SUBSCRIBE + FORM.format("<field var='pubsub#deliver'><value>1</value></field>"), None),
        (SUBSCRIBE + FORM.format(VLAN.format(4094)), None),
        (SUBSCRIBE + FORM.format(VLAN.format(0)), OPTIONS),
        (SUBSCRIBE + FORM.format(VLAN.format(4095)), OPTIONS),
        (SUBSCRIBE + FORM.format(VLAN.format(1) + VLAN.format(2)), OPTIONS),
        (SUBSCRIBE + FORM.format("").replace("submit", "result"), OPTIONS),
        (SUBSCRIBE + FORM.format(INSTANCE.format("x")).replace("submit", "cancel"), None),
        # section 6.3.4 and 6.3.6.2: options by themselves
        (f"<options {MINE}><instance-id>1</instance-id></options>", None),
        (f"<options {MINE}/>", None),
        (f"<options {MINE}><instance-id>x</instance-id></options>", OPTIONS),
        ("<options node='blue' jid='other@domain.org'/>", ("auth", "forbidden", None, None)),
        ("<options node='blue' jid='@'/>", (*BAD, "invalid-jid", None)),
        ("<options node='blue'/>", (*BAD, "jid-required", None)),
        ("<options jid='forwarder@domain.org'/>", (*BAD, "nodeid-required", None)),
        # section 6.2.3
        ("<unsubscribe node='blue' jid='other@domain.org'/>", ("auth", "forbidden", None, None)),
        ("<unsubscribe node='blue'/>", (*BAD, "jid-required", None)),
        ("<unsubscribe jid='forwarder@domain.org'/>", (*BAD, "nodeid-required", None)),
        ("<unsubscribe node='blue' jid='forwarder@domain.org' subid='not-ours'/>", None),
        ("<unsubscribe node='blue' jid='forwarder@domain.org'/><options/>", (*BAD, None, None)),
        # section 7.1.3
        (publish(), (*BAD, "item-required", None)),
        (publish("<item id='x'/>"), (*BAD, "payload-required", None)),
        (publish("<item id='x'>text</item>"), (*BAD, "payload-required", None)),
        (publish(item(entry() + entry())), PAYLOAD),
        (publish(item(entry() + "text")), PAYLOAD),
        (publish(item("text" + entry())), PAYLOAD),
        (publish(item(entry(ns="urn:ietf:params:xml:ns:bgp:l3vpn:multicast"))), PAYLOAD),
        (publish(item("<entry xmlns='jabber:client'/>")), PAYLOAD),
        (publish(item(entry(tail="<med>1</med>"))), PAYLOAD),
        (publish(item(entry(label="15"))), PAYLOAD),
        (publish(item(entry(address="10.0.0.1/24"))), PAYLOAD),
        (publish(item(entry()), item(entry(label="3"), "y")), PAYLOAD),
        (publish(item(entry(), "192.0.2.1:1:10.0.0.2/32")), PAYLOAD),
        (publish(item(entry(), "192.0.2.1:1:10.0.0.1")), None),
        (publish(item(entry(), "192.0.2.1:1:10.0.0.1/32")), None),
        (publish(item(entry(), "i" * 1024)), (*BAD, None, None)),
        (publish("<retract/>"), (*BAD, None, None)),
        (publish(item(entry().replace(HOP, HOP * 64))), None),
        (publish(item(entry().replace(HOP, HOP * 65))), ("modify", "not-acceptable", "payload-too-big", None)),
        (f"<publish>{item(entry())}</publish>", (*BAD, "nodeid-required", None)),
        (publish(*[item(entry())] * 4), ("cancel", "not-allowed", "max-items-exceeded", None)),
        (
            publish(item(entry())) + "<publish-options/>",
            ("cancel", "feature-not-implemented", "unsupported", "publish-options"),
        ),
        (publish(item(entry())) + publish(item(entry())), (*BAD, None, None)),
        # section 7.2.3
        ("<retract><item id='x'/></retract>", (*BAD, "nodeid-required", None)),
        ("<retract node='blue'/>", (*BAD, "item-required", None)),
        ("<retract node='blue'><item/></retract>", (*BAD, "item-required", None)),
        ("<retract node='blue'><item id='x'/><item id=''/></retract>", (*BAD, "item-required", None)),
        (
            "<retract node='blue'>" + "<item id='x'/>" * 4 + "</retract>",
            ("cancel", "not-allowed", "max-items-exceeded", None),
        ),
        # what is not offered, by the name of the feature it needs
        *(
            (f"<{name}/>", ("cancel", "feature-not-implemented", "unsupported", feature))
            for name, feature in (
                ("create node='blue'", "create-nodes"),
                ("default", "retrieve-default-sub"),
            )
        ),
        ("<create node='blue'/><configure/>", ("cancel", "feature-not-implemented", "unsupported", "create-nodes")),
        ("<nonsense/>", (*BAD, None, None)),
        ("<publish xmlns='jabber:client' node='blue'/>", (*BAD, None, None)),
        ("", (*BAD, None, None)),
        (ITEMS, (*BAD, None, None)),
        ("<subscriptions/>", (*BAD, None, None)),
        ("<affiliations/>", (*BAD, None, None)),
        # an owner's element among the requests, and the other way round
        (f"<configure xmlns='{OWNER}'/>", ("cancel", "feature-not-implemented", "unsupported", "config-node")),
    ],
)
def test_a_pubsub_request(operation: str, refused: tuple[str, str, str | None, str | None] | None) -> None:
    session = bound(limits=StreamLimits(max_batch=3))
    events = ask_pubsub(session, operation)
    if refused is None:
        assert len(events) == 1
        assert session.data_to_send() == b""
    else:
        assert events == []
        assert refusal(session) == refused
    assert_still_there(session)


@pytest.mark.parametrize(
    ("operation", "refused"),
    [
        ("<items/>", (*BAD, "nodeid-required", None)),
        ("<items node='blue'><item/></items>", (*BAD, "item-required", None)),
        ("<items node='blue'><x/></items>", (*BAD, None, None)),
        *((f"<items node='blue' max_items='{n}'/>", (*BAD, None, None)) for n in ("0", "-1", "x", "", "9" * 11)),
        (SUBSCRIBE, (*BAD, None, None)),
        (publish(item(entry())), (*BAD, None, None)),
        # XEP-0059: one page, named in one way
        (ITEMS + RSM.format("<max>10</max>"), None),
        (ITEMS + RSM.format("<max>10</max><max>10</max><other/>"), None),
        (ITEMS + RSM.format("<max>10</max><max>11</max>"), (*BAD, None, None)),
        *((ITEMS + RSM.format(f"<max>{n}</max>"), (*BAD, None, None)) for n in ("", "-1", "x", "1.5", "9" * 11)),
        (ITEMS + RSM.format("<after/>"), (*BAD, None, None)),
        (ITEMS + RSM.format("<before/>"), None),
        (ITEMS + RSM.format("<after>a</after><before>b</before>"), (*BAD, None, None)),
        (ITEMS + RSM.format("<index>1</index><before/>"), (*BAD, None, None)),
        (ITEMS + RSM.format("") + RSM.format(""), (*BAD, None, None)),
        (RSM.format("") + ITEMS, (*BAD, None, None)),
        (ITEMS + ITEMS, (*BAD, None, None)),
        # XEP-0060 sections 5.6, 5.7 and 6.3.2
        (f"<options {MINE}/>", None),
        ("<options node='blue' jid='other@domain.org'/>", ("auth", "forbidden", None, None)),
        ("<options node='blue'/>", (*BAD, "jid-required", None)),
        (f"<options {MINE}/>{SUBSCRIBE}", (*BAD, None, None)),
        ("<subscriptions/>", None),
        ("<subscriptions node='blue'/>", None),
        ("<subscriptions/><affiliations/>", (*BAD, None, None)),
        ("<affiliations/>", None),
        ("<affiliations/><subscriptions/>", (*BAD, None, None)),
    ],
)
def test_a_pubsub_query(operation: str, refused: tuple[str, str, str | None, str | None] | None) -> None:
    session = bound()
    events = ask_pubsub(session, operation, "get")
    if refused is None:
        assert len(events) == 1
        assert session.data_to_send() == b""
    else:
        assert events == []
        assert refusal(session) == refused
    assert_still_there(session)


@pytest.mark.parametrize(
    ("operation", "feature", "kind"),
    [
        ("configure", "config-node", "set"),
        *(
            (operation, feature, kind)
            for operation, feature in (
                ("default", "retrieve-default"),
                ("delete", "delete-nodes"),
                ("purge", "purge-nodes"),
                ("affiliations", "modify-affiliations"),
                ("subscriptions", "manage-subscriptions"),
            )
            for kind in ("get", "set")
        ),
    ],
)
def test_what_an_owner_asks(operation: str, feature: str, kind: str) -> None:
    session = bound()
    assert ask(session, f"<pubsub xmlns='{OWNER}'><{operation} node='blue'/></pubsub>", kind) == []
    assert refusal(session) == ("cancel", "feature-not-implemented", "unsupported", feature)


@pytest.mark.parametrize(
    ("operation", "kind", "child"),
    [
        ("<x/>", "set", None),
        ("<configure/>", "get", "nodeid-required"),
        ("<configure node='blue'/><x/>", "get", None),
        (f"<items xmlns='{PUBSUB}' node='blue'/>", "get", None),
        (f"<unsubscribe xmlns='{PUBSUB}' {MINE}/>", "set", None),
    ],
)
def test_an_owners_request_that_is_none(operation: str, kind: str, child: str | None) -> None:
    session = bound()
    assert ask(session, f"<pubsub xmlns='{OWNER}'>{operation}</pubsub>", kind) == []
    assert refusal(session) == (*BAD, child, None)


def test_a_configuration_can_be_read() -> None:
    session = bound()
    (event,) = ask(session, f"<pubsub xmlns='{OWNER}'><configure node='blue'/></pubsub>", "get")
    assert event == GetConfiguration(Iq("q1", None), "blue")


UNAVAILABLE = ("cancel", "service-unavailable", None, None)
PING = "<ping xmlns='urn:xmpp:ping'/>"
INFO = "<query xmlns='http://jabber.org/protocol/disco#info'/>"


@pytest.mark.parametrize(
    ("payload", "kind", "attributes", "refused"),
    [
        ("<query xmlns='jabber:iq:roster'/>", "get", "", UNAVAILABLE),
        ("<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>", "set", "", UNAVAILABLE),
        ("<publish/>", "set", "", UNAVAILABLE),
        (PING, "set", "", (*BAD, None, None)),
        (INFO, "set", "", (*BAD, None, None)),
        (INFO.replace("info", "items"), "set", "", (*BAD, None, None)),
        ("<in-sync xmlns='urn:uuid:5b92200e-ee2a-44ee-8aba-b7733baecab7'/>", "get", "", (*BAD, None, None)),
        ("", "get", "", (*BAD, None, None)),
        (PING + PING, "get", "", (*BAD, None, None)),
        (PING, "ask", "", (*BAD, None, None)),
        (PING, "get", " to='other@domain.org'", UNAVAILABLE),
        (PING, "get", " to='@'", ("modify", "jid-malformed", None, None)),
        (INFO, "get", " to='forwarder@domain.org'", UNAVAILABLE),
        (INFO, "get", " to='domain.org'", UNAVAILABLE),
    ],
)
def test_an_iq(payload: str, kind: str, attributes: str, refused: tuple[str, str, str | None, str | None]) -> None:
    session = bound()
    assert ask(session, payload, kind, attributes) == []
    assert refusal(session) == refused
    assert_still_there(session)


@pytest.mark.parametrize("iq", ["<iq type='get'>{}</iq>", "<iq type='get' id=''>{}</iq>", "<iq>{}</iq>"])
def test_an_iq_without_id_is_answered_without(iq: str) -> None:
    session = bound()
    session.receive_data(iq.format(PING).encode(), 0.0)
    (answer,) = stanzas(session.data_to_send())
    assert (answer.get("type"), answer.get("id")) == ("error", None)
    assert answer.find(f"{{*}}error/{NS_STANZAS}bad-request") is not None
    assert_still_there(session)


@pytest.mark.parametrize(
    "to", ["forwarder@domain.org", "domain.org", "forwarder@domain.org/vpn", "rs.example.net", None]
)
def test_a_ping_to_the_service_or_to_oneself(to: str | None) -> None:
    session = bound()
    ask(session, PING, "get", f" to='{to}'" if to else "")
    (answer,) = stanzas(session.data_to_send())
    assert (answer.get("type"), answer.get("from"), len(answer)) == ("result", to, 0)


@pytest.mark.parametrize("sender", ["forwarder@domain.org", "forwarder@domain.org/vpn", "Forwarder@DOMAIN.org/vpn"])
def test_a_client_may_say_who_it_is(sender: str) -> None:
    session = bound()
    ask(session, PING, "get", f" from='{sender}'")
    (answer,) = stanzas(session.data_to_send())
    assert answer.get("type") == "result"


@pytest.mark.parametrize("sender", ["other@domain.org", "forwarder@domain.org/other", "domain.org", "@", ""])
@pytest.mark.parametrize(
    "stanza", ["<iq type='get' id='1' from='{}'/>", "<message from='{}'/>", "<presence from='{}'/>"]
)
def test_a_client_may_not_be_another(stanza: str, sender: str) -> None:
    session = bound()
    (closed,) = session.receive_data(stanza.format(sender).encode(), 0.0)
    assert isinstance(closed, StreamClosed)
    assert b"<stream:error><invalid-from " in session.data_to_send()


def test_requests_before_a_fault_in_the_same_read_are_told() -> None:
    session = bound()
    iq = f"<iq type='set' id='q1'><pubsub xmlns='{PUBSUB}'>{publish(item(entry()))}</pubsub></iq>"
    first, second, closed = session.receive_data(f"{iq}{iq}<iq></message>{iq}".encode(), 0.0)
    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert isinstance(closed, StreamClosed)


def test_what_the_core_refuses_is_written_with_its_child_and_escaped() -> None:
    session = bound()
    session.send_error(Iq("<&'\">", "a&b"), errors.forbidden("<no> \x00 \ud800 &", errors.Cause.ITEM))
    (answer,) = stanzas(session.data_to_send())
    assert (answer.get("id"), answer.get("from")) == ("<&'\">", "a&b")
    assert answer.findtext(f"{{*}}error/{NS_STANZAS}text") == "<no> \ufffd \ufffd &"
    assert answer.find(f"{{*}}error[@type='auth']/{NS_STANZAS}forbidden") is not None


def test_the_full_jid_is_known_once_bound() -> None:
    assert bound().jid == Jid("forwarder", "domain.org", "vpn")
