"""AS paths in both widths, and the merging of the two views an old peer sends (RFC 6793 section 4.2.3)."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from routeserver.bgp.as_path import decode_as4_path, decode_as_path, encode_as_path, merge_as_paths, needs_as4_path
from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, AsPath, PathAttributes
from routeserver.bgp.errors import Verdict
from tests.support.updates import INTERNAL, OLD, attribute, read_attributes

BIG = 4200000000


def seq(*ases: int) -> tuple[int, tuple[int, ...]]:
    return AS_SEQUENCE, ases


def one_of(*ases: int) -> tuple[int, tuple[int, ...]]:
    return AS_SET, ases


@pytest.mark.parametrize(
    ("octets", "width", "path"),
    [
        ("", 4, ()),
        ("02010000fc00", 4, (seq(64512),)),
        ("0202fa56ea0000000001", 4, (seq(BIG, 1),)),
        ("0202fc000001" + "01025ba00003", 2, (seq(64512, 1), one_of(23456, 3))),
    ],
)
def test_octets_and_path(octets: str, width: int, path: AsPath) -> None:
    assert decode_as_path(bytes.fromhex(octets), width) == path
    assert encode_as_path(path, width).hex() == octets


def test_large_numbers_become_as_trans_in_two_octets() -> None:
    assert encode_as_path((seq(BIG, 65535, 65536),), 2).hex() == "02035ba0ffff5ba0"
    assert needs_as4_path((seq(1), one_of(65536)))
    assert not needs_as4_path((seq(1, 65535),))


@pytest.mark.parametrize(
    ("as_path", "as4_path", "merged"),
    [
        pytest.param((seq(1, 23456),), (seq(1, BIG),), (seq(1, BIG),), id="equal"),
        pytest.param((seq(7, 8, 23456),), (seq(BIG),), (seq(7, 8), seq(BIG)), id="old-speakers-in-front"),
        pytest.param((seq(7), seq(8, 23456)), (seq(BIG),), (seq(7), seq(8), seq(BIG)), id="segments-kept"),
        pytest.param((one_of(7, 8), seq(23456)), (seq(BIG),), (one_of(7, 8), seq(BIG)), id="set-taken-whole"),
        pytest.param((seq(7), one_of(8, 23456)), (one_of(8, BIG),), (seq(7), one_of(8, BIG)), id="set-counts-one"),
        pytest.param((seq(7),), (seq(7, BIG),), (seq(7),), id="as4-path-longer-is-ignored"),
        pytest.param((seq(7, 8), one_of(9), seq(23456)), (seq(BIG),), (seq(7, 8), one_of(9), seq(BIG)), id="mixed"),
        pytest.param((seq(7, 8, 9),), (one_of(8, BIG),), (seq(7, 8), one_of(8, BIG)), id="a-set-in-place-of-a-number"),
        pytest.param((one_of(7, 23456),), (one_of(7, BIG),), (one_of(7, BIG),), id="a-set-of-its-own"),
        pytest.param((one_of(7), one_of(8)), (seq(BIG),), (one_of(7), seq(BIG)), id="one-set-of-two"),
        pytest.param((), (), (), id="empty"),
    ],
)
def test_merge(as_path: AsPath, as4_path: AsPath, merged: AsPath) -> None:
    assert merge_as_paths(as_path, as4_path) == merged


def test_confederation_segments_are_cut_out_of_as4_path() -> None:
    assert decode_as4_path(bytes.fromhex("03010000fc00" + "0201fa56ea00")) == ((seq(BIG),), True)
    assert decode_as4_path(bytes.fromhex("03010000fc00")) == ((), True)


@pytest.mark.parametrize(
    ("aggregator", "as4_aggregator", "expected", "merges"),
    [
        pytest.param("5ba0c0000207", "fa56ea00c0000207", BIG, True, id="as-trans-is-replaced"),
        pytest.param("0001c0000207", "fa56ea00c0000207", 1, False, id="aggregated-anew-by-an-old-speaker"),
        pytest.param("5ba0c0000207", None, 23456, True, id="no-as4-aggregator"),
        pytest.param(None, "fa56ea00c0000207", None, True, id="as4-aggregator-alone-is-dropped"),
    ],
)
def test_aggregators(aggregator: str | None, as4_aggregator: str | None, expected: int | None, merges: bool) -> None:
    octets = attribute(0x40, 2, "0202fc015ba0") + attribute(0xC0, 17, "0201fa56ea00")
    octets += attribute(0xC0, 7, aggregator) if aggregator else b""
    octets += attribute(0xC0, 18, as4_aggregator) if as4_aggregator else b""
    values = read_attributes(octets, OLD).values
    found = values.get("aggregator")
    assert (found and found[0]) == expected
    assert values["as_path"] == ((seq(64513), seq(BIG)) if merges else (seq(64513, 23456),))


def test_a_new_speaker_has_no_second_view() -> None:
    """RFC 6793 section 4.1: both AS4 attributes of a speaker of 4-octet numbers are discarded and said so."""
    octets = attribute(0x40, 2, "020100005ba0")
    octets += attribute(0xC0, 7, "00005ba0c0000207") + attribute(0xC0, 17, "0201fa56ea00")
    decoded = read_attributes(octets + attribute(0xC0, 18, "fa56ea00c0000207"), INTERNAL)
    assert decoded.values["as_path"] == (seq(23456),)
    assert decoded.values["aggregator"][0] == 23456
    assert [(fault.attribute, fault.verdict) for fault in decoded.faults] == [
        ("AS4_PATH", Verdict.DISCARD),
        ("AS4_AGGREGATOR", Verdict.DISCARD),
    ]


def test_a_malformed_as4_path_leaves_as_path_standing() -> None:
    decoded = read_attributes(attribute(0x40, 2, "0202fc015ba0") + attribute(0xC0, 17, "0200"), OLD)
    assert decoded.values["as_path"] == (seq(64513, 23456),)
    assert [fault.verdict for fault in decoded.faults] == [Verdict.DISCARD]


def test_length_for_selection() -> None:
    assert PathAttributes(IPv4Address("192.0.2.1"), as_path=(seq(1, 2), one_of(3, 4))).as_path_length == 3
