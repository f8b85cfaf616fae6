"""The rules of the packet filters, as nft text.  Pure.

`es-port` (netdev) sees every frame of a virtual interface before any protocol does, in a chain per device: frames of
another MAC than the VM's, VLAN tags, labels, all that is neither IP nor ARP, and ARP that speaks for anybody else end
there.  In what goes to the device it lowers the segment size of TCP, if a tunnel would not carry it.

`es-vpn` (inet) checks the addresses of what is left, against sets of interface and address; what tenants send to the
host itself; and, as a second line behind the VRFs' own, by which device forwarded packets come and go.

`es-under` (inet) lets only the configured peers hand us tunnelled packets, in any of the forms that could carry a
label: GRE, UDP to port 6635, and plain MPLS-in-IP, which the kernel would take at the same devices (RFC 4023 section
8, RFC 7510 section 6).  It looks at what is addressed to the host: tenants' own tunnels inside a VPN are not its
business.  Only what can be told is let through: a first IPv6 fragment has all headers (RFC 8200 section 4.5).

Each reason to drop a packet (`drop_reasons`) has a chain that counts it under its interface and ends it.  Counting
and dropping are two rules, because a rule ends where its set is full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final

from forwarder.dataplane.linux.drop_reasons import PORT, REASONS, UNDER, VPN, Key
from forwarder.dataplane.linux.names import DEVICE_PREFIXES, FIRST_HOP, MARKED, SINK
from schema.values import IPNetwork

METERS: Final = ("solicitations", "pings")
"""Sets that hold a rate per interface."""
_MOST_INTERFACES: Final = 65535
_TUNNELS: Final = [prefix for prefix in DEVICE_PREFIXES if prefix != "esv-"]
_FIRST4, _FIRST6 = FIRST_HOP[4], FIRST_HOP[6]
_SYN: Final = "tcp flags & (syn|rst) == syn tcp option maxseg size set"
_TCP_OVER: Final = {"ip": 40, "ip6": 60}
"""Octets of headers before a segment."""

_SETS: Final[Mapping[str, Mapping[str, str]]] = {
    PORT: {},
    VPN: {
        "vifs": "type ifname;",
        "source4": "type ifname . ipv4_addr;",
        "source6": "type ifname . ipv6_addr;",
        "prefix4": "type ifname . ipv4_addr; flags interval;",
        "prefix6": "type ifname . ipv6_addr; flags interval;",
        **dict.fromkeys(METERS, f"type ifname; flags dynamic; size {_MOST_INTERFACES};"),
    },
    UNDER: {"peers4": "type ipv4_addr; flags interval;", "peers6": "type ipv6_addr; flags interval;"},
}
_COUNT: Final[Mapping[Key, Sequence[str]]] = {
    Key.ARRIVED_BY: ("update @drop-{reason} {{ iifname counter }}",),
    # IPv4 and global IPv6 have come to the VRF device by now, link-local IPv6 is still at the interface
    Key.IN_VRF: (
        'iifname "esv-*" update @drop-{reason} {{ meta sdifname counter }}',
        'iifname != "esv-*" update @drop-{reason} {{ iifname counter }}',
    ),
}
Chains = Mapping[str, Sequence[str]]
"""Rules by chain; a base chain's name is followed by its hook."""

