"""Hundreds of subscribers in one process: TLS sessions that count the items they are told and do nothing else."""

from __future__ import annotations

import selectors
import ssl
import time
from multiprocessing.connection import Connection

from bench.xmpp_stream import Login, connect, exchange

_SILENCE = 10.0
_ITEM = b"<item "


def subscribe(logins: list[Login], node: str, items: int, pipe: Connection) -> None:
    """Connect all, report ready, subscribe at the word, report that; then (time of the last item, items in all).

    `items` is how many each subscriber is going to be told; after ten silent seconds the count stands as it is.
    """
    streams = [connect(login) for login in logins]
    pipe.send("ready")
    pipe.recv()
    for login, stream in zip(logins, streams, strict=True):
        request = (
            "<iq type='set' id='s'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
            f"<subscribe node='{node}' jid='{login.jid}'/></pubsub></iq>"
        )
        exchange(stream, request, b"</iq>")
    pipe.send("subscribed")
    pipe.send(_count(streams, items * len(streams)))
    pipe.recv()
    for stream in streams:
        stream.close()


def _count(streams: list[ssl.SSLSocket], expected: int) -> tuple[float, int]:
    selector = selectors.DefaultSelector()
    rests = dict.fromkeys(streams, b"")
    for opened in streams:
        opened.setblocking(False)
        selector.register(opened, selectors.EVENT_READ)
    counted, last = 0, 0.0
    while counted < expected:
        ready = selector.select(_SILENCE)
        if not ready:
            break
        for key, _ in ready:
            stream = key.fileobj
            assert isinstance(stream, ssl.SSLSocket)
            heard = rests[stream] + _read(stream)
            counted += heard.count(_ITEM)
            rests[stream] = heard[1 - len(_ITEM) :]
        last = time.monotonic()
    return last, counted


def _read(stream: ssl.SSLSocket) -> bytes:
    """All there is; TLS may hold more than the socket shows. Raises ConnectionError at the end of the stream."""
    parts: list[bytes] = []
    while True:
        try:
            data = stream.recv(65536)
        except ssl.SSLWantReadError:
            return b"".join(parts)
        if not data:
            raise ConnectionError("the server closed a subscriber's stream")
        parts.append(data)
