"""Steps for what exists once on the host: sysctls, rules, tunnel devices, the UDP port."""

from __future__ import annotations

import errno
from typing import Final

from forwarder.dataplane.linux.facts import (
    Fact,
    FouPort,
    LocalTableLast,
    SinkDevice,
    Sysctl,
    TunnelDevice,
    VrfRule,
)
from forwarder.dataplane.linux.host import write_sysctl
from forwarder.dataplane.linux.links import link_named
from forwarder.dataplane.linux.names import (
    SINK,
)
from forwarder.dataplane.linux.read_host import VRF_RULE_PRIORITY
from forwarder.dataplane.linux.steps import Hands, Step
from forwarder.dataplane.linux.tunnel_devices import kind_of, link_data, tunnel_of
from forwarder.dataplane.netlink import numbers, rtlinks
from forwarder.dataplane.netlink.codec import NetlinkError, u32

_FAMILY: Final = {4: numbers.AF_INET, 6: numbers.AF_INET6}
_LOCAL_RULE_PRIORITY = 32765  # after the VRFs' rule, before the main table's (32766)


def _put_sysctl(hands: Hands, fact: Sysctl) -> None:
    write_sysctl(fact.path, fact.value)


def _put_vrf_rule(hands: Hands, fact: VrfRule) -> None:
    hands.netlink.ask(rtlinks.vrf_rule(_FAMILY[fact.version], VRF_RULE_PRIORITY))


def _put_local_table_last(hands: Hands, fact: LocalTableLast) -> None:
    """The new rule first, so that the host is never without its own addresses."""
    family = _FAMILY[fact.version]
    try:
        hands.netlink.ask(rtlinks.local_table_rule(family, _LOCAL_RULE_PRIORITY))
    except NetlinkError as error:
        if error.code != errno.EEXIST:  # an earlier run made it, and somebody put the first one back
            raise
    try:
        hands.netlink.ask(rtlinks.local_table_rule(family, 0, delete=True))
    except NetlinkError as error:
        if not error.is_gone:  # somebody deleted ours, and there was no other
            raise


def _put_fou(hands: Hands, fact: FouPort) -> None:
    hands.fou.put(fact)


def _put_tunnel(hands: Hands, fact: TunnelDevice) -> None:
    """Addresses of a tunnel are fixed when it is made, so one with others is made again; all else is set in place."""
    link = link_named(hands.netlink, fact.name)
    there = None if link is None else tunnel_of(link, labels=True)
    if there is not None and (there.local, there.remote) != (fact.local, fact.remote):
        hands.netlink.ask(rtlinks.delete_link_named(fact.name))
        there = None
    if there is None:
        hands.netlink.ask(rtlinks.new_link(fact.name, kind_of(fact), *link_data(fact)))
    write_sysctl(f"net/mpls/conf/{fact.name}/input", "1")
    hands.netlink.ask(rtlinks.set_link(hands.index(fact.name), u32(rtlinks.IFLA_MTU, fact.mtu), up=True))


def _put_sink(hands: Hands, fact: SinkDevice) -> None:
    if link_named(hands.netlink, SINK) is None:
        hands.netlink.ask(rtlinks.new_link(SINK, "dummy"))
    hands.netlink.ask(rtlinks.set_link(hands.index(SINK), up=True))


def _drop_local_table_last(hands: Hands, fact: LocalTableLast) -> None:
    """As the kernel had it. Again the new rule first."""
    family = _FAMILY[fact.version]
    hands.netlink.ask(rtlinks.local_table_rule(family, 0))
    hands.netlink.ask(rtlinks.local_table_rule(family, _LOCAL_RULE_PRIORITY, delete=True))


def _drop_fou(hands: Hands, fact: FouPort) -> None:
    hands.fou.drop(fact)


def _drop_sink(hands: Hands, fact: SinkDevice) -> None:
    hands.netlink.ask(rtlinks.delete_link_named(SINK))


def _drop_tunnel(hands: Hands, fact: TunnelDevice) -> None:
    hands.netlink.ask(rtlinks.delete_link_named(fact.name))


PUT: Final[dict[type[Fact], Step]] = {
    Sysctl: _put_sysctl,
    VrfRule: _put_vrf_rule,
    LocalTableLast: _put_local_table_last,
    TunnelDevice: _put_tunnel,
    SinkDevice: _put_sink,
    FouPort: _put_fou,
}
# What belongs to the host as a whole is always wanted, and goes with `purge` only: forwarding outlives the forwarder.
DROP: Final[dict[type[Fact], Step]] = {
    TunnelDevice: _drop_tunnel,
    SinkDevice: _drop_sink,
    FouPort: _drop_fou,
    LocalTableLast: _drop_local_table_last,
}
