"""What exists once on the host, with the tunnels, as facts.

What is ours is known by device names (`names`); neighbours count on our devices only.  A device of ours that is not as
it should be yields a fact that says so, never none, so that what is unwanted can always be dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from forwarder.dataplane.linux.facts import (
    ErrorRules,
    Fact,
    Form,
    LocalTableLast,
    Neighbour,
    SinkDevice,
    Sysctl,
    VrfRule,
)
from forwarder.dataplane.linux.host import Fou, read_sysctl
from forwarder.dataplane.linux.links import all_links
from forwarder.dataplane.linux.marking import leads_past_error_rules
from forwarder.dataplane.linux.names import (
    DEVICE_PREFIXES,
    MPLS_IN_UDP_PORT,
    SINK,
)
from forwarder.dataplane.linux.tunnel_devices import is_tunnel_name, tunnel_of
from forwarder.dataplane.netlink import numbers, rtlinks
from forwarder.dataplane.netlink.socket import Netlink
from schema.values import IPAddress

VRF_RULE_PRIORITY: Final = 1000
"""Where the kernel puts its rule for VRFs when the first one is made."""


def underlay_of(
    netlink: Netlink, locals_: Sequence[IPAddress], links: Sequence[rtlinks.Link]
) -> list[tuple[IPAddress, int]]:
    """Each address with the MTU of the device that holds it; 1500 if none does, or a loopback device."""
    by_index = {link.index: link for link in links}
    holder = {}
    for body in netlink.dump(rtlinks.RTM_GETADDR, rtlinks.addresses_on()):
        index, address, _ = rtlinks.parse_address(body)
        holder[address] = by_index.get(index)
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
    facts += [ErrorRules()] if leads_past_error_rules(netlink) else []
    facts += [port for port in fou.ports() if port.port == MPLS_IN_UDP_PORT]
    multipoint = {}
    for link in links:
        if is_tunnel_name(link.name):
            tunnel = tunnel_of(link, labels=read_sysctl(f"net/mpls/conf/{link.name}/input") == "1")
            facts.append(tunnel)
            if tunnel.form is Form.GRE:
                multipoint[link.index] = link.name
        elif link.name == SINK:
            facts.append(SinkDevice(link.up))
    for body in netlink.dump(rtlinks.RTM_GETNEIGH, rtlinks.neighbours_on()):
        index, address, link_address, state = rtlinks.parse_neighbour(body)
        if index in multipoint and state & rtlinks.NUD_PERMANENT and address is not None:
            endpoint = str(ip_address(link_address)) if len(link_address) == 4 else link_address.hex()
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
