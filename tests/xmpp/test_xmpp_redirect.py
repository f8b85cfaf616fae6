"""What a stream error carries besides its name, and when a client is sent to another host (RFC 6120 section 4.9)."""

from __future__ import annotations

import pytest
from slixmpp.stanza.stream_error import StreamError as StockStreamError

from routeserver.xmpp.errors import StreamError
from routeserver.xmpp.events import StreamClosed
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stanza import stream_error
from tests.support.xmpp_script import (
    AUTH,
    CLIENT,
    HEADER,
    STARTTLS,
    STREAM_END,
    bind,
    bound,
    new_session,
    secured,
    stanzas,
)

STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"
HOST = "[2001:db8::1]:5222"
REDIRECT = f"<stream:error><see-other-host xmlns='{STREAMS}'>{HOST}</see-other-host>"


def draining(session: XmppSession) -> XmppSession:
    session.other_host = lambda: HOST
    return session


@pytest.mark.parametrize(
    ("error", "inside"),
    [
        (StreamError("conflict"), f"<conflict xmlns='{STREAMS}'/>"),
        (StreamError("see-other-host", "", "a&b"), f"<see-other-host xmlns='{STREAMS}'>a&amp;b</see-other-host>"),
        (
            StreamError("undefined-condition", "why", detail="<x xmlns='urn:x'/>"),
            f"<undefined-condition xmlns='{STREAMS}'/><text xmlns='{STREAMS}' xml:lang='en'>why</text>"
            "<x xmlns='urn:x'/>",
        ),
    ],
    ids=["name", "content", "detail"],
)
def test_the_parts_of_a_stream_error(error: StreamError, inside: str) -> None:
    assert stream_error(error) == f"<stream:error>{inside}</stream:error></stream:stream>"


def test_a_session_is_sent_to_another_host() -> None:
    session = bound()
    (closed,) = session.send_elsewhere(HOST)
    assert closed == StreamClosed("see-other-host: this route server is being taken out of service", clean=False)
    sent = session.data_to_send()
    assert sent.startswith(REDIRECT.encode())
    assert sent.endswith(STREAM_END)
    (element,) = stanzas(sent)
    stock = StockStreamError(xml=element)
    assert (stock["condition"], stock["see_other_host"]) == ("see-other-host", HOST)


def test_a_new_client_is_sent_there_once_it_is_known_and_before_it_is_bound() -> None:
    session = draining(secured(ClientCertificate(xmpp_addresses=(CLIENT,))))
    assert session.receive_data(HEADER + AUTH, 0.0) == []
    assert b"<success " in session.data_to_send()
    (closed,) = session.receive_data(HEADER + bind("vpn"), 0.0)
    assert isinstance(closed, StreamClosed)
    (error,) = stanzas(session.data_to_send())
    assert (error[0].tag, error[0].text) == (f"{{{STREAMS}}}see-other-host", HOST)


def test_who_is_not_known_yet_hears_nothing_of_other_hosts() -> None:
    session = draining(new_session())
    session.receive_data(HEADER + STARTTLS, 0.0)
    session.tls_established(None)
    session.receive_data(HEADER + AUTH, 0.0)
    sent = session.data_to_send()
    assert b"<not-authorized/>" in sent
    assert b"see-other-host" not in sent


def test_who_is_in_stays_until_its_turn_comes() -> None:
    session = draining(bound())
    session.receive_data(b"<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>", 0.0)
    assert not session.closing
    assert b"type='result'" in session.data_to_send()
