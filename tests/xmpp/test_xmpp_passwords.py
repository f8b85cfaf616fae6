"""Login with a password as a session sees it: what is offered to whom, the order of elements, attempts, and reloads."""

from __future__ import annotations

import pytest

from routeserver.xmpp.accounts import Accounts, AccountSettings
from routeserver.xmpp.events import Bound, StreamClosed
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.scram import ScramKeys
from routeserver.xmpp.session import XmppSession
from tests.support.scram_client import SASL, ScramClient, auth, b64, challenged, response
from tests.support.xmpp_script import AUTH, DOMAIN, HEADER, STREAM_END, bind, new_session, secured

HOST1, HOST2 = Jid.parse("host1.example.net"), Jid.parse(f"host2@{DOMAIN}")
KEYS = ScramKeys.derive("pencil", b"0123456789abcdef", 4096)
CERTIFICATE = ClientCertificate(xmpp_addresses=("host3.example.net",))
FAILURE = f"<failure {SASL}>"


def accounts() -> Accounts:
    return Accounts(DOMAIN, b"secret", (AccountSettings(HOST1, KEYS), AccountSettings(HOST2, KEYS)))


def opened(
    shared: Accounts | None = None, certificate: ClientCertificate | None = None, stream_from: str | None = None
) -> XmppSession:
    """A session under TLS whose client has seen the features."""
    session = secured(certificate, accounts=accounts() if shared is None else shared)
    sender = f" from='{stream_from}' to=" if stream_from else " to="
    session.receive_data(HEADER.replace(b" to=", sender.encode()), 0.0)
    session.data_to_send()
    return session


def say(session: XmppSession, data: bytes) -> bytes:
    """What the session answers."""
    session.receive_data(data, 0.0)
    return session.data_to_send()


def login(session: XmppSession, client: ScramClient) -> bytes:
    """Both messages, and what the server says to the second."""
    challenge = challenged(say(session, auth(client.first())))
    return say(session, response(client.final(challenge)))


def condition(sent: bytes) -> str:
    """Of the failure that was written."""
    text = sent.decode()
    assert text.startswith(FAILURE), text
    return text[len(FAILURE) + 1 :].partition("/>")[0]


EXTERNAL_OFFER, SCRAM_OFFER = "<mechanism>EXTERNAL</mechanism>", "<mechanism>SCRAM-SHA-256</mechanism>"


@pytest.mark.parametrize(
    ("shared", "certificate", "offers"),
    [
        (accounts(), None, SCRAM_OFFER),
        (accounts(), CERTIFICATE, EXTERNAL_OFFER + SCRAM_OFFER),
        (Accounts(DOMAIN), CERTIFICATE, EXTERNAL_OFFER),
        (Accounts(DOMAIN), None, None),
    ],
)
def test_what_is_offered(shared: Accounts, certificate: ClientCertificate | None, offers: str | None) -> None:
    session = secured(certificate, accounts=shared)
    sent = say(session, HEADER).decode()
    mechanisms = f"<mechanisms {SASL}>{offers}</mechanisms>" if offers else ""
    assert sent.endswith(f"<stream:features>{mechanisms}</stream:features>")


def test_passwords_are_not_offered_or_taken_in_the_clear() -> None:
    session = new_session(accounts=accounts())
    assert b"SCRAM" not in say(session, HEADER)
    sent = say(session, auth(ScramClient("host2", "pencil").first()))
    assert condition(sent) == "encryption-required"
    assert session.closing


@pytest.mark.parametrize("certificate", [None, CERTIFICATE], ids=["no certificate", "certificate"])
@pytest.mark.parametrize(("name", "jid"), [("host1.example.net", HOST1), ("host2", HOST2), (f"HOST2@{DOMAIN}", HOST2)])
def test_a_login(name: str, jid: Jid, certificate: ClientCertificate | None) -> None:
    session, client = opened(certificate=certificate), ScramClient(name, "pencil")
    assert client.trusts(challenged(login(session, client), "success"))
    assert session.jid == jid
    assert session.account == accounts().find(name)
    assert session.receive_data(HEADER + bind("vpn"), 0.0) == [Bound(Jid(jid.local, jid.domain, "vpn"))]


def test_a_login_that_waits_to_be_asked() -> None:
    session, client = opened(), ScramClient("host2", "pencil")
    assert say(session, auth(None)) == f"<challenge {SASL}/>".encode()
    challenge = challenged(say(session, response(client.first())))
    assert client.trusts(challenged(say(session, response(client.final(challenge))), "success"))
    assert session.jid == HOST2


def test_octet_by_octet() -> None:
    session, client = opened(), ScramClient("host2", "pencil")
    for octet in auth(client.first()):
        session.receive_data(bytes((octet,)), 0.0)
    for octet in response(client.final(challenged(session.data_to_send()))):
        session.receive_data(bytes((octet,)), 0.0)
    assert session.jid == HOST2


def test_nonces_are_made_of_fresh_words() -> None:
    session, client = opened(), ScramClient("host2", "wrong")
    nonces = []
    for _ in range(2):
        challenge = challenged(say(session, auth(client.first())))
        nonces.append(challenge.partition(b",")[0])
        say(session, response(client.final(challenge)))
    assert nonces == [b"r=fykos3s4", b"r=fykos5s6"]  # s1 and s2 are the streams


