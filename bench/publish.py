"""Publishing and fan-out: forwarders over mutual TLS, items validated, stored, acknowledged and told to subscribers.

`publish` has nobody subscribed and no BGP neighbor: the cost of reading, checking and storing alone, from the first
iq written to the last result read.  `fan_out` has many subscribers, each told every item: from the first iq written to
the last notification read; before that it takes the memory of the idle sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.end import End, cpu_seconds, resident_bytes
from bench.xmpp_publisher import NEXT_HOP, Publishing, publish
from bench.xmpp_stream import Login
from bench.xmpp_subscribers import subscribe
from tests.support.routeserver import DOMAIN, XMPP_PORT, RouteServerProcess, VpnConfig

AS = 64512
NODE = "blue"
_VPNS = (VpnConfig(NODE, "64512:100"),)
_RESULT_LIMIT = 330.0


@dataclass(frozen=True, slots=True)
class Published:
    """The figures of one publishing run."""

    items: int
    seconds: float
    cpu: float
    bytes_per_item: float


@dataclass(frozen=True, slots=True)
class FannedOut:
    """The figures of one fan-out run."""

    notifications: int
    expected: int
    seconds: float
    cpu: float
    bytes_per_session: float


def measure_publishing(directory: Path, load: Publishing) -> Published:
    """Start the route server, publish the load, stop it. Raises when an item is refused or the answer stays away."""
    with RouteServerProcess(directory, AS, vpns=_VPNS) as server:
        login = _login(server, "host1.example.net", NEXT_HOP)
        before = resident_bytes(server.pid)
        with End(publish, login, load) as publisher:
            spent = cpu_seconds(server.pid)
            publisher.pipe.send("go")
            began, ended = publisher.answer(_RESULT_LIMIT)
            spent = cpu_seconds(server.pid) - spent
            grown = resident_bytes(server.pid) - before
    return Published(load.items, ended - began, spent, grown / load.items)


def measure_fan_out(directory: Path, subscribers: int, load: Publishing) -> FannedOut:
    """Start the route server, let `subscribers` hear the load being published, stop it."""
    with RouteServerProcess(directory, AS, vpns=_VPNS) as server:
        readers = [_login(server, f"reader{number}.example.net") for number in range(subscribers)]
        login = _login(server, "host1.example.net", NEXT_HOP)
        before = resident_bytes(server.pid)
        with End(subscribe, readers, NODE, load.items) as reader:
            idle = resident_bytes(server.pid) - before
            with End(publish, login, load) as publisher:
                reader.pipe.send("go")
                reader.answer(_RESULT_LIMIT)
                spent = cpu_seconds(server.pid)
                publisher.pipe.send("go")
                began, _ = publisher.answer(_RESULT_LIMIT)
                ended, notifications = reader.answer(_RESULT_LIMIT)
                spent = cpu_seconds(server.pid) - spent
    return FannedOut(notifications, subscribers * load.items, ended - began, spent, idle / subscribers)


def _login(server: RouteServerProcess, jid: str, *addresses: str) -> Login:
    certificate, key = server.certificate(jid, *addresses)
    return Login(jid, DOMAIN, (server.address, XMPP_PORT), certificate, key, server.pki / "ca.pem")
