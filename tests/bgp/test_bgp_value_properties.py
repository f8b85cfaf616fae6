"""The values in UPDATEs: any octets and any text give one or a ValueError, and what was read is written the same."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.as_path import decode_as4_path, decode_as_path
from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.communities import (
    community_text,
    ext_community_text,
    is_route_target,
    parse_route_target,
    route_target_text,
)
from routeserver.bgp.iana import Family
from routeserver.bgp.nlri import (
    NlriError,
    RouteDistinguisher,
    key_text,
    pack_keys,
    pack_routes,
    parse_keys,
    parse_routes,
)
from routeserver.bgp.tunnel_encapsulation import (
    SUB_TLVS,
    TUNNELS,
    tunnel_texts,
    tunnel_types,
    tunnels_of,
    valid_tunnels,
)


@st.composite
def nlri_octets(draw: st.DrawFn) -> bytes:
    """NLRI of about the right length, with identifiers or without."""
    pieces = []
    for _ in range(draw(st.integers(0, 4))):
        bits = draw(st.sampled_from([0, 32, 64, 96, 88, 112, 120, 216]) | st.integers(0, 255))
        length = max(0, (bits + 7) // 8 + draw(st.sampled_from([0, 0, 0, 0, -1, 1])))
        identifier = draw(st.sampled_from([b"", b"\0\0\0\7"]))
        pieces.append(identifier + bytes((bits,)) + draw(st.binary(min_size=length, max_size=length)))
    return b"".join(pieces)


@st.composite
def tunnel_octets(draw: st.DrawFn) -> bytes:
    """Tunnel TLVs whose lengths are true, of known and unknown types."""
    sub_tlvs = st.tuples(st.sampled_from([*SUB_TLVS, 126, 200]), st.binary(max_size=24) | st.just(b"\0" * 6))
    tlvs = st.lists(st.tuples(st.sampled_from([*TUNNELS, 6, 999]), st.lists(sub_tlvs, max_size=4)), max_size=4)
    octets = b""
    for kind, contents in draw(tlvs):
        inner = b"".join(
            bytes((subtype,)) + len(value).to_bytes(1 if subtype < 128 else 2, "big") + value
            for subtype, value in contents
        )
        octets += kind.to_bytes(2, "big") + len(inner).to_bytes(2, "big") + inner
    return octets


@given(st.binary(max_size=120) | tunnel_octets())
def test_tunnels_are_total_and_stable(value: bytes) -> None:
    assert len(tunnels_of(value, [])) <= len(value)
    try:
        kept = valid_tunnels(value, on_loopback=False)
    except ValueError:
        return
    assert valid_tunnels(kept, on_loopback=False) == kept
    assert tunnel_types(kept) <= tunnel_types(value)
    assert len(tunnel_texts(kept)) <= len(tunnel_texts(value))
    # What is cut out was of no use either.
    assert tunnels_of(kept, []) == [found for found in tunnels_of(value, []) if found in tunnels_of(kept, [])]


@given(st.binary(max_size=60), st.sampled_from([2, 4]))
def test_paths_are_total(value: bytes, width: int) -> None:
    for decode in (lambda: decode_as_path(value, width), lambda: decode_as4_path(value)):
        with contextlib.suppress(ValueError):
            decode()


@given(st.sampled_from(Family), st.booleans(), st.binary(max_size=120) | nlri_octets())
def test_nlri_lists_are_total_and_stable(family: Family, path_ids: bool, data: bytes) -> None:
    try:
        routes = parse_routes(family, data, path_ids)
    except NlriError:
        with pytest.raises(NlriError):
            parse_keys(family, data, path_ids)
        return
    keys = [key for key, _ in routes]
    assert parse_keys(family, data, path_ids) == keys
    assert parse_routes(family, b"".join(pack_routes(family, routes, path_ids)), path_ids) == routes
    assert parse_keys(family, b"".join(pack_keys(family, keys, path_ids)), path_ids) == keys
    assert all(key_text(family, key, path_ids) for key in keys)


@given(st.binary(min_size=8, max_size=8))
def test_route_distinguishers_read_back(raw: bytes) -> None:
    for octets in (raw, b"\0" + bytes((raw[1] % 4,)) + raw[2:]):
        rd = RouteDistinguisher(octets)
        assert RouteDistinguisher.parse(str(rd)) == rd


@given(st.text(max_size=12) | st.from_regex(r"[0-9.L]{1,12}:[0-9]{1,6}", fullmatch=True))
def test_texts_are_total(text: str) -> None:
    for parse in (RouteDistinguisher.parse, parse_route_target):
        with contextlib.suppress(ValueError):
            parse(text)


@given(st.sampled_from([b"\0\2", b"\1\2", b"\2\2"]), st.binary(min_size=6, max_size=6))
def test_route_targets_read_back(kind: bytes, rest: bytes) -> None:
    target = kind + rest
    assert parse_route_target(route_target_text(target)) == target
    assert parse_route_target(ext_community_text(target)) == target


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**32 - 1))
def test_every_community_has_a_text(extended: bytes, plain: int) -> None:
    assert ext_community_text(extended)
    assert community_text(plain)


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=3), st.binary(max_size=60) | tunnel_octets())
def test_what_a_path_offers_is_total(communities: list[bytes], tunnel: bytes) -> None:
    next_hop = IPv4Address("192.0.2.1")
    attributes = PathAttributes(next_hop, ext_communities=tuple(communities), tunnel_encapsulation=tunnel)
    assert len(set(attributes.encapsulations)) == len(attributes.encapsulations)
    assert all(is_route_target(target) for target in attributes.route_targets)
