"""Packet filter scripts, and what is read from nft's listings. No kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from forwarder.dataplane.linux.drop_reasons import REASONS
from forwarder.dataplane.linux.facts import FrameFilter, Guard
from forwarder.dataplane.linux.guard_elements import (
    frames_script,
    guard_script,
    parse_drops,
    parse_frames,
    parse_guards,
    parse_peers,
    rules_of,
)
from forwarder.dataplane.linux.guard_rules import tables_script
from forwarder.dataplane.values import Drop

MAC = "02:00:00:00:00:01"
ONE, TWO = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def guard(*sources: str, checked: bool = True) -> Guard:
    return Guard("t-a", tuple(map(ip_network, sources)), checked)


# ---------------------------------------------------------------- rules


def test_peers_are_collapsed_and_stand_by_family() -> None:
    peers = [ip_network(each) for each in ("192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32", "::/0")]
    lines = tables_script(peers, 1468).splitlines()
    assert "add element inet es-under peers4 { 192.0.2.0/24 }" in lines
    assert "add element inet es-under peers6 { ::/0 }" in lines


def test_peers_that_stay_are_not_touched() -> None:
    peers = [ip_network(each) for each in ("192.0.2.0/24", "198.51.100.1/32")]
    script = tables_script(peers, 1468, ["192.0.2.0/24", "203.0.113.0-203.0.113.9", "2001:db8::/32"])
    assert [line for line in script.splitlines() if "element" in line] == [
        "delete element inet es-under peers4 { 203.0.113.0-203.0.113.9 }",
        "add element inet es-under peers4 { 198.51.100.1/32 }",
        "delete element inet es-under peers6 { 2001:db8::/32 }",
    ]
    assert "flush set" not in script


def test_peers_are_read_as_they_are_written() -> None:
    elements = ["198.51.100.1", {"prefix": {"addr": "192.0.2.0", "len": 24}}, {"range": ["203.0.113.0", "203.0.113.9"]}]
    told = {"set": {"table": "es-under", "name": "peers4", "elem": elements}}
    assert parse_peers({"nftables": [{"metainfo": {}}, told, {"set": {"name": "drop-x", "elem": ["t-a"]}}]}) == [
        "198.51.100.1/32",
        "192.0.2.0/24",
        "203.0.113.0-203.0.113.9",
    ]


def test_a_first_fragment_says_what_is_in_it_before_anybody_judges_by_that() -> None:
    """What no rule can read, no rule refuses: a chain that only lets go of what it knows has to come first."""
    start = "add rule inet es-under "
    rules = [line.removeprefix(start) for line in tables_script([], 1468).splitlines() if line.startswith(start)]
    first = next(line for line in rules if line.startswith("to-host "))
    assert first == "to-host frag frag-off 0 jump first-fragment"
    judged = [line.removeprefix("first-fragment ") for line in rules if line.startswith("first-fragment ")]
    assert all(line.endswith(" return") for line in judged[:-1])
    assert judged[-1] == "goto drop-headless-fragment"


def test_a_segment_fits_into_the_longest_packet() -> None:
    script = tables_script([], 1448)
    assert "meta protocol ip tcp flags & (syn|rst) == syn tcp option maxseg size set 1408" in script
    assert "meta protocol ip6 tcp flags & (syn|rst) == syn tcp option maxseg size set 1388" in script


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_counted_and_told_to_operators(reason: str) -> None:
    script = tables_script([], 1468)
    assert f"add set {REASONS[reason].table} drop-{reason} " in script
    assert f"update @drop-{reason} " in script
    assert f"`{reason}`" in (Path(__file__).parents[2] / "docs/host.md").read_text()


def test_nothing_is_led_to_a_chain_that_is_not_there() -> None:
    made, targets = set(), set()
    for line in tables_script([], 1468).splitlines():
        words = line.split()
        if words[:2] == ["add", "chain"]:
            made.add(tuple(words[2:5]))
        if words[:2] == ["add", "rule"]:
            targets |= {(*words[2:4], after.rstrip(",")) for word, after in pairwise(words) if word in ("goto", "jump")}
    assert targets <= made
    assert len(targets) > len(REASONS)


# ---------------------------------------------------------------- guards


def test_a_guard_is_elements_addresses_apart_from_prefixes() -> None:
    assert guard_script(None, guard("10.0.0.1/32", "10.1.0.0/16", "fd00::1/128", "::/0")) == [
        'add element inet es-vpn vifs { "t-a" }',
        'add element inet es-vpn source4 { "t-a" . 10.0.0.1 }',
        'add element inet es-vpn prefix4 { "t-a" . 10.1.0.0/16 }',
        'add element inet es-vpn source6 { "t-a" . fd00::1 }',
        'add element inet es-vpn prefix6 { "t-a" . ::/0 }',
    ]


def test_an_interval_goes_before_one_that_overlaps_it_comes() -> None:
    assert guard_script(guard("10.0.0.1/32", "10.1.0.0/17"), guard("10.0.0.1/32", "10.1.0.0/16")) == [
        'delete element inet es-vpn prefix4 { "t-a" . 10.1.0.0/17 }',
        'add element inet es-vpn prefix4 { "t-a" . 10.1.0.0/16 }',
    ]


def test_a_guard_that_goes_takes_its_counters_along() -> None:
    lines = guard_script(guard("10.0.0.1/32"), None)
    assert lines[:2] == [
        'delete element inet es-vpn vifs { "t-a" }',
        'delete element inet es-vpn source4 { "t-a" . 10.0.0.1 }',
    ]
    assert 'delete element netdev es-port drop-arp { "t-a" }' in lines
    assert 'delete element inet es-vpn pings { "t-a" }' in lines
    assert not [line for line in lines if "es-under" in line]


def listing(packets: int, handle: int) -> dict[str, Any]:
    jump = {"family": "inet", "table": "es-vpn", "chain": "check", "handle": handle}
    sets: dict[str, list[Any]] = {
        "vifs": ["t-a"],
        "source4": [{"concat": ["t-a", "10.0.0.1"]}, {"concat": ["t-b", "10.0.0.1"]}],
        "prefix6": [{"concat": ["t-a", {"prefix": {"addr": "fd00::", "len": 64}}]}],
        "drop-martian": [{"elem": {"val": "t-a", "counter": {"packets": packets, "bytes": 84}}}],
    }
    return {
        "nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "es-vpn", "handle": handle}},
            *({"set": {"table": "es-vpn", "name": name, "elem": elements}} for name, elements in sets.items()),
            {"set": {"table": "es-vpn", "name": "source6"}},
            {"rule": {**jump, "expr": [{"goto": {"target": "source"}}]}},
        ]
    }


def test_guards_are_read_back() -> None:
    assert parse_guards(listing(0, 1)) == {
        "t-a": guard("10.0.0.1/32", "fd00::/64"),
        "t-b": Guard("t-b", (ip_network("10.0.0.1/32"),), checked=False),
    }


def test_an_interval_that_is_no_prefix_is_nothing_of_ours() -> None:
    odd = {"concat": ["t-a", {"range": ["10.0.0.1", "10.0.0.6"]}]}
    read = parse_guards({"nftables": [{"set": {"name": "prefix4", "elem": [odd]}}]})
    assert read == {"t-a": guard("0.0.0.0/0", checked=False)}


def test_drops_are_read() -> None:
    assert parse_drops(listing(7, 1)) == [Drop("martian", "t-a", 7, 84)]


def test_rules_compare_without_counters_handles_and_tenants() -> None:
    assert rules_of(listing(0, 1)) == rules_of(listing(7, 9))
    other = listing(0, 1)
    other["nftables"][-1]["rule"]["expr"][0] = {"accept": None}
    assert rules_of(other) != rules_of(listing(0, 1))


# ---------------------------------------------------------------- frames


def listed(script: list[str]) -> str:
    """As `nft list table` shows what the script makes."""
    chains: dict[str, list[str]] = {}
    for line in script:
        verb, kind, _, _, chain, *rest = line.split(" ", 5)
        if (verb, kind) == ("add", "rule"):
            chains[chain].append(rest[0])
        elif verb == "add" and rest:
            hook = rest[0].strip("{} ").removesuffix(";").replace("priority 0", "priority filter")
            chains[chain] = [f"{hook}; policy accept;"]
    shared = {"frame": ["ether type arp goto drop-arp"], "clamp": ["meta protocol ip accept"]}
    bodies = {name: "\n".join(f"\t\t{rule}" for rule in rules) for name, rules in (shared | chains).items()}
    return "".join(f"\tchain {name} {{\n{body}\n\t}}\n\n" for name, body in bodies.items())


@pytest.mark.parametrize(
    "wanted",
    [
        FrameFilter("t-a", None, ()),
        FrameFilter("t-a", MAC, (ONE,)),
        FrameFilter("eth1.100", None, (ONE, TWO)),
        FrameFilter("7+x@_y", MAC, ()),
    ],
    ids=lambda fact: fact.interface,
)
def test_a_frame_filter_is_two_chains_and_read_back(wanted: FrameFilter) -> None:
    script = frames_script(wanted.interface, wanted)
    filters, shared = parse_frames(listed(script))
    assert filters == {wanted.interface: wanted}
    assert shared == ["clamp: meta protocol ip accept", "frame: ether type arp goto drop-arp"]
    assert len({line.split()[4] for line in script}) == 2
    assert all(word[0].isalpha() and not set(word) & set("+@") for word in {line.split()[4] for line in script})


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("goto drop-source-mac", "accept"),
        ("goto frame", "accept"),
        ("goto clamp", "drop"),
        ("hook egress", "hook ingress"),
        ("10.0.0.1 } goto own-arp", "10.0.0.1 } accept"),
    ],
)
def test_a_frame_filter_that_was_changed_is_not_the_wanted_one(was: str, becomes: str) -> None:
    wanted = FrameFilter("t-a", MAC, (ONE,))
    text = listed(frames_script("t-a", wanted))
    assert was in text
    filters, _ = parse_frames(text.replace(was, becomes))
    assert filters.get("t-a") != wanted


def test_a_frame_filter_that_goes_is_made_first_so_that_it_can_be_deleted() -> None:
    assert frames_script("t-a", None) == [
        f"{verb} chain netdev es-port {chain}" for chain in ("in-t-a", "out-t-a") for verb in ("add", "flush", "delete")
    ]
