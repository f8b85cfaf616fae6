"""Tunnel devices as the kernel makes them and shows them: one table for both encapsulations over both families.

Over IPv4 one GRE device sends to all remotes and receives from all (`names.gre_name`); UDP has a device that receives
from all and one per remote that sends.  Over IPv6 GRE is as UDP is: a device without a remote receives, but it cannot
send what is labelled.  MPLS-in-IP over IPv6 has a mode of its own in no kernel; `any` includes it, and with it plain
packets in IPv6, which the guards drop.

Every outer header: TTL 64, not to be fragmented (IPv4: DF), without the option that limits encapsulation in IPv6 (RFC
2473 section 4.1.1), which not everybody skips.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Final

from forwarder.dataplane.linux.facts import Form, TunnelDevice
from forwarder.dataplane.linux.names import MPLS_IN_UDP_PORT
from forwarder.dataplane.netlink import rtlinks
from schema.values import Encapsulation, IPAddress

TTL: Final = 64

_PREFIXES: Final = {
    ("esg-", 4): Form.GRE,
    ("esg-", 6): Form.GRE_RECEIVE,
    ("esh-", 6): Form.GRE_SEND,
    ("esr-", 4): Form.RECEIVE,
    ("esr-", 6): Form.RECEIVE,
    ("esu-", 4): Form.SEND,
    ("esu-", 6): Form.SEND,
}
_KINDS: Final = {
    (Form.GRE, 4): "gre",
    (Form.GRE_RECEIVE, 6): "ip6gre",
    (Form.GRE_SEND, 6): "ip6gre",
    (Form.RECEIVE, 4): "ipip",
    (Form.RECEIVE, 6): "ip6tnl",
    (Form.SEND, 4): "ipip",
    (Form.SEND, 6): "ip6tnl",
}
_ENDPOINTS: Final = {
    "gre": (rtlinks.IFLA_GRE_LOCAL, rtlinks.IFLA_GRE_REMOTE),
    "ip6gre": (rtlinks.IFLA_GRE_LOCAL, rtlinks.IFLA_GRE_REMOTE),
    "ipip": (rtlinks.IFLA_IPTUN_LOCAL, rtlinks.IFLA_IPTUN_REMOTE),
    "ip6tnl": (rtlinks.IFLA_IPTUN_LOCAL, rtlinks.IFLA_IPTUN_REMOTE),
}
_ENCAPSULATIONS: Final = {Form.GRE_SEND: Encapsulation.GRE, Form.SEND: Encapsulation.UDP}
_NAME_LENGTHS: Final = {12: 4, 15: 6}
_NOWHERE: Final = IPv4Address(0)


def kind_of(device: TunnelDevice) -> str:
    return _KINDS[device.form, device.local.version]


def link_data(device: TunnelDevice) -> list[bytes]:
    """What the kernel is told of the device beyond its name and kind."""
    port = MPLS_IN_UDP_PORT if device.form is Form.SEND else None
    match kind_of(device):
        case "gre":
            return rtlinks.gre_data(device.local, TTL)
        case "ip6gre":
            return rtlinks.gre6_data(device.local, TTL, device.remote)
        case "ipip":
            return rtlinks.mpls_in_ip_data(device.local, TTL, device.remote, port)
        case _:
            return rtlinks.mpls_in_ip6_data(device.local, TTL, device.remote, port)


def is_tunnel_name(name: str) -> bool:
    return (name[:4], _NAME_LENGTHS.get(len(name), 0)) in _PREFIXES


def tunnel_of(link: rtlinks.Link, labels: bool) -> TunnelDevice:
    """The fact that a link with a tunnel's name is. One that is not what its name says has no end that is wanted."""
    version = _NAME_LENGTHS[len(link.name)]
    form = _PREFIXES[link.name[:4], version]
    kind = _KINDS[form, version]
    local, remote = _ENDPOINTS[kind]
    data = link.data if link.kind == kind else {}
    return TunnelDevice(
        name=link.name,
        form=form,
        local=_end(data, local) or _NOWHERE,
        mtu=link.mtu,
        remote=_end(data, remote),
        up=link.up,
        labels=labels,
    )


def _end(data: dict[int, bytes], attribute: int) -> IPAddress | None:
    found = data.get(attribute, b"")
    return ip_address(found) if any(found) else None


def leads_to_all(link: rtlinks.Link) -> bool:
    """The remote is chosen by the gateway of a route."""
    return is_tunnel_name(link.name) and tunnel_of(link, labels=True).form is Form.GRE


def leads_to(link: rtlinks.Link) -> tuple[Encapsulation, IPAddress] | None:
    """Where a device that sends to one remote sends, and how; None for all others."""
    if not is_tunnel_name(link.name):
        return None
    device = tunnel_of(link, labels=True)
    if device.remote is None or device.form not in _ENCAPSULATIONS:
        return None
    return _ENCAPSULATIONS[device.form], device.remote
