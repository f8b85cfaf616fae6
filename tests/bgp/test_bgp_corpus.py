"""The corpus of messages, real ones and broken ones, against what is written beside each."""

from __future__ import annotations

import pytest

from tests.support.bgp_corpus import Entry, entries, said

GOOD, BAD = entries("good.jsonl"), entries("bad.jsonl")


@pytest.mark.parametrize("entry", [*GOOD, *BAD], ids=lambda entry: entry.source)
def test_what_a_message_says(entry: Entry) -> None:
    assert said(entry.context, entry.message) == entry.says


@pytest.mark.parametrize("entry", GOOD, ids=lambda entry: entry.source)
def test_good_messages_have_no_fault(entry: Entry) -> None:
    assert not [
        line for line in said(entry.context, entry.message) if line.startswith(("malformed", "reset", "disable"))
    ]
