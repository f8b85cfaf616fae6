"""The corpus of messages, real ones and broken ones, against what is written beside each."""

from __future__ import annotations

import pytest

from routeserver.bgp.attribute_codec import RULES
from tests.support.bgp_corpus import Entry, entries, said

GOOD, BAD = entries("good"), entries("bad")


@pytest.mark.parametrize("entry", [*GOOD, *BAD], ids=lambda entry: entry.name)
def test_what_a_message_says(entry: Entry) -> None:
    assert said(entry.peer, entry.message) == entry.says


@pytest.mark.parametrize("entry", GOOD, ids=lambda entry: entry.name)
def test_good_messages_have_no_fault(entry: Entry) -> None:
    assert not [line for line in entry.says if line.startswith(("malformed", "reset", "disable"))]


@pytest.mark.parametrize("entry", BAD, ids=lambda entry: entry.name)
def test_bad_messages_have_one(entry: Entry) -> None:
    assert entry.says[0].startswith(("malformed", "reset"))


def test_every_attribute_of_the_table_is_there_with_a_fault() -> None:
    faults = [line for entry in BAD for line in entry.says if line.startswith("malformed")]
    assert all(any(f" {rule.name}: " in line for line in faults) for rule in RULES.values())
