"""Route targets in text and octets, what else an extended community says, and all three kinds in words."""

from __future__ import annotations

import pytest

from routeserver.bgp.communities import (
    community_text,
    encapsulation_community,
    ext_community_text,
    is_route_target,
    large_community_text,
    mobility_community,
    parse_route_target,
    route_target_text,
    sequence_number_of,
)
from schema.values import Encapsulation


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("64512:100", "0002fc0000000064"),
        ("64512:4294967295", "0002fc00ffffffff"),
        ("192.0.2.1:9", "0102c00002010009"),
        ("4200000000:7", "0202fa56ea000007"),
        ("64512L:100", "02020000fc000064"),
    ],
)
def test_route_target(text: str, octets: str) -> None:
    assert parse_route_target(text).hex() == octets
    assert parse_route_target(f"target:{text}").hex() == octets
    assert route_target_text(bytes.fromhex(octets)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "64512", "64512:", ":1", "64512:x", "64512:-1", "x:1", "64512:4294967296", "192.0.2.1:65536"),
        *("192.0.2:1", "192.0.2.256:1", "4294967296:1", "4200000000:65536", "64512L:65536", "L:1", "64512:１"),
    ],
)
def test_not_a_route_target(text: str) -> None:
    with pytest.raises(ValueError, match="route target"):
        parse_route_target(text)


@pytest.mark.parametrize(
    ("octets", "is_target"),
    [
        ("0002fc0000000064", True),
        ("0102c00002010009", True),
        ("0202fa56ea000007", True),
        ("0302fa56ea000007", False),
        ("4002fc0000000064", False),
        ("0003fc0000000064", False),
        ("030c00000000000d", False),
    ],
)
def test_only_three_types_are_route_targets(octets: str, is_target: bool) -> None:
    assert is_route_target(bytes.fromhex(octets)) is is_target


@pytest.mark.parametrize(
    ("encapsulation", "octets"),
    [
        (Encapsulation.GRE, "030c000000000002"),
        (Encapsulation.UDP, "030c00000000000d"),
        (Encapsulation.VXLAN, "030c000000000008"),
    ],
)
def test_encapsulation_community(encapsulation: Encapsulation, octets: str) -> None:
    assert encapsulation_community(encapsulation).hex() == octets


def test_mobility_community() -> None:
    assert mobility_community(5).hex() == "0600000000000005"
    assert sequence_number_of([bytes.fromhex("0002fc0000000064"), mobility_community(5), mobility_community(9)]) == (
        False,
        5,
    )
    assert sequence_number_of([bytes.fromhex("06000100ffffffff")]) == (True, 0xFFFFFFFF)
    assert sequence_number_of([]) == (False, 0)


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        ("0002fc0000000064", "target:64512:100"),
        ("0102c00002010009", "target:192.0.2.1:9"),
        ("0202fa56ea000007", "target:4200000000:7"),
        ("02020000fc000064", "target:64512L:100"),
        ("0003fc0000000064", "origin:64512:100"),
        ("0103c00002010009", "origin:192.0.2.1:9"),
        ("0203fa56ea000007", "origin:4200000000:7"),
        ("030b000000000007", "color:7"),
        ("030bc0000000002a", "color:42:flags-c000"),
        ("030c00000000000d", "encapsulation:mpls-in-udp"),
        ("030c000000000002", "encapsulation:gre"),
        ("030c00000000000f", "encapsulation:sr-policy"),
        ("030c0000000003e7", "encapsulation:999"),
        ("030d000000000000", "default-gateway"),
        ("030d0000000000ff", "default-gateway"),
        ("0600000000000005", "mac-mobility:5"),
        ("06000100ffffffff", "mac-mobility:4294967295:sticky"),
        # Those of other types are nobody's here: non-transitive ones, and subtypes without a form.
        ("4002fc0000000064", "0x4002fc0000000064"),
        ("4003fc0000000064", "0x4003fc0000000064"),
        ("0302fc0000000064", "0x0302fc0000000064"),
        ("430b000000000007", "0x430b000000000007"),
        ("0601000000000005", "0x0601000000000005"),
        ("8006000000000000", "0x8006000000000000"),
        ("ffffffffffffffff", "0xffffffffffffffff"),
    ],
)
def test_extended_communities_in_words(octets: str, text: str) -> None:
    assert ext_community_text(bytes.fromhex(octets)) == text


@pytest.mark.parametrize("octets", ["0002fc0000000064", "0102c00002010009", "0202fa56ea000007", "02020000fc000064"])
def test_a_target_in_words_reads_back(octets: str) -> None:
    assert parse_route_target(ext_community_text(bytes.fromhex(octets))).hex() == octets


@pytest.mark.parametrize(
    ("community", "text"),
    [
        (0xFC000064, "64512:100"),
        (0, "0:0"),
        (0xFFFF0000, "graceful-shutdown"),
        (0xFFFF0006, "llgr-stale"),
        (0xFFFF0007, "no-llgr"),
        (0xFFFFFF01, "no-export"),
        (0xFFFFFF02, "no-advertise"),
        (0xFFFFFF03, "no-export-subconfed"),
        (0xFFFFFF05, "65535:65285"),
    ],
)
def test_communities_in_words(community: int, text: str) -> None:
    assert community_text(community) == text


@pytest.mark.parametrize(
    ("community", "text"),
    [((64496, 4294967295, 2), "64496:4294967295:2"), ((64496, 0, 0), "64496:0:0")],
)
def test_large_communities_in_words(community: tuple[int, int, int], text: str) -> None:
    """The examples of RFC 8092 section 5."""
    assert large_community_text(community) == text
