"""SCRAM-SHA-256: the vector of RFC 7677, the form the keys are kept in, every fault of a message, and who is nobody."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routeserver.xmpp.accounts import Accounts, AccountSettings, account_name
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import SaslError
from routeserver.xmpp.saslprep import saslprep
from routeserver.xmpp.scram import ITERATIONS, Account, ScramExchange, ScramKeys, prepared_password
from tests.support.scram_client import ScramClient, b64

DOMAIN = "rs.example.net"
HOST1, HOST2 = Jid.parse("host1.example.net"), Jid.parse(f"host2@{DOMAIN}")
SALT = b"0123456789abcdef"
KEYS = ScramKeys.derive("pencil", SALT, 4096)
ALWAYS: Callable[[str], Account] = lambda name: Account(HOST1, KEYS)  # noqa: E731


def test_the_vector_of_the_rfc() -> None:
    """RFC 7677 section 3, octet by octet."""
    keys = ScramKeys.derive("pencil", b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81", 4096)
    exchange = ScramExchange(lambda: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    challenge = exchange.begin(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", lambda name: Account(HOST1, keys))
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert challenge == b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = exchange.finish(b"c=biws,r=" + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert exchange.name == "user"


@pytest.mark.parametrize(
    ("client", "name", "authzid"),
    [
        (ScramClient("user", "pencil"), "user", ""),
        (ScramClient("user", "pencil", gs2="y"), "user", ""),
        (ScramClient("user", "pencil", authzid="host1.example.net"), "user", "host1.example.net"),
        (ScramClient("a=3Db=2Cc=3D2C", "pencil", authzid="x=2Cy"), "a=b,c=2C", "x,y"),
        (ScramClient("häßlich", "pencil"), "häßlich", ""),
        (ScramClient("user", "pencil", more=",x=optional,y=ignored"), "user", ""),
        (ScramClient("user", "pencil", nonce="!#$~+"), "user", ""),
    ],
)
def test_what_a_client_may_say(client: ScramClient, name: str, authzid: str) -> None:
    exchange = ScramExchange(lambda: "OURS")
    challenge = exchange.begin(client.first(), ALWAYS)
    assert client.trusts(exchange.finish(client.final(challenge, more=",z=ignored too")))
    assert (exchange.name, exchange.authzid, exchange.account.jid) == (name, authzid, HOST1)


@pytest.mark.parametrize(
    ("message", "condition"),
    [
        (b"", "malformed-request"),
        (b"n,,n=user", "malformed-request"),
        (b"n,,r=nonce,n=user", "malformed-request"),
        (b"n,,n=,r=nonce", "malformed-request"),
        (b"n,,n=user,r=", "malformed-request"),
        (b"n,,n=user,r=a b", "malformed-request"),
        (b"n,,n=user,r=\xc3\xa4", "malformed-request"),
        (b"n,,n=us=er,r=nonce", "malformed-request"),
        (b"n,,n=us=2c,r=nonce", "malformed-request"),
        (b"n,,n=us\0er,r=nonce", "malformed-request"),
        (b"n,,n=user,r=nonce,", "malformed-request"),
        (b"n,,n=user,r=nonce,1=x", "malformed-request"),
        (b"n,,m=must,n=user,r=nonce", "malformed-request"),
        (b"n,,n=\xff,r=nonce", "malformed-request"),
        (b"n,n=user,r=nonce", "malformed-request"),
        (b",,n=user,r=nonce", "malformed-request"),
        (b"N,,n=user,r=nonce", "malformed-request"),
        (b"n,b=x,n=user,r=nonce", "malformed-request"),
        (b"n,a=,n=user,r=nonce", "malformed-request"),
        (b"p=,,n=user,r=nonce", "malformed-request"),
        (b"p=tls-exporter,,n=user,r=nonce", "not-authorized"),
        (b"p=tls-unique,,n=user,r=nonce", "not-authorized"),
    ],
)
def test_a_first_message_that_is_refused(message: bytes, condition: str) -> None:
    with pytest.raises(SaslError) as refused:
        ScramExchange(lambda: "OURS").begin(message, ALWAYS)
    assert (refused.value.condition, refused.value.is_final) == (condition, False)


def test_the_unchanged_first_message_is_not_refused() -> None:
    assert ScramExchange(lambda: "OURS").begin(b"n,,n=user,r=nonce", ALWAYS).startswith(b"r=nonceOURS,")


def _begun(name: str = "user", find: Callable[[str], Account] = ALWAYS) -> tuple[ScramExchange, ScramClient, bytes]:
    exchange, client = ScramExchange(lambda: "OURS"), ScramClient(name, "pencil")
    return exchange, client, exchange.begin(client.first(), find)


@pytest.mark.parametrize(
    ("fault", "condition"),
    [
        (lambda final: b"", "malformed-request"),
        (lambda final: final.replace(b"c=", b"C="), "malformed-request"),
        (lambda final: final.replace(b",p=", b",m=must,p=").replace(b"c=", b"m=x,c="), "malformed-request"),
        (lambda final: final.partition(b",p=")[0], "malformed-request"),
        (lambda final: final + b",x=y", "malformed-request"),
        (lambda final: final.replace(b"c=biws", b"c=biw"), "malformed-request"),
        (lambda final: final[:-2] + b"=", "malformed-request"),
        (lambda final: final + b"\xff", "malformed-request"),
        (lambda final: final.replace(b"c=biws", b"c=" + b64("y,,").encode()), "not-authorized"),
        (lambda final: final.replace(b"fykoOURS", b"fykoMINE"), "not-authorized"),
        (lambda final: final.replace(b"fykoOURS", b"fyko"), "not-authorized"),
        (lambda final: final.partition(b",p=")[0] + b",p=" + b64(bytes(32)).encode(), "not-authorized"),
        (lambda final: final.partition(b",p=")[0] + b",p=AAAA", "not-authorized"),
    ],
)
def test_a_last_message_that_is_refused(fault: Callable[[bytes], bytes], condition: str) -> None:
    exchange, client, challenge = _begun()
    with pytest.raises(SaslError) as refused:
        exchange.finish(fault(client.final(challenge)))
    assert (refused.value.condition, refused.value.is_final) == (condition, False)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"gs2": "y,,"}, "the header is not the one"),
        ({"gs2": "n,a=host2,"}, "the header is not the one"),
        ({"gs2": "n,,\0"}, "the header is not the one"),
        ({"nonce": "fykoMINE"}, "the nonce is not the one"),
        ({"nonce": "fyko"}, "the nonce is not the one"),
        ({"nonce": "fykoOURS+"}, "the nonce is not the one"),
    ],
)
def test_who_knows_the_password_cannot_change_what_was_said_before(lie: dict[str, str], reason: str) -> None:
    exchange, client, challenge = _begun()
    with pytest.raises(SaslError, match=reason) as refused:
        exchange.finish(client.final(challenge, **lie))
    assert (refused.value.condition, refused.value.is_final) == ("not-authorized", False)


def test_a_proof_with_something_behind_it_is_none() -> None:
    exchange, client, challenge = _begun()
    unproved, _, proof = client.final(challenge).partition(b",p=")
    longer = b64(base64.b64decode(proof) + b"!").encode()
    with pytest.raises(SaslError, match="wrong"):
        exchange.finish(unproved + b",p=" + longer)


_PIECES = st.sampled_from([*"npyacrsimv=,", "n,,", "n=user", ",r=", "=2C", "=3D", "biws", "fykoOURS", ",p=", "\0", "ä"])
_MESSAGES = st.one_of(st.binary(max_size=80), st.lists(_PIECES, max_size=12).map(lambda parts: "".join(parts).encode()))


@given(first=_MESSAGES, last=_MESSAGES)
def test_whatever_is_said_is_answered_or_refused_and_proves_nothing(first: bytes, last: bytes) -> None:
    exchange, (begun, _, _) = ScramExchange(lambda: "OURS"), _begun()
    with suppress(SaslError):
        assert exchange.begin(first, ALWAYS).startswith(b"r=")
    with pytest.raises(SaslError):
        begun.finish(last)


@given(password=st.text(max_size=20))
def test_what_is_prepared_stays_as_it_is(password: str) -> None:
    try:
        prepared = saslprep(password)
    except ValueError:
        return
    assert saslprep(prepared) == prepared


# --- Keys -----------------------------------------------------------------------------------------------------------


def test_keys_as_text() -> None:
    assert ScramKeys.parse(str(KEYS)) == KEYS
    assert str(KEYS).startswith(f"4096:{b64(SALT)}:")
    for secret in (KEYS.stored_key, KEYS.server_key):
        assert repr(secret) not in repr(KEYS)


STORED, SERVER = b64(KEYS.stored_key), b64(KEYS.server_key)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not ITERATIONS:SALT:STOREDKEY:SERVERKEY"),
        ("pencil", "is not ITERATIONS:SALT:STOREDKEY:SERVERKEY"),
        (f"4096:{b64(SALT)}:{STORED}", "is not ITERATIONS:SALT:STOREDKEY:SERVERKEY"),
        (f"4096:{b64(SALT)}:{STORED}:{SERVER}:", "is not ITERATIONS:SALT:STOREDKEY:SERVERKEY"),
        (f"4096:{b64(SALT)}:{STORED}:*{SERVER[1:]}", "is not ITERATIONS:SALT:STOREDKEY:SERVERKEY"),
        (f"4095:{b64(SALT)}:{STORED}:{SERVER}", "the iterations are not from 4096 to 10000000"),
        (f"10000001:{b64(SALT)}:{STORED}:{SERVER}", "the iterations are not from 4096 to 10000000"),
        (f"-5000:{b64(SALT)}:{STORED}:{SERVER}", "the iterations are not from 4096 to 10000000"),
        (f"5_000:{b64(SALT)}:{STORED}:{SERVER}", "the iterations are not from 4096 to 10000000"),
        (f"٥٠٠٠:{b64(SALT)}:{STORED}:{SERVER}", "the iterations are not from 4096 to 10000000"),
        (f"4096:{b64(SALT[:7])}:{STORED}:{SERVER}", "the salt does not have 8 to 64 octets"),
        (f"4096:{b64(bytes(65))}:{STORED}:{SERVER}", "the salt does not have 8 to 64 octets"),
        (f"4096:{b64(SALT)}:{STORED[:-4]}:{SERVER}", "a key does not have the 32 octets of SHA-256"),
        (f"4096:{b64(SALT)}:{STORED}:{b64(bytes(33))}", "a key does not have the 32 octets of SHA-256"),
    ],
)
def test_text_that_is_no_keys(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        ScramKeys.parse(text)
    assert not any(secret in str(refused.value) for secret in (STORED, SERVER, "pencil"))


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
    ],
)
def test_passwords_are_prepared(text: str, prepared: str) -> None:
    """RFC 4013 section 3 has the first five."""
    assert saslprep(text) == prepared
    assert saslprep(prepared) == prepared


@pytest.mark.parametrize(
    "text", ["\u0007", "\u0627\u0031", "\u0627a\u0628", "a\u0627", "\ue000", "\u0221", "\u2028", "\U000e0001", "\u200e"]
)
def test_passwords_nobody_can_have(text: str) -> None:
    with pytest.raises(ValueError, match="RFC"):
        saslprep(text)


@pytest.mark.parametrize("text", ["", "\u00ad"])
def test_no_password_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="it is empty"):
        prepared_password(text)


# --- Accounts -------------------------------------------------------------------------------------------------------


def accounts(*more: AccountSettings) -> Accounts:
    return Accounts(DOMAIN, b"secret", (AccountSettings(HOST1, KEYS), AccountSettings(HOST2, KEYS), *more))


@pytest.mark.parametrize(
    ("name", "jid"),
    [
        ("host1.example.net", HOST1),
        ("Host1.Example.NET", HOST1),
        ("host1.example.net.", HOST1),
        ("host2", HOST2),
        ("HOST2", HOST2),
        (f"host2@{DOMAIN}", HOST2),
        (f"Host2@{DOMAIN.upper()}", HOST2),
        ("host2@example.org", None),
        (f"host2@{DOMAIN}/vpn", None),
        ("host1", None),
        ("host1.example.net/vpn", None),
        (" host2", None),
        ("@", None),
        ("", None),
    ],
)
def test_who_is_meant_by_a_name(name: str, jid: Jid | None) -> None:
    assert accounts().find(name).jid == jid


def test_nobody_looks_like_somebody_and_stays_the_same() -> None:
    found = accounts()
    nobody = found.find("nobody")
    assert nobody.keys == accounts().find("nobody").keys == found.find(f"NOBODY@{DOMAIN}").keys
    assert nobody.keys.salt != found.find("somebody").keys.salt
    assert nobody.keys.salt != Accounts(DOMAIN, b"another", (AccountSettings(HOST1, KEYS),)).find("nobody").keys.salt
    assert (nobody.keys.iterations, len(nobody.keys.salt)) == (4096, len(SALT))
    assert not found.holds(nobody)


def test_nobody_has_the_shape_of_one_of_the_accounts() -> None:
    other = ScramKeys.derive("pen", SALT[:8], 5000)
    found = accounts(AccountSettings(Jid.parse("host3"), other))
    shapes = {(n.keys.iterations, len(n.keys.salt)) for n in map(found.find, map(str, range(50)))}
    assert shapes == {(4096, 16), (5000, 8)}


def test_an_account_by_password_keeps_its_salt_over_reloads_and_has_the_shape_of_nobody() -> None:
    settings = AccountSettings(HOST1, "pencil")
    found = Accounts(DOMAIN, b"secret", (settings,))
    before, nobody = found.find("host1.example.net"), found.find("nobody")
    assert before.keys == ScramKeys.derive("pencil", before.keys.salt, ITERATIONS)
    found.replace((AccountSettings(HOST2, KEYS), settings))
    assert found.holds(before)
    assert found.find("host1.example.net") is before, "its keys are not derived again"
    assert (before.keys.iterations, len(before.keys.salt)) == (nobody.keys.iterations, len(nobody.keys.salt))
    found.replace((AccountSettings(HOST1, "another"),))
    assert not found.holds(before)
    found.replace(())
    assert not found
    assert (nobody.keys.iterations, len(found.find("nobody").keys.salt)) == (ITERATIONS, 16)
    assert "pencil" not in repr(settings)


def test_nobody_cannot_log_in_and_is_told_the_same_as_a_wrong_password() -> None:
    refusals = []
    for name in ("host1.example.net", "nobody"):
        exchange, client = ScramExchange(lambda: "OURS"), ScramClient(name, "wrong")
        with pytest.raises(SaslError) as refused:
            exchange.finish(client.final(exchange.begin(client.first(), accounts().find)))
        refusals.append(refused.value)
    known, unknown = refusals
    assert (known.condition, known.text, known.is_final) == (unknown.condition, unknown.text, unknown.is_final)
    assert (known.reason, unknown.reason) == ("the password is wrong", "there is no such account")


@pytest.mark.parametrize(
    ("text", "name"),
    [("a@rs.example.net", "a"), ("a", "a"), ("A@x.example", "a@x.example"), ("[2001:DB8::0]", "[2001:db8::]")],
)
def test_the_name_of_an_account(text: str, name: str) -> None:
    assert account_name(text, DOMAIN) == name
