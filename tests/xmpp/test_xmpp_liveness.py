"""Silence, pings, clients that do not read, and the ways a stream ends."""

from __future__ import annotations

import pytest

from routeserver.xmpp.events import StreamClosed
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from tests.support.xmpp_script import STREAM_END, authenticated, bind, bound, new_session, stanzas

PONG = b"<iq type='result' id='s3-1' to='route-server@ietf.org'/>"


def test_a_silent_client_is_pinged_three_times_and_given_up() -> None:
    session = bound(now=0.0)
    for count, due in enumerate((20.0, 40.0, 60.0), 1):
        assert session.next_timer() == due
        assert session.handle_timer(due - 0.1) == []
        assert session.data_to_send() == b""
        assert session.handle_timer(due) == []
        (ping,) = stanzas(session.data_to_send())
        assert ping.attrib == {
            "type": "get",
            "id": f"s3-{count}",
            "from": "route-server@ietf.org",
            "to": "forwarder@domain.org/vpn",
        }
        assert ping[0].tag == "{urn:xmpp:ping}ping"
    (closed,) = session.handle_timer(80.0)
    assert closed == StreamClosed("connection-timeout: 3 pings were not answered", clean=False)
    assert session.data_to_send().endswith(b"</stream:error>" + STREAM_END)
    assert session.next_timer() is None


@pytest.mark.parametrize(
    "sign",
    [PONG, b" ", b"<", b"<iq type='error' id='s3-1'><error type='cancel'/></iq>", b"<presence/>"],
    ids=["pong", "space", "part", "error", "presence"],
)
def test_any_octet_is_a_sign_of_life(sign: bytes) -> None:
    session = bound(now=0.0)
    session.handle_timer(20.0)
    session.handle_timer(40.0)
    session.data_to_send()
    assert session.receive_data(sign, 41.0) == []
    assert session.next_timer() == 61.0
    assert session.data_to_send() == b""
    for due in (61.0, 81.0, 101.0):
        assert session.handle_timer(due) == [], "the count begins anew"


def test_a_late_timer_does_not_count_twice() -> None:
    session = bound(now=0.0)
    assert session.handle_timer(500.0) == []
    assert session.next_timer() == 520.0


def test_the_limits_are_those_given() -> None:
    session = authenticated(limits=StreamLimits(ping_interval=1.0, ping_misses=0))
    session.receive_data(bind("vpn"), 7.0)
    assert session.next_timer() == 8.0
    assert [type(event) for event in session.handle_timer(8.0)] == [StreamClosed]


def test_the_connection_ends_without_the_stream() -> None:
    for session in (new_session(), bound()):
        (closed,) = session.receive_data(b"", 1.0)
        assert isinstance(closed, StreamClosed)
        assert not closed.clean
        assert session.closing
        assert session.receive_data(b"", 2.0) == []
        assert session.data_to_send() == b""


def test_the_client_ends_its_stream_and_what_follows_is_not_read() -> None:
    session = bound()
    assert session.receive_data(STREAM_END + b"<iq/>", 0.0) == [StreamClosed("the client ended its stream", clean=True)]
    assert session.data_to_send() == STREAM_END
    assert session.closing


@pytest.mark.parametrize("stage", [authenticated, bound])
@pytest.mark.parametrize("condition", ["<conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", ""])
def test_the_client_reports_a_stream_error(stage: object, condition: str) -> None:
    session = stage()  # type: ignore[operator]
    (closed,) = session.receive_data(f"<stream:error>{condition}</stream:error></stream:stream>".encode(), 0.0)
    assert isinstance(closed, StreamClosed)
    assert ("conflict" in closed.reason) == bool(condition)
    assert not closed.clean
    assert session.data_to_send() == STREAM_END


def test_the_server_ends_the_stream() -> None:
    session = bound()
    assert session.close("system-shutdown") == [StreamClosed("system-shutdown", clean=False)]
    error = b"<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
    session.send_retracts("blue", "forwarder@domain.org", ["x"])
    assert session.data_to_send() == error + STREAM_END
    assert session.close("reset") == []
    assert session.data_to_send() == b""


def test_the_server_ends_a_stream_that_has_not_begun() -> None:
    session = new_session()
    session.close("system-shutdown", "good & bye")
    sent = session.data_to_send()
    assert sent.startswith(b"<?xml version='1.0'?><stream:stream ")
    assert b"good &amp; bye" in sent
    assert sent.endswith(b"</stream:error>" + STREAM_END)


# --- Clients that do not read -----------------------------------------------------------------------------------------

SLOW = StreamLimits(ping_interval=20.0, ping_misses=1, slow_reader_timeout=100.0)


def full(limits: StreamLimits = SLOW) -> XmppSession:
    """A session whose client took 1000 octets and then, from 5 s on, no more."""
    session = bound(limits=limits)
    session.taken(1000, 4.0)
    session.writable = False
    session.taken(1000, 5.0)
    return session


def wake(session: XmppSession, until: float, taken: int = 1000) -> float | None:
    """Keep the session's timers as the driver does; when it closed."""
    while (due := session.next_timer()) is not None and due <= until:
        session.taken(taken, due)
        if session.handle_timer(due):
            return due
    return None


def test_a_client_that_reads_nothing_is_not_pinged_and_cut_in_time() -> None:
    session = full()
    assert wake(session, 104.9) is None
    assert session.data_to_send() == b"", "what it cannot answer is not asked"
    assert session.next_timer() == 105.0
    assert session.handle_timer(105.0) == [
        StreamClosed("connection-timeout: the client read nothing for 100 s", clean=False)
    ]
    said = session.data_to_send()
    assert b"<connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>" in said
    assert b"the client read nothing for 100 s" in said
    assert said.endswith(b"</stream:error>" + STREAM_END)


def test_the_time_counts_from_the_last_octet_it_took() -> None:
    session = full()
    assert wake(session, 50.0) is None
    session.taken(1001, 51.0)
    assert wake(session, 150.9, taken=1001) is None
    assert wake(session, 200.0, taken=1001) == 151.0


def test_octets_it_sends_meanwhile_do_not_count() -> None:
    session = full()
    session.receive_data(b" ", 104.0)
    assert wake(session, 200.0) == 105.0


def test_a_client_that_reads_again_is_pinged_as_if_it_had_just_spoken() -> None:
    session = full()
    assert wake(session, 90.0) is None
    session.writable = True
    session.taken(5000, 91.0)
    assert session.next_timer() == 111.0
    assert session.handle_timer(111.0) == []
    assert b"urn:xmpp:ping" in session.data_to_send()
    session.writable = False
    session.taken(5000, 112.0)
    assert wake(session, 300.0, taken=5000) == 212.0, "a second time is counted from its own beginning"


def test_a_client_that_is_not_logged_in_has_no_more_time_to_read_than_to_log_in() -> None:
    session = authenticated(limits=StreamLimits(auth_timeout=30.0, slow_reader_timeout=1000.0))
    session.writable = False
    session.taken(10, 1.0)
    assert session.next_timer() == 30.0


def test_a_session_that_is_over_counts_nothing() -> None:
    session = full()
    session.close("reset")
    session.taken(2000, 6.0)
    assert session.next_timer() is None
