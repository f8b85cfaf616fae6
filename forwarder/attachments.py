"""Virtual interfaces of this host and the VPNs they belong to.

An attachment is what an orchestrator asked for, keyed by its id, never by interface name.  It says nothing
about labels, tables or tunnels: those are given by `labels` and derived by the data plane.

`parse_attachment` is the one gate for attachments, whether they come from the API or from the state file.  It takes
text and refuses with a sentence what could not be served: the addresses of an attachment are addresses of the
virtual interface itself (draft section 5), so each is one host, unicast, routable and named once.  Its prefixes are
networks that the VM routes, being a router itself: they are reached by way of its address of the same family.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from schema.values import DEFAULT_LOCAL_PREFERENCE, UINT32_MAX, IPAddress, IPNetwork

_NAME_MAX = 255
_VPN_MAX = 1023
VLAN_FIRST, VLAN_LAST = 1, 4094
"""0 is no VLAN but a priority, 4095 is reserved (IEEE 802.1Q)."""
_INTERFACE_MAX = 15  # IFNAMSIZ less the terminating zero
_RATE_UNITS = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_RATE_MAX = 1_000_000_000_000
_NOT_ROUTED = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
        *("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
)
"""Neither these nor a part of them is ever a VPN route; what is wider may be, a default route for one."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Mode(enum.StrEnum):
    """How the VM sees its first hop (draft section 4)."""

    POINT_TO_POINT = "point-to-point"
    SUBNET = "subnet"


