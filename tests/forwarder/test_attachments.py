"""What may be attached, and the sentence for what may not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from forwarder.attachments import AttachmentError, Mode, parse_attachment, parse_rate, rate_text

GOOD: dict[str, Any] = {"vpn": "blue", "interface": "t-a", "addresses": ["10.1.0.1/32"]}


def test_every_field_is_put_in_our_terms() -> None:
    attachment = parse_attachment(
        "vm1",
        vpn="blue",
        interface="t-a",
        addresses=["10.1.0.1/32", "fd00::1"],
        mac="52-54-00-AA-BB-01",
        rate="100mbit",
    )
    assert attachment.addresses == (ip_address("10.1.0.1"), ip_address("fd00::1"))
    assert (attachment.mac, attachment.rate) == ("52:54:00:aa:bb:01", 100_000_000)
    assert attachment.mode is Mode.POINT_TO_POINT
    assert (attachment.prefixes, attachment.sequence_number, attachment.local_preference) == ((), None, 100)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("vpn", "", "vpn: must be 1 to 1023"),
        ("vpn", "a b", "without spaces"),
        ("vpn", "blü", "printable ASCII"),
        ("interface", "a-name-too-long-", "interface: must be 1 to 15"),
        ("interface", "a/b", "slashes"),
        ("interface", "..", "not a name the kernel takes"),
        ("addresses", [], "addresses: at least one"),
        ("addresses", ["10.1.0.0/24"], "host addresses: write 10.1.0.0/32"),
        ("addresses", ["fd00::1/64"], "host addresses: write fd00::1/128"),
        ("addresses", ["10.1.0.1/"], "host addresses"),
        ("addresses", ["10.1.0.1", "10.1.0.1/32"], "10.1.0.1 is given twice"),
        ("addresses", ["ten"], "'ten' is not an IPv4 or IPv6 address"),
        ("addresses", ["224.0.0.1"], "not a routable unicast"),
        ("addresses", ["0.0.0.0"], "not a routable unicast"),
        ("addresses", ["127.0.0.1"], "not a routable unicast"),
        ("addresses", ["fe80::2"], "not a routable unicast"),
        ("addresses", ["169.254.1.1"], "not a routable unicast"),
        ("addresses", ["255.255.255.255"], "broadcast"),
        ("addresses", ["::ffff:10.0.0.1"], "maps an IPv4"),
        ("addresses", ["fd00::1%eth0"], "zone"),
        ("mac", "52:54:00:aa:bb", "six pairs"),
        ("mac", "53:54:00:aa:bb:01", "one station"),
        ("mac", "00:00:00:00:00:00", "one station"),
        ("rate", "fast", "'fast' is not a rate"),
        ("rate", "0mbit", "not a rate"),
        ("rate", "9999gbit", "not a rate"),
        ("mode", "bridge", "neither point-to-point nor subnet"),
        ("prefixes", ["ten"], "prefixes: 'ten' is not an IPv4 or IPv6 prefix"),
        ("prefixes", ["10.2.0.0/33"], "not an IPv4 or IPv6 prefix"),
        ("prefixes", ["10.2.0.0"], "not an address, a slash and a length, like 10.2.0.0/32"),
        ("prefixes", ["10.2.0.0/255.255.0.0"], "not an address, a slash and a length, like 10.2.0.0/16"),
        ("prefixes", ["10.2.0.1/24"], "has bits set beyond its length: write 10.2.0.0/24"),
        ("prefixes", ["10.2.0.0/24", "10.3.0.0/24", "10.2.0.0/24"], "10.2.0.0/24 is given twice"),
        ("prefixes", ["10.1.0.1/32"], "10.1.0.1/32 is an address of the interface"),
        ("prefixes", ["fd02::/64"], "fd02::/64 would be reached by way of an IPv6 address of the interface"),
        ("prefixes", ["224.1.0.0/16"], "not routable: it is within 224.0.0.0/4"),
        ("prefixes", ["127.0.0.0/8"], "not routable"),
        ("prefixes", ["169.254.7.0/24"], "not routable"),
        ("prefixes", ["0.0.0.0/32"], "not routable"),
        ("prefixes", ["fe80::/64"], "not routable"),
        ("prefixes", ["::1/128"], "not routable"),
        ("prefixes", ["::ffff:10.0.0.0/104"], "not routable"),
        ("sequence_number", -1, "sequence-number: -1 is outside 0..4294967295"),
        ("sequence_number", 1 << 32, "sequence-number: 4294967296 is outside"),
        ("local_preference", -1, "local-preference: -1 is outside"),
        ("vlan", "eth1", "'eth1' is not a port and a tag like"),
        ("vlan", "eth1:0", "'eth1:0' is not a port and a tag"),
        ("vlan", "eth1:4095", "tags 1 to 4094"),
        ("vlan", "eth1:0:7", "'eth1:0:7' is not a port and a tag"),
        ("vlan", ":7", "':7' is not a port and a tag"),
        ("vlan", "sixteen-letters-:7", "interface: must be 1 to 15"),
    ],
)
def test_a_refusal_names_the_field_and_the_reason(field: str, value: object, reason: str) -> None:
    with pytest.raises(AttachmentError, match=reason):
        parse_attachment("vm1", **{**GOOD, field: value})


def test_a_vm_may_be_a_router_with_prefixes_behind_it_a_default_route_among_them() -> None:
    prefixes = ["10.2.0.0/24", "10.1.0.0/24", "10.3.0.9/32", "0.0.0.0/0", "fd02::/48", "::/0"]
    attachment = parse_attachment("vm1", **{**GOOD, "addresses": ["10.1.0.1", "fd00::1"], "prefixes": prefixes})
    assert attachment.prefixes == tuple(ip_network(prefix) for prefix in prefixes)
    assert attachment.networks == (ip_network("10.1.0.1/32"), ip_network("fd00::1/128"), *attachment.prefixes)


@pytest.mark.parametrize("attachment_id", ["", "a/b", "a b", "x" * 256])
def test_an_id_must_fit_into_a_path_segment(attachment_id: str) -> None:
    with pytest.raises(AttachmentError, match="id: must be 1 to 255"):
        parse_attachment(attachment_id, **GOOD)


def test_subnet_mode_serves_both_families() -> None:
    for addresses in (["10.1.0.1"], ["fd00::1"], ["10.1.0.1", "fd00::1"]):
        attachment = parse_attachment("vm1", vpn="blue", interface="t-a", addresses=addresses, mode="subnet")
        assert attachment.mode is Mode.SUBNET


@pytest.mark.parametrize(
    ("text", "bits"),
    [("1bit", 1), ("1500bit", 1_500), ("64kbit", 64_000), ("100mbit", 10**8), ("10gbit", 10**10), ("1000gbit", 10**12)],
)
def test_rates_both_ways(text: str, bits: int) -> None:
    assert parse_rate(text) == bits
    assert rate_text(bits) == text
