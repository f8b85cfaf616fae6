"""What the packet filters hold of each virtual interface: as nft text, and read back from nft's listings.  Pure.

A `Guard` is elements of sets in `es-vpn`: single addresses in one that is hashed, prefixes in one of intervals.  What a
vif may send from is collapsed first, because intervals that overlap are accepted or refused by their order.  A
`FrameFilter` is two chains in `es-port`, which are made anew for every change: the kernel may have taken them away with
the device.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_network
from typing import Any, Final

from forwarder.dataplane.linux.drop_reasons import PORT, REASONS, UNDER, VPN
from forwarder.dataplane.linux.facts import FrameFilter, Guard
from forwarder.dataplane.linux.guard_rules import METERS
from forwarder.dataplane.values import Drop
from schema.values import IPNetwork

_PROBE: Final = IPv4Address("0.0.0.0")
"""Who asks whether an address is in use has none yet."""
_BLOCK: Final = re.compile(r"\tchain (\S+) \{\n(.*?)\n\t\}", re.DOTALL)
_INGRESS: Final = re.compile(r'type filter hook ingress device "([^"]+)" priority -500; policy accept;')
_EGRESS: Final = re.compile(r'type filter hook egress device "([^"]+)" priority filter; policy accept;')
_FOREIGN_MAC: Final = re.compile(r"ether saddr != (\S+) goto drop-source-mac")
_SENDERS: Final = re.compile(r"arp saddr ip \{ (.*) \} goto own-arp")
_UNQUOTED: Final = re.compile(r"[^A-Za-z0-9.-]")


def guard_script(before: Guard | None, after: Guard | None) -> list[str]:
    """From what is there to what is wanted. A guard that goes takes its counters along."""
    old, new = _elements(before), _elements(after)
    lines = [f"delete element {VPN} {element}" for element in old if element not in new]
    lines += [f"add element {VPN} {element}" for element in new if element not in old]
    if before is not None and after is None:
        for table, name in _counters():
            element = f'{table} {name} {{ "{before.interface}" }}'
            lines += [f"add element {element}", f"delete element {element}"]  # there is one if it counted
    return lines


def _counters() -> list[tuple[str, str]]:
    drops = [(told.table, f"drop-{reason}") for reason, told in REASONS.items() if told.table != UNDER]
    return drops + [(VPN, meter) for meter in METERS]


def _elements(guard: Guard | None) -> list[str]:
    if guard is None:
        return []
    found = [f'vifs {{ "{guard.interface}" }}'] if guard.checked else []
    for source in guard.sources:
        kind = "source" if source.prefixlen == source.max_prefixlen else "prefix"
        text = source.network_address if kind == "source" else source
        found.append(f'{kind}{source.version} {{ "{guard.interface}" . {text} }}')
    return found


def frames_script(interface: str, after: FrameFilter | None) -> list[str]:
    """Whatever there is now: adding a chain that is there already does nothing."""
    inward, outward = _chains(interface)
    lines = [f"{verb} chain {PORT} {chain}" for chain in (inward, outward) for verb in ("add", "flush", "delete")]
    if after is None:
        return lines
    lines.append(f'add chain {PORT} {inward} {{ type filter hook ingress device "{interface}" priority -500; }}')
    lines += [f"add rule {PORT} {inward} {rule}" for rule in _frame_rules(after)]
    lines.append(f'add chain {PORT} {outward} {{ type filter hook egress device "{interface}" priority 0; }}')
    return [*lines, f"add rule {PORT} {outward} goto clamp"]


def _chains(interface: str) -> tuple[str, str]:
    """nft takes fewer characters in names than the kernel in those of devices."""
    name = _UNQUOTED.sub(lambda found: f"_{ord(found[0]):02x}", interface)
    return f"in-{name}", f"out-{name}"


def _frame_rules(fact: FrameFilter) -> list[str]:
    rules = []
    if fact.mac is not None:
        rules.append(f"ether saddr != {fact.mac} goto drop-source-mac")
        rules.append(f"arp saddr ether != {fact.mac} goto drop-arp")
    if fact.senders:
        rules.append(f"arp saddr ip {{ {', '.join(map(str, (_PROBE, *fact.senders)))} }} goto own-arp")
    return [*rules, "goto frame"]


def parse_guards(listing: dict[str, Any]) -> dict[str, Guard]:
    """By interface, from the JSON listing of `es-vpn`."""
    checked: set[str] = set()
    sources: defaultdict[str, list[IPNetwork]] = defaultdict(list)
    for entry in listing["nftables"]:
        found = entry.get("set", {})
        name = found.get("name", "")
        for element in found.get("elem", []):
            if name == "vifs":
                checked.add(element)
            elif name.startswith(("source", "prefix")):
                interface, source = element["concat"]
                sources[interface].append(_network(source))
    return {
        interface: Guard(interface, in_order(sources.get(interface, ())), interface in checked)
        for interface in checked | sources.keys()
    }


def in_order(sources: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    return tuple(sorted(sources, key=lambda each: (each.version, int(each.network_address), each.prefixlen)))


def _network(element: str | dict[str, Any]) -> IPNetwork:
    """An interval that is no prefix is none of ours, and told as one that is never wanted."""
    if isinstance(element, str):
        return ip_network(element)
    prefix = element.get("prefix") or {"addr": element["range"][0], "len": 0}
    return ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)


def parse_frames(listing: str) -> tuple[dict[str, FrameFilter], list[str]]:
    """The filters by interface, and the chains that all share, from the text listing of `es-port`.

    A chain that is not as we make it is told as a filter that is never wanted.
    """
    blocks = {name: [line.strip() for line in body.splitlines()] for name, body in _BLOCK.findall(listing)}
    filters: dict[str, FrameFilter] = {}
    for lines in blocks.values():
        if (hook := _INGRESS.fullmatch(lines[0])) is not None:
            fact = _filter(hook[1], lines[1:])
            outward = blocks.get(_chains(hook[1])[1], [""])
            hooked = _EGRESS.fullmatch(outward[0])
            intact = hooked is not None and hooked[1] == hook[1] and outward[1:] == ["goto clamp"]
            filters[hook[1]] = fact if intact else FrameFilter(hook[1], None, (), intact=False)
    shared = [f"{name}: {'; '.join(lines)}" for name, lines in blocks.items() if not name.startswith(("in-", "out-"))]
    return filters, sorted(shared)


def _filter(interface: str, rules: Sequence[str]) -> FrameFilter:
    macs = [found[1] for rule in rules if (found := _FOREIGN_MAC.fullmatch(rule))]
    named = [found[1].split(", ") for rule in rules if (found := _SENDERS.fullmatch(rule))]
    senders = sorted({IPv4Address(text) for text in named[0]} - {_PROBE}) if named else []
    fact = FrameFilter(interface, macs[0] if macs else None, tuple(senders))
    return fact if _frame_rules(fact) == list(rules) else FrameFilter(interface, None, (), intact=False)


def rules_of(listing: dict[str, Any]) -> list[str]:
    """Chains, rules and configured elements in a comparable form, without counters, handles or tenants."""
    told = []
    for entry in listing["nftables"]:
        (kind, body), *_ = entry.items()
        if kind == "metainfo" or (kind == "set" and not body["name"].startswith("peers")):
            continue
        told.append(
            json.dumps([kind, {name: value for name, value in body.items() if name != "handle"}], sort_keys=True)
        )
    return sorted(told)


def parse_peers(listing: dict[str, Any]) -> list[str]:
    """The peers in the listing of `es-under`, as prefixes; a range that is none as `first-last`."""
    found: list[str] = []
    for entry in listing["nftables"]:
        told = entry.get("set", {})
        if told.get("name", "").startswith("peers"):
            found += [_peer(element) for element in told.get("elem", [])]
    return found


def _peer(element: Any) -> str:
    if isinstance(element, str):
        return str(ip_network(element))
    if "prefix" in element:
        return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    return "-".join(element["range"])


def parse_drops(listing: dict[str, Any]) -> list[Drop]:
    """What one table has counted."""
    found = []
    for entry in listing["nftables"]:
        name = entry.get("set", {}).get("name", "")
        if name.startswith("drop-"):
            for each in entry["set"].get("elem", []):
                counted = each["elem"]["counter"]
                found.append(
                    Drop(name.removeprefix("drop-"), each["elem"]["val"], counted["packets"], counted["bytes"])
                )
    return found
