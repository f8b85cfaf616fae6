"""Names are memory for ever, so there is an end to those a server lets itself be taught.

libxml2 keeps every name of an element, attribute or entity it has read, every namespace, and white space of some length
in a dictionary, of which lxml has one for all parsers of a thread; nothing ever leaves it.  `names_known` is how many
there are.  What a piece of a stream has added is not told, but no string of it is longer than the longest words of the
piece, and so it is charged to all streams together.

When the limit is reached, what was heard before can still be said.  So that this is the whole of the protocol, whoever
comes first after a start, the names of it are taught here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from heapq import nlargest

from lxml import etree

from schema import names

_ENTRY_OCTETS = 64
"""What the dictionary needs for a string besides its octets."""
_WORD = re.compile(rb"[^\s<>='\"]+|\s{16,}")
"""What may be new; white space that is shorter stands in the tree itself."""
_SPOKEN = """
    stream error features version to from id lang xmlns starttls required auth response abort challenge mechanism
    iq type message presence body show status priority subject thread text c ver node hash ext
    bind resource session ping query pubsub subscribe unsubscribe subscription subscriptions options publish retract
    items item affiliations affiliation create configure default delete purge notify subid jid max_items event in-sync
    instance-id x form field var value title instructions label required option
    set max first last after before index count
    entry nlri af safi address next-hops next-hop tunnel-encapsulation-list tunnel-encapsulation sequence-number
    local-preference enable enabled resume resumed failed r a h previd location
    lt gt amp apos quot
"""

names_known: Callable[[], int] = etree.memory_debugger.dict_size  # type: ignore[attr-defined]


@dataclass(slots=True)
class Names:
    """What the streams of one server have taught the parser: at most so many octets."""

    octets: int = 0

    def learn(self, new: int, piece: bytes, before: int) -> None:
        """So many strings were new when the parser had read a piece, of which the first may have begun `before`."""
        self.octets += new * _ENTRY_OCTETS + before + sum(nlargest(new, map(len, _WORD.findall(piece))))


def _teach() -> None:
    uris = [value for name, value in vars(names).items() if name.startswith("NS_")]
    words = "".join(f"<{word} {word}=''/>" for word in _SPOKEN.split())
    spaces = "".join(f"<x xmlns='{uri}' xmlns:stream='{uri}'/>" for uri in uris)
    etree.fromstring(f"<x>{words}{spaces}&lt;&gt;&amp;&apos;&quot;</x>")


_teach()