_FRAMES: Final[Chains] = {
    "own-arp": (
        "ether type != arp goto drop-vlan",
        "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 accept",
        "goto drop-arp",
    ),
    "frame": (
        "meta pkttype other goto drop-destination-mac",
        "ether type { 8021q, 8021ad, 0x9100 } goto drop-vlan",
        "ether type { 0x8847, 0x8848 } goto drop-labelled",
        "ether type arp goto drop-arp",
        "meta protocol != ip meta protocol != ip6 goto drop-not-ip",  # a set that is replaced may miss a packet
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        "ip saddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 } goto drop-martian",
        "ip daddr { 0.0.0.0/8, 127.0.0.0/8, 240.0.0.0-255.255.255.254 } goto drop-martian",
        "ip6 saddr { ::1, ::ffff:0.0.0.0/96, ff00::/8 } goto drop-martian",
        "ip6 daddr { ::, ::1, ::ffff:0.0.0.0/96 } goto drop-martian",
    ),
}
_CLASSES: Final = range(1, 64)
"""Those of differentiated services but the default (RFC 2474 section 3)."""
_CLASS_MARK: Final = MARKED | 1 << 29
_NOTED: Final = ", ".join(f"{dscp} : {_CLASS_MARK | dscp:#x}" for dscp in _CLASSES)
_CLASS_COPIED: Final[Chains] = {
    "sent { type filter hook output priority mangle; }": (
        f"meta mark & {~63 & 0xFFFFFFFF:#x} == {_CLASS_MARK:#x} goto class",
    ),
    "class": (
        "meta mark vmap {{ {} }}".format(
            ", ".join(f"{_CLASS_MARK | dscp:#x} : goto class-{dscp}" for dscp in _CLASSES)
        ),
    ),
    **{f"class-{dscp}": ("meta mark set 0", f"ip dscp set {dscp}", f"ip6 dscp set {dscp}") for dscp in _CLASSES},
}
"""A tunnel cannot see the class of a packet that is labelled (RFC 2983 section 3): it is noted in the mark before."""
_PACKETS: Final[Chains] = {
    **_CLASS_COPIED,
    "from-tenant { type filter hook prerouting priority raw; }": (
        "iifname @vifs jump check",
        *(f'iifname "{prefix}*" goto drop-unlabelled' for prefix in _TUNNELS),
    ),
    "check": (
        f"udp sport 68 udp dport 67 ip daddr {{ 255.255.255.255, {_FIRST4} }} goto drop-answered",
        f"udp sport 546 udp dport 547 ip6 daddr {{ ff02::1:2, {_FIRST6} }} goto drop-answered",
        "ip option lsrr exists goto drop-source-route",
        "ip option ssrr exists goto drop-source-route",
        "rt type 0 goto drop-source-route",
        "icmpv6 type { nd-router-advert, nd-redirect } goto drop-forged-nd",
        "icmpv6 type nd-router-solicit goto drop-answered",
        "icmpv6 type nd-neighbor-solicit goto solicit",
        "icmpv6 type nd-neighbor-advert goto neighbor",
        "ip daddr { 224.0.0.0/4, 255.255.255.255 } goto drop-multicast",
        "ip6 daddr ff00::/8 goto drop-multicast",
        f"ip6 daddr fe80::/10 ip6 daddr != {_FIRST6} goto drop-link-local",
        f"ip daddr {_FIRST4} icmp type echo-request goto ping",
        f"ip6 daddr {_FIRST6} icmpv6 type echo-request goto ping",
        f"ip6 saddr fe80::/10 ip6 daddr {_FIRST6} return",
        "ip6 saddr fe80::/10 goto drop-link-local",
        "goto source",
    ),
    # The kernel answers for the first hop; for all others the forwarder, which has its copy before this hook.
    "solicit": (
        "ip6 saddr :: goto drop-answered",
        f"@th,64,128 != {int(_FIRST6):#x} goto drop-answered",
        "goto neighbor",
    ),
    # An entry per link-local source is what a VM can fill the host's neighbour table with.
    "neighbor": (
        "update @solicitations { iifname limit rate over 20/second burst 40 packets } goto drop-flood",
        "ip6 saddr fe80::/10 return",
        "goto source",
    ),
    "ping": (
        "update @pings { iifname limit rate over 10/second burst 20 packets } goto drop-flood",
        "ip6 saddr fe80::/10 return",
        "goto source",
    ),
    "source": (
        "iifname . ip saddr @source4 return",
        "iifname . ip6 saddr @source6 return",
        "iifname . ip saddr @prefix4 return",
        "iifname . ip6 saddr @prefix6 return",
        "goto drop-source-address",
    ),
    "to-host { type filter hook input priority -20; }": (
        'iifname "esv-*" jump tenant-to-host',
        "iifname @vifs jump tenant-to-host",
    ),
    "tenant-to-host": (
        "icmp type echo-request return",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, echo-request } return",
        "meta l4proto { 4, 41, 47, 50, 51, 137 } goto drop-tunnelled-to-host",
        "udp dport { 4754, 4789, 4790, 6081, 6635, 6636, 8472 } goto drop-tunnelled-to-host",
        "goto drop-host-service",
    ),
    "forwarded { type filter hook forward priority -20; }": (
        'iifname "esv-*" goto from-vrf',
        "iifname @vifs goto drop-no-tunnel",
        "oifname @vifs goto drop-unlabelled",
    ),
    "from-vrf": (
        f"meta mark & {MARKED | 1 << 31:#x} == {MARKED:#x} meta mark set 0",  # it has done its duty: see `marking`
        *(f"{family} dscp != 0 meta mark set {family} dscp map {{ {_NOTED} }}" for family in ("ip", "ip6")),
        "meta sdifname != @vifs goto drop-unguarded",
        f"{_SYN} rt mtu",
        *(f'oifname "{prefix}*" return' for prefix in _TUNNELS),
        "oifname @vifs return",
        f'oifname "{SINK}" update @drop-no-route {{ meta sdifname counter }}',
        f'oifname "{SINK}" drop',
        "goto drop-no-tunnel",
    ),
    "told { type filter hook output priority filter; }": (
        "oifname @vifs icmp type destination-unreachable icmp code { net-unreachable, host-unreachable } "
        "update @drop-no-route { oifname counter }",
        "oifname @vifs icmpv6 type destination-unreachable icmpv6 code no-route "
        "update @drop-no-route { oifname counter }",
    ),
}
_TUNNELLED: Final[Chains] = {
    "to-host { type filter hook input priority -10; }": (
        "frag frag-off 0 jump first-fragment",
        "meta l4proto { 47, 137 } jump tunnelled",
        "meta nfproto ipv6 udp dport 6635 udp checksum 0 goto drop-tunnel-checksum",  # RFC 7510 section 3.1
        "udp dport 6635 jump tunnelled",
    ),
    # IPv6 is put together behind this hook: of what the first fragment does not say, nobody here would ever hear.
    "first-fragment": (
        "udp dport != 0 return",
        "meta l4proto != 17 return",  # of headers that end too early this says nothing, neither yes nor no
        "goto drop-headless-fragment",
    ),
    "tunnelled": (
        "ip saddr @peers4 return",
        "ip6 saddr @peers6 return",
        "goto drop-unknown-tunnel-source",
    ),
}


