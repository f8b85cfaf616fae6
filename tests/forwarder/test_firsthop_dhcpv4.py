"""DHCPv4 requests as scapy makes them, and what the first hop answers, as scapy reads it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from forwarder.firsthop.link import Settings
from tests.support.first_hop import BROADCAST, LINK, OUR_MAC, PLAIN, VM_MAC, dhcp4, options4, told

SERVER = ("server_id", "169.254.1.1")


def wish(address: str) -> tuple[str, str]:
    return ("requested_addr", address)


def answered(packet: Packet | None) -> tuple[int, str, str, str]:
    """(kind, address given, to which MAC, to which address); kinds: 2 OFFER, 5 ACK, 6 NAK."""
    assert packet is not None
    assert (packet[IP].src, packet[UDP].sport, packet[UDP].dport) == ("169.254.1.1", 67, 68)
    assert (packet[BOOTP].op, packet[BOOTP].xid, packet[BOOTP].chaddr[:6].hex(":")) == (2, 0x01020304, VM_MAC)
    assert options4(packet)["server_id"] == "169.254.1.1"
    return options4(packet)["message-type"], packet[BOOTP].yiaddr, packet.dst, packet[IP].dst


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (dhcp4("discover"), (2, "10.1.0.1", VM_MAC, "10.1.0.1")),
        (dhcp4("discover", wish("10.1.0.2")), (2, "10.1.0.2", VM_MAC, "10.1.0.2")),
        (dhcp4("discover", wish("10.9.0.9")), (2, "10.1.0.1", VM_MAC, "10.1.0.1")),
        (dhcp4("discover", flags=0x8000), (2, "10.1.0.1", BROADCAST, "255.255.255.255")),
        (dhcp4("request", SERVER, wish("10.1.0.1")), (5, "10.1.0.1", VM_MAC, "10.1.0.1")),
        (dhcp4("request", SERVER, wish("10.9.0.9")), (6, "0.0.0.0", BROADCAST, "255.255.255.255")),
        (dhcp4("request", wish("10.1.0.2")), (5, "10.1.0.2", VM_MAC, "10.1.0.2")),
        (dhcp4("request", wish("10.9.0.9")), (6, "0.0.0.0", BROADCAST, "255.255.255.255")),
        (
            dhcp4("request", ciaddr="10.1.0.1", source="10.1.0.1", destination="169.254.1.1"),
            (5, "10.1.0.1", VM_MAC, "10.1.0.1"),
        ),
        (dhcp4("request", ciaddr="10.1.0.1", flags=0x8000), (5, "10.1.0.1", VM_MAC, "10.1.0.1")),
        (dhcp4("request", ciaddr="10.9.0.9", source="10.9.0.9"), (6, "0.0.0.0", BROADCAST, "255.255.255.255")),
        (dhcp4("inform", ciaddr="10.1.0.1", source="10.1.0.1"), (5, "0.0.0.0", VM_MAC, "10.1.0.1")),
    ],
    ids=[
        *("discover", "discover, wish", "discover, wish for another's", "discover, by broadcast"),
        *("select", "select what is not attached", "reboot", "reboot elsewhere"),
        *("renew", "rebind", "rebind elsewhere", "inform"),
    ],
)
def test_answers(request_: Packet, expected: tuple[int, str, str, str]) -> None:
    assert answered(told(request_)) == expected


def test_what_a_lease_says() -> None:
    reply = told(dhcp4("request", SERVER, wish("10.1.0.1"), ("client_id", b"\x01abc")))
    assert reply is not None
    options = options4(reply)
    assert (options["lease_time"], options["renewal_time"], options["rebinding_time"]) == (86400, 3600, 75600)
    assert (options["subnet_mask"], options["router"]) == ("255.255.255.255", "169.254.1.1")
    assert options["classless_static_routes"] == ["169.254.1.1/32:0.0.0.0", "0.0.0.0/0:169.254.1.1"]
    assert options["name_server"] == ("10.0.0.53", "10.0.0.54")
    assert options["interface-mtu"] == 1468
    assert options["client_id"] == b"\x01abc"


def test_inform_gives_parameters_and_no_lease() -> None:
    reply = told(dhcp4("inform", ciaddr="10.1.0.1"))
    assert reply is not None
    assert options4(reply).keys() == {
        *("message-type", "server_id", "classless_static_routes", "router", "name_server", "interface-mtu"),
    }


def test_what_is_not_configured_is_not_said() -> None:
    reply = told(dhcp4("discover"), PLAIN, mtu=70_000)
    assert reply is not None
    assert not options4(reply).keys() & {"name_server", "interface-mtu"}


@pytest.mark.parametrize(
    "silent",
    [
        dhcp4("request", ("server_id", "10.0.0.67"), wish("10.1.0.1")),
        dhcp4("request", SERVER),
        dhcp4("decline", SERVER, wish("10.1.0.1")),
        dhcp4("release", SERVER, ciaddr="10.1.0.1"),
        dhcp4("offer"),
        dhcp4("ack"),
        dhcp4("inform"),
        dhcp4("discover", giaddr="10.1.0.7"),
        dhcp4("discover", chaddr=bytes.fromhex("020000000002")),
        dhcp4("discover", mac="02:00:00:00:00:02"),
        dhcp4("discover", op=2),
        dhcp4("discover", htype=6),
        dhcp4("discover", hlen=16),
        dhcp4("discover", destination="10.0.0.67"),
        Ether(bytes(dhcp4("discover"))[:280]),
    ],
    ids=[
        *("chose another server", "asks for nothing", "decline", "release", "offer", "ack", "inform from nowhere"),
        *("through a relay", "for another MAC", "from another MAC", "a reply", "token ring", "long MAC"),
        *("to the tenant's own server", "cut off"),
    ],
)
def test_silence(silent: Packet) -> None:
    assert told(dhcp4("discover")) is not None
    assert told(silent) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": Settings(dhcp=False)},
        {"addresses": (ip_address("fd00::1"),)},
    ],
    ids=["switched off", "IPv6 only"],
)
def test_nothing_to_lease(changes: dict[str, Any]) -> None:
    assert told(dhcp4("discover"), replace(LINK, **changes)) is None


def test_options_in_parts_and_in_other_fields() -> None:
    """RFC 3396 and option 52: half of the wished address stands in the sname field, half in file."""
    request = dhcp4(
        "request", ("dhcp-option-overload", 3), file=bytes((50, 2, 10, 1, 255)), sname=bytes((50, 2, 0, 2, 255))
    )
    assert answered(told(request))[:2] == (5, "10.1.0.2")
    broken = dhcp4("request", wish("10.1.0.2"), ("dhcp-option-overload", 1), file=bytes((12, 200)))
    assert told(broken) is None


def test_a_broken_header_is_no_request() -> None:
    request = dhcp4("discover")
    request[IP].chksum = 0xBEEF
    assert told(request) is None


def test_a_fragment_is_no_request() -> None:
    request = dhcp4("discover")
    assert told(request) is not None
    request[IP].flags = "MF"
    assert told(request) is None


def test_an_unfinished_checksum_is_no_fault() -> None:
    """A VM on this host leaves it to hardware there is not."""
    request = dhcp4("discover")
    request[UDP].chksum = 0xBEEF
    assert answered(told(request))[0] == 2


def test_it_comes_from_our_mac_and_is_long_enough_for_old_clients() -> None:
    reply = told(dhcp4("discover"))
    assert reply is not None
    assert reply.src == OUR_MAC
    assert len(bytes(reply[BOOTP])) >= 300