@pytest.mark.parametrize(
    ("name", "authzid", "outcome"),
    [
        ("host1.example.net", "", HOST1),
        ("host1.example.net", "host1.example.net", HOST1),
        ("host2", f"Host2@{DOMAIN}", HOST2),
        ("host2", "host1.example.net", "invalid-authzid"),
        ("host2", f"host2@{DOMAIN}/vpn", "invalid-authzid"),
        ("host2", "@", "invalid-authzid"),
        ("nobody", "host1.example.net", "not-authorized"),
    ],
)
def test_nobody_acts_as_somebody_else(name: str, authzid: str, outcome: Jid | str) -> None:
    session = opened()
    sent = login(session, ScramClient(name, "pencil", authzid=authzid))
    if isinstance(outcome, Jid):
        assert session.jid == outcome
    else:
        assert (condition(sent), session.jid) == (outcome, None)
        assert session.closing == sent.endswith(STREAM_END) == (outcome == "invalid-authzid")


@pytest.mark.parametrize(
    ("stream_from", "agrees"), [("host1.example.net", True), ("host1.example.net/x", True), ("host2@x.example", False)]
)
def test_the_stream_s_from_has_to_agree(stream_from: str, agrees: bool) -> None:
    session = opened(stream_from=stream_from)
    sent = login(session, ScramClient("host1.example.net", "pencil"))
    assert (b"<success" in sent) == agrees
    assert (b"<stream:error><invalid-from " in sent) != agrees


FIRST = ScramClient("host2", "pencil").first()


@pytest.mark.parametrize(
    ("elements", "failed"),
    [
        ([auth(FIRST, "PLAIN")], "invalid-mechanism"),
        ([auth(FIRST, "SCRAM-SHA-1")], "invalid-mechanism"),
        ([auth(FIRST, "SCRAM-SHA-256-PLUS")], "invalid-mechanism"),
        ([auth(FIRST, "scram-sha-256")], "invalid-mechanism"),
        ([AUTH], "invalid-mechanism"),
        ([auth(b"")], "malformed-request"),
        ([auth(b"hello")], "malformed-request"),
        ([auth(b"p=tls-exporter,,n=host2,r=fyko")], "not-authorized"),
        ([f"<auth {SASL} mechanism='SCRAM-SHA-256'>*</auth>".encode()], "incorrect-encoding"),
        ([f"<auth {SASL} mechanism='SCRAM-SHA-256'>{b64(FIRST)[:-1]}</auth>".encode()], "incorrect-encoding"),
        ([auth(None), response(b"")], "malformed-request"),
        ([auth(None), f"<response {SASL}>*</response>".encode()], "incorrect-encoding"),
        ([auth(FIRST), response(b"")], "malformed-request"),
        ([auth(FIRST), f"<response {SASL}/>".encode()], "malformed-request"),
        ([auth(FIRST), auth(FIRST)], "malformed-request"),
        ([auth(FIRST), auth(FIRST, "PLAIN")], "malformed-request"),
        ([auth(FIRST), f"<abort {SASL}/>".encode()], "aborted"),
        ([auth(None), f"<abort {SASL}/>".encode()], "aborted"),
        ([f"<abort {SASL}/>".encode()], "aborted"),
        ([response(FIRST)], "malformed-request"),
        ([auth(FIRST), f"<abort {SASL}/>".encode(), response(b"c=biws,r=x,p=AAAA")], "aborted malformed-request"),
    ],
)
def test_what_fails_ends_the_exchange_and_another_may_follow(elements: list[bytes], failed: str) -> None:
    session, client = opened(), ScramClient("host2", "pencil")
    answers = [say(session, element) for element in elements]
    assert " ".join(condition(sent) for sent in answers if not sent.startswith(b"<challenge")) == failed
    assert not session.closing
    assert client.trusts(challenged(login(session, client), "success"))


def test_three_attempts_are_enough() -> None:
    session = opened()
    for _ in range(2):
        assert condition(login(session, ScramClient("host2", "wrong"))) == "not-authorized"
        assert not session.closing
    last = login(session, ScramClient("host2", "wrong"))
    assert condition(last) == "not-authorized"
    assert b"<stream:error><policy-violation " in last
    assert last.endswith(STREAM_END)
    assert session.closing
    assert session.receive_data(auth(FIRST), 0.0) == []


def test_the_right_password_at_the_third_attempt() -> None:
    session, client = opened(), ScramClient("host2", "pencil")
    for _ in range(2):
        login(session, ScramClient("host2", "wrong"))
    assert client.trusts(challenged(login(session, client), "success"))


def test_an_unknown_name_is_answered_like_a_wrong_password() -> None:
    """But for the salt, which belongs to the name."""
    answers = []
    for name in ("host2", "hosta"):
        session, client = opened(), ScramClient(name, "wrong")
        challenge = challenged(say(session, auth(client.first())))
        answers.append(
            (challenge.partition(b",s=")[0], len(challenge), say(session, response(client.final(challenge))))
        )
    assert answers[0] == answers[1]


def test_external_beside_accounts() -> None:
    session = opened(certificate=CERTIFICATE)
    assert say(session, AUTH) == f"<success {SASL}/>".encode()
    assert (session.jid, session.account) == (Jid.parse("host3.example.net"), None)


@pytest.mark.parametrize("now", [(), (AccountSettings(HOST2, "another"),)], ids=["gone", "another password"])
def test_an_account_that_changes_during_the_exchange(now: tuple[AccountSettings, ...]) -> None:
    shared, client = accounts(), ScramClient("host2", "pencil")
    session = opened(shared)
    challenge = challenged(say(session, auth(client.first())))
    shared.replace(now)
    assert condition(say(session, response(client.final(challenge)))) == "not-authorized"
    assert session.jid is None


def test_accounts_that_are_gone_when_the_login_begins() -> None:
    shared = accounts()
    waiting, session = opened(shared), opened(shared)
    say(waiting, auth(None))
    shared.replace(())
    assert challenged(say(waiting, response(FIRST)))  # which cannot be answered by anybody
    events = session.receive_data(auth(FIRST), 0.0)
    assert condition(session.data_to_send()) == "not-authorized"
    assert [type(event) for event in events] == [StreamClosed]