def tables_script(peers: Sequence[IPNetwork], mtu: int, held: Collection[str] = ()) -> str:
    """All tables with all rules, in one transaction; interfaces and counts that are there stay.

    `mtu` is the longest packet that every tunnel takes.  `held` are the peers there are: who stays one is not touched,
    because a set that is emptied and filled again in one transaction misses packets meanwhile (Linux 6.1).
    """
    clamp = {"clamp": [f"meta protocol {family} {_SYN} {mtu - size}" for family, size in _TCP_OVER.items()]}
    chains = {PORT: {**_FRAMES, **clamp}, VPN: _PACKETS, UNDER: _TUNNELLED}
    lines = [line for table, rules in chains.items() for line in _table(table, rules)]
    lines += _peers("peers4", collapse_addresses(peer for peer in peers if isinstance(peer, IPv4Network)), held)
    lines += _peers("peers6", collapse_addresses(peer for peer in peers if isinstance(peer, IPv6Network)), held)
    return "\n".join(lines) + "\n"


def _peers(name: str, peers: Iterable[IPNetwork], held: Collection[str]) -> Iterator[str]:
    wanted = [str(peer) for peer in peers]
    there = [peer for peer in held if (":" in peer) == (name == "peers6")]
    for verb, chosen in (
        ("delete", [peer for peer in there if peer not in wanted]),
        ("add", [peer for peer in wanted if peer not in there]),
    ):
        if chosen:
            yield f"{verb} element {UNDER} {name} {{ {', '.join(chosen)} }}"


def empty_tables_script() -> str:
    """All that is ours goes; a table must be there to be deleted."""
    return "".join(f"add table {table}\ndelete table {table}\n" for table in (PORT, VPN, UNDER))


def _table(table: str, chains: Chains) -> Iterator[str]:
    yield f"add table {table}"
    reasons = [reason for reason, told in REASONS.items() if told.table == table]
    for name, content in _SETS[table].items():
        yield f"add set {table} {name} {{ {content} }}"
    for reason in reasons:
        yield f"add set {table} drop-{reason} {{ type ifname; flags dynamic; size {_MOST_INTERFACES}; counter; }}"
    dropping = {f"drop-{reason}": _dropping(reason) for reason in reasons if REASONS[reason].key in _COUNT}
    everything: dict[str, Iterable[str]] = {**dropping, **chains}
    for name in everything:
        yield f"add chain {table} {name}"
        yield f"flush chain {table} {name.split()[0]}"
    for name, rules in everything.items():
        for rule in rules:
            yield f"add rule {table} {name.split()[0]} {rule}"


def _dropping(reason: str) -> list[str]:
    return [*(line.format(reason=reason) for line in _COUNT[REASONS[reason].key]), "drop"]
