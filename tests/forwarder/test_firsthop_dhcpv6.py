"""DHCPv6 messages as scapy makes them, and what the first hop answers, as scapy reads it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_RelayForward,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIAAddress,
    DHCP6OptIAPrefix,
    DHCP6OptInfoRefreshTime,
    DHCP6OptOptReq,
    DHCP6OptPref,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from forwarder.firsthop.link import Settings
from tests.support.first_hop import LINK, OUR_MAC, VM_LINK_LOCAL, VM_MAC, dhcp6, layers, told

US = DHCP6OptServerId(duid=DUID_LL(lladdr=OUR_MAC))
OTHER = DHCP6OptServerId(duid=DUID_LL(lladdr="02:00:00:00:00:77"))
ALL = [("fd00::1", 86400), ("fd00::2", 86400)]
NO_ADDRESS, NO_BINDING, NOT_ON_LINK, NO_PREFIX = 2, 3, 4, 6


def ia(identifier: int, *addresses: str) -> Packet:
    return DHCP6OptIA_NA(iaid=identifier, ianaopts=[DHCP6OptIAAddress(addr=address) for address in addresses])


def pd(identifier: int, *prefixes: str) -> Packet:
    options = [DHCP6OptIAPrefix(prefix=p.split("/")[0], plen=int(p.split("/")[1])) for p in prefixes]
    return DHCP6OptIA_PD(iaid=identifier, iapdopt=options)


def given(packet: Packet | None) -> dict[int, Any]:
    """Per IA its leases as (address or prefix, valid lifetime), or the number of its status code."""
    assert packet is not None
    found: dict[int, Any] = {}
    for layer in layers(packet):
        if not isinstance(layer, DHCP6OptIA_NA | DHCP6OptIA_PD):
            continue
        options = layer.ianaopts if isinstance(layer, DHCP6OptIA_NA) else layer.iapdopt
        leases = [(o.addr, o.validlft) for o in options if isinstance(o, DHCP6OptIAAddress)]
        leases += [(f"{o.prefix}/{o.plen}", o.validlft) for o in options if isinstance(o, DHCP6OptIAPrefix)]
        codes = [o.statuscode for o in options if isinstance(o, DHCP6OptStatusCode)]
        assert bool(leases) != bool(codes)
        assert ((3600, 75600) if leases else (0, 0)) == (layer.T1, layer.T2)
        found[layer.iaid] = leases or codes[0]
    return found


def status(packet: Packet | None) -> int:
    assert packet is not None
    return int(packet[DHCP6OptStatusCode].statuscode)


def test_who_speaks_to_whom() -> None:
    reply = told(dhcp6(DHCP6_Solicit(trid=0xABCDEF), ia(1)))
    assert reply is not None
    assert (reply.dst, reply[IPv6].src, reply[IPv6].dst) == (VM_MAC, "fe80::1", VM_LINK_LOCAL)
    assert (reply[UDP].sport, reply[UDP].dport) == (547, 546)
    assert reply[DHCP6_Advertise].trid == 0xABCDEF
    assert reply[DHCP6OptServerId].duid.lladdr == OUR_MAC
    assert reply[DHCP6OptClientId].duid.lladdr == VM_MAC
    assert reply[DHCP6OptPref].prefval == 255


@pytest.mark.parametrize(
    ("request_", "kind", "expected"),
    [
        (dhcp6(DHCP6_Solicit(), ia(1)), DHCP6_Advertise, {1: ALL}),
        (dhcp6(DHCP6_Solicit(), ia(1, "fd00::9")), DHCP6_Advertise, {1: ALL}),
        (dhcp6(DHCP6_Solicit(), DHCP6OptRapidCommit(), ia(1)), DHCP6_Reply, {1: ALL}),
        (dhcp6(DHCP6_Solicit(), ia(1), ia(2)), DHCP6_Advertise, {1: ALL, 2: NO_ADDRESS}),
        (
            dhcp6(DHCP6_Solicit(), ia(1), pd(7), pd(8)),
            DHCP6_Advertise,
            {1: ALL, 7: [("fd00:1::/64", 86400)], 8: NO_PREFIX},
        ),
        (dhcp6(DHCP6_Request(), US, ia(1, "fd00::1")), DHCP6_Reply, {1: ALL}),
        (dhcp6(DHCP6_Request(), US, ia(1, "fd00::1", "fd00::9")), DHCP6_Reply, {1: NOT_ON_LINK}),
        (dhcp6(DHCP6_Renew(), US, ia(1, "fd00::2")), DHCP6_Reply, {1: ALL}),
        (dhcp6(DHCP6_Renew(), US, ia(1, "fd00::9")), DHCP6_Reply, {1: [*ALL, ("fd00::9", 0)]}),
        (dhcp6(DHCP6_Rebind(), ia(1, "fd00::9")), DHCP6_Reply, {1: [*ALL, ("fd00::9", 0)]}),
        (
            dhcp6(DHCP6_Rebind(), pd(1, "fd00:9::/64")),
            DHCP6_Reply,
            {1: [("fd00:1::/64", 86400), ("fd00:9::/64", 0)]},
        ),
    ],
    ids=[
        *("solicit", "solicit, wish for another's", "rapid commit", "two associations", "prefixes"),
        *("request", "request what is not attached", "renew", "renew what is gone", "rebind what is gone"),
        "rebind a prefix that is gone",
    ],
)
def test_leases(request_: Packet, kind: type[Packet], expected: dict[int, Any]) -> None:
    reply = told(request_)
    assert given(reply) == expected
    assert reply is not None
    assert reply.haslayer(kind)
    assert bool(reply.haslayer(DHCP6OptRapidCommit)) == bool(request_.haslayer(DHCP6OptRapidCommit))


def test_confirm_says_whether_the_addresses_are_attached() -> None:
    assert status(told(dhcp6(DHCP6_Confirm(), ia(1, "fd00::1"), ia(2, "fd00::2")))) == 0
    assert status(told(dhcp6(DHCP6_Confirm(), ia(1, "fd00::1", "fd00::9")))) == NOT_ON_LINK
    assert told(dhcp6(DHCP6_Confirm(), ia(1))) is None


@pytest.mark.parametrize("kind", [DHCP6_Release, DHCP6_Decline])
def test_what_is_given_back_stays_attached(kind: type[Packet]) -> None:
    reply = told(dhcp6(kind(), US, ia(1, "fd00::1")))
    assert (status(reply), given(reply)) == (0, {})
    reply = told(dhcp6(kind(), US, ia(1, "fd00::9")))
    assert (status(reply), given(reply)) == (0, {1: NO_BINDING})
    assert given(told(dhcp6(DHCP6_Solicit(), ia(1)))) == {1: ALL}


@pytest.mark.parametrize("client", [True, False])
def test_information_alone(client: bool) -> None:
    reply = told(dhcp6(DHCP6_InfoRequest(), DHCP6OptOptReq(reqopts=[23, 32]), client=client))
    assert reply is not None
    assert reply[DHCP6OptDNSServers].dnsservers == ["fd00::53"]
    assert reply[DHCP6OptInfoRefreshTime].reftime == 3600
    assert bool(reply.haslayer(DHCP6OptClientId)) == client
    unasked = told(dhcp6(DHCP6_InfoRequest()))
    assert unasked is not None
    assert not unasked.haslayer(DHCP6OptDNSServers)


def test_name_servers_come_with_a_lease_if_asked_for_and_there_are_some() -> None:
    asking = dhcp6(DHCP6_Request(), US, ia(1), DHCP6OptOptReq(reqopts=[23]))
    reply = told(asking)
    assert reply is not None
    assert reply[DHCP6OptDNSServers].dnsservers == ["fd00::53"]
    without = told(asking, replace(LINK, settings=Settings()))
    assert without is not None
    assert not without.haslayer(DHCP6OptDNSServers)


@pytest.mark.parametrize(
    "silent",
    [
        dhcp6(DHCP6_Solicit(), ia(1), client=False),
        dhcp6(DHCP6_Solicit(), US, ia(1)),
        dhcp6(DHCP6_Request(), ia(1)),
        dhcp6(DHCP6_Request(), OTHER, ia(1)),
        dhcp6(DHCP6_Renew(), OTHER, ia(1, "fd00::1")),
        dhcp6(DHCP6_Release(), OTHER, ia(1, "fd00::1")),
        dhcp6(DHCP6_Rebind(), US, ia(1, "fd00::1")),
        dhcp6(DHCP6_InfoRequest(), OTHER),
        dhcp6(DHCP6_InfoRequest(), ia(1)),
        dhcp6(DHCP6_Advertise(), US, ia(1)),
        dhcp6(DHCP6_Reply(), US, ia(1)),
        dhcp6(DHCP6_RelayForward(), client=False),
        dhcp6(DHCP6_Solicit(), ia(1), destination="fe80::1"),
        dhcp6(DHCP6_Solicit(), ia(1), source="fd00::1"),
        dhcp6(DHCP6_Solicit(), ia(1), DHCP6OptRapidCommit(optlen=7)),
    ],
    ids=[
        *("nobody solicits", "solicit of one server", "request of no server", "request of another"),
        *("renew with another", "release to another", "rebind with one server", "information of another"),
        *("information with an association", "advertise", "reply", "relayed", "unicast", "not from the link"),
        "option beyond the end",
    ],
)
def test_silence(silent: Packet) -> None:
    assert told(dhcp6(DHCP6_Solicit(), ia(1))) is not None
    assert told(silent) is None


@pytest.mark.parametrize(
    "changes",
    [{"settings": Settings(dhcp=False)}, {"addresses": (ip_address("10.1.0.1"),)}],
    ids=["switched off", "IPv4 only"],
)
def test_nothing_to_lease(changes: dict[str, Any]) -> None:
    assert told(dhcp6(DHCP6_Solicit(), ia(1)), replace(LINK, **changes)) is None


def test_a_reply_fits_any_ipv6_link() -> None:
    many = replace(LINK, addresses=tuple(ip_address(f"fd00::{n:x}") for n in range(1, 60)))
    asked = [ia(n, *(f"fd00:9::{n}:{m:x}" for m in range(1, 12))) for n in range(1, 5)]
    reply = told(dhcp6(DHCP6_Renew(), US, *asked), many)
    assert reply is not None
    assert len(bytes(reply[IPv6])) <= 1280
    assert len(given(reply)[1]) == 20
