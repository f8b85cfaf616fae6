"""A VM's frames to its first hop, built and read by scapy, which knows nothing of our code."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DUID_LL, DHCP6OptClientId
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from forwarder.attachments import Mode
from forwarder.firsthop.answers import answer
from forwarder.firsthop.link import Link, Settings

VM_MAC = "02:00:00:00:00:01"
OUR_MAC = "00:00:5e:00:01:01"
BROADCAST = "ff:ff:ff:ff:ff:ff"
VM_LINK_LOCAL = "fe80::ff:fe00:1"
MTU = 1468

DNS = tuple(map(ip_address, ("10.0.0.53", "10.0.0.54", "fd00::53")))
LINK = Link(
    addresses=tuple(map(ip_address, ("10.1.0.1", "10.1.0.2", "fd00::1", "fd00::2"))),
    prefixes=(ip_network("10.2.0.0/24"), ip_network("fd00:1::/64")),
    mac=bytes.fromhex(VM_MAC.replace(":", "")),
    mode=Mode.SUBNET,
    settings=Settings(DNS),
)
PLAIN = replace(LINK, settings=Settings())


def told(request: Packet, link: Link = LINK, mtu: int = MTU) -> Packet | None:
    """The first hop's answer, decoded, with its checksums held to be right and its source to be us."""
    frame = answer(bytes(request), link, mtu)
    if frame is None:
        return None
    read = Ether(frame)
    assert read.src == OUR_MAC
    rebuilt = read.copy()
    for layer in layers(rebuilt):
        for name in {"chksum", "cksum"} & layer.fields.keys():
            delattr(layer, name)
    assert bytes(rebuilt) == frame, "checksums"
    return read


def layers(packet: Packet) -> list[Packet]:
    found = []
    while packet:
        found.append(packet)
        packet = packet.payload
    return found


def icmpv6(message: Packet, source: str = VM_LINK_LOCAL, destination: str = "ff02::2", hops: int = 255) -> Packet:
    return Ether(src=VM_MAC, dst="33:33:00:00:00:02") / IPv6(src=source, dst=destination, hlim=hops) / message


def dhcp4(
    kind: str, *options: Any, source: str = "0.0.0.0", destination: str = "255.255.255.255", **fields: Any
) -> Packet:
    mac = fields.pop("mac", VM_MAC)
    fields.setdefault("chaddr", bytes.fromhex(mac.replace(":", "")))
    fields.setdefault("xid", 0x01020304)
    to = BROADCAST if destination == "255.255.255.255" else OUR_MAC
    return (
        Ether(src=mac, dst=to)
        / IP(src=source, dst=destination)
        / UDP(sport=68, dport=67)
        / BOOTP(**fields)
        / DHCP(options=[("message-type", kind), *options, "end"])
    )


def options4(packet: Packet) -> dict[str, Any]:
    """DHCPv4 options by scapy's names; one of several values is a tuple."""
    found = {}
    for option in packet[DHCP].options:
        if isinstance(option, tuple):
            found[option[0]] = option[1] if len(option) == 2 else option[1:]
    return found


def dhcp6(message: Packet, *options: Packet, client: bool = True, **ends: str) -> Packet:
    packet = (
        Ether(src=VM_MAC, dst="33:33:00:01:00:02")
        / IPv6(src=ends.get("source", VM_LINK_LOCAL), dst=ends.get("destination", "ff02::1:2"))
        / UDP(sport=546, dport=547)
        / message
    )
    if client:
        packet /= DHCP6OptClientId(duid=DUID_LL(lladdr=VM_MAC))
    for option in options:
        packet /= option
    return packet
