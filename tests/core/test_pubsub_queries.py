"""Subscriptions, their options, affiliations and what a node shows of itself."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from lxml import etree

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import NeighborSettings
from routeserver.xmpp.disco import FEATURES
from schema.names import NS_DATA, NS_DISCO_INFO, NS_PUBSUB, NS_PUBSUB_OWNER, NS_UNICAST
from tests.support.conversation import Answer, Conversation, Forwarder
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, item, key, vpn

_MINE = "node='{}' jid='h1.example.net'"
_FORM = f"<x xmlns='{NS_DATA}' type='submit'>{{}}</x>"
_FIELD = "<field var='{}'><value>{}</value></field>"


def _talk() -> tuple[Conversation, Forwarder]:
    talk = Conversation(vpn("blue", ["64512:100"]), vpn("red", ["64512:200"], max_items=7))
    return talk, talk.forwarder("h1.example.net")


def _pubsub(forwarder: Forwarder, operation: str, kind: str = "get") -> Answer:
    return forwarder.ask(f"<pubsub xmlns='{NS_PUBSUB}'>{operation}</pubsub>", kind)


def _fields(element: etree._Element) -> dict[str, str | None]:
    """The one form below an element."""
    (form,) = element.iter(f"{{{NS_DATA}}}x")
    return {field.get("var", ""): field.findtext(f"{{{NS_DATA}}}value") for field in form}


def _options(forwarder: Forwarder, node: str = "blue") -> dict[str, str | None]:
    fields = _fields(_pubsub(forwarder, f"<options {_MINE.format(node)}/>").element)
    assert fields.pop("FORM_TYPE") == f"{NS_PUBSUB}#subscribe_options"
    return {name.removeprefix("vpn#"): value for name, value in fields.items()}


def _set_options(forwarder: Forwarder, content: str, node: str = "blue") -> Answer:
    return _pubsub(forwarder, f"<options {_MINE.format(node)}>{content}</options>", "set")


_CHILD = "<instance-id>9</instance-id>"
_BOTH = _FORM.format(_FIELD.format("vpn#instance_id", 9) + _FIELD.format("vpn#vlan_id", 100))


@pytest.mark.parametrize(
    ("content", "in_effect"),
    [
        pytest.param(_CHILD, {"instance_id": "9", "vlan_id": None}, id="the draft's child"),
        pytest.param(_BOTH, {"instance_id": "9", "vlan_id": "100"}, id="a form"),
        pytest.param(_CHILD + _BOTH, {"instance_id": "9", "vlan_id": "100"}, id="both that agree"),
        pytest.param(_FORM.format(_FIELD.format("vpn#vlan_id", 1)), {"instance_id": "1", "vlan_id": "1"}, id="VLAN"),
        pytest.param("", {"instance_id": "1", "vlan_id": None}, id="nothing: what it is anyway"),
    ],
)
@pytest.mark.parametrize("how", ["with the subscription", "afterwards"])
def test_options_in_both_forms(content: str, in_effect: dict[str, str | None], how: str) -> None:
    _, forwarder = _talk()
    if how == "afterwards":
        forwarder.subscribe("blue")
        assert len(_set_options(forwarder, content).element) == 0
    else:
        subscribe = f"<subscribe {_MINE.format('blue')}/><options>{content}</options>"
        assert _pubsub(forwarder, subscribe, "set").is_result
    assert _options(forwarder) == in_effect


def test_what_is_not_given_stays() -> None:
    _, forwarder = _talk()
    forwarder.subscribe("blue", 5)
    _set_options(forwarder, _FORM.format(_FIELD.format("vpn#vlan_id", 100)))
    _set_options(forwarder, "<instance-id>6</instance-id>")
    forwarder.subscribe("blue")
    assert _options(forwarder) == {"instance_id": "6", "vlan_id": "100"}


@pytest.mark.parametrize("value", ["<value/>", "<value> </value>", ""])
def test_an_empty_field_takes_the_vlan_away(value: str) -> None:
    _, forwarder = _talk()
    forwarder.subscribe("blue")
    _set_options(forwarder, _FORM.format(_FIELD.format("vpn#vlan_id", 100)))
    _set_options(forwarder, _FORM.format(f"<field var='vpn#vlan_id'>{value}</field>"))
    assert _options(forwarder)["vlan_id"] is None
    forwarder.subscribe("red")
    assert _set_options(forwarder, _FORM.format(_FIELD.format("vpn#vlan_id", 100)), "red").is_result


def test_an_unsubscribe_forgets_the_vlan() -> None:
    _, forwarder = _talk()
    forwarder.subscribe("blue")
    vlan = _FORM.format(_FIELD.format("vpn#vlan_id", 100))
    _set_options(forwarder, vlan)
    forwarder.unsubscribe("blue")
    forwarder.subscribe("red")
    assert _set_options(forwarder, vlan, "red").is_result
    forwarder.subscribe("blue")
    assert _options(forwarder)["vlan_id"] is None


@pytest.mark.parametrize("name", ["vpn#vlan_id", "vpn#instance_id"])
def test_one_number_for_two_vpns_is_refused_and_changes_nothing(name: str) -> None:
    _, forwarder = _talk()
    for node, number in (("blue", 100), ("red", 200)):
        forwarder.subscribe(node, number)
        _set_options(forwarder, _FORM.format(_FIELD.format("vpn#vlan_id", number)), node)
    answer = _set_options(forwarder, _FORM.format(_FIELD.format(name, 100)), "red")
    assert (answer.condition, answer.pubsub) == ("bad-request", "invalid-options")
    assert _options(forwarder, "red") == {"instance_id": "200", "vlan_id": "200"}


def test_a_new_instance_id_is_a_new_rd_at_once() -> None:
    peer = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
    talk = Conversation(vpn("blue", ["64512:100"]), neighbors=(peer,))
    neighbor: Neighbor = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    forwarder = talk.forwarder("h1.example.net")
    forwarder.subscribe("blue", 5)
    forwarder.publish("blue", ("a", item("10.0.0.1/32")))
    _set_options(forwarder, "<instance-id>6</instance-id>")
    talk.turn()
    assert neighbor.keys(Family.VPNV4) == {key("192.0.2.1:6", "10.0.0.1/32")}


@pytest.mark.parametrize("kind", ["get", "set"])
@pytest.mark.parametrize(
    ("node", "condition", "child"),
    [("blue", "unexpected-request", "not-subscribed"), ("mauve", "item-not-found", None)],
)
def test_options_of_no_subscription(kind: str, node: str, condition: str, child: str | None) -> None:
    """XEP-0060 sections 6.3.4.2 and 6.3.4.7; the type differs from that of an unsubscribe."""
    _, forwarder = _talk()
    answer = _pubsub(forwarder, f"<options {_MINE.format(node)}/>", kind)
    assert (answer.condition, answer.pubsub) == (condition, child)
    (error,) = answer.element
    assert error.get("type") == ("modify" if child else "cancel")


def _subscriptions(forwarder: Forwarder, about: str = "") -> list[tuple[str | None, ...]]:
    ((found,),) = _pubsub(forwarder, f"<subscriptions{about}/>").element
    return [tuple(map(each.get, ("node", "jid", "subscription"))) for each in found]


def test_subscriptions_are_those_of_the_bare_jid() -> None:
    talk, forwarder = _talk()
    other = talk.forwarder("h1.example.net", "other")
    talk.forwarder("h2.example.net").subscribe("blue")
    assert _subscriptions(forwarder) == []
    forwarder.subscribe("red")
    other.subscribe("red")
    _pubsub(other, "<subscribe node='blue' jid='h1.example.net/other'/>", "set")
    blue, red = ("blue", "h1.example.net/other", "subscribed"), ("red", "h1.example.net", "subscribed")
    assert _subscriptions(forwarder) == _subscriptions(other) == [blue, red]
    assert _subscriptions(forwarder, " node='red'") == [red]
    forwarder.unsubscribe("red")
    other.lose()
    assert _subscriptions(forwarder) == []


def test_affiliations() -> None:
    _, forwarder = _talk()
    ((found,),) = _pubsub(forwarder, "<affiliations/>").element
    assert [(e.get("node"), e.get("affiliation")) for e in found] == [("blue", "publisher"), ("red", "publisher")]
    ((found,),) = _pubsub(forwarder, "<affiliations node='red'/>").element
    assert found.get("node") == "red"
    assert [e.get("node") for e in found] == ["red"]


_CONFIGURED = {
    "pubsub#type": NS_UNICAST,
    "pubsub#access_model": "whitelist",
    "pubsub#publish_model": "publishers",
    "pubsub#persist_items": "1",
    "pubsub#deliver_payloads": "1",
    "pubsub#notify_retract": "1",
    "pubsub#send_last_published_item": "never",
    "pubsub#publish_node_full": "reject",
}


@pytest.mark.parametrize(("node", "limit"), [("blue", {}), ("red", {"pubsub#max_items": "7"})])
def test_what_is_configured_can_be_read(node: str, limit: dict[str, str]) -> None:
    _, forwarder = _talk()
    forwarder.subscribe(node)
    configure = f"<pubsub xmlns='{NS_PUBSUB_OWNER}'><configure node='{node}'/></pubsub>"
    shown = forwarder.ask(configure, "get").element
    assert _fields(shown) == _CONFIGURED | limit | {"FORM_TYPE": f"{NS_PUBSUB}#node_config"}
    info = forwarder.ask(f"<query xmlns='{NS_DISCO_INFO}' node='{node}'/>", "get").element
    metadata = {"FORM_TYPE": f"{NS_PUBSUB}#meta-data", "pubsub#num_subscribers": "1"}
    assert _fields(info) == _CONFIGURED | limit | metadata
    assert f"{NS_PUBSUB}#meta-data" in FEATURES
    refused = forwarder.ask(configure, "set")
    assert (refused.condition, refused.pubsub) == ("feature-not-implemented", "unsupported")


def test_items_persist_beyond_their_publication() -> None:
    """The feature `persistent-items`."""
    talk, forwarder = _talk()
    forwarder.publish("blue", ("a", item("10.0.0.1/32")))
    talk.advance(10)
    assert talk.forwarder("h2.example.net").items("blue").keys() == {"a"}
