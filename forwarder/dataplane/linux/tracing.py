"""What this kernel would do with one packet: asked of the kernel, not concluded from what we installed.

The way out is looked up as the packet would be: arriving on the virtual interface, from that source.  So the VRF, the
reverse path filter and every route that somebody else may have put there count as they do for a packet.  Where a tunnel
leads is read from its device, and over multipoint GRE from the neighbour entry.  Whether the source may be used at all
is asked of the packet filter's sets.

The way in is the label's own route.  Nothing here changes anything.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from forwarder.dataplane.linux.drop_reasons import REASONS, VPN
from forwarder.dataplane.linux.links import all_links
from forwarder.dataplane.linux.names import FIRST_HOP, SINK
from forwarder.dataplane.netlink import rtlinks, rtlookups, rtroutes
from forwarder.dataplane.netlink.codec import NetlinkError
from forwarder.dataplane.netlink.socket import Netlink
from forwarder.dataplane.traced import Arrival, Fate, Trace, Way
from forwarder.dataplane.values import LocalHop, RemoteHop, Vif
from schema.values import Encapsulation, IPAddress

LABEL_BYTES: Final = 4
_GRE, _IPIP = ("gre", "ip6gre"), ("ipip", "ip6tnl")
_ENDS: Final = {
    **dict.fromkeys(_GRE, (rtlinks.IFLA_GRE_LOCAL, rtlinks.IFLA_GRE_REMOTE)),
    **dict.fromkeys(_IPIP, (rtlinks.IFLA_IPTUN_LOCAL, rtlinks.IFLA_IPTUN_REMOTE)),
}
_FAILED: Final = 0x20
_REFUSED: Final = {
    errno.EXDEV: "the reverse path filter drops it, as the VRF has no way back to {source} by {interface}",
    errno.EINVAL: "the kernel takes no packet from {source}",
}
"""Lookups that end before a route is found, by errno; all others found that there is no way."""
_NO_SOURCE: Final = [
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::1", "::ffff:0:0/96", "ff00::/8")
]
_NO_DESTINATION: Final = [
    ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4", "::", "::1", "::ffff:0:0/96")
]
_COUNTED: Final = {Fate.NO_ROUTE: "no-route", Fate.NO_ANSWER: "no-route"}
_BROADCAST: Final = ip_address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class _Neighbour:
    link_address: bytes
    state: int


class Tracer:
    """One look at the kernel: devices as they were when it was made."""

    def __init__(self, netlink: Netlink, vifs: Iterable[Vif]) -> None:
        self._netlink = netlink
        self._links = {link.index: link for link in all_links(netlink)}
        self._by_name = {link.name: link for link in self._links.values()}
        self._at = {vif.interface: vif.id for vif in vifs}

    def trace(self, vif: Vif, destination: IPAddress, source: IPAddress) -> Trace:
        arrival = self._arrival(vif)
        port = self._by_name.get(vif.interface)
        if port is None or not port.up:
            gone = f"interface {vif.interface} is {'absent' if port is None else 'down'}"
            return Trace(vif, source, destination, Fate.BROKEN, arrival, gone)
        guard = _guard(vif, source, destination)
        if guard is not None:
            return Trace(vif, source, destination, Fate.GUARDED, arrival, REASONS[guard].words, guard)
        try:
            answer = self._netlink.ask(rtlookups.lookup(source, destination, port.index))
        except NetlinkError as error:
            fate, refused = _refused(error, vif, source)
            return Trace(vif, source, destination, fate, arrival, refused, _COUNTED.get(fate))
        route = rtroutes.parse_route(answer[0])
        assert route is not None, "an IP lookup is answered with an IP route"
        if route.kind == rtlookups.RTN_LOCAL:
            return Trace(vif, source, destination, Fate.HOST, arrival, prefix=route.prefix)
        ways = tuple(self._way(hop) for hop in route.hops)
        fate, reason = _fate(vif, ways)
        if fate in (Fate.NO_ANSWER, Fate.OWN):
            ways = ()
        return Trace(vif, source, destination, fate, arrival, reason, _COUNTED.get(fate), route.prefix, ways)

    # -- out

    def _way(self, hop: rtroutes.NextHopEntry) -> Way:
        link = self._links[hop.index]
        if hop.label is not None:
            return self._tunnel(hop, hop.label, link)
        way = self._neighbour(hop.index, hop.via) if hop.via is not None else None
        mac = way.link_address.hex(":") if way is not None and way.link_address else None
        problem = _down(link)
        if problem is None and way is not None and way.state & _FAILED:
            problem = f"nobody answers for {hop.via} on {link.name}"
        at = self._at.get(link.name)
        local = None if at is None else LocalHop(at)
        if problem is None and local is None and link.name != SINK:
            problem = f"{link.name} is no interface of ours, and the packet would leave by it without a label"
        return Way(local, link.name, mac=mac, mtu=link.mtu, problem=problem)

    def _tunnel(self, hop: rtroutes.NextHopEntry, label: int, link: rtlinks.Link) -> Way:
        mtu = link.mtu - LABEL_BYTES
        source, remote = (_end(link, which) for which in (0, 1))
        if remote is None and link.kind in _GRE and hop.via is not None:
            entry = self._neighbour(hop.index, hop.via)
            if entry is None or len(entry.link_address) != 4:
                return Way(None, link.name, mtu=mtu, problem=f"{link.name} has no neighbour entry for {hop.via}")
            remote = ip_address(entry.link_address)
        if source is None or remote is None:
            return Way(None, link.name, mtu=mtu, problem=f"{link.name} is no tunnel to anywhere")
        encapsulation = Encapsulation.GRE if link.kind in _GRE else Encapsulation.UDP
        underlay, problem = self._underlay(source, remote)
        there = RemoteHop(remote, label, encapsulation)
        return Way(there, link.name, (source, remote), underlay, mtu=mtu, problem=_down(link) or problem)

    def _underlay(self, source: IPAddress, remote: IPAddress) -> tuple[str, str | None]:
        """The device that tunnelled packets leave by, with the gateway if there is one; and why they do not."""
        try:
            route = rtroutes.parse_route(self._netlink.ask(rtlookups.lookup(source, remote))[0])
        except NetlinkError as error:
            return "", f"the host has no way from {source} to {remote}: {error}"
        assert route is not None, "an IP lookup is answered with an IP route"
        if not route.hops:
            return "", f"{remote} is an address of this host"
        hop = route.hops[0]
        name = self._links[hop.index].name
        return (name if hop.via is None else f"{name} via {hop.via}"), None

    # -- in

    def _arrival(self, vif: Vif) -> Arrival:
        try:
            _, index, gateway = rtroutes.parse_label(self._netlink.ask(rtlookups.lookup_label(vif.label))[0])
        except NetlinkError:
            return Arrival(vif.label, vif.interface, problem=f"the kernel does not know label {vif.label}")
        link = self._links[index]
        if link.name != vif.interface or gateway is None:
            return Arrival(vif.label, link.name, gateway, problem=f"the label leads to {link.name}")
        entry = self._neighbour(index, gateway)
        mac = entry.link_address.hex(":") if entry is not None and entry.link_address else None
        problem = _down(link)
        if problem is None and entry is not None and entry.state & _FAILED:
            problem = f"nobody answers for {gateway} on {link.name}"
        return Arrival(vif.label, link.name, gateway, mac, problem)

    def _neighbour(self, index: int, address: IPAddress) -> _Neighbour | None:
        for body in self._netlink.dump(rtlinks.RTM_GETNEIGH, rtlinks.neighbours_on(index)):
            found, held, link_address, state = rtlinks.parse_neighbour(body)
            if (found, held) == (index, address):
                return _Neighbour(link_address, state)
        return None


def _guard(vif: Vif, source: IPAddress, destination: IPAddress) -> str | None:
    """Under which reason the packet filter drops it before any lookup."""
    if destination.is_multicast or destination == _BROADCAST:
        return "multicast"
    for networks, address in ((_NO_SOURCE, source), (_NO_DESTINATION, destination)):
        if any(address in network for network in networks):
            return "martian"
    if destination.version == 6 and destination.is_link_local and destination != FIRST_HOP[6]:
        return "link-local"
    if not _has("vifs", f'"{vif.interface}"'):
        return "unguarded"
    element = f'"{vif.interface}" . {source}'
    if any(_has(f"{name}{source.version}", element) for name in ("source", "prefix")):
        return None
    return "source-address"


def _has(name: str, element: str) -> bool:
    """Whether the set of ours in the packet filter holds it."""
    command = ["nft", "get", "element", *VPN.split(), name, f"{{ {element} }}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _refused(error: NetlinkError, vif: Vif, source: IPAddress) -> tuple[Fate, str]:
    words = _REFUSED.get(error.code)
    if words is not None:
        return Fate.GUARDED, words.format(source=source, interface=vif.interface)
    return Fate.NO_ROUTE, "no route in the VRF fits" + ("" if error.code == errno.EHOSTUNREACH else f" ({error})")


def _fate(vif: Vif, ways: Sequence[Way]) -> tuple[Fate, str | None]:
    devices = {way.device for way in ways}
    if devices == {SINK}:
        return Fate.NO_ANSWER, "nothing but the last resort of its subnet fits"
    if devices == {vif.interface}:
        return Fate.OWN, None
    if all(way.problem is not None for way in ways):
        return Fate.BROKEN, ways[0].problem
    working = [way.hop for way in ways if way.problem is None]
    return (Fate.LOCAL if all(isinstance(hop, LocalHop) for hop in working) else Fate.TUNNELLED), None


def _end(link: rtlinks.Link, which: int) -> IPAddress | None:
    """A tunnel device's own end (0), or the other (1); None if it has none."""
    kinds = _ENDS.get(link.kind)
    found = link.data.get(kinds[which], b"") if kinds is not None else b""
    return ip_address(found) if any(found) else None


def _down(link: rtlinks.Link) -> str | None:
    return None if link.up else f"{link.name} is down"
