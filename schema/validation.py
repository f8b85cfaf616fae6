"""The XSD check of a publisher's `<entry>`: structure and types, before `items.read_entry` judges the values.

`l3vpn_unicast.xsd` is the draft's schema (section 11); its head says what was changed.  Two engines know it.
lxml judges, in place inside the stanza and without a copy; every publish goes through it.  `xmlschema` is some
seventy times slower and is asked only after a refusal, for a sentence a person can act on; it is imported then.
Should it find no fault (or the entry be so long that asking it would stall the server), lxml's own words are used.

XSD 1.0 cannot say everything: bounds of numbers, addresses and canonical prefixes are left to `items`.  The
schema also knows the element `items`, which is the draft's but never a payload; only `entry` passes here.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from lxml import etree

from schema.items import ENTRY_TAG, ItemError
from schema.names import NS_UNICAST

_XSD = resources.files("schema").joinpath("l3vpn_unicast.xsd").read_bytes()
_SCHEMA = etree.XMLSchema(etree.fromstring(_XSD))
_QUALIFIED = f"{{{NS_UNICAST}}}"
_EXPLAINED_CHARACTERS = 16384
_REASON_CHARACTERS = 300


def check_entry(entry: etree._Element) -> None:
    """Hold an lxml `<entry>` to the schema. Raises ItemError with one sentence: where, and what is wrong."""
    if entry.tag != ENTRY_TAG:
        raise ItemError(f"{entry.tag!r}: the payload of an item is {ENTRY_TAG}")
    if not _SCHEMA.validate(entry):
        raise ItemError(_explain(entry, _SCHEMA.error_log[0].message))


def _explain(entry: etree._Element, verdict: str) -> str:
    text = etree.tostring(entry, encoding="unicode", with_tail=False)
    reason = _first_error(text) if len(text) <= _EXPLAINED_CHARACTERS else None
    return (reason or verdict).replace(_QUALIFIED, "")[:_REASON_CHARACTERS]


def _first_error(text: str) -> str | None:
    import xmlschema

    for error in _explainer().iter_errors(text, use_location_hints=False):
        reason = error.reason
        if isinstance(error, xmlschema.XMLSchemaDecodeError):
            reason = f"{error.obj!r} is not an integer"
        return f"{error.path}: {reason}"
    return None


@cache
def _explainer() -> Any:
    import xmlschema

    return xmlschema.XMLSchema10(_XSD.decode())
