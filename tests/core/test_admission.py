"""Who may do what, and what a refusal leaves behind: nothing."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import ForwarderSettings, NeighborSettings
from routeserver.xmpp.sasl import ClientCertificate
from schema.items import RouteItem
from schema.names import NS_PUBSUB, NS_STANZAS
from tests.support.conversation import Answer, Conversation
from tests.support.routes import LOCAL_AS, UDP, Encapsulation, hop, item, key, vpn
from tests.support.xmpp_script import stanzas

_PEER = NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS)
_ROUTE = item("10.0.0.1/32")


def _is(answer: Answer, condition: str, pubsub: str | None = None) -> bool:
    return (answer.condition, answer.pubsub) == (condition, pubsub)


@pytest.mark.parametrize(
    ("members", "jid", "expected"),
    [
        pytest.param(None, "h1.example.net", True, id="no members: everybody"),
        pytest.param((), "h1.example.net", False, id="no member: nobody"),
        pytest.param(("*.example.net",), "h1.example.net", True, id="pattern"),
        pytest.param(("*.EXAMPLE.net",), "h1.example.net", True, id="case of the pattern"),
        pytest.param(("*.example.net",), "h1.example.org", False, id="another domain"),
        pytest.param(("*.example.net",), "evil@h1.example.net", False, id="a domain pattern takes no local part"),
        pytest.param(("*",), "evil@h1.example.net", False, id="nor does a bare star"),
        pytest.param(("*@example.net",), "h1@example.net", True, id="local part"),
        pytest.param(("*@example.net",), "example.net", False, id="a local pattern needs one"),
        pytest.param(("h?@*.net",), "h1@example.net", True, id="both parts"),
        pytest.param(("a.example.net", "h1.example.net"), "h1.example.net", True, id="any of several"),
        pytest.param(("192.0.2.1",), "192.0.2.1", True, id="an address"),
        pytest.param(("[2001:DB8::1]",), "[2001:db8::1]", True, id="an IPv6 address"),
        pytest.param(("[2001:db8::1]",), "2", False, id="brackets are no choice of characters"),
        pytest.param(("*@[2001:db8::*]",), "h1@[2001:db8::1]", True, id="stars in an IPv6 address"),
    ],
)
def test_members(members: tuple[str, ...] | None, jid: str, expected: bool) -> None:
    talk = Conversation(vpn("blue", ["64512:100"], members=members))
    forwarder = talk.forwarder(jid)
    if expected:
        assert forwarder.subscribe("blue").is_result
        assert forwarder.publish("blue", ("a", _ROUTE)).is_result
        assert forwarder.items("blue").keys() == {"a"}
        return
    assert _is(forwarder.subscribe("blue"), "item-not-found")
    assert _is(forwarder.publish("blue", ("a", _ROUTE)), "item-not-found")
    assert not talk.core.rib.vrfs["blue"].published
    assert not talk.core.rib.vrfs["blue"].watchers


def test_one_instance_id_for_two_vpns_is_refused_while_both_are_subscribed() -> None:
    """They would share an RD, and the same prefix in both would be one BGP route."""
    talk = Conversation(vpn("blue", ["64512:100"]), vpn("red", ["64512:200"]))
    forwarder = talk.forwarder("h1.example.net")
    assert forwarder.subscribe("blue", 1).is_result
    assert _is(forwarder.subscribe("red", 1), "bad-request", "invalid-options")
    assert not talk.core.rib.vrfs["red"].watchers
    assert forwarder.subscribe("red", 2).is_result
    assert talk.forwarder("h2.example.net").subscribe("red", 1).is_result, "another forwarder has numbers of its own"
    assert forwarder.unsubscribe("blue").is_result
    assert forwarder.subscribe("red", 1).is_result


@pytest.mark.parametrize(
    ("address", "instances"),
    [
        pytest.param("127.0.1.1", (None, 2), id="the route server's own router id"),
        pytest.param("192.0.2.1", (7, 7), id="one address of two forwarders"),
    ],
)
def test_no_choice_of_an_instance_id_takes_a_route_from_another_vpn(
    address: str, instances: tuple[int | None, int]
) -> None:
    """One RD in two VPNs would be one route for the same prefix in both."""
    talk = Conversation(vpn("blue", ["64512:100"]), vpn("red", ["64512:200"]), neighbors=(_PEER,))
    peer = talk.neighbor("127.0.2.1", VPN_FAMILIES)
    red, blue = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    red.subscribe("red", instances[0])
    blue.subscribe("blue", instances[1])
    red.publish("red", ("r", item("10.0.0.1/32", hop(address))))
    blue.publish("blue", ("b", item("10.0.0.1/32", hop(address), lp=200)))
    talk.turn()
    assert (red.held["red"].keys(), blue.held["blue"].keys()) == ({"r"}, {"b"})
    assert len(peer.keys(Family.VPNV4)) == 2
    red.retract("red", "r")
    blue.retract("blue", "b")
    talk.turn()
    assert (red.held["red"], blue.held["blue"], peer.keys(Family.VPNV4)) == ({}, {}, set())


def test_unknown_nodes() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    for answer in (
        forwarder.subscribe("green"),
        forwarder.unsubscribe("green"),
        forwarder.publish("green", ("a", _ROUTE)),
        forwarder.retract("green", "a"),
    ):
        assert _is(answer, "item-not-found")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("10.0.0.1/32", True), ("11.0.0.1/32", False), ("0.0.0.0/0", False), ("fd00::1/128", True), ("fe00::/8", False)],
)
def test_prefixes_limit_publishes(prefix: str, expected: bool) -> None:
    allowed = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8")))
    talk = Conversation(vpn("blue", ["64512:100"], prefixes=allowed))
    answer = talk.forwarder("h1.example.net").publish("blue", ("a", item(prefix)))
    assert answer.is_result if expected else _is(answer, "forbidden")


def test_prefixes_do_not_limit_imports() -> None:
    talk = Conversation(vpn("blue", ["64512:100"], prefixes=()), neighbors=(_PEER,))
    neighbor, reader = talk.neighbor("127.0.2.1", VPN_FAMILIES), talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    neighbor.announce("1:1", "11.0.0.0/8")
    talk.turn()
    assert reader.prefixes() == {"11.0.0.0/8"}


# The next-hop rule

_REGISTERED = ForwarderSettings("h1.example.net", (ip_address("192.0.2.9"),), IPv4Address("10.0.0.9"))


@pytest.mark.parametrize(
    ("next_hop", "expected"),
    [
        pytest.param("192.0.2.1", True, id="where the session comes from"),
        pytest.param("192.0.2.9", True, id="registered for it"),
        pytest.param("2001:db8::1", True, id="in its certificate"),
        pytest.param("192.0.2.2", False, id="somebody else's"),
    ],
)
def test_next_hops_are_the_publishers_own(next_hop: str, expected: bool) -> None:
    talk = Conversation(vpn("blue", ["64512:100"]), next_hop_check=True, forwarders=(_REGISTERED,))
    forwarder = talk.forwarder("h1.example.net", address="192.0.2.1")
    forwarder.session.certificate = ClientCertificate(ip_addresses=(ip_address("2001:db8::1"),))
    answer = forwarder.publish("blue", ("a", item("10.0.0.1/32", hop(next_hop))))
    assert answer.is_result if expected else _is(answer, "forbidden")


def test_every_next_hop_is_checked() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]), next_hop_check=True)
    forwarder = talk.forwarder("h1.example.net", address="192.0.2.1")
    both = item("10.0.0.1/32", hop("192.0.2.1"), hop("192.0.2.2"))
    assert _is(forwarder.publish("blue", ("a", both)), "forbidden")


def test_what_is_registered_for_one_is_not_for_another() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]), next_hop_check=True, forwarders=(_REGISTERED,))
    other = talk.forwarder("h2.example.net", address="192.0.2.2")
    assert _is(other.publish("blue", ("a", item("10.0.0.1/32", hop("192.0.2.9")))), "forbidden")


def test_a_registered_router_id_makes_the_rd_of_an_ipv6_underlay() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]), neighbors=(_PEER,), forwarders=(_REGISTERED,))
    neighbor, forwarder = talk.neighbor("127.0.2.1", VPN_FAMILIES), talk.forwarder("h1.example.net")
    forwarder.subscribe("blue", instance=5)
    forwarder.publish("blue", ("a", item("fd00::1/128", hop("2001:db8::1"))))
    talk.turn()
    assert neighbor.keys(Family.VPNV6) == {key("10.0.0.9:5", "fd00::1/128")}


@pytest.mark.parametrize(
    ("encapsulations", "expected"),
    [((UDP,), True), ((Encapsulation.VXLAN,), False), ((Encapsulation.VXLAN, UDP), True)],
)
def test_a_next_hop_needs_a_tunnel_for_ip(encapsulations: tuple[Encapsulation, ...], expected: bool) -> None:
    talk = Conversation(vpn("blue", ["64512:100"]))
    route = item("10.0.0.1/32", hop(encapsulations=encapsulations))
    answer = talk.forwarder("h1.example.net").publish("blue", ("a", route))
    assert answer.is_result if expected else _is(answer, "bad-request", "invalid-payload")


# All or nothing

_GOOD = ("good", item("10.0.0.1/32"))


@pytest.mark.parametrize(
    ("bad", "condition"),
    [
        pytest.param(("bad", item("11.0.0.1/32")), "forbidden", id="prefix"),
        pytest.param(("bad", item("10.0.0.2/32", hop("192.0.2.2"))), "forbidden", id="next hop"),
        pytest.param(("taken", item("10.0.0.2/32")), "forbidden", id="item of another"),
        pytest.param(("1:1:10.0.0.9/32", item("10.0.0.2/32")), "bad-request", id="id names another prefix"),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
def test_one_bad_item_refuses_the_batch(bad: tuple[str, RouteItem], condition: str, order: int) -> None:
    blue = vpn("blue", ["64512:100"], prefixes=(ip_network("10.0.0.0/8"),))
    talk = Conversation(blue, next_hop_check=True)
    other = talk.forwarder("h2.example.net", address="192.0.2.2")
    other.publish("blue", ("taken", item("10.0.0.7/32", hop("192.0.2.2"))))
    forwarder = talk.forwarder("h1.example.net", address="192.0.2.1")
    forwarder.publish("blue", ("good", item("10.0.0.1/32", hop(label=99))))
    revision = talk.core.revision
    assert forwarder.publish("blue", *[_GOOD, bad][::order]).condition == condition
    assert talk.core.revision == revision
    assert forwarder.items("blue")["good"].next_hops[0].label == 99
    assert forwarder.retract("blue", *["good", "taken"][::order]).condition == "forbidden"
    assert forwarder.retract("blue", *["good", "unknown"][::order]).condition == "item-not-found"
    assert forwarder.items("blue").keys() == {"good", "taken"}


def test_the_last_of_two_items_with_one_id_counts() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    assert forwarder.publish("blue", ("a", item("10.0.0.1/32")), ("a", item("10.0.0.2/32"))).is_result
    assert [str(route.prefix) for route in forwarder.items("blue").values()] == ["10.0.0.2/32"]
    assert forwarder.retract("blue", "a", "a").is_result
    assert forwarder.items("blue") == {}


# Ids made here (XEP-0060 section 7.1.3.7)


def _ids(answer: Answer) -> list[str | None]:
    return [element.get("id") for element in answer.element[0][0]]


def test_an_item_without_id_gets_its_nlri_as_one() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    forwarder.subscribe("blue", instance=3)
    answer = forwarder.publish("blue", (None, _ROUTE), ("x", item("10.0.0.2/32")))
    assert _ids(answer) == ["192.0.2.1:3:10.0.0.1/32", "x"]
    assert _ids(forwarder.publish("blue", (None, item("10.0.0.1/32", hop(label=17))))) == ["192.0.2.1:3:10.0.0.1/32"]
    assert forwarder.items("blue").keys() == {"192.0.2.1:3:10.0.0.1/32", "x"}


def test_a_made_id_never_takes_anothers_item() -> None:
    """Somebody who guesses the ids that will be made neither blocks them nor gets hold of the items."""
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder, squatter = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    forwarder.subscribe("blue", instance=3)
    taken = "192.0.2.1:3:10.0.0.1/32"
    worse = item("10.0.0.1/32", hop("192.0.2.99"))
    squatter.publish("blue", (taken, worse), (f"h1.example.net:{taken}", worse))
    (made,) = _ids(forwarder.publish("blue", (None, item("10.0.0.1/32", seq=1))))
    assert made not in (None, taken, f"h1.example.net:{taken}")
    assert squatter.retract("blue", str(made)).condition == "forbidden"
    squatter.lose()
    talk.advance(61)
    assert forwarder.items("blue").keys() == {made}
    assert forwarder.retract("blue", str(made)).is_result


# Reading


def test_items_are_what_a_subscriber_would_see() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]))
    first, second = talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")
    first.publish("blue", ("a", item("10.0.0.2/32")), ("b", item("10.0.0.1/32")))
    second.publish("blue", ("c", item("10.0.0.1/32", hop("192.0.2.2"), seq=1)))
    assert list(first.items("blue")) == ["c", "a"]
    first.subscribe("blue")
    talk.turn()
    assert first.held["blue"] == first.items("blue")


def test_answers_nobody_has_read_yet_are_bounded() -> None:
    """One read of the socket holds hundreds of requests, each for a whole node."""
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    forwarder.publish("blue", *((f"i{n}", item(f"10.0.0.{n}/32")) for n in range(20)))
    request = f"<iq type='get' id='q'><pubsub xmlns='{NS_PUBSUB}'><items node='blue'/></pubsub></iq>".encode()
    forwarder.send(request)
    one = len(forwarder.session.data_to_send())
    count = 3 * (1 << 20) // one
    forwarder.send(request * count)
    answers = stanzas(forwarder.session.data_to_send())
    kinds = [answer.get("type") for answer in answers]
    served = kinds.index("error")
    assert len(kinds) == count
    assert kinds == ["result"] * served + ["error"] * (count - served)
    assert (served - 1) * one <= 1 << 20 < served * one
    (error,) = answers[-1]
    assert (error.get("type"), error[0].tag) == ("wait", f"{{{NS_STANZAS}}}resource-constraint")
    assert len(forwarder.items("blue")) == 20, "once they are sent, it may ask again"
