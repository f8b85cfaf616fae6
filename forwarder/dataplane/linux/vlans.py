"""VLAN sub-interfaces: made for a virtual interface of an end-system behind this host, read back, taken away.

A sub-interface is ours by the alias it carries; one of the same name that somebody else has in use is left alone and
refused.  Its port is no part of any VRF: only frames with a tag that was asked for leave it upwards, each into the
VRF of its own sub-interface, and nothing is bridged between two of them (draft section 5).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Final

from forwarder.dataplane.linux.facts import VlanDevice
from forwarder.dataplane.linux.links import is_of_the_forwarder, link_at, link_named, masters_name
from forwarder.dataplane.linux.steps import Hands
from forwarder.dataplane.netlink import rtlinks
from forwarder.dataplane.netlink.codec import NetlinkError, as_int, text
from forwarder.dataplane.netlink.socket import Netlink

_ALIAS: Final = "es-vlan"
_MAC_LENGTH: Final = len("00:00:5e:00:01:01")


def read_vlans(netlink: Netlink, links: Sequence[rtlinks.Link]) -> Iterator[VlanDevice]:
    """Those of ours among the links; a port that is not among them is asked for."""
    names = {link.index: link.name for link in links}
    for link in links:
        if link.kind == "vlan" and link.alias == _ALIAS:
            parent = names.get(link.lower) or link_at(netlink, link.lower)
            yield VlanDevice(link.name, parent, as_int(link.data.get(rtlinks.IFLA_VLAN_ID, b"")))


def put_vlan(hands: Hands, fact: VlanDevice) -> None:
    """Port and tag of a sub-interface are fixed when it is made, so one with others is made again."""
    link = link_named(hands.netlink, fact.interface)
    if link is not None:
        if link.kind != "vlan" or (link.alias != _ALIAS and (link.up or link.alias)):  # one half made is ours as well
            raise NetlinkError(errno.EEXIST, f"{fact.interface} is there, and the forwarder did not make it")
        hands.netlink.ask(rtlinks.delete_link_named(fact.interface))
    parent = hands.index(fact.parent)
    hands.netlink.ask(rtlinks.new_link(fact.interface, "vlan", *rtlinks.vlan_data(fact.tag), lower=parent))
    hands.netlink.ask(rtlinks.set_link(hands.index(fact.interface), text(rtlinks.IFLA_IFALIAS, _ALIAS)))


def drop_vlan(hands: Hands, fact: VlanDevice) -> None:
    hands.netlink.ask(rtlinks.delete_link_named(fact.interface))


def reason_against_port(netlink: Netlink, name: str) -> str | None:
    """Why end-systems cannot be behind this device. Untagged frames are the host's, so it may have addresses."""
    link = link_named(netlink, name)
    if link is None:
        return f"there is no interface {name}"
    if is_of_the_forwarder(name):
        return f"{name} is a device of the forwarder itself"
    if name == "lo" or len(link.mac) != _MAC_LENGTH:
        return f"{name} is no Ethernet interface"
    if not link.up:
        return f"{name} is down, and whoever took it down may have meant it"
    if link.master:
        return f"{name} belongs to {masters_name(netlink, link)}, which would take what is sent to it elsewhere"
    return None
