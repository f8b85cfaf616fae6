"""Whatever octets come in whatever pieces: no exception, and an end of the stream is the worst that happens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from routeserver.xmpp.events import StreamClosed, XmppEvent
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.session import XmppSession
from tests.support.xmpp_script import (
    AUTH,
    CONVERSATIONS,
    HEADER,
    STARTTLS,
    STREAM_NS,
    authenticated,
    bound,
    new_session,
    read_script,
    secured,
)

STAGES: dict[str, Callable[[], XmppSession]] = {
    "clear": new_session,
    "secured": lambda: secured(ClientCertificate(dns_names=("a.example", "b.example"))),
    "authenticated": authenticated,
    "bound": bound,
}
SPOKEN = sorted(
    {direction.text.encode() for path in CONVERSATIONS for direction in read_script(path) if direction.verb == "C"}
)
FRAGMENTS = [
    HEADER,
    STARTTLS,
    AUTH,
    *SPOKEN,
    b"<iq type='set' id='1'><pubsub xmlns='http://jabber.org/protocol/pubsub'>",
    b"<!DOCTYPE x [<!ENTITY e 'x'>]>",
    b"<!--",
    b"-->",
    b"<?x ?>",
    b"&e;",
    b"<![CDATA[",
    b"]]>",
    b"</stream:stream>",
    b"</iq>",
    b"\xff",
    b"\x00",
    b" ",
]


def assert_total(session: XmppSession, pieces: list[bytes]) -> None:
    """Feed the pieces, then time and the end of the connection; what is written is well-formed to its end."""
    written, events = b"", list[XmppEvent]()
    already_open = session.data_to_send() == b"" and session.jid is not None and session.jid.resource != ""
    for now, piece in enumerate(pieces):
        events += session.receive_data(piece, float(now)) if piece else []
        written += session.data_to_send()
    events += session.handle_timer(1e6) if not session.closing else []
    events += session.receive_data(b"", 1e6)
    assert [type(event) for event in events].count(StreamClosed) == 1
    assert isinstance(events[-1], StreamClosed)
    assert session.closing
    for document in _documents(written, already_open):
        parser = etree.XMLPullParser(events=("start",))
        parser.feed(document)
        assert len(parser.feed_error_log) == 0


def _documents(written: bytes, already_open: bool) -> list[bytes]:
    head = f"<stream:stream xmlns='jabber:client' xmlns:stream='{STREAM_NS}'>".encode()
    first, *others = written.split(b"<?xml version='1.0'?>")
    return [head + first, *others]


@pytest.mark.parametrize("stage", STAGES)
@settings(deadline=None)
@given(octets=st.binary(max_size=200), cut=st.integers(1, 50))
def test_random_octets(stage: str, octets: bytes, cut: int) -> None:
    for start in (b"", HEADER):
        data = start + octets
        assert_total(STAGES[stage](), [data[i : i + cut] for i in range(0, len(data), cut)])


@pytest.mark.parametrize("stage", STAGES)
@settings(max_examples=200, deadline=None)
@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=8), cut=st.integers(1, 400), begin=st.booleans())
def test_fragments_in_any_order(stage: str, fragments: list[bytes], cut: int, begin: bool) -> None:
    data = (HEADER if begin else b"") + b"".join(fragments)
    assert_total(STAGES[stage](), [data[i : i + cut] for i in range(0, len(data), cut)])


MUTATION = st.tuples(
    st.integers(0, 1 << 16), st.sampled_from(["drop", "insert", "replace", "double"]), st.binary(max_size=4)
)


def mutated(data: bytes, mutations: list[tuple[int, str, bytes]]) -> bytes:
    for place, kind, octets in mutations:
        at = place % (len(data) + 1)
        match kind:
            case "drop":
                data = data[:at] + data[at + len(octets) + 1 :]
            case "insert":
                data = data[:at] + octets + data[at:]
            case "replace":
                data = data[:at] + octets + data[at + len(octets) :]
            case "double":
                data = data[:at] + data[max(0, at - 20) :]
    return data


@settings(max_examples=300, deadline=None)
@given(
    spoken=st.lists(st.sampled_from(SPOKEN), min_size=1, max_size=3),
    mutations=st.lists(MUTATION, min_size=1, max_size=4),
    cut=st.integers(1, 2000),
)
def test_mutated_conversations(spoken: list[bytes], mutations: list[tuple[int, str, bytes]], cut: int) -> None:
    data = mutated(b"".join(spoken), mutations)
    assert_total(bound(), [data[i : i + cut] for i in range(0, len(data), cut)])


@settings(max_examples=150, deadline=None)
@given(
    spoken=st.lists(st.sampled_from(SPOKEN), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
)
def test_pieces_make_no_difference(spoken: list[bytes], cuts: list[int]) -> None:
    data = b"".join(text for text in spoken if b"<stream:stream" not in text and b"</stream" not in text)
    whole, parts = bound(), bound()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    told = [event for i, j in pairwise(edges) if i < j for event in parts.receive_data(data[i:j], 0.0)]
    assert (whole.receive_data(data, 0.0) if data else []) == told
    assert whole.data_to_send() == parts.data_to_send()
