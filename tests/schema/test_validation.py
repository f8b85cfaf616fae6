"""The XSD check: where it works, what it says, and what it must never do."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys

import pytest
from lxml import etree

from schema.items import ItemError, read_entry
from schema.names import NS_UNICAST
from schema.validation import check_entry
from tests.support.item_corpus import CORPUS, entries, load

OPTIONAL_PARTS = (
    "<safi>1</safi>",
    "<sequence-number>1</sequence-number>",
    "<local-preference>200</local-preference>",
    "<tunnel-encapsulation-list><tunnel-encapsulation>gre</tunnel-encapsulation></tunnel-encapsulation-list>",
    "/32",
)
ENTRY = (
    f"<entry xmlns='{NS_UNICAST}'><nlri><af>1</af><safi>1</safi><address>203.0.113.42/32</address></nlri>"
    "<next-hops><next-hop><af>1</af><address>192.0.2.1</address><label>10000</label>"
    "<tunnel-encapsulation-list><tunnel-encapsulation>gre</tunnel-encapsulation></tunnel-encapsulation-list>"
    "</next-hop></next-hops><sequence-number>1</sequence-number><local-preference>200</local-preference></entry>"
)
XSI = "xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'"


@pytest.mark.parametrize("left_out", [c for n in range(6) for c in itertools.combinations(OPTIONAL_PARTS, n)])
def test_every_combination_of_optional_parts_is_accepted(left_out: tuple[str, ...]) -> None:
    text = ENTRY
    for part in left_out:
        assert part in text
        text = text.replace(part, "")
    entry = etree.fromstring(text)
    check_entry(entry)
    item = read_entry(entry)
    assert str(item.prefix) == "203.0.113.42/32"
    assert item.next_hops[0].encapsulations == ("gre",)


def test_an_entry_is_judged_in_place() -> None:
    _, stanza = load(CORPUS / "good" / "draft-publish.xml")
    before = etree.tostring(stanza)
    (entry,) = entries(stanza)
    parent = entry.getparent()
    check_entry(entry)
    assert entry.getparent() is parent
    assert etree.tostring(stanza) == before


def test_text_around_the_entry_is_not_the_entrys_fault() -> None:
    check_entry(etree.fromstring(f"<item>before{ENTRY}after</item>")[0])


def test_a_long_entry_is_refused_without_asking_the_slow_engine() -> None:
    hop = re.search("<next-hop>.*</next-hop>", ENTRY)
    assert hop is not None
    text = ENTRY.replace(hop[0], hop[0] * 200 + "<next-hop/>")
    with pytest.raises(ItemError, match=r"Element 'next-hop': Missing child element"):
        check_entry(etree.fromstring(text))


def test_a_reason_is_never_long() -> None:
    with pytest.raises(ItemError) as refusal:
        check_entry(etree.fromstring(ENTRY.replace("10000", "x" * 5000)))
    assert len(str(refusal.value)) <= 300


def test_an_endless_number_passes_the_schema_and_is_refused_as_a_value() -> None:
    entry = etree.fromstring(ENTRY.replace("10000", "1" * 5000))
    check_entry(entry)
    with pytest.raises(ItemError, match="label: '11111111111111111111' is not a number"):
        read_entry(entry)


def test_a_publishers_schema_location_is_never_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.xsd"
        hint = f"{XSI} xsi:schemaLocation='{NS_UNICAST} {url} urn:example:other {url}'"
        hinted = ENTRY.replace("<entry", f"<entry {hint}", 1)
        check_entry(etree.fromstring(hinted))
        with pytest.raises(ItemError, match="Tag 'label' expected"):
            check_entry(etree.fromstring(hinted.replace("<label>10000</label>", "")))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_explaining_engine_is_imported_only_for_a_refusal() -> None:
    code = (
        "import sys\nfrom lxml import etree\nfrom schema.items import ItemError\n"
        "from schema.validation import check_entry\n"
        f"check_entry(etree.fromstring({ENTRY!r}))\n"
        "print('xmlschema' in sys.modules)\n"
        "try: check_entry(etree.fromstring(" + repr(ENTRY.replace("<label>10000</label>", "")) + "))\n"
        "except ItemError: print('xmlschema' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]
