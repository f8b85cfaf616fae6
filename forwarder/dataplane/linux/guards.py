"""Packet filters: what tenants may send, and from whom tunnels are taken.  nftables, in two tables of ours.

`es-vpn` checks what comes from virtual interfaces.  A packet passes only with a source address that its
interface was given, and from the MAC that goes with it if one is known.  Neighbour discovery and pings between
link-local addresses pass: they end at the first hop.  Towards the host itself a tenant may ping and resolve its first
hop, nothing else.  Interfaces and addresses are set elements, so attaching one is one small transaction.

`es-under` lets only the configured peers hand us tunnelled packets, in any of the three forms that could carry a
label: GRE, UDP to port 6635, and plain MPLS-in-IP, which the kernel would take at the same devices (RFC 4023
section 8, RFC 7510 section 6).  It looks at what is addressed to the host, so tenants' own tunnels inside a VPN
are not its business.

Each change is one `nft` run and one transaction: all or nothing, and never a moment without rules.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from typing import Any

from forwarder.dataplane.linux.facts import Fact, Guarded, Source
from schema.values import IPNetwork

_VPN = """\
add table inet es-vpn
add set inet es-vpn vifs { type ifname; }
add set inet es-vpn source4 { type ifname . ipv4_addr; }
add set inet es-vpn source6 { type ifname . ipv6_addr; }
add set inet es-vpn mac-source4 { type ifname . ether_addr . ipv4_addr; }
add set inet es-vpn mac-source6 { type ifname . ether_addr . ipv6_addr; }
add chain inet es-vpn from-tenant { type filter hook prerouting priority raw; }
add chain inet es-vpn check
add chain inet es-vpn to-host { type filter hook input priority filter; }
add chain inet es-vpn tenant-to-host
flush chain inet es-vpn from-tenant
flush chain inet es-vpn check
flush chain inet es-vpn to-host
flush chain inet es-vpn tenant-to-host
add rule inet es-vpn from-tenant iifname @vifs jump check
add rule inet es-vpn check iifname . ether saddr . ip saddr @mac-source4 return
add rule inet es-vpn check iifname . ether saddr . ip6 saddr @mac-source6 return
add rule inet es-vpn check iifname . ip saddr @source4 return
add rule inet es-vpn check iifname . ip6 saddr @source6 return
add rule inet es-vpn check ip6 saddr fe80::/10 ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type \
{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, echo-request } return
add rule inet es-vpn check counter drop
add rule inet es-vpn to-host meta sdifname @vifs jump tenant-to-host
add rule inet es-vpn to-host iifname @vifs jump tenant-to-host
add rule inet es-vpn tenant-to-host icmp type echo-request limit rate 10/second return
add rule inet es-vpn tenant-to-host icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } return
add rule inet es-vpn tenant-to-host icmpv6 type echo-request limit rate 10/second return
add rule inet es-vpn tenant-to-host counter drop
"""

_UNDER = """\
add table inet es-under
delete table inet es-under
add table inet es-under
add set inet es-under peers4 {{ type ipv4_addr; flags interval; {peers4} }}
add set inet es-under peers6 {{ type ipv6_addr; flags interval; {peers6} }}
add chain inet es-under to-host {{ type filter hook input priority -10; }}
add chain inet es-under tunnelled
add rule inet es-under to-host meta l4proto {{ 47, 137 }} jump tunnelled
add rule inet es-under to-host udp dport 6635 jump tunnelled
add rule inet es-under tunnelled ip saddr @peers4 return
add rule inet es-under tunnelled ip6 saddr @peers6 return
add rule inet es-under tunnelled counter drop
"""


class GuardError(Exception):
    """nft would not do it; the text is its own."""


def tables_script(peers: Sequence[IPNetwork]) -> str:
    """Both tables with all rules; elements that are in `es-vpn` already stay."""
    peers4 = collapse_addresses(peer for peer in peers if isinstance(peer, IPv4Network))
    peers6 = collapse_addresses(peer for peer in peers if isinstance(peer, IPv6Network))
    return _VPN + _UNDER.format(peers4=_elements(peers4), peers6=_elements(peers6))


def _elements(peers: Iterable[IPNetwork]) -> str:
    listed = ", ".join(map(str, peers))
    return f"elements = {{ {listed} }};" if listed else ""


def elements_script(add: Iterable[Fact], remove: Iterable[Fact]) -> str:
    """An element that is to go is added first: removing what is not there would fail the transaction."""
    lines = [f"add element inet es-vpn {_element(fact)}" for fact in add]
    for fact in remove:
        element = _element(fact)
        lines += [f"add element inet es-vpn {element}", f"delete element inet es-vpn {element}"]
    return "\n".join(lines) + "\n"


def _element(fact: Fact) -> str:
    if isinstance(fact, Guarded):
        return f'vifs {{ "{fact.interface}" }}'
    assert isinstance(fact, Source)
    version = fact.address.version
    if fact.mac is None:
        return f'source{version} {{ "{fact.interface}" . {fact.address} }}'
    return f'mac-source{version} {{ "{fact.interface}" . {fact.mac} . {fact.address} }}'


def parse_elements(listing: dict[str, Any]) -> set[Fact]:
    """The facts in nft's JSON listing of `es-vpn`."""
    facts: set[Fact] = set()
    for entry in listing["nftables"]:
        found = entry.get("set", {})
        for element in found.get("elem", []):
            if found["name"] == "vifs":
                facts.add(Guarded(element))
            elif found["name"].startswith("source"):
                interface, address = element["concat"]
                facts.add(Source(interface, ip_address(address), None))
            else:
                interface, mac, address = element["concat"]
                facts.add(Source(interface, ip_address(address), mac))
    return facts


