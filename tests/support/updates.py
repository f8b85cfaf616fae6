"""UPDATE messages put together octet by octet, right or wrong, for the tests of the BGP codec."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from routeserver.bgp.attribute_codec import AttributeContext, split
from routeserver.bgp.attribute_reading import AttributeReader, DecodedAttributes
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.iana import Family
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import MessageType, frame

INTERNAL = AttributeContext(peer_as=64512, external=False, four_octet_as=True)
EXTERNAL = AttributeContext(peer_as=64513, external=True, four_octet_as=True)
OLD = AttributeContext(peer_as=64513, external=True, four_octet_as=False)
"""An external peer that knows 2-octet AS numbers only."""

ROUTE = bytes.fromhex("780001010001c000020100050a010201")
ROUTE_KEY = bytes.fromhex("780001c000020100050a010201")
OTHER_ROUTE = bytes.fromhex("788000000001c000020100050a010202")
OTHER_KEY = bytes.fromhex("780001c000020100050a010202")
NEXT_HOP = bytes(8) + IPv4Address("192.0.2.1").packed
V6_ROUTE = bytes.fromhex("d80001110001c0000201000520010db8000000000000000000000001")
V6_KEY = bytes.fromhex("d80001c0000201000520010db8000000000000000000000001")
RTC_NLRI = bytes.fromhex("600000fc000002fc0000000064")

OPTIONAL, TRANSITIVE, WELL_KNOWN = 0x80, 0xC0, 0x40


def attribute(flags: int, kind: int, value: bytes | str, extended: bool = False) -> bytes:
    value = bytes.fromhex(value) if isinstance(value, str) else value
    if extended or len(value) > 255:
        return bytes((flags | 0x10, kind)) + len(value).to_bytes(2, "big") + value
    return bytes((flags, kind, len(value))) + value


def mp_reach(
    nlri: bytes = ROUTE, next_hop: bytes = NEXT_HOP, afi: int = 1, safi: int = 128, flags: int = OPTIONAL
) -> bytes:
    head = afi.to_bytes(2, "big") + bytes((safi, len(next_hop)))
    return attribute(flags, 14, head + next_hop + b"\0" + nlri)


def mp_unreach(nlri: bytes = OTHER_ROUTE, afi: int = 1, safi: int = 128, flags: int = OPTIONAL) -> bytes:
    return attribute(flags, 15, afi.to_bytes(2, "big") + bytes((safi,)) + nlri)


def update(*attributes: bytes, withdrawn: bytes = b"", nlri: bytes = b"") -> bytes:
    """A whole UPDATE message."""
    area = b"".join(attributes)
    lengths = len(withdrawn).to_bytes(2, "big"), len(area).to_bytes(2, "big")
    return frame(MessageType.UPDATE, lengths[0] + withdrawn + lengths[1] + area + nlri)


def base(context: AttributeContext, without: int | None = None) -> list[bytes]:
    """The mandatory attributes as this peer has to send them, but for one type."""
    if not context.external:
        path = b""
    else:
        path = b"\x02\x01" + context.peer_as.to_bytes(4 if context.four_octet_as else 2, "big")
    attributes = {1: attribute(WELL_KNOWN, 1, b"\0"), 2: attribute(WELL_KNOWN, 2, path)}
    if not context.external:
        attributes[5] = attribute(WELL_KNOWN, 5, "00000064")
    return [octets for kind, octets in attributes.items() if kind != without]


def decoder(context: AttributeContext, *families: Family) -> UpdateDecoder:
    """A decoder for these families, or all of them, without extensions."""
    return UpdateDecoder(context, frozenset(families or Family))


def read_attributes(octets: bytes, context: AttributeContext) -> DecodedAttributes:
    """What attributes without MP_REACH and MP_UNREACH come to."""
    return DecodedAttributes([whole or value for _, _, value, whole in split(octets)], AttributeReader(context))


def refusal_code(call: Callable[[], object]) -> int | None:
    """The code of the NOTIFICATION a call asks for; any other exception is the test's failure."""
    try:
        call()
    except NotificationError as error:
        return error.code
    return None
