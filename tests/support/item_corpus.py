"""The items of tests/corpus/items, each with what its head comment expects.

`good/*.xml`: one line per `<entry>` of the document, in document order: the prefix, `via` each next hop with its
label and encapsulations, sequence number and local preference.  `bad/*.xml`: `schema:` or `values:`, whichever
refuses it, then a part of the reason.
"""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from schema.items import ENTRY_TAG, RouteItem

CORPUS = Path(__file__).parent.parent / "corpus" / "items"
GOOD = sorted(CORPUS.glob("good/*.xml"))
BAD = sorted(CORPUS.glob("bad/*.xml"))


def load(path: Path) -> tuple[str, etree._Element]:
    """The head comment, stripped, and the root element."""
    root = etree.parse(path).getroot()
    comment = root.getprevious()
    if comment is None or comment.text is None:
        raise ValueError(f"{path}: no head comment")
    return comment.text.strip(), root


def entries(root: etree._Element) -> list[etree._Element]:
    return list(root.iter(ENTRY_TAG))


def describe(item: RouteItem) -> str:
    """An item in the words of the head comments."""
    hops = (f"via {hop.address} label {hop.label} {' '.join(hop.encapsulations)}" for hop in item.next_hops)
    numbers = f"sequence-number {item.sequence_number}, local-preference {item.local_preference}"
    return f"{item.prefix} {' '.join(hops)}, {numbers}"
