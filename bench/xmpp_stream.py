"""An XMPP client stream by hand: STARTTLS with a client certificate, SASL EXTERNAL, bind.

The ends of a measurement must cost less than the server they measure, so they speak in ready-made octets and parse
nothing.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT = 60.0
_STREAM = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "from='{jid}' to='{domain}' version='1.0'>"
)
_BIND = "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"


@dataclass(frozen=True, slots=True)
class Login:
    """Where to connect and as whom."""

    jid: str
    domain: str
    address: tuple[str, int]
    certificate: Path
    private_key: Path
    ca: Path


def connect(login: Login) -> ssl.SSLSocket:
    """A bound stream."""
    header = _STREAM.format(jid=login.jid, domain=login.domain)
    plain = socket.create_connection(login.address, _TIMEOUT)
    exchange(plain, header, b"</stream:features>")
    exchange(plain, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", b"<proceed")
    context = ssl.create_default_context(cafile=str(login.ca))
    context.load_cert_chain(login.certificate, login.private_key)
    stream = context.wrap_socket(plain, server_hostname=login.domain)
    exchange(stream, header, b"</stream:features>")
    auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
    exchange(stream, auth, b"<success")
    exchange(stream, header, b"</stream:features>")
    exchange(stream, _BIND, b"</iq>")
    return stream


def exchange(connection: socket.socket, text: str, awaited: bytes) -> bytes:
    """Send, and read up to the awaited bytes. Raises ConnectionError with what came instead."""
    connection.sendall(text.encode())
    heard = b""
    while awaited not in heard:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(f"closed while waiting for {awaited!r}; heard {heard!r}")
        heard += data
    return heard
