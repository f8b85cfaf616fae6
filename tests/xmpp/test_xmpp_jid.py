"""JIDs and the addresses of the service (RFC 7622)."""

from __future__ import annotations

import pytest

from routeserver.xmpp.jid import Jid, ServiceAddresses


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host1.example.net", ("", "host1.example.net", "")),
        ("Host1@Example.NET./A/b@c", ("host1", "example.net", "A/b@c")),
        ("192.0.2.1", ("", "192.0.2.1", "")),
        ("x@[2001:DB8:0:0::1]", ("x", "[2001:db8::1]", "")),
        ("a/b@c/d", ("", "a", "b@c/d")),
        ("E\u0301@M\u0055\u0308nchen.example", ("\u00e9", "m\u00fcnchen.example", "")),
        ("\u212a@x", ("k", "x", "")),
    ],
)
def test_a_jid_is_split_and_prepared(text: str, parts: tuple[str, str, str]) -> None:
    jid = Jid.parse(text)
    assert (jid.local, jid.domain, jid.resource) == parts
    assert Jid.parse(str(jid)) == jid
    assert jid.bare == Jid(*parts[:2])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@x",
        "x@",
        "a@b@c",
        "x/",
        "/x",
        "a b@x",
        "a@x y",
        "a'b@x",
        "x/\u0007",
        "[::1@x]",
        "[zz]",
        "[fe80::1%eth0]",
        "x@[fe80::1%25eth0]",
        "2001:db8::1",
        "x@host<1>.example",
        "host]",
        ".",
        "a..",
        "a..b",
        ".a",
        "x@a../r",
        "a\u200b@x",
        "a@x\u202e",
        "a\u00a0b@x",
        "a\u007f@x",
        "a@x\u009b",
        "a\u00a0b",
        "x" * 1024,
        "\u00e9" * 512 + "@x",
        "x/" + "\u00e9" * 512,
    ],
)
def test_what_is_no_jid(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is this type is the contract
        Jid.parse(text)


def test_the_addresses_of_the_service() -> None:
    service = ServiceAddresses("rs@vpn.example/main", "rs.example.net")
    ours = ("rs@vpn.example/main", "RS@vpn.example", "rs.example.net", "RS.Example.net./x", "route-server@ietf.org")
    assert [text for text in ours if text not in service] == []
    assert [text for text in ("vpn.example", "x@rs.example.net", "ietf.org") if text in service] == []
    with pytest.raises(ValueError, match="not a JID"):
        "@" in service  # noqa: B015 - the question itself raises
