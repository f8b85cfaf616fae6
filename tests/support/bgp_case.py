"""A neighbor that sends faults, and one that looks on: the setting of the tests of bad input.

The faulty one begins with two VPNv4 routes and one VPNv6 route that the witness has been told of.  What becomes of
them is what the witness holds once it has also heard of two routes sent after the fault: the first of these leaves
the route server no earlier than the fault's consequences, the second after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.bgp_faults import ASN, OTHER, ROUTE, framed, octets
from tests.support.bgp_mirror import Mirror, Told
from tests.support.bgp_server import VPN, BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.raw_bgp import KEEPALIVE, NOTIFICATION, OPEN, VPNV4, VPNV6, RawPeer, message

BYSTANDER = "98 000111 0001c00002010005 20010db800000001"
FENCE = "98 000121 0001c00002010005 20010db800000002"
"""NLRI of 2001:db8:0:1::/64 and 2001:db8:0:2::/64, with labels."""
ROUTES = {bytes.fromhex(ROUTE), bytes.fromhex(OTHER)}
BYSTANDERS = {bytes.fromhex("98 0001c00002010005 20010db800000001")}
_FENCE_KEY = bytes.fromhex("98 0001c00002010005 20010db800000002")


class Site(NamedTuple):
    """A route server, the neighbor that looks on, and where the faulty ones come from, by kind."""

    server: BgpRouteServer
    witness: Mirror
    sources: dict[str, str]

    @classmethod
    @contextmanager
    def running(cls, directory: Path, *lines: str) -> Iterator[Site]:
        """A site of its own; `lines` are added to the configuration of each faulty neighbor."""
        sources = {kind: loopback_address() for kind in ASN}
        looking_on = loopback_address()
        neighbors = [neighbor(sources[kind], asn, *lines) for kind, asn in ASN.items()]
        neighbors.append(neighbor(looking_on, ASN["internal"], "route-reflector-client = true"))
        with BgpRouteServer(directory, *neighbors, VPN) as server:
            witness = server.mirror(looking_on)
            yield cls(server, witness, sources)
            witness.close()
            server.assert_sound()

    def view(self, kind: str) -> Any:
        """The faulty neighbor in the API."""
        return self.server.neighbor(self.sources[kind])

    def open_message(self, kind: str, hold_time: int = 90, more: str = "") -> bytes:
        """The OPEN of a faulty neighbor, with further capabilities; an old one announces no 4-octet AS numbers."""
        number = "" if kind == "old" else f"4104 {ASN[kind]:08x}"
        capabilities = bytes.fromhex(f"0104 0001 0080 0104 0002 0080 {number} {more}")
        parameters = bytes((2, len(capabilities))) + capabilities
        fixed = bytes.fromhex(f"04 {ASN[kind]:04x} {hold_time:04x}") + ip_address(self.sources[kind]).packed
        return message(OPEN, fixed + bytes((len(parameters),)) + parameters)

    def connected(self, kind: str, hold_time: int = 90, more: str = "") -> RawPeer:
        """An established session of the faulty neighbor."""
        peer = self.server.dial(self.sources[kind])
        peer.send(self.open_message(kind, hold_time, more) + message(KEEPALIVE))
        assert peer.read()[0] == OPEN
        assert peer.read()[0] == KEEPALIVE
        return peer


class Case:
    """One session of a faulty neighbor, its three routes told to the witness. Leaving it ends it, routes and all."""

    def __init__(self, site: Site, kind: str, peer: RawPeer) -> None:
        self.site, self.kind, self.peer = site, kind, peer
        self._fences = 0
        self._malformed = site.view(kind)["malformed-updates"]

    @classmethod
    def begun(cls, site: Site, kind: str, more: str = "") -> Case:
        """The session is up, with `more` capabilities, and the routes are told."""
        case = cls(site, kind, site.connected(kind, more=more))
        case.peer.send(case.routes())
        site.witness.wait(lambda _: case.seen() == (ROUTES, BYSTANDERS), "the three routes are told")
        return case

    def routes(self) -> bytes:
        """The UPDATEs that announce the three routes."""
        both = [f"{{{piece}}}{{origin}}{{path}}{{pref}}{{rt}}" for piece in ("reach", "reach_other")]
        return b"".join(framed(octets(each, self.kind)) for each in both) + vpnv6(self.kind, BYSTANDER)

    def seen(self) -> tuple[set[bytes], set[bytes]]:
        """The keys the witness holds, VPNv4 and VPNv6, without the fence."""
        routes = self.site.witness.snapshot()
        return set(routes.get(VPNV4, ())), set(routes.get(VPNV6, ())) - {_FENCE_KEY}

    def told(self) -> Told:
        """What the witness was told of the route."""
        return self.site.witness.snapshot()[VPNV4][bytes.fromhex(ROUTE)]

    def settle(self) -> None:
        """Until what was sent before has had its effect on the witness."""
        self._pass_fence()
        self._pass_fence()

    def _pass_fence(self) -> None:
        self._fences += 1
        med = f"800404 {self._fences:08x}"
        self.peer.send(vpnv6(self.kind, FENCE, med))
        expected = bytes.fromhex(med)
        self.site.witness.wait(lambda _: self._fence_med() == expected, "the fence is told")

    def _fence_med(self) -> bytes | None:
        told = self.site.witness.snapshot().get(VPNV6, {}).get(_FENCE_KEY)
        return None if told is None else told.attributes.get(4)

    def assert_malformed(self, more: int) -> None:
        """How many more UPDATEs are counted as malformed; the session is still up."""
        view = self.site.view(self.kind)
        assert (view["state"], view["malformed-updates"]) == ("established", self._malformed + more)

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()
        self.site.witness.wait(lambda witness: not witness.snapshot(), "the peer's routes are gone")


def vpnv6(kind: str, nlri: str, more: str = "") -> bytes:
    """An UPDATE that announces this VPNv6 NLRI."""
    value = bytes.fromhex(f"0002 80 18 {'00' * 8} 20010db8{'00' * 11}01 00 {nlri}")
    return framed(bytes((0x80, 14, len(value))) + value + octets(f"{{origin}}{{path}}{more}{{pref}}{{rt}}", kind))


def notification(peer: RawPeer) -> str:
    """The NOTIFICATION that comes, in hex, after which there is nothing."""
    body = peer.read_until(NOTIFICATION)
    with pytest.raises((EOFError, ConnectionResetError)):
        peer.read()
    return body.hex()
