"""`RouteItem`, the payload of a VPN node, and its XML both ways.

Reading uses nothing but the Element API that lxml and `xml.etree` share, so that the route server (lxml) and the
forwarder (slixmpp, xml.etree) read with one piece of code.  Writing makes text: every value is a number, an
address or a word of ours, so nothing needs escaping, and an item is serialised once however many read it.

`read_entry` holds a publisher to every rule beyond the XSD; run `validation.check_entry` before it, for
structure.  `read_offered_entry` is for what a route server sends to a forwarder: it skips elements and
encapsulations it does not know and judges only what it uses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from schema.names import NS_UNICAST
from schema.values import (
    DEFAULT_LOCAL_PREFERENCE,
    LABEL_MAX,
    LABEL_MIN,
    UINT32_MAX,
    Encapsulation,
    IPAddress,
    IPNetwork,
    NextHop,
)

ENTRY_TAG = f"{{{NS_UNICAST}}}entry"
_NS = f"{{{NS_UNICAST}}}"
_SAFI = (1, 128)
_AF_VERSION = {1: 4, 2: 6}
_NETWORK: dict[int, type[IPNetwork]] = {4: ipaddress.IPv4Network, 6: ipaddress.IPv6Network}
_NEXT_HOPS_REMEMBERED = 4096
_ENCAPSULATIONS = {e.value: e for e in Encapsulation}
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_NEXT_HOP = _NS + "next-hop"
_TUNNEL = _NS + "tunnel-encapsulation"


class ItemError(ValueError):
    """An entry breaks a rule; the text names the element and the rule."""


class Element(Protocol):
    """What lxml's and xml.etree's elements have in common, as far as it is used here."""

    @property
    def tag(self) -> Any: ...

    @property
    def text(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


_Members: TypeAlias = dict[Any, Element]
"""An element's children by tag."""


@dataclass(frozen=True, slots=True)
class RouteItem:
    """What a publisher says of one prefix, or a route server of its selected paths (draft section 6)."""

    prefix: IPNetwork
    next_hops: tuple[NextHop, ...]
    sequence_number: int = 0
    local_preference: int = DEFAULT_LOCAL_PREFERENCE


def read_entry(entry: Element) -> RouteItem:
    """A publisher's `<entry>`, strictly. Raises ItemError."""
    return _read(entry, strict=True)


def read_offered_entry(entry: Element) -> RouteItem:
    """A route server's `<entry>`, leniently. Raises ItemError when what it uses makes no sense."""
    return _read(entry, strict=False)


def _read(entry: Element, *, strict: bool) -> RouteItem:
    members = _members(entry)
    nlri = _members(_child(members, "nlri"))
    safi = nlri.get(_NS + "safi")
    if safi is not None and _number(safi.text, "safi", 0, 255) not in _SAFI:
        raise ItemError("safi: only 1 and 128 (unicast) are known")
    hops = tuple(_next_hop(_members(hop), strict) for hop in _child(members, "next-hops") if hop.tag == _NEXT_HOP)
    if not hops:
        raise ItemError("next-hops: empty")
    prefix = _prefix(nlri)
    if strict and prefix.version == 6 and prefix.is_link_local:
        raise ItemError(f"nlri address: {prefix} is link-local and never a VPN route (RFC 4659 section 5)")
    return RouteItem(
        prefix,
        hops,
        _optional(members, "sequence-number", 0),
        _optional(members, "local-preference", DEFAULT_LOCAL_PREFERENCE),
    )


def _members(element: Element) -> _Members:
    """Children by tag, in one pass: asking an element for them one by one takes twice as long."""
    return {child.tag: child for child in element}


def _child(members: _Members, name: str) -> Element:
    child = members.get(_NS + name)
    if child is None:
        raise ItemError(f"{name}: missing")
    return child


def _text(members: _Members, name: str) -> str:
    return _child(members, name).text or ""


