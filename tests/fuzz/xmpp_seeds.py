"""Good conversations for the XMPP fuzzer: every way to log in, and every request there is, as lists of parts.

A part is what a client says before it would wait for an answer; a story is the parts of one session from the stage it
begins at.  What is said of the client itself has its JID in it, so that it is good whoever says it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from random import Random

from schema.names import (
    NS_BIND,
    NS_DATA,
    NS_DISCO_INFO,
    NS_DISCO_ITEMS,
    NS_IN_SYNC,
    NS_PING,
    NS_PUBSUB,
    NS_PUBSUB_OWNER,
    NS_RSM,
    NS_SASL,
    NS_STREAM,
    NS_UNICAST,
)
from tests.support.xmpp_script import AUTH, CONVERSATIONS, DOMAIN, HEADER, STARTTLS, STREAM_END, bind, read_script

NS_SM = "urn:xmpp:sm:3"
_ENABLE = f"<enable xmlns='{NS_SM}' resume='true'/>".encode()
PREVIOUS = b"PREVIOUS"
"""Stands for what the server has called the client's last session, if that may be resumed."""
STAGES = ("clear", "secured", "authenticated", "bound")
NODES = ("blue", "few", "hidden", "nowhere")
"""Open to all, one with quotas, one only the witnesses may see, and one that is not there."""
_CORPUS = Path(__file__).parent.parent / "corpus"
_SPOKEN = sorted({direction.text for path in CONVERSATIONS for direction in read_script(path) if direction.verb == "C"})
_ITEMS = [path.read_text().strip() for path in sorted((_CORPUS / "items").glob("*/*.xml"))]
ATTACKS = [path.read_bytes() for path in sorted((_CORPUS / "xmpp" / "attacks").glob("*/*"))]

_FORM = "<x xmlns='{}' type='submit'><field var='FORM_TYPE' type='hidden'><value>{}</value></field>{}</x>"
_FIELD = "<field var='{}'><value>{}</value></field>"
_OPTIONS = _FORM.format(
    NS_DATA,
    f"{NS_PUBSUB}#subscribe_options",
    _FIELD.format("vpn#instance_id", 7) + _FIELD.format("vpn#vlan_id", 100),
)
_SET = f"<set xmlns='{NS_RSM}'><max>10</max>{{}}</set>"
_OPERATIONS: tuple[tuple[str, str, str], ...] = (
    ("set", NS_PUBSUB, "<subscribe node='{node}' jid='{jid}'/>"),
    ("set", NS_PUBSUB, "<subscribe node='{node}' jid='{jid}'/><options><instance-id>5</instance-id></options>"),
    ("set", NS_PUBSUB, f"<subscribe node='{{node}}' jid='{{jid}}'/><options>{_OPTIONS}</options>"),
    ("set", NS_PUBSUB, "<unsubscribe node='{node}' jid='{jid}'/>"),
    ("get", NS_PUBSUB, "<options node='{node}' jid='{jid}'/>"),
    ("set", NS_PUBSUB, f"<options node='{{node}}' jid='{{jid}}'>{_OPTIONS}</options>"),
    ("set", NS_PUBSUB, "<publish node='{node}'><item id='192.0.2.6:1:10.6.0.1/32'>{entry}</item></publish>"),
    ("set", NS_PUBSUB, "<publish node='{node}'><item>{entry}</item><item id='an id'>{other}</item></publish>"),
    ("set", NS_PUBSUB, "<retract node='{node}' notify='1'><item id='192.0.2.6:1:10.6.0.1/32'/></retract>"),
    ("set", NS_PUBSUB, "<retract node='{node}'><item id='192.0.2.1:1:10.1.0.1/32'/></retract>"),
    ("get", NS_PUBSUB, "<items node='{node}'/>"),
    ("get", NS_PUBSUB, "<items node='{node}' max_items='3'/>"),
    ("get", NS_PUBSUB, "<items node='{node}'><item id='an id'/><item id='192.0.2.1:1:10.1.0.1/32'/></items>"),
    ("get", NS_PUBSUB, f"<items node='{{node}}'/>{_SET.format('')}"),
    ("get", NS_PUBSUB, f"<items node='{{node}}'/>{_SET.format('<after>192.0.2.1:1:10.1.0.1/32</after>')}"),
    ("get", NS_PUBSUB, f"<items node='{{node}}'/>{_SET.format('<before/>')}"),
    ("get", NS_PUBSUB, f"<items node='{{node}}'/>{_SET.format('<index>1</index>')}"),
    ("get", NS_PUBSUB, "<subscriptions/>"),
    ("get", NS_PUBSUB, "<subscriptions node='{node}'/>"),
    ("get", NS_PUBSUB, "<affiliations node='{node}'/>"),
    ("set", NS_PUBSUB, "<create node='{node}'/>"),
    ("get", NS_PUBSUB_OWNER, "<configure node='{node}'/>"),
    ("set", NS_PUBSUB_OWNER, f"<configure node='{{node}}'>{_OPTIONS}</configure>"),
    ("set", NS_PUBSUB_OWNER, "<delete node='{node}'/>"),
)
_OFTEN = _OPERATIONS[:3] + _OPERATIONS[6:10] * 2
_PAYLOADS: tuple[tuple[str, str], ...] = (
    *((kind, f"<pubsub xmlns='{uri}'>{operation}</pubsub>") for kind, uri, operation in _OPERATIONS + _OFTEN),
    ("get", f"<query xmlns='{NS_DISCO_INFO}'/>"),
    ("get", f"<query xmlns='{NS_DISCO_INFO}' node='{{node}}'/>"),
    ("get", f"<query xmlns='{NS_DISCO_ITEMS}'/>"),
    ("get", f"<query xmlns='{NS_DISCO_ITEMS}' node='{{node}}'/>"),
    ("get", f"<ping xmlns='{NS_PING}'/>"),
    ("set", f"<in-sync xmlns='{NS_IN_SYNC}'/>"),
    ("set", f"<bind xmlns='{NS_BIND}'><resource>other</resource></bind>"),
    ("set", "<nobody xmlns='urn:example:nobody'/>"),
)
_OTHERS = (
    "<presence/>",
    "<message to='route-server@ietf.org' id='m1'><body>hello</body></message>",
    "<iq type='result' id='s1-1' from='route-server@ietf.org'/>",
    "<iq type='error' id='e1'><error type='cancel'/></iq>",
    f"<r xmlns='{NS_SM}'/>",
    f"<a xmlns='{NS_SM}' h='1'/>",
    f"<enable xmlns='{NS_SM}' resume='true' max='30'/>",
    f"<resume xmlns='{NS_SM}' h='0' previd='{PREVIOUS.decode()}'/>",
    _ENABLE.decode(),
    f"<stream:error xmlns:stream='{NS_STREAM}'><undefined-condition/></stream:error>",
    " \n",
)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_LOGINS: tuple[Callable[[str], list[str]], ...] = (
    lambda jid: [AUTH.decode()],
    lambda jid: [f"<auth xmlns='{NS_SASL}' mechanism='EXTERNAL'>{_base64(jid)}</auth>"],
    lambda jid: [f"<auth xmlns='{NS_SASL}' mechanism='EXTERNAL'/>"],
    lambda jid: [
        f"<auth xmlns='{NS_SASL}' mechanism='SCRAM-SHA-256'>{_base64('n,,n=lab,r=fyko+d2lbbFgONRv9qkxdawL')}</auth>",
        f"<response xmlns='{NS_SASL}'>{_base64('c=biws,r=fyko+d2lbbFgONRv9qkxdawLabc,p=v0X8v3Bz2T0=')}</response>",
    ],
    lambda jid: [f"<abort xmlns='{NS_SASL}'/>", AUTH.decode()],
)


