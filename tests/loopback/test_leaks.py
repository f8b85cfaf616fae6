"""What is left of sessions that are over: nothing, however they ended.

Clients are bare sockets, so that hundreds of them cost little; the objects are counted in the server's own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections import Counter
from ipaddress import IPv4Address, ip_network

from routeserver.bgp.session import BgpSession
from routeserver.core import RouteServer
from routeserver.io.driver import Connection
from routeserver.io.tls import TlsPump
from routeserver.nodes.forwarders import Client, Forwarder
from routeserver.rib.adj_out import AdjRibOut
from routeserver.rib.outbox import SubscriberOutbox
from routeserver.rib.path import Path
from routeserver.rib.vrf import Entry
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamReader
from schema.items import RouteItem, entry_xml
from schema.names import NS_PUBSUB
from schema.values import NextHop
from tests.support.pki import DOMAIN, Pki
from tests.support.raw_bgp import (
    KEEPALIVE,
    RawPeer,
    common_attributes,
    message,
    mp_reach,
    open_message,
    update,
    vpn_nlri,
)
from tests.support.server import HEAD, RunningServer, running
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS, STREAM_END, bind

CYCLES = 500
ASN = 64512
PEER = "127.0.2.11"
FAMILIES = ((1, 128), (2, 128))
CONFIG = f"""
[bgp]
listen = ["127.0.1.1:0"]
[[bgp.neighbors]]
address = "{PEER}"
peer-as = {ASN}
passive = true
idle-hold = "0s"
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
[[vpns]]
name = "red"
import-route-target = ["64512:200", "64512:100"]
export-route-target = ["64512:200"]
"""
SESSION_OBJECTS = (
    *(Connection, TlsPump, XmppSession, StreamReader, BgpSession),
    *(Client, Forwarder, SubscriberOutbox, AdjRibOut, Path, Entry),
)


def alive() -> Counter[str]:
    gc.collect()
    return Counter(type(found).__name__ for found in gc.get_objects() if isinstance(found, SESSION_OBJECTS))


def request(operation: str) -> bytes:
    return f"<iq type='set' id='q'><pubsub xmlns='{NS_PUBSUB}'>{operation}</pubsub></iq>".encode()


def requests(number: int) -> bytes:
    route = RouteItem(ip_network(f"10.{number >> 8}.{number & 255}.1/32"), (NextHop(IPv4Address("127.0.0.1"), 16),))
    publish = f"<publish node='blue'><item id='i{number % 7}'>{entry_xml(route)}</item></publish>"
    subscribes = [f"<subscribe node='{node}' jid='host1.example.net'/>" for node in ("red", "nowhere", "blue")]
    return b"".join(map(request, (*subscribes, publish, "<unsubscribe node='red' jid='host1.example.net'/>")))


async def xmpp_cycle(server: RunningServer, context: ssl.SSLContext, number: int) -> None:
    """Fail to log in, log in, subscribe, publish, and leave in one of three ways."""
    reader, writer = await asyncio.open_connection(*server.address("xmpp"))
    writer.write(HEADER + STARTTLS)
    await reader.readuntil(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await writer.start_tls(context, server_hostname=DOMAIN)
    writer.write(HEADER + AUTH.replace(b"EXTERNAL", b"X") + AUTH + HEADER + bind(f"r{number % 3}"))
    await reader.readuntil(b"</iq>")
    writer.write(requests(number))
    await reader.readuntil(b"</publish></pubsub></iq>")
    if number % 3 == 0:
        writer.write(STREAM_END)
        await reader.readuntil(STREAM_END)
    elif number % 3 == 1:
        writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


def bgp_cycle(address: tuple[str, int], number: int) -> None:
    """Come up, announce, and go in the middle of it."""
    peer = RawPeer.dial(PEER, *address)
    peer.send(open_message(ASN, "192.0.2.11", FAMILIES) + message(KEEPALIVE))
    nlri = b"".join(vpn_nlri("64512:7", f"10.200.{number}.{last}/32", 1000) for last in range(50))
    peer.send(update(mp_reach((1, 128), "192.0.2.200", nlri) + common_attributes(bytes.fromhex("0002fc0000000064"))))
    peer.read()
    peer.close()


def left_over(core: RouteServer) -> dict[str, object]:
    """Everything the core keeps that is not empty."""
    rib, nodes = core.rib, core.nodes
    kept: dict[str, object] = {
        "forwarders": nodes.forwarders,
        "clients": nodes.clients,
        "dirty": nodes.dirty,
        "membership_since": nodes.membership_since,
        "outs": rib.outs,
        "waiting": core._waiting,
        "touched": core._touched,
        "references": rib._references._counts,
        "destinations": [key for keys in rib.table.destinations.values() for key in keys],
        "by_rt": [rt for index in rib.table.by_rt.values() for rt in index],
    }
    for vrf in rib.vrfs.values():
        kept |= {
            f"{vrf.name} {name}": getattr(vrf, name) for name in ("watchers", "published", "entries", "candidates")
        }
    return {name: value for name, value in kept.items() if value}


async def until_empty(server: RunningServer) -> None:
    hub = server.server.hub
    async with asyncio.timeout(20):
        while hub.connections or left_over(hub.core):
            await server.get("/healthz")


async def test_nothing_is_left_of_sessions_that_are_over(pki: Pki) -> None:
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(*pki.client("host1.example.net"))
    async with running(pki, CONFIG, HEAD.replace('stale-time = "60s"', 'stale-time = "50ms"')) as server:
        core, address = server.server.hub.core, server.address("bgp")
        before = alive()
        for number in range(CYCLES):
            await xmpp_cycle(server, context, number)
            if number % 10 == 0:
                await asyncio.to_thread(bgp_cycle, address, number // 10)
        assert core.revision > CYCLES, "the cycles moved routes"
        with contextlib.suppress(TimeoutError):
            await until_empty(server)
        assert left_over(core) == {}
        assert server.server.hub.connections == {}
        assert alive() - before == Counter()
        xmpp = server.server._xmpp
        assert xmpp is not None
        assert core.refusals.requests.total() == core.refusals.logins.total() == CYCLES
    assert xmpp._refusals._requests == {}, "who was refused something within the last minute"
    assert xmpp._log._ends == {}, "whose sessions ended within the last minute"
