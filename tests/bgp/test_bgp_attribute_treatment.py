"""Every attribute's faults and what each costs: RFC 7606 section 7 as a table.

Each row is sent twice: beside a route that is announced and one that is withdrawn, and in an UPDATE that announces
nothing, where RFC 7606 section 5.2 turns all but a discarded attribute into a session reset.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from routeserver.bgp.attribute_codec import RULES, AttributeContext
from routeserver.bgp.errors import NotificationError, Verdict
from routeserver.bgp.events import RoutesReceived, RoutesWithdrawn, UpdateMalformed
from routeserver.bgp.iana import Family
from tests.support.updates import (
    EXTERNAL,
    INTERNAL,
    OLD,
    OTHER_KEY,
    ROUTE,
    ROUTE_KEY,
    RTC_NLRI,
    V6_ROUTE,
    attribute,
    base,
    decoder,
    mp_reach,
    mp_unreach,
    update,
)

TUNNEL = "000d0010060a000000000001c0000201080219eb"
BEHIND_ROUTE_SERVER = replace(EXTERNAL, from_route_server=True)

# (peer, flags, type, value, subcode of the NOTIFICATION where nothing is announced)
TREATED_AS_WITHDRAW = [
    pytest.param(INTERNAL, 0x40, 1, "", 6, id="origin-empty"),
    pytest.param(INTERNAL, 0x40, 1, "0000", 6, id="origin-long"),
    pytest.param(INTERNAL, 0x40, 1, "03", 6, id="origin-value"),
    pytest.param(INTERNAL, 0x40, 2, "0501" + "0000fc00", 11, id="path-segment-type"),
    pytest.param(INTERNAL, 0x40, 2, "0202" + "0000fc00", 11, id="path-overrun"),
    pytest.param(INTERNAL, 0x40, 2, "0201" + "0000fc00" + "02", 11, id="path-one-octet-left"),
    pytest.param(INTERNAL, 0x40, 2, "0200", 11, id="path-empty-segment"),
    pytest.param(INTERNAL, 0x40, 2, "0301" + "0000fc00", 11, id="path-confederation-sequence"),
    pytest.param(INTERNAL, 0x40, 2, "0401" + "0000fc00", 11, id="path-confederation-set"),
    pytest.param(INTERNAL, 0x40, 2, "0201" + "00000000", 11, id="path-as-zero"),
    pytest.param(EXTERNAL, 0x40, 2, "0201" + "0000fc02", 11, id="path-foreign-first-as"),
    pytest.param(EXTERNAL, 0x40, 2, "", 11, id="path-empty-from-external"),
    pytest.param(EXTERNAL, 0x40, 2, "0101" + "0000fc01", 11, id="path-begins-with-set"),
    pytest.param(OLD, 0x40, 2, "0201" + "fc02", 11, id="path-foreign-first-as-old"),
    pytest.param(OLD, 0x40, 2, "0201" + "0000fc01", 11, id="path-of-the-wrong-width"),
    pytest.param(INTERNAL, 0x40, 3, "c00002", 8, id="next-hop-length"),
    pytest.param(INTERNAL, 0x40, 3, "", 8, id="next-hop-empty"),
    pytest.param(INTERNAL, 0x80, 4, "000001", 5, id="med-length"),
    pytest.param(INTERNAL, 0x80, 4, "", 5, id="med-empty"),
    pytest.param(INTERNAL, 0x40, 5, "0000000064", 5, id="local-pref-length"),
    pytest.param(INTERNAL, 0xC0, 8, "", 9, id="communities-empty"),
    pytest.param(INTERNAL, 0xC0, 8, "fc0000", 9, id="communities-length"),
    pytest.param(INTERNAL, 0x80, 9, "c00002", 5, id="originator-length"),
    pytest.param(INTERNAL, 0x80, 10, "", 5, id="cluster-list-empty"),
    pytest.param(INTERNAL, 0x80, 10, "c0000201c0", 5, id="cluster-list-length"),
    pytest.param(INTERNAL, 0xC0, 16, "", 9, id="ext-communities-empty"),
    pytest.param(INTERNAL, 0xC0, 16, "0002fc00000000", 9, id="ext-communities-length"),
    pytest.param(INTERNAL, 0xC0, 22, "00000000", 9, id="pmsi-short"),
    pytest.param(INTERNAL, 0xC0, 23, TUNNEL + "00", 9, id="tunnel-octet-left"),
    pytest.param(INTERNAL, 0xC0, 23, "000d0011060a000000000001c0000201080219eb", 9, id="tunnel-overrun"),
    pytest.param(INTERNAL, 0xC0, 23, "", 9, id="tunnel-empty"),
    pytest.param(INTERNAL, 0xC0, 23, "000d0004080219eb", 9, id="tunnel-none-valid"),
    pytest.param(INTERNAL, 0xC0, 25, "", 9, id="ipv6-ext-communities-empty"),
    pytest.param(INTERNAL, 0xC0, 25, "00" * 19, 9, id="ipv6-ext-communities-length"),
    pytest.param(INTERNAL, 0xC0, 32, "", 9, id="large-communities-empty"),
    pytest.param(INTERNAL, 0xC0, 32, "00" * 13, 9, id="large-communities-length"),
    pytest.param(INTERNAL, 0xC0, 35, "00fc00", 9, id="otc-length"),
]
DISCARDED = [
    pytest.param(INTERNAL, 0x40, 6, "00", id="atomic-aggregate-length"),
    pytest.param(INTERNAL, 0xC0, 7, "fc00c0000201", id="aggregator-of-an-old-peer"),
    pytest.param(OLD, 0xC0, 7, "0000fc00c0000201", id="aggregator-of-a-new-peer"),
    pytest.param(INTERNAL, 0xC0, 7, "00000000c0000201", id="aggregator-as-zero"),
    pytest.param(INTERNAL, 0xC0, 17, "02010000fc00", id="as4-path-from-a-new-peer"),
    pytest.param(OLD, 0xC0, 17, "0200", id="as4-path-empty-segment"),
    pytest.param(OLD, 0xC0, 17, "", id="as4-path-empty"),
    pytest.param(OLD, 0xC0, 17, "02020000fc00", id="as4-path-overrun"),
    pytest.param(OLD, 0xC0, 17, "05010000fc00", id="as4-path-segment-type"),
    pytest.param(OLD, 0xC0, 17, "03010000fc00", id="as4-path-confederation-cut-out"),
    pytest.param(INTERNAL, 0xC0, 18, "0000fc00c0000201", id="as4-aggregator-from-a-new-peer"),
    pytest.param(OLD, 0xC0, 18, "fc00c0000201", id="as4-aggregator-length"),
    pytest.param(INTERNAL, 0x80, 26, "", id="aigp-empty"),
    pytest.param(INTERNAL, 0xC0, 26, "01000b0000000000000001", id="aigp-transitive"),
    pytest.param(INTERNAL, 0x80, 29, "", id="bgp-ls-empty"),
    pytest.param(INTERNAL, 0x80, 29, "04020001", id="bgp-ls-overrun"),
    pytest.param(INTERNAL, 0x80, 29, "040200010004", id="bgp-ls-tlv-cut-off"),
    pytest.param(INTERNAL, 0xC0, 40, "01000700", id="prefix-sid-overrun"),
    pytest.param(INTERNAL, 0xC0, 40, "", id="prefix-sid-empty"),
]
# (peer, flags, type, value, the fields that must come out of it)
ACCEPTED: list[Any] = [
    pytest.param(INTERNAL, 0x40, 1, "02", {"origin": 2}, id="origin"),
    pytest.param(INTERNAL, 0x40, 2, "", {"as_path": ()}, id="path-empty"),
    pytest.param(EXTERNAL, 0x40, 2, "02010000fc01", {"as_path": ((2, (64513,)),)}, id="path"),
    pytest.param(OLD, 0x40, 2, "0202fc015ba0", {"as_path": ((2, (64513, 23456)),)}, id="path-old"),
    pytest.param(INTERNAL, 0x40, 2, "01010000fc05", {"as_path": ((1, (64517,)),)}, id="path-set"),
    pytest.param(INTERNAL, 0x40, 3, "c0000201", {}, id="next-hop-beside-mp-reach"),
    pytest.param(INTERNAL, 0x40, 3, "00000000", {}, id="next-hop-beside-mp-reach-whatever-it-is"),
    pytest.param(BEHIND_ROUTE_SERVER, 0x40, 2, "02010000fc05", {"as_path": ((2, (64517,)),)}, id="path-by-way-of-a-rs"),
    pytest.param(INTERNAL, 0x80, 4, "00000007", {"med": 7}, id="med"),
    pytest.param(INTERNAL, 0x40, 5, "000000c8", {"local_pref": 200}, id="local-pref"),
    pytest.param(EXTERNAL, 0x40, 5, "00", {"local_pref": None}, id="local-pref-from-external-unchecked"),
    pytest.param(EXTERNAL, 0x80, 5, "000000c8", {"local_pref": None}, id="local-pref-from-external-wrong-flags"),
    pytest.param(INTERNAL, 0x40, 6, "", {"atomic_aggregate": True}, id="atomic-aggregate"),
    pytest.param(
        INTERNAL, 0xC0, 7, "fa56ea00c0000201", {"aggregator": (4200000000, IPv4Address("192.0.2.1"))}, id="aggregator"
    ),
    pytest.param(OLD, 0xC0, 7, "fc00c0000201", {"aggregator": (64512, IPv4Address("192.0.2.1"))}, id="aggregator-old"),
    pytest.param(INTERNAL, 0xC0, 8, "fc000001ffffff01", {"communities": (0xFC000001, 0xFFFFFF01)}, id="communities"),
    pytest.param(INTERNAL, 0x80, 9, "c0000209", {"originator_id": IPv4Address("192.0.2.9")}, id="originator"),
    pytest.param(EXTERNAL, 0x80, 9, "c0", {"originator_id": None}, id="originator-from-external-unchecked"),
    pytest.param(
        INTERNAL,
        0x80,
        10,
        "c0000209c000020a",
        {"cluster_list": (IPv4Address("192.0.2.9"), IPv4Address("192.0.2.10"))},
        id="cluster-list",
    ),
    pytest.param(EXTERNAL, 0x80, 10, "c0", {"cluster_list": ()}, id="cluster-list-from-external-unchecked"),
    pytest.param(
        INTERNAL,
        0xC0,
        16,
        "0002fc00000000644399000000000001",
        {"ext_communities": (bytes.fromhex("0002fc0000000064"), bytes.fromhex("4399000000000001"))},
        id="ext-communities-with-an-unknown-type",
    ),
    pytest.param(
        INTERNAL,
        0xC0,
        22,
        "0006000000c0000201",
        {"unknown": ((0xC0, 22, bytes.fromhex("0006000000c0000201")),)},
        id="pmsi",
    ),
    pytest.param(INTERNAL, 0xC0, 22, "0000000000", {"unknown": ((0xC0, 22, bytes(5)),)}, id="pmsi-without-tunnel"),
    pytest.param(INTERNAL, 0xC0, 23, TUNNEL, {"tunnel_encapsulation": bytes.fromhex(TUNNEL)}, id="tunnel"),
    pytest.param(INTERNAL, 0xC0, 25, "00" * 20, {"unknown": ((0xC0, 25, bytes(20)),)}, id="ipv6-ext-communities"),
    pytest.param(INTERNAL, 0x80, 26, "01000b0000000000000001", {"unknown": ()}, id="aigp-dropped"),
    pytest.param(INTERNAL, 0x80, 29, "0402000100", {"unknown": ()}, id="bgp-ls-dropped"),
    pytest.param(
        INTERNAL,
        0xC0,
        32,
        "0000fc000000000100000002" * 2 + "0000fc000000000100000001",
        {"large_communities": ((64512, 1, 2), (64512, 1, 1))},
        id="large-communities-repeated",
    ),
    pytest.param(INTERNAL, 0xC0, 35, "0000fc00", {"unknown": ((0xC0, 35, bytes.fromhex("0000fc00")),)}, id="otc"),
    pytest.param(
        INTERNAL, 0xC0, 40, "010003000000", {"unknown": ((0xC0, 40, bytes.fromhex("010003000000")),)}, id="prefix-sid"
    ),
    pytest.param(INTERNAL, 0xC0, 128, "0102", {"unknown": ((0xE0, 128, b"\1\2"),)}, id="unknown-passed-on-as-partial"),
    pytest.param(INTERNAL, 0xC0, 99, "", {"unknown": ((0xE0, 99, b""),)}, id="unknown-empty"),
    pytest.param(INTERNAL, 0x80, 24, "0102", {"unknown": ()}, id="unknown-not-transitive-dropped"),
    pytest.param(INTERNAL, 0xE0, 8, "fc000001", {"partial": frozenset({8})}, id="partial-remembered"),
    pytest.param(INTERNAL, 0xCF, 8, "fc000001", {"communities": (0xFC000001,)}, id="low-bits-ignored"),
    pytest.param(INTERNAL, 0x60, 1, "00", {"partial": frozenset()}, id="partial-on-well-known-ignored"),
]


def sent(context: AttributeContext, flags: int, kind: int, value: str, *routes: bytes) -> bytes:
    return update(*routes, *base(context, without=kind), attribute(flags, kind, value))


@pytest.mark.parametrize(("context", "flags", "kind", "value", "subcode"), TREATED_AS_WITHDRAW)
def test_treated_as_withdraw(context: AttributeContext, flags: int, kind: int, value: str, subcode: int) -> None:
    reading = decoder(context)
    message = sent(context, flags, kind, value, mp_reach(), mp_unreach())
    malformed, *withdrawn = reading.decode(message)
    assert isinstance(malformed, UpdateMalformed)
    assert malformed.message == message
    assert withdrawn == [RoutesWithdrawn(Family.VPNV4, [OTHER_KEY]), RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])]
    assert reading.malformed == {RULES[kind].name: 1}


@pytest.mark.parametrize(("context", "flags", "kind", "value", "subcode"), TREATED_AS_WITHDRAW)
def test_a_withdrawal_with_such_an_attribute_ends_the_session(
    context: AttributeContext, flags: int, kind: int, value: str, subcode: int
) -> None:
    with pytest.raises(NotificationError) as raised:
        decoder(context).decode(sent(context, flags, kind, value, mp_unreach()))
    assert (raised.value.code, raised.value.subcode) == (3, subcode)
    assert raised.value.data == (b"" if subcode == 11 else attribute(flags, kind, value))


@pytest.mark.parametrize(("context", "flags", "kind", "value"), DISCARDED)
def test_attribute_discarded(context: AttributeContext, flags: int, kind: int, value: str) -> None:
    (clean,) = decoder(context).decode(update(mp_reach(), *base(context)))
    assert isinstance(clean, RoutesReceived)
    malformed, received = decoder(context).decode(sent(context, flags, kind, value, mp_reach()))
    assert isinstance(malformed, UpdateMalformed)
    assert RULES[kind].name in malformed.reason
    assert received == clean


@pytest.mark.parametrize(("context", "flags", "kind", "value"), DISCARDED)
def test_a_withdrawal_with_a_discarded_attribute_is_just_that(
    context: AttributeContext, flags: int, kind: int, value: str
) -> None:
    malformed, withdrawn = decoder(context).decode(sent(context, flags, kind, value, mp_unreach()))
    assert isinstance(malformed, UpdateMalformed)
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [OTHER_KEY])


@pytest.mark.parametrize(("context", "flags", "kind", "value", "fields"), ACCEPTED)
def test_accepted(context: AttributeContext, flags: int, kind: int, value: str, fields: dict[str, object]) -> None:
    (received,) = decoder(context).decode(sent(context, flags, kind, value, mp_reach()))
    assert isinstance(received, RoutesReceived)
    assert {name: getattr(received.attributes, name) for name in fields} == fields


FLAGS_WITHDRAW = [rule for rule in RULES.values() if rule.on_flags is Verdict.TREAT_AS_WITHDRAW]


def test_attributes_with_a_rule_of_their_own_for_wrong_flags() -> None:
    """MP_REACH_NLRI and MP_UNREACH_NLRI by RFC 7606 section 5.3, AIGP by RFC 7311 section 3."""
    assert {rule.kind for rule in RULES.values() if rule not in FLAGS_WITHDRAW} == {14, 15, 26}


@pytest.mark.parametrize("rule", FLAGS_WITHDRAW, ids=lambda rule: rule.name)
@pytest.mark.parametrize("wrong", [0x80, 0x40, 0xC0])
def test_wrong_flags_are_treated_as_withdraw(rule: Any, wrong: int) -> None:
    message = sent(INTERNAL, rule.flags ^ wrong, rule.kind, "00" * 8, mp_reach())
    malformed, withdrawn = decoder(INTERNAL).decode(message)
    assert isinstance(malformed, UpdateMalformed)
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])
    with pytest.raises(NotificationError) as raised:
        decoder(INTERNAL).decode(sent(INTERNAL, rule.flags ^ wrong, rule.kind, "00" * 8))
    assert (raised.value.code, raised.value.subcode) == (3, 4)


@pytest.mark.parametrize("flags", [0x00, 0x40, 0x50, 0x20])
def test_an_unknown_well_known_attribute_ends_the_session(flags: int) -> None:
    strange = attribute(flags & ~0x10, 200, "0102", extended=bool(flags & 0x10))
    with pytest.raises(NotificationError) as raised:
        decoder(INTERNAL).decode(update(mp_reach(), *base(INTERNAL), strange))
    assert (raised.value.code, raised.value.subcode, raised.value.data) == (3, 2, strange)


@pytest.mark.parametrize(
    ("context", "missing"),
    [(INTERNAL, 1), (INTERNAL, 2), (INTERNAL, 5), (EXTERNAL, 1), (EXTERNAL, 2)],
    ids=["origin", "as-path", "local-pref", "origin-external", "as-path-external"],
)
def test_a_missing_mandatory_attribute_is_treated_as_withdraw(context: AttributeContext, missing: int) -> None:
    malformed, withdrawn = decoder(context).decode(update(mp_reach(), *base(context, without=missing)))
    assert isinstance(malformed, UpdateMalformed)
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])


def test_nothing_is_mandatory_without_routes() -> None:
    assert decoder(INTERNAL).decode(update(attribute(0x40, 1, "00"))) == []
    assert decoder(INTERNAL).decode(update(mp_unreach())) == [RoutesWithdrawn(Family.VPNV4, [OTHER_KEY])]


def test_the_first_of_repeated_attributes_counts() -> None:
    message = update(mp_reach(), *base(INTERNAL), attribute(0x80, 4, "00000007"), attribute(0x80, 4, "01"))
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes.med == 7


def test_so_does_the_first_of_repeated_ones_out_of_order() -> None:
    first, second = attribute(0xC0, 8, "fc000001"), attribute(0xC0, 8, "fc000002")
    strange, stranger = attribute(0xC0, 99, "01"), attribute(0xC0, 99, "02")
    message = update(mp_reach(), strange, first, *base(INTERNAL), second, stranger)
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert received.attributes.communities == (0xFC000001,)
    assert received.attributes.unknown == ((0xE0, 99, b"\1"),)


def test_a_repeated_attribute_is_not_even_read() -> None:
    """RFC 7606 section 3 g: neither its value nor its flags count, unless it could not be known to be repeated."""
    repeated = [attribute(0x80, 4, "01"), attribute(0x40, 4, "00000001"), attribute(0x40, 99, "01")]
    message = update(mp_reach(), *base(INTERNAL), attribute(0x80, 4, "00000007"), attribute(0x80, 99, ""), *repeated)
    (received,) = decoder(INTERNAL).decode(message)
    assert isinstance(received, RoutesReceived)
    assert (received.attributes.med, received.attributes.unknown) == (7, ())


@pytest.mark.parametrize("value", ["00000001", "7f000001", "e0000001", "f0000001", "ffffffff"])
def test_the_next_hop_of_ipv4_routes_is_a_host(value: str) -> None:
    """RFC 4271 section 6.3. Elsewhere nobody looks at it (RFC 4760 section 3)."""
    bad = attribute(0x40, 3, value)
    reading = decoder(INTERNAL)
    malformed, withdrawn = reading.decode(update(mp_reach(), *base(INTERNAL), bad, nlri=b"\x08\x0a"))
    assert isinstance(malformed, UpdateMalformed)
    assert "is not a host address" in malformed.reason
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])
    (received,) = decoder(INTERNAL).decode(update(mp_reach(), *base(INTERNAL), bad))
    assert isinstance(received, RoutesReceived)


@pytest.mark.parametrize(
    ("afi", "nlri", "hop"),
    [
        *((1, ROUTE, bytes(8) + bytes(ip_address(hop).packed)) for hop in ("0.0.0.0", "0.0.0.1", "127.0.0.1")),
        *((1, ROUTE, bytes(8) + bytes(ip_address(hop).packed)) for hop in ("224.0.0.1", "240.0.0.1")),
        *((2, V6_ROUTE, bytes(8) + bytes(ip_address(hop).packed)) for hop in ("::", "::1", "ff02::1")),
        (2, V6_ROUTE, bytes(18) + b"\xff\xff" + bytes(4)),
        (2, V6_ROUTE, bytes(8) + bytes(16) + bytes(8) + ip_address("fe80::1").packed),
    ],
)
def test_the_next_hop_of_vpn_routes_is_a_host(afi: int, nlri: bytes, hop: bytes) -> None:
    reading = decoder(INTERNAL)
    malformed, withdrawn = reading.decode(update(mp_reach(nlri, hop, afi), *base(INTERNAL)))
    assert isinstance(malformed, UpdateMalformed)
    assert "is not a host address (treat-as-withdraw)" in malformed.reason
    assert isinstance(withdrawn, RoutesWithdrawn)
    assert reading.malformed == {"MP_REACH_NLRI": 1}


def test_the_next_hop_of_memberships_is_not_judged() -> None:
    (received,) = decoder(INTERNAL).decode(update(mp_reach(RTC_NLRI, bytes(4), 1, 132), *base(INTERNAL)))
    assert isinstance(received, RoutesReceived)


def test_attributes_may_come_in_any_order_and_with_an_extended_length() -> None:
    attributes = [mp_reach(), *base(INTERNAL), attribute(0x80, 4, "00000007", extended=True)]
    assert decoder(INTERNAL).decode(update(*attributes)) == decoder(INTERNAL).decode(update(*reversed(attributes)))


@pytest.mark.parametrize("tail", ["c0", "c008", "c00808fc000001", "d0", "d008", "d00800", "d0080005fc000001"])
def test_an_attribute_that_overruns_is_treated_as_withdraw(tail: str) -> None:
    malformed, withdrawn = decoder(INTERNAL).decode(update(mp_reach(), *base(INTERNAL), bytes.fromhex(tail)))
    assert isinstance(malformed, UpdateMalformed)
    assert "overruns" in malformed.reason
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])


def test_all_findings_are_told_and_the_strongest_counts() -> None:
    faults = [attribute(0xC0, 7, "00"), attribute(0xC0, 8, "00"), attribute(0xC0, 16, "00")]
    reading = decoder(INTERNAL)
    malformed, withdrawn = reading.decode(update(mp_reach(), *base(INTERNAL), *faults))
    assert isinstance(malformed, UpdateMalformed)
    assert withdrawn == RoutesWithdrawn(Family.VPNV4, [ROUTE_KEY])
    assert reading.malformed == {"AGGREGATOR": 1, "COMMUNITIES": 1, "EXTENDED_COMMUNITIES": 1}
    with pytest.raises(NotificationError):
        decoder(INTERNAL).decode(update(mp_reach(), *base(INTERNAL), *faults, attribute(0x40, 200, "")))


def test_loopback_next_hops_are_valid_where_the_session_is_on_loopback() -> None:
    context = AttributeContext(64512, False, True, on_loopback=True)
    loopback = mp_reach(next_hop=bytes(8) + b"\x7f\0\0\1")
    (received,) = decoder(context).decode(update(loopback, *base(context)))
    assert isinstance(received, RoutesReceived)
    of_ipv4 = update(mp_reach(), *base(context), attribute(0x40, 3, "7f000001"), nlri=b"\x08\x0a")
    assert isinstance(decoder(context).decode(of_ipv4)[-1], RoutesReceived)


def test_every_row_of_the_table_is_tried() -> None:
    """MP_REACH_NLRI and MP_UNREACH_NLRI are, in the tests of UPDATEs as wholes."""
    tried = {parameters.values[2] for parameters in (*TREATED_AS_WITHDRAW, *DISCARDED)}
    assert tried | {14, 15} == RULES.keys()
    verdicts = {kind: rule.on_fault for kind, rule in RULES.items() if kind not in (14, 15)}
    withdrawing = {parameters.values[2] for parameters in TREATED_AS_WITHDRAW}
    assert {kind for kind, verdict in verdicts.items() if verdict is Verdict.TREAT_AS_WITHDRAW} == withdrawing