def _resume() -> bytes:
    return f"<resume xmlns='{NS_SM}' h='0' previd='{PREVIOUS.decode()}'/>".encode()


def _login(random: Random, jid: str) -> list[bytes]:
    return [HEADER, *(each.encode() for each in random.choice(_LOGINS)(jid))]


def _binding(random: Random) -> list[bytes]:
    first = [_resume()] if random.random() < 0.3 else []
    return [HEADER, *first, bind(random.choice(("vpn", "other", "a b", "\N{SNOWMAN}")))]


def entry(random: Random) -> str:
    """An item's payload, good for the most part."""
    if random.random() < 0.3:
        return random.choice(_ITEMS)
    prefix = f"10.6.{random.randrange(4)}.{random.randrange(4)}"
    return (
        f"<entry xmlns='{NS_UNICAST}'><nlri><af>1</af><address>{prefix}</address></nlri><next-hops><next-hop><af>1</af>"
        f"<address>192.0.2.6</address><label>{random.randrange(16, 1 << 20)}</label></next-hop></next-hops></entry>"
    )


def request(random: Random, jid: str) -> bytes:
    """Something a client with a bound resource may say."""
    match random.randrange(20):
        case 0:
            return random.choice(_SPOKEN).encode()
        case 1 | 2 | 3:
            return random.choice(_OTHERS).encode()
    kind, payload = random.choice(_PAYLOADS)
    words = {"node": random.choice(NODES), "jid": jid, "entry": entry(random), "other": entry(random)}
    to = random.choice(("", f" to='{DOMAIN}'", " to='route-server@ietf.org'"))
    return f"<iq type='{kind}' id='q{random.randrange(100)}'{to}>{payload.format_map(words)}</iq>".encode()


def story(random: Random, stage: str, jid: str, length: int) -> list[bytes]:
    """The parts of a session that begins at that stage, with so many requests."""
    parts = [HEADER, STARTTLS] if stage == "clear" else []
    if stage in ("clear", "secured"):
        parts += _login(random, jid)
    if stage != "bound":
        parts += _binding(random)
    if random.random() < 0.3:
        parts.append(_ENABLE)
    parts += [request(random, jid) for _ in range(length)]
    return [*parts, STREAM_END] if random.random() < 0.2 else parts
