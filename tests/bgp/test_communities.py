"""Route targets in text and octets, and what else an extended community says."""

from __future__ import annotations

import pytest

from routeserver.bgp.communities import (
    encapsulation_community,
    is_route_target,
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
