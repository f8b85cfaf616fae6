"""A publisher made of bytes: ready-made publish iqs with a window, in a process of its own.

It parses nothing while the clock runs: an answered iq is an `<iq ` in what comes in, and an error among them ends the
measurement.  Its notifications go nowhere, since it does not subscribe.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from multiprocessing.connection import Connection

from bench.xmpp_stream import Login, connect

NEXT_HOP = "192.0.2.1"


@dataclass(frozen=True, slots=True)
class Publishing:
    """How much to publish into which node: `items` in all, `per_iq` together, `window` iqs in flight."""

    node: str
    items: int
    per_iq: int
    window: int


def publish(login: Login, load: Publishing, pipe: Connection) -> None:
    """Log in, report ready, wait for the word, publish everything, report when it began and when all was answered."""
    with connect(login) as stream:
        requests = [stanza.encode() for stanza in iqs(load)]
        pipe.send("ready")
        pipe.recv()
        started = time.monotonic()
        run(stream, requests, load.window)
        pipe.send((started, time.monotonic()))
        pipe.recv()


def iqs(load: Publishing) -> Iterator[str]:
    """The load as publish iqs: every item a host route of its own."""
    for first in range(0, load.items, load.per_iq):
        numbers = range(first, min(first + load.per_iq, load.items))
        items = "".join(_item(IPv4Address(0x0A000000 + number)) for number in numbers)
        yield (
            f"<iq type='set' id='p{first}'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
            f"<publish node='{load.node}'>{items}</publish></pubsub></iq>"
        )


def _item(address: IPv4Address) -> str:
    return (
        f"<item id='{NEXT_HOP}:1:{address}/32'><entry xmlns='urn:ietf:params:xml:ns:bgp:l3vpn:unicast'>"
        f"<nlri><af>1</af><address>{address}/32</address></nlri><next-hops><next-hop><af>1</af>"
        f"<address>{NEXT_HOP}</address><label>10000</label><tunnel-encapsulation-list>"
        "<tunnel-encapsulation>gre</tunnel-encapsulation><tunnel-encapsulation>udp</tunnel-encapsulation>"
        "</tunnel-encapsulation-list></next-hop></next-hops><sequence-number>1</sequence-number></entry></item>"
    )


def run(stream: socket.socket, requests: list[bytes], window: int) -> None:
    """Keep `window` iqs unanswered until all are answered. Raises ConnectionError on an error answer."""
    sent = min(window, len(requests))
    stream.sendall(b"".join(requests[:sent]))
    answered, rest = 0, b""
    while answered < len(requests):
        data = stream.recv(262144)
        if not data:
            raise ConnectionError(f"closed after {answered} answers")
        heard = rest + data
        if b"<error" in heard:
            raise ConnectionError(f"a publish was refused: {heard!r}")
        end = heard.rfind(b">") + 1
        answered += heard.count(b"<iq ", 0, end)
        rest = heard[end:]
        due = min(answered + window, len(requests))
        if due > sent:
            stream.sendall(b"".join(requests[sent:due]))
            sent = due
