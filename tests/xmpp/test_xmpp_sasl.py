"""From certificate to JID (XEP-0178 section 2), where it does not need a stream to be seen."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import ClientCertificate, SaslError, identify

IPV4, IPV6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")


@pytest.mark.parametrize(
    ("certificate", "jid"),
    [
        (ClientCertificate(("a@x.example",), ("b.example",), (IPV4,)), "a@x.example"),
        (ClientCertificate(("A@X.example", "a@x.EXAMPLE"), (), ()), "a@x.example"),
        (ClientCertificate(("not a jid", "a@x.example"), (), ()), "a@x.example"),
        (ClientCertificate((), ("b.example",), (IPV4,)), "b.example"),
        (ClientCertificate((), ("*.example", "b.example"), ()), "b.example"),
        (ClientCertificate((), ("*.example",), (IPV4,)), "192.0.2.1"),
        (ClientCertificate((), (), (IPV4,)), "192.0.2.1"),
        (ClientCertificate((), (), (IPV6,)), "[2001:db8::1]"),
    ],
)
def test_the_first_kind_of_name_counts(certificate: ClientCertificate, jid: str) -> None:
    assert str(identify(certificate, None, None)) == jid


@pytest.mark.parametrize(
    "certificate",
    [
        ClientCertificate(("a@x.example/resource",), ("b.example",), ()),
        ClientCertificate(("@",), (), ()),
        ClientCertificate((), ("*.example",), ()),
    ],
)
def test_a_certificate_without_a_usable_name(certificate: ClientCertificate) -> None:
    with pytest.raises(SaslError) as refused:
        identify(certificate, None, Jid.parse("b.example"))
    assert (refused.value.condition, refused.value.is_final) == ("not-authorized", True)


@pytest.mark.parametrize("spelling", ["[2001:DB8:0::1]", "[2001:db8::1]"])
def test_an_ipv6_name_in_any_spelling(spelling: str) -> None:
    certificate = ClientCertificate((), (), (IPV4, IPV6))
    assert str(identify(certificate, Jid.parse(spelling), None)) == "[2001:db8::1]"
