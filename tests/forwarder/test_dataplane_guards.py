"""Packet filter scripts, and what is read from nft's JSON listing. No kernel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from forwarder.dataplane.linux.facts import Guarded, Source
from forwarder.dataplane.linux.guards import elements_script, parse_elements, rules_of, tables_script

FOUR, SIX, MAC = ip_address("10.0.0.1"), ip_address("fd00::1"), "02:00:00:00:00:01"


def test_peers_are_collapsed_and_stand_by_family() -> None:
    script = tables_script([ip_network(each) for each in ("192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32", "::/0")])
    assert "peers4 { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }" in script
    assert "peers6 { type ipv6_addr; flags interval; elements = { ::/0 }; }" in script


def test_no_peers_of_a_family_is_an_empty_set() -> None:
    assert "peers6 { type ipv6_addr; flags interval;  }" in tables_script([ip_network("192.0.2.0/24")])


def test_an_element_is_removed_even_if_it_is_not_there() -> None:
    script = elements_script(
        [Guarded("t-a"), Source("t-a", FOUR, MAC), Source("t-a", SIX, None)], [Source("t-b", FOUR, None)]
    )
    assert script.splitlines() == [
        'add element inet es-vpn vifs { "t-a" }',
        f'add element inet es-vpn mac-source4 {{ "t-a" . {MAC} . 10.0.0.1 }}',
        'add element inet es-vpn source6 { "t-a" . fd00::1 }',
        'add element inet es-vpn source4 { "t-b" . 10.0.0.1 }',
        'delete element inet es-vpn source4 { "t-b" . 10.0.0.1 }',
    ]


def listing(packets: int, handle: int) -> dict[str, object]:
    drop = {"family": "inet", "table": "es-vpn", "chain": "check", "handle": handle}
    sets = {
        "vifs": ["t-a"],
        "source6": [{"concat": ["t-a", "fd00::1"]}],
        "mac-source4": [{"concat": ["t-a", MAC, "10.0.0.1"]}],
    }
    return {
        "nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "es-vpn", "handle": handle}},
            *({"set": {"table": "es-vpn", "name": name, "elem": elements}} for name, elements in sets.items()),
            {"set": {"table": "es-vpn", "name": "source4"}},
            {"rule": {**drop, "expr": [{"counter": {"packets": packets, "bytes": 84}}, {"drop": None}]}},
        ]
    }


def test_elements_are_read_as_facts() -> None:
    assert parse_elements(listing(0, 1)) == {Guarded("t-a"), Source("t-a", SIX, None), Source("t-a", FOUR, MAC)}


def test_rules_compare_without_counters_handles_and_tenants() -> None:
    assert rules_of(listing(0, 1)) == rules_of(listing(7, 9))
    other = listing(0, 1)
    other["nftables"][-1]["rule"]["expr"][1] = {"accept": None}  # type: ignore[index]
    assert rules_of(other) != rules_of(listing(0, 1))
