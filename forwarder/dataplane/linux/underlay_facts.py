"""What follows from the configuration and from the remote forwarders that routes lead to.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import Final

from forwarder.dataplane.linux.facts import (
    ErrorRules,
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
    gre_sender_name,
    link_local_of,
    receiver_name,
    sender_name,
)
from schema.values import Encapsulation, IPAddress

_HOST_SYSCTLS: Final = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/fib_multipath_hash_policy", "1"),
    ("net/ipv6/fib_multipath_hash_policy", "1"),
    ("net/ipv4/ip_local_port_range", "49152 65535"),  # source ports carry the flow: RFC 7510 section 3
    ("net/ipv6/fwmark_reflect", "1"),  # see `marking`
    ("net/mpls/platform_labels", "1048575"),
    ("net/mpls/ip_ttl_propagate", "0"),  # the pipe model: RFC 3443 section 3
    ("net/mpls/default_ttl", "64"),
)


_OUTER: Final = {
    (Encapsulation.GRE, 4): 20 + 4,
    (Encapsulation.GRE, 6): 40 + 4,
    (Encapsulation.UDP, 4): 20 + 8,
    (Encapsulation.UDP, 6): 40 + 8,
}
"""Octets around the label stack, by encapsulation and IP version of the underlay."""
_LABEL: Final = 4
_NO_ADDRESS: Final = IPv4Address(0)
_USUAL_MTU: Final = 1500


def host_facts(underlay: Sequence[tuple[IPAddress, int]]) -> list[Fact]:
    """`underlay`: our infrastructure addresses, each with the MTU of the device that holds it."""
    facts: list[Fact] = [Sysctl(path, value) for path, value in _HOST_SYSCTLS]
    facts += [VrfRule(4), VrfRule(6), LocalTableLast(4), LocalTableLast(6), ErrorRules(), SinkDevice()]
    for local, mtu in underlay:
        gre = Form.GRE if local.version == 4 else Form.GRE_RECEIVE
        facts.append(TunnelDevice(gre_name(local), gre, local, _device_mtu(Encapsulation.GRE, local, mtu)))
        udp = _device_mtu(Encapsulation.UDP, local, mtu)
        facts.append(TunnelDevice(receiver_name(local), Form.RECEIVE, local, udp))
    for version in sorted({local.version for local, _ in underlay}):
        facts.append(FouPort(MPLS_IN_UDP_PORT, MPLS_IN_IP, version))
    return facts


def remote_facts(encapsulation: Encapsulation, remote: IPAddress, local: IPAddress, mtu: int) -> list[Fact]:
    """What it takes to send to `remote` from `local`, of the same family; `mtu` is the underlay's."""
    device_mtu = _device_mtu(encapsulation, local, mtu)
    if encapsulation is Encapsulation.UDP:
        return [TunnelDevice(sender_name(remote), Form.SEND, local, device_mtu, remote)]
    if remote.version == 6:
        return [TunnelDevice(gre_sender_name(remote), Form.GRE_SEND, local, device_mtu, remote)]
    device = gre_name(local)
    return [Neighbour(device, address, str(remote)) for address in (remote, link_local_of(remote))]


def sending_device(encapsulation: Encapsulation, remote: IPAddress, local: IPAddress) -> str:
    """The name of the device that leads to `remote`."""
    if encapsulation is Encapsulation.UDP:
        return sender_name(remote)
    return gre_sender_name(remote) if remote.version == 6 else gre_name(local)


def guest_mtu(underlay: Iterable[tuple[IPAddress, int]], encapsulations: Iterable[Encapsulation]) -> int:
    """The longest packet of a VM that fits into every tunnel; as on an Ethernet if there is no underlay."""
    ends = list(underlay) or [(_NO_ADDRESS, _USUAL_MTU)]
    used = list(encapsulations)
    return min(_device_mtu(each, local, mtu) - _LABEL for local, mtu in ends for each in used)


def _device_mtu(encapsulation: Encapsulation, local: IPAddress, mtu: int) -> int:
    """The kernel takes the label off by itself."""
    return mtu - _OUTER[encapsulation, local.version]