def rules_of(listing: dict[str, Any]) -> list[str]:
    """Chains, rules and configured elements in a comparable form, without counters, handles or tenants."""
    told = []
    for entry in listing["nftables"]:
        (kind, body), *_ = entry.items()
        if kind == "metainfo" or (kind == "set" and body["table"] == "es-vpn"):
            continue
        kept = {name: value for name, value in body.items() if name not in ("handle", "expr")}
        kept["expr"] = [part for part in body.get("expr", []) if "counter" not in part]
        told.append(json.dumps([kind, kept], sort_keys=True))
    return sorted(told)


class Guards:
    """The two tables. What they hold is remembered between `read`s: nobody else writes to them."""

    def __init__(self, peers: Sequence[IPNetwork]) -> None:
        self._peers = tuple(peers)
        self._rules: list[str] = []
        self.elements: set[Fact] = set()

    def install(self) -> None:
        """Make both tables as they should be, keep the elements there are, and note what the kernel made of it."""
        _nft(tables_script(self._peers))
        self._rules = self._read()

    def repair(self) -> bool:
        """Read the tables again; true if the rules were not as installed, and now are."""
        if self._read() == self._rules:
            return False
        _nft(tables_script(self._peers))
        self._read()
        return True

    def change(self, add: Sequence[Fact], remove: Sequence[Fact]) -> None:
        _nft(elements_script(add, remove))
        self.elements.update(add)
        self.elements.difference_update(remove)

    def _read(self) -> list[str]:
        self.elements = set()
        told: list[str] = []
        for table in ("es-vpn", "es-under"):
            listed = _run(["nft", "-j", "list", "table", "inet", table])
            if listed.returncode:
                continue  # the table is gone: nothing of it is there
            listing = json.loads(listed.stdout)
            told += rules_of(listing)
            if table == "es-vpn":
                self.elements = parse_elements(listing)
        return told


def _nft(script: str) -> None:
    done = _run(["nft", "-f", "-"], script)
    if done.returncode:
        raise GuardError(f"nft: {' '.join(done.stderr.split())}")


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GuardError("there is no nft program: install the package nftables") from None
