"""BGP between neighbors: reflection, borders, loops, refreshes and lost sessions, through real sessions."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.session import BgpSession
from routeserver.settings import NeighborSettings
from tests.support import raw_bgp
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import GRE, LOCAL_AS, ROUTER_ID, attributes, hop, item, key, vpn

_ROLES = {
    "non-client": ("127.0.2.1", "127.0.2.2"),
    "client": ("127.0.2.3", "127.0.2.4"),
    "external": ("127.0.3.1", "127.0.3.2"),
}
_BLUE = vpn("blue", ["64512:100"])
_ROUTE = key("1:1", "10.0.0.1/32")


def _settings(address: str) -> NeighborSettings:
    external = address.startswith("127.0.3.")
    number = int(address.rpartition(".")[2])
    peer_as = 65000 + number if external else LOCAL_AS
    return NeighborSettings(ip_address(address), peer_as, route_reflector_client=number in (3, 4) and not external)


def _talk() -> tuple[Conversation, dict[str, Neighbor]]:
    """A server with two neighbors of every role, all up, none with RT-Constraint."""
    addresses = [address for pair in _ROLES.values() for address in pair]
    talk = Conversation(_BLUE, neighbors=tuple(map(_settings, addresses)))
    return talk, {address: talk.neighbor(address, VPN_FAMILIES) for address in addresses}


def _announce(neighbor: Neighbor, **words: object) -> None:
    peer_as = neighbor.source_settings.peer_as
    external = {"as_path": (peer_as,)} if peer_as != LOCAL_AS else {"local_pref": 100}
    neighbor.announce("1:1", "10.0.0.1/32", attributes(**(external | words)))  # type: ignore[arg-type]


@pytest.mark.parametrize("source", _ROLES)
def test_who_gets_whose_routes(source: str) -> None:
    """RFC 4456 section 6, RFC 4271 section 9.2."""
    talk, neighbors = _talk()
    _announce(neighbors[_ROLES[source][0]])
    talk.turn()
    for role, addresses in _ROLES.items():
        for address in addresses:
            expected = address != _ROLES[source][0] and not (role == source == "non-client")
            assert (_ROUTE in neighbors[address].held[Family.VPNV4]) is expected, (source, address)


def test_reflected_attributes() -> None:
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"], med=5, encapsulations=(GRE,), seq=3)
    talk.turn()
    given = attributes(local_pref=100, med=5, encapsulations=(GRE,), seq=3)
    told = neighbors["127.0.2.1"].held[Family.VPNV4][_ROUTE]
    assert told.attributes == replace(given, originator_id=IPv4Address("127.0.2.3"), cluster_list=(ROUTER_ID,))
    assert told.label == 20


def test_attributes_across_the_border() -> None:
    talk, neighbors = _talk()
    _announce(neighbors["127.0.3.1"], med=5, encapsulations=(GRE,), seq=3)
    talk.turn()
    outside = neighbors["127.0.3.2"].held[Family.VPNV4][_ROUTE].attributes
    assert outside.as_path == ((2, (LOCAL_AS, 65001)),)
    assert (outside.med, outside.local_pref, outside.cluster_list) == (None, None, ())
    assert outside.next_hop == ip_address("198.51.100.10"), "the label means something at that next hop only"
    inside = neighbors["127.0.2.1"].held[Family.VPNV4][_ROUTE].attributes
    assert (inside.as_path, inside.local_pref, inside.med) == (((2, (65001,)),), 100, 5)
    assert (inside.originator_id, inside.cluster_list) == (None, ())


def test_a_published_route_inside_and_outside() -> None:
    talk, neighbors = _talk()
    talk.forwarder("h1.example.net").publish("blue", ("a", item("10.0.0.1/32", hop("192.0.2.1"), seq=2, lp=150)))
    talk.turn()
    route = key("127.0.1.1:1", "10.0.0.1/32")
    inside = neighbors["127.0.2.1"].held[Family.VPNV4][route].attributes
    outside = neighbors["127.0.3.1"].held[Family.VPNV4][route].attributes
    assert (inside.as_path, inside.local_pref) == ((), 150)
    assert (outside.as_path, outside.local_pref) == (((2, (LOCAL_AS,)),), None)
    assert [community[:2].hex() for community in outside.ext_communities] == ["0002", "0600"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param("127.0.3.1", {"as_path": (65001, LOCAL_AS)}, id="our AS in its AS_PATH"),
        pytest.param("127.0.2.1", {"originator_id": ROUTER_ID}, id="our identifier as ORIGINATOR_ID"),
        pytest.param("127.0.2.1", {"cluster_list": (ROUTER_ID,)}, id="our identifier in CLUSTER_LIST"),
    ],
)
def test_a_path_that_has_been_here_is_not_kept_and_replaces_what_was(address: str, words: dict[str, object]) -> None:
    talk, neighbors = _talk()
    _announce(neighbors[address])
    talk.turn()
    assert _ROUTE in neighbors["127.0.2.4"].held[Family.VPNV4]
    _announce(neighbors[address], **words)
    talk.turn()
    assert _ROUTE not in neighbors["127.0.2.4"].held[Family.VPNV4]


def test_a_label_change_is_an_implicit_replacement() -> None:
    talk, neighbors = _talk()
    reader = talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    for label in (20, 21):
        neighbors["127.0.2.1"].announce("1:1", "10.0.0.1/32", label=label)
        talk.turn()
        assert neighbors["127.0.2.3"].held[Family.VPNV4][_ROUTE].label == label
        assert reader.held["blue"]["1:1:10.0.0.1/32"].next_hops[0].label == label


def test_a_lost_session_takes_its_routes_along_and_the_next_best_takes_over() -> None:
    talk, neighbors = _talk()
    reader = talk.forwarder("h1.example.net")
    reader.subscribe("blue")
    _announce(neighbors["127.0.2.3"], local_pref=200)
    _announce(neighbors["127.0.2.4"], next_hop="198.51.100.11")
    neighbors["127.0.2.3"].announce("1:1", "fd00::/64", attributes(local_pref=100))
    talk.turn()
    assert reader.held["blue"]["1:1:10.0.0.1/32"].local_preference == 200
    reader.take_messages()
    neighbors["127.0.2.3"].lose()
    talk.turn()
    assert reader.take_messages() == [("items", ("1:1:10.0.0.1/32",)), ("retracts", ("1:1:fd00::/64",))]
    assert reader.held["blue"]["1:1:10.0.0.1/32"].next_hops[0].address == ip_address("198.51.100.11")
    assert neighbors["127.0.2.1"].keys(Family.VPNV6) == set()
    assert talk.core.speaker.neighbors[ip_address("127.0.2.3")].adj_out is None


def test_a_session_that_comes_back_gets_everything_and_end_of_rib() -> None:
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"])
    neighbors["127.0.2.4"].lose()
    talk.turn()
    again = talk.neighbor("127.0.2.4", VPN_FAMILIES)
    assert again.keys() == {_ROUTE}
    assert set(again.ended) == set(VPN_FAMILIES)


def test_a_refresh_sends_the_table_again() -> None:
    """RFC 2918."""
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"])
    talk.turn()
    asking = neighbors["127.0.2.1"]
    asking.take_updates()
    asking.far.send_refresh(Family.VPNV4)
    talk.turn()
    assert asking.take_updates() == [("routes", Family.VPNV4, (_ROUTE,))]


def test_a_withdrawal_and_a_refresh_in_one_read() -> None:
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"])
    talk.turn()
    asking = neighbors["127.0.2.1"]
    _announce(asking, local_pref=300)  # now the best path is its own, and what it has is to be withdrawn
    asking.far.send_refresh(Family.VPNV4)
    talk.turn()
    assert asking.keys() == set()


def _raw(neighbor: Neighbor, talk: Conversation, attribute_octets: bytes) -> None:
    """An UPDATE no encoder of ours would write."""
    for event in neighbor.session.receive_data(raw_bgp.update(attribute_octets), talk.now):
        talk.core.handle(neighbor.session, event, talk.now)


def test_a_family_that_cannot_be_parsed_any_more_loses_its_routes_and_no_other_does() -> None:
    """RFC 7606 section 5.3."""
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"])
    neighbors["127.0.2.3"].announce("1:1", "fd00::/64", attributes(local_pref=100))
    talk.turn()
    impossible = raw_bgp.mp_reach(raw_bgp.VPNV4, "198.51.100.10", b"\x03\0\0\0")
    _raw(neighbors["127.0.2.3"], talk, impossible + raw_bgp.common_attributes(b"\0\2\xfc\0\0\0\0\x64"))
    talk.turn()
    assert neighbors["127.0.2.1"].keys() == set()
    assert neighbors["127.0.2.1"].keys(Family.VPNV6) == {key("1:1", "fd00::/64")}
    assert not neighbors["127.0.2.3"].session.closing


def test_a_malformed_update_withdraws_its_routes_and_is_counted() -> None:
    """RFC 7606 section 2: treat-as-withdraw."""
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"])
    talk.turn()
    reach = raw_bgp.mp_reach(raw_bgp.VPNV4, "198.51.100.10", raw_bgp.vpn_nlri("1:1", "10.0.0.1/32", 20))
    bad_origin = raw_bgp.attribute(0x40, 1, b"\x09") + raw_bgp.attribute(0x40, 2, b"")
    _raw(neighbors["127.0.2.3"], talk, reach + bad_origin)
    talk.turn()
    assert neighbors["127.0.2.1"].keys() == set()
    assert talk.core.speaker.neighbors[ip_address("127.0.2.3")].malformed == 1


def test_a_connection_that_ends_before_it_was_a_session_changes_nothing() -> None:
    talk, neighbors = _talk()
    _announce(neighbors["127.0.2.3"])
    talk.turn()
    second = BgpSession(_settings("127.0.2.3"), LOCAL_AS, ROUTER_ID, ip_address("127.0.1.1"), talk.now)
    for event in second.receive_data(b"", talk.now):
        talk.core.handle(second, event, talk.now)
    talk.turn()
    assert neighbors["127.0.2.1"].keys() == {_ROUTE}
    assert talk.core.speaker.neighbors[ip_address("127.0.2.3")].session is neighbors["127.0.2.3"].session
