"""Every item of the corpus is read as, or refused with, what its head comment says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import xmlschema
from lxml import etree

from schema.items import ENTRY_TAG, ItemError, read_entry, read_offered_entry
from schema.validation import check_entry
from tests.support.item_corpus import BAD, CORPUS, GOOD, describe, entries, load

XSD = Path(__file__).parents[2] / "schema" / "l3vpn_unicast.xsd"
SECOND_ENGINE = xmlschema.XMLSchema10(XSD)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_items_pass_the_schema_and_read_as_they_say(path: Path) -> None:
    expected, root = load(path)
    for entry in entries(root):
        check_entry(entry)
    assert [describe(read_entry(entry)) for entry in entries(root)] == [line.strip() for line in expected.splitlines()]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_items_read_the_same_with_the_forwarders_parser(path: Path) -> None:
    _, root = load(path)
    other = ElementTree.parse(path).getroot()
    assert [read_offered_entry(e) for e in other.iter(ENTRY_TAG)] == [read_entry(e) for e in entries(root)]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_items_are_refused_by_the_layer_that_should(path: Path) -> None:
    expected, root = load(path)
    layer, _, reason = expected.partition(": ")
    if layer == "schema":
        with pytest.raises(ItemError) as refusal:
            check_entry(root)
    else:
        assert layer == "values"
        check_entry(root)
        with pytest.raises(ItemError) as refusal:
            read_entry(root)
    assert reason in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("path", [*GOOD, *BAD], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_both_engines_give_the_same_verdict(path: Path) -> None:
    first = etree.XMLSchema(etree.parse(XSD))
    _, root = load(path)
    for entry in entries(root) or [root]:
        text = etree.tostring(entry, encoding="unicode", with_tail=False)
        assert first.validate(etree.fromstring(text)) == SECOND_ENGINE.is_valid(text)


def test_the_corpus_is_there() -> None:
    assert {"draft-publish", "draft-notification"} <= {path.stem for path in GOOD}
    assert len(BAD) > 50, f"{CORPUS} is not complete"
