"""Messages and sessions: any octets give a value, or an error of ours; and what was decoded is encoded stably."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from routeserver.bgp.events import (
    SessionClosed,
)
from routeserver.bgp.fsm import State
from routeserver.bgp.messages import Notification, decode_notification, decode_open
from routeserver.bgp.wire import MessageReader, MessageType, frame
from tests.support.bgp_corpus import entries
from tests.support.bgp_pair import established, session
from tests.support.updates import (
    refusal_code,
)

CORPUS = [entry.message for directory in ("good", "bad") for entry in entries(directory)]
UPDATES = [message for message in CORPUS if message[18] == MessageType.UPDATE]
OPENS = [message for message in CORPUS if message[18] == MessageType.OPEN]


@st.composite
def damaged(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """A message of the corpus with some octets replaced, its header length kept true."""
    octets = bytearray(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(0, 4))):
        octets[draw(st.integers(19, max(19, len(octets) - 1))) % len(octets)] = draw(st.integers(0, 255))
    return frame(MessageType(octets[18]), bytes(octets[19:]))


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_the_stream_reader_is_total(chunks: list[bytes]) -> None:
    reader = MessageReader()

    def read() -> None:
        for chunk in chunks:
            reader.feed(chunk)
            assert all(len(message) >= 19 for message in iter(reader.next_message, None))

    assert refusal_code(read) in (None, 1)


@given(st.binary(min_size=10, max_size=80) | damaged(OPENS).map(lambda message: message[19:]))
def test_open_is_total_and_stable(body: bytes) -> None:
    message = frame(MessageType.OPEN, body)
    code = refusal_code(lambda: decode_open(message))
    assert code in (None, 2)
    if code is None:
        received = decode_open(message)
        assert decode_open(received.encode()) == received


@given(st.binary(min_size=2, max_size=300))
def test_notification_is_total_and_stable(body: bytes) -> None:
    received = decode_notification(frame(MessageType.NOTIFICATION, body))
    assert str(received).startswith("NOTIFICATION ")
    assert decode_notification(received.encode()) == received


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=100))
def test_notifications_round_trip(code: int, subcode: int, data: bytes) -> None:
    assert decode_notification(Notification(code, subcode, data).encode()) == Notification(code, subcode, data)


@given(st.booleans(), st.lists(st.binary(max_size=40) | damaged(UPDATES), max_size=6))
def test_a_session_is_total(up: bool, chunks: list[bytes]) -> None:
    connected = established() if up else session()
    events = [event for chunk in chunks for event in connected.receive_data(chunk, 1.0)]
    assert connected.closing == any(isinstance(event, SessionClosed) for event in events)
    assert connected.closing == (connected.state in (State.IDLE, State.ACTIVE))
    if connected.closing:
        assert isinstance(events[-1], SessionClosed)
