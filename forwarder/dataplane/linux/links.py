"""Devices of this host, by name and index, and which of them may be a VM's."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from forwarder.dataplane.linux.names import (
    DEVICE_PREFIXES,
    SINK,
    vrf_name,
)
from forwarder.dataplane.netlink import rtlinks
from forwarder.dataplane.netlink.codec import NetlinkError
from forwarder.dataplane.netlink.socket import Netlink
from schema.values import IPAddress

_ETHERNET_MAC_LENGTH = len("00:00:5e:00:01:01")


def all_links(netlink: Netlink) -> list[rtlinks.Link]:
    return [rtlinks.parse_link(body) for body in netlink.dump(rtlinks.RTM_GETLINK, rtlinks.LINKS)]


def link_named(netlink: Netlink, name: str) -> rtlinks.Link | None:
    try:
        return rtlinks.parse_link(netlink.ask(rtlinks.get_link(name))[0])
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


class NoDeviceError(Exception):
    """There is no device of that name; the text says which."""


class DeviceIndexes(dict[str, int]):
    """Device indexes by name, asked for once each. A name that is no device raises NoDeviceError."""

    def __init__(self, netlink: Netlink) -> None:
        super().__init__()
        self._netlink = netlink

    def __missing__(self, name: str) -> int:
        link = link_named(self._netlink, name)
        if link is None:
            raise NoDeviceError(f"there is no interface {name}")
        self[name] = link.index
        return link.index


def links_of(netlink: Netlink, table: int, interface: str) -> list[rtlinks.Link]:
    """The two devices of one virtual interface, as far as they exist."""
    found = (link_named(netlink, name) for name in (vrf_name(table), interface))
    return [link for link in found if link is not None]


def reason_against_interface(netlink: Netlink, name: str) -> str | None:
    """Why this interface is no VM's: it is not there, serves somebody else, or is one the host lives on.

    Asked before anything is changed: taking the host's own interface would take the host off the network.
    """
    link = link_named(netlink, name)
    if link is None:
        return f"there is no interface {name}"
    if link.master:
        master = masters_name(netlink, link)
        return None if master.startswith("esv-") else f"{name} belongs to {master}"
    if is_of_the_forwarder(name):
        return f"{name} is a device of the forwarder itself"
    if name == "lo" or len(link.mac) != _ETHERNET_MAC_LENGTH:
        return f"{name} is no Ethernet interface"
    held = [str(address) for address in _addresses_of(netlink, link.index) if not address.is_link_local]
    if held:
        return f"{name} has the host's address {', '.join(held)}; name the interface that leads to the VM"
    return None


def is_of_the_forwarder(name: str) -> bool:
    """Made for tunnels and VRFs, and no place for a tenant."""
    return name[:4] in DEVICE_PREFIXES or name == SINK


def masters_name(netlink: Netlink, link: rtlinks.Link) -> str:
    """The device that a link is a part of."""
    return link_at(netlink, link.master)


def link_at(netlink: Netlink, index: int) -> str:
    """The name of the device with this index."""
    return next((link.name for link in all_links(netlink) if link.index == index), "another device")


def _addresses_of(netlink: Netlink, wanted: int) -> Iterator[IPAddress]:
    for body in netlink.dump(rtlinks.RTM_GETADDR, rtlinks.addresses_on(wanted)):
        index, address, _ = rtlinks.parse_address(body)
        if index == wanted:
            yield address
