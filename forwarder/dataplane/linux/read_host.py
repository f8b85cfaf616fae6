"""What exists once on the host, with the tunnels, as facts.

What is ours is known by device names (`names`); neighbours count on our devices only.  A device of ours that is not as
it should be yields a fact that says so, never none, so that what is unwanted can always be dropped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Final

from forwarder.dataplane.linux.facts import (
    Fact,
    Form,
    LocalTableLast,
    Neighbour,
    SinkDevice,
    Sysctl,
    TunnelDevice,
    VrfRule,
)
from forwarder.dataplane.linux.host import Fou, read_sysctl
from forwarder.dataplane.linux.links import all_links
from forwarder.dataplane.linux.names import (
    DEVICE_PREFIXES,
    MPLS_IN_UDP_PORT,
    SINK,
)
from forwarder.dataplane.netlink import numbers, rtlinks
from forwarder.dataplane.netlink.socket import Netlink

VRF_RULE_PRIORITY: Final = 1000
"""Where the kernel puts its rule for VRFs when the first one is made."""

_TUNNEL_NAME = re.compile(r"es[gru]-[0-9a-f]{8}")
_FORMS = {"esg-": (Form.GRE, "gre"), "esr-": (Form.RECEIVE, "ipip"), "esu-": (Form.SEND, "ipip")}
_ENDPOINTS = {
    "gre": (rtlinks.IFLA_GRE_LOCAL, rtlinks.IFLA_GRE_REMOTE),
    "ipip": (rtlinks.IFLA_IPTUN_LOCAL, rtlinks.IFLA_IPTUN_REMOTE),
}


def underlay_of(netlink: Netlink, locals_: Sequence[IPv4Address]) -> list[tuple[IPv4Address, int]]:
    """Each address with the MTU of the device that holds it; 1500 if none does, or a loopback device."""
    links = {link.index: link for link in all_links(netlink)}
    holder = {}
    for body in netlink.dump(rtlinks.RTM_GETADDR, rtlinks.addresses_on()):
        index, address, _ = rtlinks.parse_address(body)
        holder[address] = links[index]
    underlay = []
    for local in locals_:
        link = holder.get(local)
        underlay.append((local, 1500 if link is None or link.name == "lo" else link.mtu))
    return underlay


def read_host(netlink: Netlink, fou: Fou, wanted: Collection[Fact], links: Sequence[rtlinks.Link]) -> list[Fact]:
    """Of sysctls, only those that are wanted."""
    facts: list[Fact] = []
    for fact in wanted:
        if isinstance(fact, Sysctl):
            value = read_sysctl(fact.path)
            facts += [] if value is None else [Sysctl(fact.path, value)]
    for version in (4, 6):
        facts += _rules(netlink, version)
    facts += [port for port in fou.ports() if port.port == MPLS_IN_UDP_PORT]
    multipoint = {}
    for link in links:
        if _TUNNEL_NAME.fullmatch(link.name):
            facts.append(_tunnel(link))
            if link.name.startswith("esg-"):
                multipoint[link.index] = link.name
        elif link.name == SINK:
            facts.append(SinkDevice(link.up))
    for body in netlink.dump(rtlinks.RTM_GETNEIGH, rtlinks.neighbours_on()):
        index, address, link_address, state = rtlinks.parse_neighbour(body)
        if index in multipoint and state & rtlinks.NUD_PERMANENT and address is not None:
            endpoint = str(IPv4Address(link_address)) if len(link_address) == 4 else link_address.hex()
            facts.append(Neighbour(multipoint[index], address, endpoint))
    return facts


def is_untouched(netlink: Netlink) -> bool:
    """There is nothing of ours: no device, and no rule where only we put it."""
    if any(link.name[:4] in DEVICE_PREFIXES or link.name == SINK for link in all_links(netlink)):
        return False
    return not any(isinstance(fact, LocalTableLast) for version in (4, 6) for fact in _rules(netlink, version))


def _rules(netlink: Netlink, version: int) -> Iterator[Fact]:
    family = numbers.AF_INET if version == 4 else numbers.AF_INET6
    rules = [rtlinks.parse_rule(body) for body in netlink.dump(rtlinks.RTM_GETRULE, rtlinks.rules_of(family))]
    local = [priority for priority, table, _ in rules if table == rtlinks.RT_TABLE_LOCAL]
    if any(leads_into_vrfs for _, _, leads_into_vrfs in rules):
        yield VrfRule(version)
    if local and min(local) > VRF_RULE_PRIORITY:
        yield LocalTableLast(version)


def _tunnel(link: rtlinks.Link) -> TunnelDevice:
    form, kind = _FORMS[link.name[:4]]
    local, remote = _ENDPOINTS[kind]
    data = link.data if link.kind == kind else {}
    far = IPv4Address(data.get(remote, bytes(4)))
    return TunnelDevice(
        name=link.name,
        form=form,
        local=IPv4Address(data.get(local, bytes(4))),
        mtu=link.mtu,
        remote=far if int(far) else None,
        up=link.up,
        labels=read_sysctl(f"net/mpls/conf/{link.name}/input") == "1",
    )
