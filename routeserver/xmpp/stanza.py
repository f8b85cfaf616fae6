"""What the server writes: streams, features, SASL, iq answers, messages, errors (RFC 6120), all as text.

Text, not elements: a stream is mostly items that were serialised once and go to many subscribers.  Every value
that came from outside passes `escape`, every explanation `escape_text`; payloads arrive here finished.

An answer comes from the address the request was sent to, because clients match answers by it.  A request without
`to` was to the client's own account (RFC 6120 section 10.3.3), and its answer carries no `from`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html import escape

from routeserver.xmpp.errors import StanzaError, StreamError
from routeserver.xmpp.events import Iq
from schema.names import (
    NS_BIND,
    NS_CLIENT,
    NS_PING,
    NS_PUBSUB_ERRORS,
    NS_SASL,
    NS_STANZAS,
    NS_STREAM,
    NS_STREAMS,
    NS_TLS,
)

STREAM_END = "</stream:stream>"
PROCEED = f"<proceed xmlns='{NS_TLS}'/>"
STARTTLS_FEATURE = f"<starttls xmlns='{NS_TLS}'><required/></starttls>"
BIND_FEATURE = f"<bind xmlns='{NS_BIND}'/>"

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BLANKS = str.maketrans({"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"})


def escape_attribute(text: str) -> str:
    """A client's own name for something, as it gave it: unescaped, a reader would take a tab or the end of a line
    for a blank, and the name for another one (XML 1.0 section 3.3.3)."""
    return escape(text).translate(_BLANKS)


def escape_text(text: str) -> str:
    """An explanation, which may quote anything, made fit for XML."""
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text))


def stream_open(domain: str, stream_id: str, to: str | None) -> str:
    """RFC 6120 section 4.7."""
    addressee = f" to='{escape(to)}'" if to else ""
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAM}' id='{escape(stream_id)}'"
        f" from='{escape(domain)}'{addressee} version='1.0' xml:lang='en'>"
    )


def stream_features(features: str) -> str:
    return f"<stream:features>{features}</stream:features>"


def stream_error(error: StreamError) -> str:
    """RFC 6120 section 4.9, with the end of the stream that must follow."""
    text = f"<text xmlns='{NS_STREAMS}' xml:lang='en'>{escape_text(error.text)}</text>" if error.text else ""
    end = f">{escape(error.content)}</{error.condition}>" if error.content else "/>"
    condition = f"<{error.condition} xmlns='{NS_STREAMS}'{end}"
    return f"<stream:error>{condition}{text}{error.detail}</stream:error>{STREAM_END}"


def sasl_mechanisms(names: Iterable[str]) -> str:
    """RFC 6120 section 6.4.1; without any there is no such feature."""
    offers = "".join(f"<mechanism>{name}</mechanism>" for name in names)
    return offers and f"<mechanisms xmlns='{NS_SASL}'>{offers}</mechanisms>"


def sasl_challenge(data: bytes) -> str:
    """RFC 6120 section 6.4.3."""
    return _sasl_element("challenge", data)


def sasl_success(data: bytes) -> str:
    """RFC 6120 section 6.4.6."""
    return _sasl_element("success", data)


def _sasl_element(name: str, data: bytes) -> str:
    encoded = base64.b64encode(data).decode()
    return f"<{name} xmlns='{NS_SASL}'>{encoded}</{name}>" if encoded else f"<{name} xmlns='{NS_SASL}'/>"


def sasl_failure(condition: str, text: str) -> str:
    """RFC 6120 section 6.5."""
    return f"<failure xmlns='{NS_SASL}'><{condition}/><text xml:lang='en'>{escape_text(text)}</text></failure>"


def bound(jid: str) -> str:
    """The payload of a bind result (RFC 6120 section 7.6.1)."""
    return f"<bind xmlns='{NS_BIND}'><jid>{escape(jid)}</jid></bind>"


def iq_result(iq: Iq, jid: str, payload: str) -> str:
    """The answer to `iq` of the client `jid`; the payload is finished XML or nothing."""
    head = f"<iq type='result' id='{escape_attribute(iq.id)}'{_sender(iq)} to='{escape(jid)}'"
    return f"{head}>{payload}</iq>" if payload else f"{head}/>"


def iq_error(iq: Iq, jid: str, error: StanzaError) -> str:
    """RFC 6120 section 8.3. A request without id (an empty one here) gets an answer without."""
    identity = f" id='{escape_attribute(iq.id)}'" if iq.id else ""
    return f"<iq type='error'{identity}{_sender(iq)} to='{escape(jid)}'>{_error(error)}</iq>"


def ping(ping_id: str, sender: str, jid: str) -> str:
    """XEP-0199 section 4.1."""
    return f"<iq type='get' id='{ping_id}' from='{escape(sender)}' to='{escape(jid)}'><ping xmlns='{NS_PING}'/></iq>"


def headline(message_id: str, sender: str, to: str, contents: Iterable[str]) -> str:
    """A message nobody need store or answer (RFC 6121 section 5.2.2)."""
    head = f"<message type='headline' id='{escape(message_id)}' from='{escape(sender)}' to='{escape(to)}'>"
    return "".join((head, *contents, "</message>"))


def _sender(iq: Iq) -> str:
    return f" from='{escape(iq.to)}'" if iq.to else ""


def _error(error: StanzaError) -> str:
    text = f"<text xmlns='{NS_STANZAS}' xml:lang='en'>{escape_text(error.text)}</text>" if error.text else ""
    child = ""
    if error.pubsub is not None:
        feature = f" feature='{escape(error.feature)}'" if error.feature is not None else ""
        child = f"<{error.pubsub} xmlns='{NS_PUBSUB_ERRORS}'{feature}/>"
    return f"<error type='{error.type}'><{error.condition} xmlns='{NS_STANZAS}'/>{text}{child}</error>"
