"""Bytes of one XML stream in; its header, its complete first-level elements and its end out (RFC 6120 section 4).

A reader lives for one stream: TLS and SASL each begin a new one, with a new reader.  Bytes pass three gates.

1. The prolog is examined before the parser sees any of it: an XML declaration of UTF-8 is dropped, everything
   else in front of the root element (DOCTYPE, comment, processing instruction) is refused.  No DTD is ever parsed,
   so no entity is ever declared, whatever the encoding claims to be.
2. lxml's pull parser builds elements.  It does not raise for everything: a reference to an undeclared entity stops
   it in silence and what follows would be taken for a new document.  After a fault of namespaces it goes on, with
   elements that have a colon in their names.  Its error log is therefore read after every feed, and anything in it
   above a warning ends the stream.
3. Events are walked to count depth, to refuse comments and processing instructions (RFC 6120 section 11.1), and to
   hand out each first-level element at its last byte.  It is then taken out of the root, so that a stream of any
   length needs the memory of one stanza.

The limit on bytes counts from the piece in which the last first-level element ended, a piece being 16 KiB or the
limit itself if that is less: an element within the limit is never refused, one of twice the limit always.  The same
holds for the octets from one tag to the next, a tag with its attributes being kept whole by the parser.

What is read of an element that has not ended is memory a client can make us hold.  Beyond a small part that everybody
may have, all streams together hold no more than `Unfinished` admits, whoever wants more meets `resource-constraint`.
The same answers a name nobody said before once there were too many of them (`vocabulary`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from lxml import etree

from routeserver.xmpp.errors import StreamError
from routeserver.xmpp.vocabulary import Names, names_known
from schema.names import NS_CLIENT, NS_STREAM

Element: TypeAlias = etree._Element

UNAUTHENTICATED_BYTES = 10_000
"""The least that RFC 6120 section 13.12 lets a server accept in one stanza, and enough to log in."""
_UNAUTHENTICATED_ELEMENTS = 8
_UNAUTHENTICATED_ATTRIBUTES = 16
_FEED = 16384
_STEEP_FEED = 256
_HEADER_MAX = 10_000
_FREE = 16384
"""What every stream may hold of an unfinished element without being counted."""
_NODE_OCTETS = 256
"""What the parser needs for an element or an attribute besides its text."""
_STREAM_TAG = f"{{{NS_STREAM}}}stream"
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})")
_DECLARATION = re.compile(
    rb"""<\?xml\s+version\s*=\s*(["'])1\.0\1"""
    rb"""(?:\s+encoding\s*=\s*(["'])(?P<encoding>[A-Za-z][\w.-]*)\2)?"""
    rb"""(?:\s+standalone\s*=\s*(["'])(?:yes|no)\4)?\s*\?"""
)
_XML_SPACE = b" \t\r\n"
_NO_PARSER = etree.XMLPullParser()
_NO_ELEMENT = etree.Element("closed")
_NAMESPACE_FAULTS = frozenset(("NS_ERR_UNDEFINED_NAMESPACE", "NS_ERR_XML_NAMESPACE", "NS_ERR_QNAME"))


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one client's stream; times in seconds."""

    max_stanza_bytes: int = 1 << 20
    max_depth: int = 32
    """Elements inside one another, the stream itself among them."""
    max_elements: int = 1 << 16
    """Of one stanza, all together."""
    max_attributes: int = 64
    """Of one element, declarations of namespaces among them."""
    max_tag_bytes: int = 1 << 14
    """From one tag's end to the next one's: a tag and its attributes, or a text."""
    max_unfinished_bytes: int = 6 << 20
    """What all streams together may make the parser hold of unfinished stanzas, beyond 16 KiB each."""
    max_names_bytes: int = 4 << 20
    """What all streams together may teach the parser of names, which it never forgets; strangers a quarter of it."""
    max_unacknowledged_bytes: int = 4 << 20
    """What is kept of stanzas sent to a client that can resume (XEP-0198), until it acknowledges them."""
    max_unacknowledged_bytes_total: int = 4 << 20
    """The same for all clients together, beyond 16 KiB each."""
    max_stanza_rate: int = 5000
    """Stanzas a second, over ten seconds."""
    stanza_timeout: float = 30.0
    """From a stanza's first octet to its last."""
    max_batch: int = 1000
    """Items in one publish, retract or items request."""
    ping_interval: float = 20.0
    """Of silence, before a ping and after each."""
    ping_misses: int = 3
    slow_reader_timeout: float = 180.0
    """From when a client with a full socket stopped taking octets."""
    auth_timeout: float = 30.0
    """From the connection to a bound resource."""

    @property
    def dead_after(self) -> float:
        """Seconds of silence after which a client is given up."""
        return self.ping_interval * (self.ping_misses + 1)

    def unauthenticated(self) -> StreamLimits:
        """What holds before somebody has logged in: nothing big is needed for that."""
        return replace(
            self,
            max_stanza_bytes=UNAUTHENTICATED_BYTES,
            max_elements=_UNAUTHENTICATED_ELEMENTS,
            max_attributes=_UNAUTHENTICATED_ATTRIBUTES,
            max_names_bytes=self.max_names_bytes // 4,
        )


@dataclass(slots=True)
class Unfinished:
    """What the streams of one server hold of elements that have not ended, and of names for good."""

    octets: int = 0
    names: Names = field(default_factory=Names)


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The client's opening tag, its name, namespaces and version already found good."""

    to: str | None
    sender: str | None
    """The attribute `from`."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """`</stream:stream>` was read."""


StreamUnit: TypeAlias = StreamHeader | Element | StreamEnd


class StreamReader:
    """The receiving half of one stream. Its limits but the last are those of one first-level element.

    `unfinished` is what the streams share; `close` gives this one's part of it back.
    """

    __slots__ = (
        "_attributes",
        "_declared",
        "_depth",
        "_elements",
        "_held",
        "_limits",
        "_opened",
        "_parser",
        "_pending",
        "_prolog",
        "_root",
        "_signs",
        "_since_tag",
        "_unfinished",
    )

    def __init__(self, limits: StreamLimits, unfinished: Unfinished | None = None) -> None:
        self._limits = limits
        self._unfinished = unfinished or Unfinished()
        self._held = 0
        """Our part of `unfinished`."""
        self._prolog: bytes | None = b""
        self._pending = 0
        self._since_tag = 0
        self._elements = 0
        self._attributes = 0
        """As many as there are equals signs, at most."""
        self._signs = 0
        """Of those, what the tag that is being read may have."""
        self._declared = 0
        """Namespaces, by the tag that is being read."""
        self._depth = 0
        self._root: Element = _NO_ELEMENT
        self._opened = False
        self._parser = etree.XMLPullParser(
            events=("start", "end", "comment", "pi", "start-ns"),
            encoding="utf-8",
            resolve_entities=False,
            no_network=True,
            collect_ids=False,
        )

    @property
    def is_inside(self) -> bool:
        """Whether a first-level element has begun and not ended."""
        return self._depth > 1 or (self._depth == 1 and self._pending > 0)

    def close(self) -> None:
        """Nothing more is read. A parser with an element open is in a cycle of references, which may last, so what it
        has read is taken away from it."""
        self._hold(0)
        element, self._parser, self._root = self._root, _NO_PARSER, _NO_ELEMENT
        while len(element):
            last = element[-1]
            element.clear()
            element = last

    def feed(self, data: bytes) -> Iterator[StreamUnit]:
        """Yield what `data` completes, in order. Raises StreamError after the last good unit before the fault."""
        if self._prolog is not None:
            data = self._enter(self._prolog + data)
        for piece in self._pieces(data):
            signs, known, since_tag = piece.count(b"="), names_known(), self._since_tag
            fault = self._push(piece)
            if (new := names_known() - known) > 0:
                self._learn(new, piece, since_tag)
            self._signs += signs
            self._attributes += signs
            yield from self._walk(signs)
            if fault is not None:
                try:
                    raise fault
                finally:
                    del fault  # it has this frame in its traceback, and the frame the elements
            self._check_size()

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """What the parser is given at a time; little where more is opened than closed, since it goes deep unasked, and
        where nobody may say a new name, since it learns what is refused."""
        step = _STEEP_FEED if self._knows_enough else min(_FEED, self._limits.max_stanza_bytes)
        for offset in range(0, len(data), step):
            piece = data[offset : offset + step]
            if piece.count(b"<") - 2 * piece.count(b"</") - piece.count(b"/>") > self._limits.max_depth:
                yield from (piece[start : start + _STEEP_FEED] for start in range(0, len(piece), _STEEP_FEED))
            else:
                yield piece

    def _enter(self, data: bytes) -> bytes:
        """Examine the prolog; returns the bytes from the root element on, or none while it has not begun."""
        self._prolog = data
        if data[:1] in (b"\xff", b"\xfe") or b"\0" in data[:4]:
            raise StreamError("unsupported-encoding", "only UTF-8 is spoken here")
        body = data.lstrip(_XML_SPACE)
        if body[:6].rstrip(_XML_SPACE) == b"<?xml" and b">" in body:
            declaration, _, body = body.partition(b">")
            _check_declaration(declaration)
            body = body.lstrip(_XML_SPACE)
        elif b"<?xml".startswith(body[:5]) and body[5:6] in b" \t\r\n":
            body = b""
        if body[:1] not in (b"", b"<"):
            raise StreamError("not-well-formed", "a stream begins with its opening tag")
        if body[1:2] in (b"!", b"?"):
            raise StreamError("restricted-xml", "no DTD, comment or processing instruction before the stream")
        if len(body) > 1:
            self._prolog = None
            return body
        if len(data) > _HEADER_MAX:
            raise StreamError("policy-violation", f"no opening tag within {_HEADER_MAX} octets")
        return b""

    def _push(self, piece: bytes) -> StreamError | None:
        """Give the parser some bytes. Where it stops at a fault the events before it are still to be read, hence no
        raise; where it goes on, nobody can tell what it made of the rest, and nothing of the piece is read."""
        if self._depth != 1 or not piece.isspace():
            self._pending += len(piece)
            self._since_tag += len(piece)
        fault = None
        try:
            self._parser.feed(piece)
        except etree.XMLSyntaxError as error:
            fault = StreamError("not-well-formed", str(error.msg))
        for entry in self._parser.feed_error_log.filter_from_errors():
            if entry.type_name == "ERR_UNDECLARED_ENTITY":
                return StreamError("restricted-xml", "no entity references but the five of XML itself")
            if entry.level == etree.ErrorLevels.ERROR:  # the parser went on
                raise StreamError(_condition(entry), entry.message)
        return fault

    @property
    def _knows_enough(self) -> bool:
        return self._unfinished.names.octets > self._limits.max_names_bytes

    def _learn(self, new: int, piece: bytes, since_tag: int) -> None:
        """Who brings new names once there are enough has to do without them."""
        self._unfinished.names.learn(new, piece, since_tag)
        if self._knows_enough:
            raise StreamError("resource-constraint", "no names but those that were heard here before")

    def _walk(self, signs: int) -> Iterator[StreamUnit]:
        """Read the events of a piece with so many equals signs: who has few of them has no need to be counted."""
        max_depth, max_elements = self._limits.max_depth, self._limits.max_elements
        is_counted = self._signs > self._limits.max_attributes
        for action, element in self._parser.read_events():
            self._since_tag, self._signs = 0, signs
            if action == "start":
                self._depth += 1
                self._elements += 1
                if is_counted or self._depth > max_depth or self._elements > max_elements:
                    self._check_element(element)
                if self._depth == 1:
                    self._opened = True
                    self._root = element
                    self._pending = 0
                    yield _read_header(element)
            elif action == "end":
                self._depth -= 1
                if self._depth == 1:
                    self._pending = self._elements = self._attributes = 0
                    yield element
                    self._forget(element)
                elif self._depth == 0:
                    yield StreamEnd()
            elif action == "start-ns":
                self._declared += is_counted
            else:
                raise StreamError("restricted-xml", "no comments or processing instructions")

    def _check_element(self, element: Element) -> None:
        limits = self._limits
        attributes, self._declared = len(element.attrib) + self._declared, 0
        if self._depth > limits.max_depth:
            raise StreamError("policy-violation", f"elements are nested deeper than {limits.max_depth}")
        if attributes > limits.max_attributes:
            raise StreamError("policy-violation", f"more than {limits.max_attributes} attributes in one element")
        if self._elements > limits.max_elements:
            raise StreamError("policy-violation", f"more than {limits.max_elements} elements in one stanza")

    def _check_size(self) -> None:
        """After every piece: what is held of an element that has not ended."""
        if self._pending > self._limit():
            raise StreamError("policy-violation", f"more than {self._limit()} octets in one element")
        if self._since_tag > self._limits.max_tag_bytes:
            raise StreamError("policy-violation", f"more than {self._limits.max_tag_bytes} octets without a tag")
        nodes = self._elements + self._attributes
        self._hold(max(0, self._pending + _NODE_OCTETS * nodes - _FREE))
        if self._held and self._unfinished.octets > self._limits.max_unfinished_bytes:
            raise StreamError("resource-constraint", "too much is being read from too many clients, try again")

    def _hold(self, octets: int) -> None:
        self._unfinished.octets += octets - self._held
        self._held = octets

    def _forget(self, element: Element) -> None:
        """Take a finished first-level element out of the tree, with the white space around it."""
        root = self._root
        between = f"{root.text or ''}{element.tail or ''}"
        del element[:]  # first, because to move a full element out takes time that grows with the square of its size
        root.remove(element)
        root.text = None
        if between and not between.isspace():
            raise StreamError("bad-format", "text between stanzas")

    def _limit(self) -> int:
        return self._limits.max_stanza_bytes if self._opened else _HEADER_MAX


def _condition(entry: etree._LogEntry) -> str:
    return "bad-namespace-prefix" if entry.type_name in _NAMESPACE_FAULTS else "invalid-xml"


def _check_declaration(declaration: bytes) -> None:
    """Hold an XML declaration (without its last `>`) to XML 1.0 and UTF-8 (RFC 6120 section 11.6)."""
    read = _DECLARATION.fullmatch(declaration)
    if read is None:
        raise StreamError("not-well-formed", "the XML declaration is not one of XML 1.0")
    if read["encoding"] is not None and read["encoding"].lower() not in (b"utf-8", b"utf8"):
        raise StreamError("unsupported-encoding", "only UTF-8 is spoken here")


def _read_header(root: Element) -> StreamHeader:
    """RFC 6120 sections 4.7 and 4.8."""
    if root.tag != _STREAM_TAG:
        if etree.QName(root).localname == "stream":
            raise StreamError("invalid-namespace", f"a stream is in the namespace {NS_STREAM}")
        raise StreamError("bad-format", "the root element is not a stream")
    if root.nsmap.get(None) != NS_CLIENT:
        raise StreamError("invalid-namespace", f"the default namespace of a stream here is {NS_CLIENT}")
    version = _VERSION.fullmatch(root.get("version", ""))
    if version is None or int(version[1]) < 1:
        raise StreamError("unsupported-version", "XMPP 1.0 is needed")
    return StreamHeader(root.get("to"), root.get("from"))
