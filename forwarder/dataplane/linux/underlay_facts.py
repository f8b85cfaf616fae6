"""What follows from the configuration and from the remote forwarders that routes lead to.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final

from forwarder.dataplane.linux.facts import (
    Fact,
    Form,
    FouPort,
    LocalTableLast,
    Neighbour,
    SinkDevice,
    Sysctl,
    TunnelDevice,
    VrfRule,
)
from forwarder.dataplane.linux.names import (
    MPLS_IN_IP,
    MPLS_IN_UDP_PORT,
    gre_name,
    link_local_of,
    receiver_name,
    sender_name,
)
from schema.values import Encapsulation

_HOST_SYSCTLS: Final = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/fib_multipath_hash_policy", "1"),
    ("net/ipv6/fib_multipath_hash_policy", "1"),
    ("net/ipv4/ip_local_port_range", "49152 65535"),  # source ports carry the flow: RFC 7510 section 3
    ("net/mpls/platform_labels", "1048575"),
    ("net/mpls/ip_ttl_propagate", "0"),  # the pipe model: RFC 3443 section 3
    ("net/mpls/default_ttl", "64"),
)


def host_facts(underlay: Sequence[tuple[IPv4Address, int]]) -> list[Fact]:
    """`underlay`: our IPv4 infrastructure addresses, each with the MTU of the device that holds it."""
    facts: list[Fact] = [Sysctl(path, value) for path, value in _HOST_SYSCTLS]
    facts += [VrfRule(4), VrfRule(6), LocalTableLast(4), LocalTableLast(6), SinkDevice()]
    for local, mtu in underlay:
        facts.append(TunnelDevice(gre_name(local), Form.GRE, local, mtu - 24))
        facts.append(TunnelDevice(receiver_name(local), Form.RECEIVE, local, mtu - 28))
    if underlay:
        facts.append(FouPort(MPLS_IN_UDP_PORT, MPLS_IN_IP))
    return facts


def remote_facts(encapsulation: Encapsulation, remote: IPv4Address, local: IPv4Address, mtu: int) -> list[Fact]:
    """What it takes to send to `remote`; `mtu` is the underlay's."""
    if encapsulation is Encapsulation.UDP:
        return [TunnelDevice(sender_name(remote), Form.SEND, local, mtu - 28, remote)]
    device = gre_name(local)
    return [Neighbour(device, address, str(remote)) for address in (remote, link_local_of(remote))]
