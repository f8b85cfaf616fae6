"""`RouteItem` and its XML: what is written is read back, by either parser, and what a forwarder may overlook."""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from schema.items import ItemError, RouteItem, entry_xml, read_entry, read_offered_entry
from schema.names import NS_UNICAST
from schema.validation import check_entry
from schema.values import LABEL_MAX, LABEL_MIN, UINT32_MAX, Encapsulation, IPAddress, IPNetwork, NextHop


def _is_next_hop(address: IPAddress) -> bool:
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    broadcast = address == ipaddress.IPv4Address("255.255.255.255")
    return not (mapped or address.is_multicast or address.is_unspecified or broadcast)


def _networks(version: Any, bits: int) -> st.SearchStrategy[IPNetwork]:
    return st.builds(
        lambda address, length: ipaddress.ip_network((address, length), strict=False),
        st.ip_addresses(v=version),
        st.integers(0, bits),
    ).filter(lambda network: version == 4 or not network.is_link_local)


next_hops = st.builds(
    NextHop,
    st.ip_addresses().filter(_is_next_hop),
    st.integers(LABEL_MIN, LABEL_MAX),
    st.lists(st.sampled_from(Encapsulation), min_size=1, unique=True).map(tuple),
)
items = st.builds(
    RouteItem,
    _networks(4, 32) | _networks(6, 128),
    st.lists(next_hops, min_size=1, max_size=4).map(tuple),
    st.integers(0, UINT32_MAX),
    st.integers(0, UINT32_MAX),
)


@given(items)
def test_a_written_item_passes_the_schema_and_reads_back(item: RouteItem) -> None:
    text = entry_xml(item)
    entry = etree.fromstring(text)
    check_entry(entry)
    assert read_entry(entry) == item
    assert read_offered_entry(ElementTree.fromstring(text)) == item


@given(items)
def test_writing_is_stable(item: RouteItem) -> None:
    assert entry_xml(read_entry(etree.fromstring(entry_xml(item)))) == entry_xml(item)


HOP = NextHop(ipaddress.IPv4Address("192.0.2.1"), 10000, (Encapsulation.GRE, Encapsulation.UDP))
PREFIX = ipaddress.ip_network("203.0.113.42/32")


def test_what_is_written_for_the_drafts_publish_is_the_drafts_notification() -> None:
    assert entry_xml(RouteItem(PREFIX, (HOP,), 1)) == (
        '<entry xmlns="urn:ietf:params:xml:ns:bgp:l3vpn:unicast">'
        "<nlri><af>1</af><address>203.0.113.42/32</address></nlri>"
        "<next-hops><next-hop><af>1</af><address>192.0.2.1</address><label>10000</label><tunnel-encapsulation-list>"
        "<tunnel-encapsulation>gre</tunnel-encapsulation><tunnel-encapsulation>udp</tunnel-encapsulation>"
        "</tunnel-encapsulation-list></next-hop></next-hops><sequence-number>1</sequence-number></entry>"
    )


@pytest.mark.parametrize(
    ("item", "present", "absent"),
    [
        (RouteItem(PREFIX, (HOP,)), (), ("sequence-number", "local-preference", "safi")),
        (RouteItem(PREFIX, (HOP,), 0, 0), ("<local-preference>0<",), ("sequence-number",)),
        (RouteItem(PREFIX, (HOP,), 7, 100), ("<sequence-number>7<",), ("local-preference",)),
    ],
)
def test_defaults_are_left_out(item: RouteItem, present: tuple[str, ...], absent: tuple[str, ...]) -> None:
    text = entry_xml(item)
    assert all(part in text for part in present)
    assert not any(part in text for part in absent)


OFFERED = entry_xml(RouteItem(PREFIX, (HOP,), 1))


@pytest.mark.parametrize(
    ("part", "replaced"),
    [
        ("</entry>", "<med>5</med></entry>"),
        ("</entry>", "<color xmlns='urn:example:other'>blue</color></entry>"),
        ("</nlri>", "<vpn-label>3</vpn-label></nlri>"),
        ("<label>", "<virtual-network>blue</virtual-network><label>"),
        ("<next-hops>", "<next-hops><backup-hop/>"),
        ("<tunnel-encapsulation-list>", "<tunnel-encapsulation-list><preferred/>"),
        (
            "<tunnel-encapsulation>gre",
            "<tunnel-encapsulation>mpls-in-quic</tunnel-encapsulation><tunnel-encapsulation>gre",
        ),
        ("<entry ", "<entry version='2' "),
    ],
)
@pytest.mark.parametrize("parse", [etree.fromstring, ElementTree.fromstring], ids=["lxml", "xml.etree"])
def test_a_forwarder_overlooks_what_it_does_not_know(parse: Any, part: str, replaced: str) -> None:
    assert part in OFFERED
    text = OFFERED.replace(part, replaced, 1)
    assert read_offered_entry(parse(text)) == RouteItem(PREFIX, (HOP,), 1)
    with pytest.raises(ItemError):
        check_entry(etree.fromstring(text))


def test_a_next_hop_with_no_encapsulation_known_is_kept_and_unusable() -> None:
    text = OFFERED.replace("gre", "mpls-in-quic").replace("udp", "GRE")
    (hop,) = read_offered_entry(ElementTree.fromstring(text)).next_hops
    assert hop.encapsulations == ()


@pytest.mark.parametrize(
    ("part", "replaced", "reason"),
    [
        ("<label>10000</label>", "", "label: missing"),
        ("<label>10000</label>", "<label/>", "label: '' is not a number"),
        ("<label>10000", "<label>3", "label: 3 is outside"),
        ("<label>10000", "<label>١٦", "is not a number of 1 to 10 digits"),
        ("<next-hops>", "<hops>", "next-hops: missing"),
        ("203.0.113.42/32", "203.0.113.42/8", "host bits set"),
        ("192.0.2.1", "0.0.0.0", "not a unicast address"),
    ],
)
def test_a_forwarder_judges_what_it_uses(part: str, replaced: str, reason: str) -> None:
    text = OFFERED.replace(part, replaced).replace(part.replace("<", "</"), replaced.replace("<", "</"))
    with pytest.raises(ItemError, match=reason):
        read_offered_entry(ElementTree.fromstring(text))


@pytest.mark.parametrize("read", [read_entry, read_offered_entry])
def test_an_entry_without_next_hops_is_refused(read: Any) -> None:
    text = f"<entry xmlns='{NS_UNICAST}'><nlri><af>1</af><address>203.0.113.42</address></nlri><next-hops/></entry>"
    with pytest.raises(ItemError, match="next-hops: empty"):
        read(etree.fromstring(text))


def test_a_publisher_may_not_name_an_encapsulation_nobody_knows() -> None:
    with pytest.raises(ItemError, match="tunnel-encapsulation: 'quic' is not known"):
        read_entry(etree.fromstring(OFFERED.replace("gre", "quic")))


def test_a_publisher_may_not_leave_the_list_empty() -> None:
    text = OFFERED.replace("<tunnel-encapsulation>gre</tunnel-encapsulation>", "")
    text = text.replace("<tunnel-encapsulation>udp</tunnel-encapsulation>", "")
    with pytest.raises(ItemError, match="tunnel-encapsulation-list: empty"):
        read_entry(etree.fromstring(text))
