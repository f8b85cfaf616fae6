"""Stream headers, STARTTLS, SASL EXTERNAL and binding: what is refused, with which condition, and that it is final."""

from __future__ import annotations

import base64

import pytest

from routeserver.xmpp.events import Bound, StartTls, StreamClosed
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from tests.support.xmpp_script import (
    AUTH,
    HEADER,
    STARTTLS,
    STREAM_END,
    authenticated,
    bind,
    bound,
    feed,
    new_session,
    secured,
    stanzas,
)

ONE_NAME = ClientCertificate(xmpp_addresses=("host1@example.net",))
SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
PLAIN_HEADER = "<stream:stream xmlns='{}' xmlns:stream='{}' to='{}' version='{}'>"
CLIENT_NS, STREAM_NS = "jabber:client", "http://etherx.jabber.org/streams"


def assert_stream_error(session: XmppSession, events: list[object], condition: str) -> None:
    """The client was told, the stream was ended, the driver was told, and all is silence after it."""
    sent = session.data_to_send()
    assert sent.startswith(b"<?xml version='1.0'?><stream:stream ") or b"<stream:stream " not in sent
    assert sent.endswith(b"</stream:error>" + STREAM_END)
    assert f"<stream:error><{condition} ".encode() in sent
    assert isinstance(events[-1], StreamClosed)
    assert events[-1].reason.startswith(condition)
    assert not events[-1].clean
    assert session.closing
    assert session.next_timer() is None
    assert session.receive_data(HEADER, 0.0) == session.handle_timer(1e9) == session.close("reset") == []
    assert session.data_to_send() == b""


