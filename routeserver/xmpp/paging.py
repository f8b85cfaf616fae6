"""Result set management (XEP-0059) on the wire: which page is asked for, and which one was given.

The `<set/>` stands beside the `<items/>` it is about.  A page is named by at most one of `after`, `before` and `index`;
an empty `before` is the end of the list.  Which items these are is for the owner of the list to say.
"""

from __future__ import annotations

from typing import TypeAlias

from lxml import etree

from routeserver.xmpp import errors
from routeserver.xmpp.events import PageRequest
from routeserver.xmpp.stanza import escape_attribute
from schema.names import NS_RSM

Element: TypeAlias = etree._Element

SET_TAG = f"{{{NS_RSM}}}set"
_DIGITS_MAX = 10


def read_page(result_set: Element) -> PageRequest:
    """A `<set/>` of a request. Raises StanzaError."""
    found: dict[str, str] = {}
    for child in result_set:
        name = etree.QName(child)
        if name.namespace == NS_RSM and found.setdefault(name.localname, child.text or "") != (child.text or ""):
            raise errors.bad_request(f"two values of {name.localname} in one set")
    if len(found.keys() & {"after", "before", "index"}) > 1:
        raise errors.bad_request("a page is named by one of after, before and index")
    after = found.get("after")
    if after == "":
        raise errors.bad_request("after which item?")
    return PageRequest(_number(found, "max"), after, found.get("before"), _number(found, "index"))


def _number(found: dict[str, str], name: str) -> int | None:
    digits = found.get(name)
    if digits is None:
        return None
    if not (0 < len(digits) <= _DIGITS_MAX and digits.isascii() and digits.isdigit()):
        raise errors.bad_request(f"{name} is a number")
    return int(digits)


def result_set(first: str | None, last: str | None, index: int, count: int) -> str:
    """The `<set/>` of an answer (XEP-0059 section 2.6); an empty page has no first and no last."""
    ends = ""
    if first is not None and last is not None:
        ends = f"<first index='{index}'>{escape_attribute(first)}</first><last>{escape_attribute(last)}</last>"
    return f"<set xmlns='{NS_RSM}'>{ends}<count>{count}</count></set>"