def _number(text: str | None, name: str, low: int, high: int) -> int:
    if not text or len(text) > 10 or not (text.isascii() and text.isdigit()):
        raise ItemError(f"{name}: {(text or '')[:20]!r} is not a number of 1 to 10 digits")
    value = int(text)
    if not low <= value <= high:
        raise ItemError(f"{name}: {value} is outside {low}..{high}")
    return value


def _optional(members: _Members, name: str, default: int) -> int:
    child = members.get(_NS + name)
    return default if child is None else _number(child.text, name, 0, UINT32_MAX)


def _version(members: _Members) -> int:
    return _AF_VERSION[_number(_text(members, "af"), "af", 1, 2)]


def _prefix(nlri: _Members) -> IPNetwork:
    version, text = _version(nlri), _text(nlri, "address")
    network, _, length = text.partition("/")
    address = _parse_address(network, version, "nlri address")
    bits = _number(length, "nlri prefix length", 0, address.max_prefixlen) if "/" in text else address.max_prefixlen
    try:
        # From a number: `ipaddress` would write an address out as text and parse that.
        return _NETWORK[version]((int(address), bits))
    except ValueError:
        raise ItemError(f"nlri address: {text} has host bits set") from None


def _parse_address(text: str, version: int, name: str) -> IPAddress:
    try:
        address = ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text)
    except ValueError:
        raise ItemError(f"{name}: {text[:50]!r} is not an IPv{version} address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ItemError(f"{name}: {text[:50]!r} has a zone, which means nothing to others")
    return address


def _next_hop(hop: _Members, strict: bool) -> NextHop:
    address = _unicast(_text(hop, "address"), _version(hop))
    label = _number(_text(hop, "label"), "label", LABEL_MIN, LABEL_MAX)
    listed = hop.get(_NS + "tunnel-encapsulation-list")
    if listed is None:
        return NextHop(address, label)
    encapsulations = tuple(dict.fromkeys(_encapsulations(listed, strict)))
    if strict and not encapsulations:
        raise ItemError("tunnel-encapsulation-list: empty")
    return NextHop(address, label, encapsulations)


@lru_cache(_NEXT_HOPS_REMEMBERED)
def _unicast(text: str, version: int) -> IPAddress:
    """The address of a next hop. Remembered, because a forwarder has thousands of routes and one address or two."""
    address = _parse_address(text, version, "next-hop address")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or address == _BROADCAST:
        raise ItemError(f"next-hop address: {address} is not a unicast address")
    return address


def _encapsulations(listed: Element, strict: bool) -> Iterator[Encapsulation]:
    for element in listed:
        if element.tag != _TUNNEL:
            continue
        known = _ENCAPSULATIONS.get(element.text or "")
        if known is not None:
            yield known
        elif strict:
            raise ItemError(f"tunnel-encapsulation: {(element.text or '')[:20]!r} is not known")


def entry_xml(item: RouteItem) -> str:
    """The `<entry>` of an item: the draft's order, prefix with length, defaults left out, lists always."""
    hops = "".join(map(_next_hop_xml, item.next_hops))
    tail = f"<sequence-number>{item.sequence_number}</sequence-number>" if item.sequence_number else ""
    if item.local_preference != DEFAULT_LOCAL_PREFERENCE:
        tail += f"<local-preference>{item.local_preference}</local-preference>"
    af = 1 if item.prefix.version == 4 else 2
    return (
        f'<entry xmlns="{NS_UNICAST}"><nlri><af>{af}</af><address>{item.prefix}</address></nlri>'
        f"<next-hops>{hops}</next-hops>{tail}</entry>"
    )


def _next_hop_xml(hop: NextHop) -> str:
    af = 1 if hop.address.version == 4 else 2
    tunnels = "".join(f"<tunnel-encapsulation>{e.value}</tunnel-encapsulation>" for e in hop.encapsulations)
    return (
        f"<next-hop><af>{af}</af><address>{hop.address}</address><label>{hop.label}</label>"
        f"<tunnel-encapsulation-list>{tunnels}</tunnel-encapsulation-list></next-hop>"
    )
