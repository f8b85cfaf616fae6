"""Values for tests of the RIB and the core, said in few words: route targets, attributes, items, paths, sources.

Every function makes a real value of the product's own types; there are no stand-ins here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from routeserver.bgp.attributes import AS_SEQUENCE, PathAttributes
from routeserver.bgp.communities import encapsulation_community, mobility_community, parse_route_target
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import RouteDistinguisher, RtMembership, vpn_family, vpn_key
from routeserver.rib.path import Path, Published, Source, SourceKind
from routeserver.settings import VpnSettings
from schema.items import RouteItem
from schema.values import Encapsulation, NextHop

LOCAL_AS = 64512
ROUTER_ID = IPv4Address("127.0.1.1")
GRE = Encapsulation.GRE
UDP = Encapsulation.UDP


def rts(*texts: str) -> frozenset[bytes]:
    return frozenset(map(parse_route_target, texts))


def rt(text: str) -> bytes:
    return parse_route_target(text)


def vpn(name: str, imports: Sequence[str], exports: Sequence[str] | None = None, **settings: Any) -> VpnSettings:
    """A VPN; without `exports` they are the imports."""
    return VpnSettings(name, rts(*imports), rts(*(imports if exports is None else exports)), **settings)


def hop(address: str = "192.0.2.1", label: int = 16, encapsulations: Iterable[Encapsulation] = (GRE,)) -> NextHop:
    return NextHop(ip_address(address), label, tuple(encapsulations))


def item(prefix: str, *hops: NextHop, seq: int = 0, lp: int = 100) -> RouteItem:
    """An item; without hops one of `hop()`."""
    return RouteItem(ip_network(prefix), hops or (hop(),), seq, lp)


def attributes(
    targets: Sequence[str] = ("64512:100",),
    next_hop: str = "198.51.100.10",
    *,
    encapsulations: Iterable[Encapsulation] = (),
    seq: int = 0,
    as_path: Sequence[int] = (),
    extra: Sequence[bytes] = (),
    **others: Any,
) -> PathAttributes:
    """Attributes as another PE would send them; no encapsulations means no word about them."""
    communities = [*map(parse_route_target, targets), *map(encapsulation_community, encapsulations)]
    if seq:
        communities.append(mobility_community(seq))
    return PathAttributes(
        next_hop=ip_address(next_hop),
        as_path=((AS_SEQUENCE, tuple(as_path)),) if as_path else (),
        ext_communities=(*communities, *extra),
        **others,
    )


def key(rd: str, prefix: str) -> bytes:
    return vpn_key(RouteDistinguisher.parse(rd), ip_network(prefix))


def membership_key(target: str, origin_as: int = LOCAL_AS, bits: int = 64) -> bytes:
    """An RT-Constraint NLRI; fewer `bits` than 64 make it a partial one."""
    kept = int.from_bytes(rt(target)) >> (64 - bits) << (64 - bits)
    return RtMembership(origin_as, kept.to_bytes(8), bits).key


def ibgp(name: str = "127.0.2.1", peer_id: str | None = None, *, client: bool = False) -> Source:
    return Source(name, SourceKind.IBGP, IPv4Address(peer_id or name), client)


def ebgp(name: str = "127.0.3.1", peer_id: str | None = None) -> Source:
    return Source(name, SourceKind.EBGP, IPv4Address(peer_id or name))


def local(name: str = "host1.example.net") -> Source:
    return Source(name, SourceKind.LOCAL, ROUTER_ID)


def bgp_path(
    source: Source, rd: str, prefix: str, attrs: PathAttributes | None = None, label: int = 20, *, stale: bool = False
) -> Path:
    family = vpn_family(ip_network(prefix))
    return Path(source, family, key(rd, prefix), label, attrs or attributes(), None, stale)


def published_path(
    source: Source, node: str, item_id: str, route: RouteItem, rd: str = "192.0.2.1:1", targets: Sequence[str] = ()
) -> Path:
    first = route.next_hops[0]
    attrs = attributes(
        targets or ("64512:100",),
        str(first.address),
        encapsulations=first.encapsulations,
        seq=route.sequence_number,
        local_pref=route.local_preference,
    )
    published = Published(node, item_id, route)
    return Path(source, vpn_family(route.prefix), key(rd, str(route.prefix)), first.label, attrs, published)


def membership(source: Source, membership_key: bytes, **attrs: Any) -> Path:
    return Path(source, Family.RTC, membership_key, 0, attributes((), **attrs))