@pytest.mark.parametrize(
    ("header", "condition"),
    [
        (PLAIN_HEADER.format(CLIENT_NS, STREAM_NS, "other.example.net", "1.0"), "host-unknown"),
        (PLAIN_HEADER.format(CLIENT_NS, STREAM_NS, "@", "1.0"), "host-unknown"),
        (f"<stream:stream xmlns='{CLIENT_NS}' xmlns:stream='{STREAM_NS}' version='1.0'>", "host-unknown"),
        (PLAIN_HEADER.format(CLIENT_NS, STREAM_NS, "rs.example.net", "0.9"), "unsupported-version"),
        (PLAIN_HEADER.format(CLIENT_NS, STREAM_NS, "rs.example.net", "one"), "unsupported-version"),
        (f"<stream:stream xmlns='{CLIENT_NS}' xmlns:stream='{STREAM_NS}' to='rs.example.net'>", "unsupported-version"),
        (PLAIN_HEADER.format("jabber:server", STREAM_NS, "rs.example.net", "1.0"), "invalid-namespace"),
        (PLAIN_HEADER.format(CLIENT_NS, "http://example.net/streams", "rs.example.net", "1.0"), "invalid-namespace"),
        (f"<stream xmlns='{STREAM_NS}' to='rs.example.net' version='1.0'>", "invalid-namespace"),
        (f"<stream:features xmlns='{CLIENT_NS}' xmlns:stream='{STREAM_NS}'>", "bad-format"),
        (f"<iq xmlns='{CLIENT_NS}' type='get' id='1'>", "bad-format"),
        ("GET / HTTP/1.1\r\n\r\n", "not-well-formed"),
        ("\x16\x03\x01\x02", "not-well-formed"),
        (HEADER.decode().replace("to=", "from='a@b@c' to="), "invalid-from"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_a_bad_stream_header_is_answered_behind_our_own(header: str, condition: str, size: int | None) -> None:
    session = new_session()
    events = feed(session, header.encode(), size)
    assert_stream_error(session, events, condition)


@pytest.mark.parametrize("version", ["1.0", "1.1", "2.0"])
def test_a_later_version_gets_ours(version: str) -> None:
    session = new_session()
    assert session.receive_data(HEADER.replace(b" version='1.0' xml", f" version='{version}' xml".encode()), 0.0) == []
    assert b" version='1.0' " in session.data_to_send()


def test_another_prefix_for_the_stream_namespace_is_as_good() -> None:
    session = new_session()
    header = f"<s:stream xmlns='{CLIENT_NS}' xmlns:s='{STREAM_NS}' to='rs.example.net' version='1.0'>"
    assert session.receive_data(header.encode() + STARTTLS, 0.0) == [StartTls()]


@pytest.mark.parametrize(
    "behind", [b"\n", b"<", AUTH, HEADER, b"<iq type='set' id='1'/>", STREAM_END], ids=lambda octets: octets[:8]
)
def test_nothing_may_follow_starttls_in_the_clear(behind: bytes) -> None:
    session = new_session()
    events = session.receive_data(HEADER + STARTTLS + behind, 0.0)
    assert_stream_error(session, events, "policy-violation")
    assert not any(isinstance(event, StartTls) for event in events)


def test_octets_between_proceed_and_tls_end_the_connection_without_a_word() -> None:
    session = new_session()
    assert session.receive_data(HEADER + STARTTLS, 0.0) == [StartTls()]
    session.data_to_send()
    events = session.receive_data(AUTH, 0.0)
    assert [type(event) for event in events] == [StreamClosed]
    assert session.data_to_send() == b""


@pytest.mark.parametrize(
    ("element", "condition"),
    [
        (b"<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>", "not-authorized"),
        (b"<message/>", "not-authorized"),
        (b"<presence/>", "not-authorized"),
        (b"<r xmlns='urn:xmpp:sm:3'/>", "unsupported-stanza-type"),
        (b"<starttls/>", "unsupported-stanza-type"),
    ],
)
def test_before_login_nothing_else_is_understood(element: bytes, condition: str) -> None:
    in_the_clear, under_tls, unbound = new_session(), secured(ONE_NAME), authenticated()
    for session in (in_the_clear, under_tls):
        session.receive_data(HEADER, 0.0)
    for session in (in_the_clear, under_tls, unbound):
        session.data_to_send()
        assert_stream_error(session, session.receive_data(element, 0.0), condition)


def test_starttls_twice_and_auth_twice_are_not_understood() -> None:
    under_tls, unbound = secured(ONE_NAME), authenticated()
    under_tls.receive_data(HEADER, 0.0)
    assert_stream_error(under_tls, under_tls.receive_data(STARTTLS, 0.0), "unsupported-stanza-type")
    assert_stream_error(unbound, unbound.receive_data(AUTH, 0.0), "unsupported-stanza-type")


def test_a_login_in_the_clear_is_refused_for_good() -> None:
    session = new_session()
    session.receive_data(HEADER, 0.0)
    session.data_to_send()
    (closed,) = session.receive_data(AUTH, 0.0)
    assert isinstance(closed, StreamClosed)
    assert session.data_to_send().startswith(f"<failure {SASL}><encryption-required/>".encode())


def test_external_is_offered_only_to_who_showed_a_certificate() -> None:
    session = secured(None)
    session.receive_data(HEADER, 0.0)
    assert session.data_to_send().endswith(b"<stream:features></stream:features>")
    (closed,) = session.receive_data(AUTH, 0.0)
    sent = session.data_to_send()
    assert isinstance(closed, StreamClosed)
    assert sent.startswith(f"<failure {SASL}><not-authorized/>".encode())
    assert sent.endswith(b"</failure>" + STREAM_END)


def encoded(authzid: str) -> str:
    return base64.b64encode(authzid.encode()).decode()


TWO_NAMES = ClientCertificate(xmpp_addresses=("host1@example.net", "host2@example.net"))
DNS = ClientCertificate(dns_names=("host1.example.net",))
DNS_TWICE = ClientCertificate(dns_names=("host1.example.net", "host2.example.net"))


@pytest.mark.parametrize(
    ("certificate", "initial", "stream_from", "outcome"),
    [
        (ONE_NAME, "=", None, "host1@example.net"),
        (ONE_NAME, "", None, "host1@example.net"),
        (ONE_NAME, " = ", None, "host1@example.net"),
        (ONE_NAME, encoded("host1@example.net"), None, "host1@example.net"),
        (ONE_NAME, encoded("HOST1@Example.NET"), None, "host1@example.net"),
        (ONE_NAME, encoded("host2@example.net"), None, "invalid-authzid"),
        (ONE_NAME, encoded("host1@example.net/vpn"), None, "invalid-authzid"),
        (ONE_NAME, encoded("@"), None, "invalid-authzid"),
        (ONE_NAME, "=", "host1@example.net", "host1@example.net"),
        (ONE_NAME, "=", "host1@example.net/vpn", "host1@example.net"),
        (TWO_NAMES, encoded("host2@example.net"), None, "host2@example.net"),
        (TWO_NAMES, "=", None, "invalid-authzid"),
        (TWO_NAMES, "=", "host2@example.net", "invalid-authzid"),
        (TWO_NAMES, encoded("host3@example.net"), None, "invalid-authzid"),
        (DNS, "=", None, "host1.example.net"),
        (DNS, encoded("host1.example.net"), None, "host1.example.net"),
        (DNS, encoded("host2.example.net"), None, "invalid-authzid"),
        (DNS_TWICE, encoded("host2.example.net"), None, "host2.example.net"),
        (DNS_TWICE, "=", "host2.example.net", "host2.example.net"),
        (DNS_TWICE, "=", None, "not-authorized"),
        (DNS_TWICE, "=", "host3.example.net", "not-authorized"),
        (ClientCertificate(), "=", None, "not-authorized"),
        (ClientCertificate(), encoded("host1.example.net"), None, "invalid-authzid"),
    ],
)
def test_who_a_certificate_makes_one(
    certificate: ClientCertificate, initial: str, stream_from: str | None, outcome: str
) -> None:
    session = secured(certificate)
    sender = f" from='{stream_from}' to=" if stream_from else " to="
    session.receive_data(HEADER.replace(b" to=", sender.encode()), 0.0)
    session.data_to_send()
    events = session.receive_data(f"<auth {SASL} mechanism='EXTERNAL'>{initial}</auth>".encode(), 0.0)
    sent = session.data_to_send().decode()
    if session.jid is not None:
        assert (str(session.jid), sent, events) == (outcome, f"<success {SASL}/>", [])
    else:
        assert sent.startswith(f"<failure {SASL}><{outcome}/><text ")
        assert sent.endswith("</failure></stream:stream>")
        assert [type(event) for event in events] == [StreamClosed]


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_stream_from_another_than_the_certificate_proves(stage: str) -> None:
    session = secured(ONE_NAME)
    forged = HEADER.replace(b" to=", b" from='host2@example.net' to=")
    first, second = (forged, HEADER) if stage == "before" else (HEADER, forged)
    events = session.receive_data(first + AUTH + second, 0.0)
    sent = session.data_to_send()
    assert (b"<success" in sent) == (stage == "after")
    assert b"<stream:error><invalid-from " in sent
    assert [type(event) for event in events] == [StreamClosed]


@pytest.mark.parametrize(
    ("attempt", "condition"),
    [
        (f"<auth {SASL} mechanism='PLAIN'>AGEAYg==</auth>", "invalid-mechanism"),
        (f"<auth {SASL}>=</auth>", "invalid-mechanism"),
        (f"<auth {SASL} mechanism='EXTERNAL'>*</auth>", "incorrect-encoding"),
        (f"<auth {SASL} mechanism='EXTERNAL'>/w==</auth>", "incorrect-encoding"),
        (f"<response {SASL}/>", "malformed-request"),
        (f"<abort {SASL}/>", "aborted"),
    ],
)
def test_an_attempt_that_makes_no_sense_may_be_repeated_twice(attempt: str, condition: str) -> None:
    session = secured(ONE_NAME)
    session.receive_data(HEADER, 0.0)
    for _ in range(2):
        session.data_to_send()
        assert session.receive_data(attempt.encode(), 0.0) == []
        assert session.data_to_send().startswith(f"<failure {SASL}><{condition}/>".encode())
    third = secured(ONE_NAME)
    third.receive_data(HEADER + attempt.encode() * 2 + AUTH, 0.0)
    assert third.jid == Jid.parse("host1@example.net")
    assert_stream_error(session, session.receive_data(attempt.encode(), 0.0), "policy-violation")


@pytest.mark.parametrize(
    ("asked", "resource"), [("vpn", "vpn"), ("a@b/c", "a@b/c"), ("a\u00a0b", "a b"), ("e\u0301", "\u00e9")]
)
def test_a_resource_is_prepared(asked: str, resource: str) -> None:
    session = authenticated()
    assert session.receive_data(bind(asked), 0.0) == [Bound(Jid("forwarder", "domain.org", resource))]
    (answer,) = stanzas(session.data_to_send())
    assert answer.findtext(".//{*}jid") == f"forwarder@domain.org/{resource}"


@pytest.mark.parametrize("resource", ["x" * 1024, "\u0085", "\u200b", "\U000f0000"])
def test_a_bad_resource_is_refused_and_another_may_follow(resource: str) -> None:
    session = authenticated()
    assert session.receive_data(bind(resource), 0.0) == []
    (answer,) = stanzas(session.data_to_send())
    assert (answer.get("type"), answer.get("id")) == ("error", "b1")
    assert answer.find("{*}error/{*}bad-request") is not None
    assert session.receive_data(bind("vpn"), 0.0) == [Bound(Jid("forwarder", "domain.org", "vpn"))]


@pytest.mark.parametrize(
    "iq",
    [
        b"<iq type='get' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        b"<iq type='set' id='1'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>",
    ],
)
def test_an_unbound_client_can_only_bind(iq: bytes) -> None:
    session = authenticated()
    assert_stream_error(session, session.receive_data(iq, 0.0), "not-authorized")


def test_a_bind_without_id_is_refused() -> None:
    session = authenticated()
    session.receive_data(bind("vpn").replace(b" id='b1'", b""), 0.0)
    (answer,) = stanzas(session.data_to_send())
    assert (answer.get("type"), answer.get("id")) == ("error", None)


def test_a_second_bind_is_not_allowed() -> None:
    session = bound()
    session.receive_data(bind("other"), 0.0)
    (answer,) = stanzas(session.data_to_send())
    assert answer.find("{*}error[@type='cancel']/{*}not-allowed") is not None
    assert str(session.jid) == "forwarder@domain.org/vpn"


@pytest.mark.parametrize("stage", ["clear", "tls", "sasl"])
def test_a_login_has_to_be_done_in_time(stage: str) -> None:
    limits = StreamLimits(auth_timeout=5.0)
    session = {"clear": new_session, "tls": lambda **s: secured(ONE_NAME, **s), "sasl": authenticated}[stage](
        limits=limits
    )
    assert session.next_timer() == 5.0
    assert session.handle_timer(4.9) == []
    assert_stream_error(session, session.handle_timer(5.0), "connection-timeout")


def test_a_handshake_that_takes_too_long_ends_without_a_word() -> None:
    session = new_session()
    session.receive_data(HEADER + STARTTLS, 0.0)
    session.data_to_send()
    assert [type(event) for event in session.handle_timer(30.0)] == [StreamClosed]
    assert session.data_to_send() == b""