@dataclass(frozen=True, slots=True)
class Vlan:
    """Where an end-system behind this forwarder is found (draft section 4): the port towards it, and an 802.1Q tag."""

    parent: str
    tag: int

    def __str__(self) -> str:
        return f"{self.parent}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One `attach`. Addresses are host addresses; `mac` is lower-case colon form; `rate` is in bits per second.

    `sequence_number` is the one to publish with, None to have it decided; anycast means the same one everywhere.
    With a `vlan` the interface is a sub-interface that the data plane makes and takes away.
    """

    id: str
    vpn: str
    interface: str
    addresses: tuple[IPAddress, ...]
    mac: str | None = None
    rate: int | None = None
    mode: Mode = Mode.POINT_TO_POINT
    vlan: Vlan | None = None
    prefixes: tuple[IPNetwork, ...] = ()
    sequence_number: int | None = None
    local_preference: int = DEFAULT_LOCAL_PREFERENCE

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """What is published: every address as a network of one, and every prefix."""
        return (*(ipaddress.ip_network(address) for address in self.addresses), *self.prefixes)


class AttachmentError(ValueError):
    """What was asked for cannot be served; the text names the field and the reason."""


def parse_attachment(
    attachment_id: str,
    *,
    vpn: str,
    interface: str,
    addresses: Sequence[str],
    mac: str | None = None,
    rate: str | None = None,
    mode: str = Mode.POINT_TO_POINT,
    vlan: str | None = None,
    prefixes: Sequence[str] = (),
    sequence_number: int | None = None,
    local_preference: int = DEFAULT_LOCAL_PREFERENCE,
) -> Attachment:
    """Check every field and put it in our own terms. Raises AttachmentError."""
    chosen = _mode(mode)
    hosts = _addresses(addresses)
    return Attachment(
        _word("id", attachment_id, _NAME_MAX),
        _word("vpn", vpn, _VPN_MAX),
        _interface(interface),
        hosts,
        None if mac is None else _mac(mac),
        None if rate is None else parse_rate(rate),
        chosen,
        None if vlan is None else _vlan(vlan),
        _prefixes(prefixes, hosts),
        None if sequence_number is None else _uint32("sequence-number", sequence_number),
        _uint32("local-preference", local_preference),
    )


def parse_rate(text: str) -> int:
    """Bits per second from "100mbit" (bit, kbit, mbit, gbit; powers of ten). Raises AttachmentError."""
    match = re.fullmatch(r"(\d{1,12})(bit|kbit|mbit|gbit)", text, re.ASCII)
    rate = int(match[1]) * _RATE_UNITS[match[2]] if match else 0
    if not 0 < rate <= _RATE_MAX:
        raise AttachmentError(
            f'rate: {text!r} is not a rate like "100mbit" (units bit, kbit, mbit, gbit; up to 1 Tbit/s)'
        )
    return rate


def rate_text(rate: int) -> str:
    """The shortest text `parse_rate` reads back as the same number."""
    unit = next(u for u in reversed(_RATE_UNITS) if rate % _RATE_UNITS[u] == 0)
    return f"{rate // _RATE_UNITS[unit]}{unit}"


def _word(field: str, text: str, longest: int) -> str:
    if not 1 <= len(text) <= longest or any(not "!" <= c <= "~" or c == "/" for c in text):
        raise AttachmentError(f"{field}: must be 1 to {longest} printable ASCII characters without spaces and slashes")
    return text


def _interface(text: str) -> str:
    if text in (".", ".."):
        raise AttachmentError(f"interface: {text!r} is not a name the kernel takes")
    return _word("interface", text, _INTERFACE_MAX)


def _vlan(text: str) -> Vlan:
    """From "PORT:TAG"; no device has a colon in its name."""
    match = re.fullmatch(r"([^:]+):(\d{1,4})", text, re.ASCII)
    if not match or not VLAN_FIRST <= int(match[2]) <= VLAN_LAST:
        raise AttachmentError(
            f'vlan: {text!r} is not a port and a tag like "eth1:100" (tags {VLAN_FIRST} to {VLAN_LAST})'
        )
    return Vlan(_interface(match[1]), int(match[2]))


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise AttachmentError(f"mode: {text!r} is neither point-to-point nor subnet") from None


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise AttachmentError(f"mac: {text!r} is not six pairs of hexadecimal digits")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise AttachmentError(f"mac: {text} is not the address of one station")
    return mac


def _addresses(texts: Sequence[str]) -> tuple[IPAddress, ...]:
    hosts = tuple(_host(text) for text in texts)
    if not hosts:
        raise AttachmentError("addresses: at least one is needed")
    for index, host in enumerate(hosts):
        if host in hosts[:index]:
            raise AttachmentError(f"addresses: {host} is given twice")
    return hosts


def _host(text: str) -> IPAddress:
    address, slash, length = text.partition("/")
    try:
        host = ipaddress.ip_address(address)
    except ValueError:
        raise AttachmentError(f"addresses: {text[:50]!r} is not an IPv4 or IPv6 address") from None
    if slash and length != str(host.max_prefixlen):
        raise AttachmentError(
            f"addresses: {text} is not one host, and attached addresses are host addresses: "
            f"write {host}/{host.max_prefixlen}"
        )
    if isinstance(host, ipaddress.IPv6Address) and (host.scope_id is not None or host.ipv4_mapped is not None):
        raise AttachmentError(f"addresses: {text} has a zone or maps an IPv4 address")
    if host.is_multicast or host.is_unspecified or host.is_loopback or host.is_link_local:
        raise AttachmentError(f"addresses: {text} is not a routable unicast address")
    if host == ipaddress.IPv4Address("255.255.255.255"):
        raise AttachmentError(f"addresses: {text} is the broadcast address")
    return host


def _prefixes(texts: Sequence[str], hosts: tuple[IPAddress, ...]) -> tuple[IPNetwork, ...]:
    networks = tuple(_network(text) for text in texts)
    for index, network in enumerate(networks):
        version = network.version
        if network in networks[:index]:
            raise AttachmentError(f"prefixes: {network} is given twice")
        if network.prefixlen == network.max_prefixlen and network.network_address in hosts:
            raise AttachmentError(f"prefixes: {network} is an address of the interface, and published as that")
        if all(host.version != version for host in hosts):
            raise AttachmentError(
                f"prefixes: {network} would be reached by way of an IPv{version} address of the interface: give it one"
            )
    return networks


def _network(text: str) -> IPNetwork:
    try:
        inside = ipaddress.ip_interface(text)
    except ValueError:
        raise AttachmentError(f"prefixes: {text[:50]!r} is not an IPv4 or IPv6 prefix") from None
    network: IPNetwork = inside.network
    if not re.fullmatch(r"[^/%]+/\d{1,3}", text, re.ASCII):
        raise AttachmentError(f"prefixes: {text[:50]} is not an address, a slash and a length, like {network}")
    if inside.ip != network.network_address:
        raise AttachmentError(f"prefixes: {text} has bits set beyond its length: write {network}")
    for reserved in _NOT_ROUTED:
        if network.version == reserved.version and network.subnet_of(reserved):  # type: ignore[arg-type]
            raise AttachmentError(f"prefixes: {text} is not routable: it is within {reserved}")
    return network


def _uint32(field: str, number: int) -> int:
    if not 0 <= number <= UINT32_MAX:
        raise AttachmentError(f"{field}: {number} is outside 0..{UINT32_MAX}")
    return number
