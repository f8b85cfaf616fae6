"""XML that a stream must not contain, and amounts of it that nobody needs (RFC 6120 sections 11 and 13.12).

The attacks of tests/corpus/xmpp/attacks are whole inputs of a client, one condition each, named by their folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from routeserver.xmpp.errors import StreamError
from routeserver.xmpp.events import StreamClosed
from routeserver.xmpp.stream import StreamEnd, StreamHeader, StreamLimits, StreamReader
from tests.support.xmpp_script import HEADER, STREAM_END, ask, bound, feed, new_session

ATTACKS = sorted((Path(__file__).parent.parent / "corpus" / "xmpp" / "attacks").glob("*/*"))
PING = b"<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"


def fault(data: bytes, size: int | None = None, *, max_bytes: int = 100_000, max_depth: int = 10) -> str:
    """The condition with which a reader ends; the whole input has to be consumed without one otherwise."""
    reader = StreamReader(StreamLimits(max_stanza_bytes=max_bytes, max_depth=max_depth))
    size = size or len(data)
    for start in range(0, len(data), size):
        try:
            for _ in reader.feed(data[start : start + size]):
                pass
        except StreamError as error:
            return error.condition
    return "none"


@pytest.mark.parametrize("size", [None, 1, 5], ids=["whole", "octets", "fives"])
@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_attack_on_a_new_connection(path: Path, size: int | None) -> None:
    session = new_session()
    events = feed(session, path.read_bytes(), size)
    assert [type(event) for event in events] == [StreamClosed]
    assert f"<stream:error><{path.parent.name} ".encode() in session.data_to_send()
    assert session.closing


def test_there_are_attacks() -> None:
    assert len(ATTACKS) > 10


@pytest.mark.parametrize(
    ("inside", "condition"),
    [
        (b"<!-- x -->", "restricted-xml"),
        (b"<?x y?>", "restricted-xml"),
        (b"<iq><!-- x --></iq>", "restricted-xml"),
        (b"<iq><?x y?></iq>", "restricted-xml"),
        (b"<iq>&x;</iq>", "restricted-xml"),
        (b"<iq id='&x;'/>", "restricted-xml"),
        (b"<iq>&#0;</iq>", "not-well-formed"),
        (b"<!DOCTYPE x>", "not-well-formed"),
        (b"<?xml version='1.0'?>", "not-well-formed"),
        (b"<iq></message>", "not-well-formed"),
        (b"<iq id='1' id='2'/>", "not-well-formed"),
        (b"<iq>\xff</iq>", "not-well-formed"),
        (b"<iq>\x01</iq>", "not-well-formed"),
        (b"<iq", "none"),
        (b"<p:iq/>", "bad-namespace-prefix"),
        (b"<iq p:id='1'/>", "bad-namespace-prefix"),
        (b"<iq xmlns:p=''/>", "bad-namespace-prefix"),
        (b"<p:iq xmlns:p='http://www.w3.org/2000/xmlns/'/>", "bad-namespace-prefix"),
        (b"<iq xmlns:p='u' xmlns:q='u' p:id='' q:id=''/>", "invalid-xml"),
        (b"<iq xmlns='a b'/>", "invalid-xml"),
        (b"<iq xml:id='1'/>", "none"),
        (b"<iq/>text<iq/>", "bad-format"),
        (b"text<iq/>", "bad-format"),
        (b"<iq/> \n\t <iq/>", "none"),
        (b"<iq><![CDATA[<!-- x -->]]>&lt;&#65;</iq>", "none"),
        (b"<iq xmlns='relative'/>", "none"),
        (b"<a>" * 9 + b"</a>" * 9, "none"),
        (b"<a>" * 10, "policy-violation"),
        (b"<a>" * 300, "policy-violation"),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_inside_a_stream(inside: bytes, condition: str, size: int | None) -> None:
    assert fault(HEADER + PING + inside, size) == condition


def test_a_fault_comes_after_the_elements_before_it() -> None:
    reader = StreamReader(StreamLimits(max_stanza_bytes=1000, max_depth=10))
    units = reader.feed(HEADER + PING + PING + b"<iq>&x;</iq>" + PING)
    header, first, second = (next(units) for _ in range(3))
    assert isinstance(header, StreamHeader)
    assert first.get("id") == second.get("id") == "1"  # type: ignore[union-attr]
    with pytest.raises(StreamError, match="restricted-xml"):
        next(units)


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        ("<p:ping xmlns:p='http://www.w3.org/2000/xmlns/'/>", "bad-namespace-prefix"),
        ("<p:ping/>", "bad-namespace-prefix"),
        ("<ping xmlns='urn:xmpp:ping' p:x=''/>", "bad-namespace-prefix"),
        ("<ping xmlns='urn:xmpp:ping' xmlns:p='a b'/>", "invalid-xml"),
        ("<ping xmlns='urn:xmpp:ping'/></iq><p:iq/></stream", "bad-namespace-prefix"),
    ],
)
def test_what_the_parser_goes_on_after_is_not_acted_on(payload: str, condition: str) -> None:
    """The parser makes an element with a colon in its name of it, or one that lacks an attribute."""
    session = bound()
    events = ask(session, payload, "get")
    assert [type(event) for event in events] == [StreamClosed]
    assert session.data_to_send().startswith(f"<stream:error><{condition} ".encode())


def test_an_entity_does_not_start_a_new_document() -> None:
    """libxml2 stops without an exception there, and would take what comes next for another document."""
    session = bound()
    events = feed(session, b"<iq type='get' id='&x;'><ping xmlns='urn:xmpp:ping'/></iq>" + HEADER + PING, 1)
    assert [type(event) for event in events] == [StreamClosed]
    assert b"restricted-xml" in session.data_to_send()


@pytest.mark.parametrize("size", [None, 1, 1000])
def test_an_element_of_the_greatest_size_is_read_and_endless_ones_are_not(size: int | None) -> None:
    filler = 5000 - len(b"<message></message>")
    largest = b"<message>" + b"x" * filler + b"</message>"
    assert fault(HEADER + largest * 3, size, max_bytes=5000) == "none"
    assert fault(HEADER + b"<message>" + b"x" * 70_000, size, max_bytes=5000) == "policy-violation"
    assert fault(HEADER + b"<message " + b"x" * 70_000, size, max_bytes=5000) == "policy-violation"


@pytest.mark.parametrize("start", [b"", b"<?xml ", b"<?xml version='1.0'?>", b"<", b"<stream:stream a='"])
@pytest.mark.parametrize("size", [None, 1])
def test_the_opening_tag_is_bounded(start: bytes, size: int | None) -> None:
    data = start + b" " * 20_000
    assert fault(data, size) in ("policy-violation", "not-well-formed")


def test_white_space_keeps_a_stream_alive_for_ever() -> None:
    assert fault(HEADER + PING + b" " * 20_000 + PING, 1, max_bytes=5000) == "none"


@pytest.mark.parametrize("size", [65_536, 997])
def test_memory_does_not_grow_with_the_stream(size: int) -> None:
    """All that was read is gone from the tree: the root holds no element and at most the last white space."""
    reader = StreamReader(StreamLimits(max_stanza_bytes=10_000, max_depth=10))
    list(reader.feed(HEADER))
    stream = (PING + b"\n") * 3000
    for start in range(0, len(stream), size):
        for unit in reader.feed(stream[start : start + size]):
            root = unit.getparent()  # type: ignore[union-attr]
            assert len(root) <= size
    assert len(root) == 0
    assert root.text in (None, "\n")


def test_an_element_is_emptied_before_it_is_taken_out_of_the_stream() -> None:
    """Taking it out full takes time that grows with the square of its size: seconds for one within the limit."""
    reader = StreamReader(StreamLimits(max_stanza_bytes=100_000, max_depth=10))
    _, element = list(reader.feed(HEADER + b"<iq><a><b/></a><a/></iq>"))
    assert not isinstance(element, (StreamHeader, StreamEnd))
    assert (element.tag, len(element)) == ("{jabber:client}iq", 0)


def test_a_stream_ends_once() -> None:
    reader = StreamReader(StreamLimits(max_stanza_bytes=1000, max_depth=10))
    header, end = list(reader.feed(HEADER + STREAM_END))
    assert isinstance(header, StreamHeader)
    assert isinstance(end, StreamEnd)


def test_a_limit_for_who_is_not_logged_in() -> None:
    session = new_session(limits=StreamLimits(max_stanza_bytes=1 << 20))
    events = session.receive_data(HEADER + b"<auth>" + b"x" * 100_000, 0.0)
    assert [type(event) for event in events] == [StreamClosed]
    assert b"policy-violation" in session.data_to_send()
