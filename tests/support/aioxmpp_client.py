"""A forwarder on aioxmpp, the second of the client stacks the server is tried with; run by /usr/bin/python3.

    aioxmpp_client.py JID HOST PORT CERTIFICATE KEY AUTHORITY OTHERS_NODE
    aioxmpp_client.py JID HOST PORT CERTIFICATE KEY AUTHORITY
    aioxmpp_client.py JID HOST PORT AUTHORITY PASSWORD

Debian's package is for Debian's Python and knows nothing of our environment, so this is a program of its own: it goes
through the life of a subscription by the library's own pub-sub service and prints what it saw, as one JSON object.
Stream, TLS (pyOpenSSL), resource binding and stanzas are the library's.  What it leaves to applications is here: the
payload of an item, and EXTERNAL, for which it has the interface and no class.  With a password it logs in by what it
has for that, says who it is and leaves.  Without the others' node it waits for its connection to
break, which the library's stream management is to mend.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import aiosasl
import aioxmpp
import aioxmpp.connector
import aioxmpp.forms
import aioxmpp.pubsub
import aioxmpp.sasl
import aioxmpp.security_layer
import aioxmpp.xso as xso
from aioxmpp.pubsub import xso as pubsub_xso
from OpenSSL import SSL

NS = "urn:ietf:params:xml:ns:bgp:l3vpn:unicast"
SERVICE = aioxmpp.JID.fromstr("route-server@ietf.org")
NODE = "blue"
TIMEOUT = 20.0


class Nlri(xso.XSO):
    TAG = (NS, "nlri")
    af = xso.ChildText((NS, "af"), type_=xso.Integer())
    address = xso.ChildText((NS, "address"))


class NextHop(xso.XSO):
    TAG = (NS, "next-hop")
    UNKNOWN_CHILD_POLICY = xso.UnknownChildPolicy.DROP
    af = xso.ChildText((NS, "af"), type_=xso.Integer())
    address = xso.ChildText((NS, "address"))
    label = xso.ChildText((NS, "label"), type_=xso.Integer())


class NextHops(xso.XSO):
    TAG = (NS, "next-hops")
    hops = xso.ChildList([NextHop])


@pubsub_xso.as_payload_class
class Entry(xso.XSO):
    TAG = (NS, "entry")
    UNKNOWN_CHILD_POLICY = xso.UnknownChildPolicy.DROP
    nlri = xso.Child([Nlri], required=True)
    next_hops = xso.Child([NextHops], required=True)

    @classmethod
    def of(cls, prefix: str, label: int) -> Entry:
        entry, nlri, hops, hop = cls(), Nlri(), NextHops(), NextHop()
        nlri.af, nlri.address = 1, prefix
        hop.af, hop.address, hop.label = 1, "127.0.0.1", label
        hops.hops.append(hop)
        entry.nlri, entry.next_hops = nlri, hops
        return entry

    @property
    def summary(self) -> list[Any]:
        return [self.nlri.address, *((hop.address, hop.label) for hop in self.next_hops.hops)]


class External(aiosasl.SASLMechanism):
    """RFC 4422 appendix A: the certificate says who it is, the authorization identity says it again."""

    def __init__(self, jid: str) -> None:
        super().__init__()
        self._jid = jid

    @classmethod
    def any_supported(cls, mechanisms: Any) -> str | None:
        return "EXTERNAL" if "EXTERNAL" in mechanisms else None

    async def authenticate(self, sm: Any, token: str) -> None:
        state, _ = await sm.initiate(mechanism=token, payload=self._jid.encode())
        if state != aiosasl.SASLState.SUCCESS:
            raise aiosasl.SASLFailure(None, text="more than one step")


class ExternalProvider(aioxmpp.security_layer.SASLProvider):
    async def execute(self, client_jid: Any, features: Any, xmlstream: Any, tls_transport: Any) -> bool:
        mechanism, token = self._find_supported(features, [External])
        if mechanism is None:
            return False
        interface = aioxmpp.sasl.SASLXMPPInterface(xmlstream)
        return bool(await self._execute(interface, mechanism(str(client_jid.bare())), token))


def security_layer(provider: Any, authority: str, *files: str) -> Any:
    class Verifier(aioxmpp.security_layer.PKIXCertificateVerifier):
        def setup_context(self, context: Any, transport: Any) -> None:
            super().setup_context(context, transport)
            context.load_verify_locations(authority)

    def context() -> Any:
        made = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if files:
            made.use_certificate_file(files[0])
            made.use_privatekey_file(files[1])
        return made

    return aioxmpp.security_layer.SecurityLayer(context, Verifier, True, [provider])


class Notified:
    """What came by itself, in order, and whoever waits for it."""

    def __init__(self, service: Any) -> None:
        self._queue: asyncio.Queue[list[Any]] = asyncio.Queue()
        service.on_item_published.connect(self._published)
        service.on_item_retracted.connect(self._retracted)

    def _published(self, jid: Any, node: str, item: Any, *, message: Any = None) -> None:
        self._queue.put_nowait(["item", str(jid), node, item.id_, item.registered_payload.summary])

    def _retracted(self, jid: Any, node: str, id_: str, *, message: Any = None) -> None:
        self._queue.put_nowait(["retract", str(jid), node, id_])

    async def next(self) -> list[Any]:
        return await asyncio.wait_for(self._queue.get(), TIMEOUT)

    def rest(self) -> int:
        return self._queue.qsize()


async def refused(request: Any) -> list[str]:
    """Type and condition of the error a request meets."""
    try:
        await request
    except aioxmpp.errors.XMPPError as error:
        return [error.TYPE.value, error.condition.value[1]]
    return []


def values(form: Any) -> dict[str, list[str]]:
    return {field.var: list(field.values) for field in form.fields if field.var != "FORM_TYPE"}


async def life(client: Any, others_node: str) -> dict[str, Any]:
    service = client.summon(aioxmpp.PubSubClient)
    saw: dict[str, Any] = {}
    async with client.connected():
        notified = Notified(service)
        saw["jid"] = str(client.local_jid.bare())
        saw["features"] = sorted(feature.value for feature in await service.get_features(SERVICE))
        saw["nodes"] = [node for node, _ in await service.get_nodes(SERVICE)]
        saw["subscribed"] = (await service.subscribe(SERVICE, NODE)).payload.subscription
        form = await service.get_subscription_config(SERVICE, NODE)
        saw["options before"] = values(form)
        for field in form.fields:
            if field.var == "vpn#instance_id":
                field.values[:] = ["9"]
        form.type_ = aioxmpp.forms.DataType.SUBMIT
        await service.set_subscription_config(SERVICE, form, NODE)
        saw["options after"] = values(await service.get_subscription_config(SERVICE, NODE))
        subscriptions = (await service.get_subscriptions(SERVICE)).subscriptions
        saw["subscriptions"] = [[each.node, str(each.jid)] for each in subscriptions]
        saw["published"] = await service.publish(SERVICE, NODE, Entry.of("10.1.0.1/32", 10000), id_="one")
        saw["notified"] = await notified.next()
        saw["made"] = await service.publish(SERVICE, NODE, Entry.of("10.1.0.2/32", 10001))
        saw["notified of made"] = await notified.next()
        items = (await service.get_items(SERVICE, NODE)).payload.items
        saw["retrieved"] = [[item.id_, item.registered_payload.summary] for item in items]
        latest = (await service.get_items(SERVICE, NODE, max_items=1)).payload.items
        saw["latest"] = [item.id_ for item in latest]
        one = (await service.get_items_by_id(SERVICE, NODE, ["one"])).payload.items
        saw["by id"] = [item.id_ for item in one]
        await service.retract(SERVICE, NODE, "one", notify=True)
        saw["retracted"] = await notified.next()
        saw["retracted again"] = await refused(service.retract(SERVICE, NODE, "one"))
        saw["another's"] = await refused(service.subscribe(SERVICE, others_node))
        saw["unknown"] = await refused(service.subscribe(SERVICE, "nowhere"))
        await service.unsubscribe(SERVICE, NODE)
        await service.publish(SERVICE, NODE, Entry.of("10.1.0.3/32", 10002), id_="three")
        saw["unsubscribed"] = await refused(service.unsubscribe(SERVICE, NODE))
        saw["after that"] = notified.rest()
    return saw


def client_of(jid: str, host: str, port: str, layer: Any) -> Any:
    return aioxmpp.Client(
        aioxmpp.JID.fromstr(jid),
        layer,
        override_peer=[(host, int(port), aioxmpp.connector.STARTTLSConnector())],
        max_initial_attempts=1,
    )


async def main(jid: str, host: str, port: str, certificate: str, key: str, authority: str, others_node: str) -> None:
    layer = security_layer(ExternalProvider(), authority, certificate, key)
    print(json.dumps(await life(client_of(jid, host, port, layer), others_node)))


async def broken(jid: str, host: str, port: str, certificate: str, key: str, authority: str) -> None:
    """A connection that breaks: the stream goes on over another one, and so does the subscription."""
    client = client_of(jid, host, port, security_layer(ExternalProvider(), authority, certificate, key))
    client.backoff_start = timedelta(milliseconds=10)
    service, resumed = client.summon(aioxmpp.PubSubClient), asyncio.Event()
    client.on_stream_resumed.connect(resumed.set)
    saw: dict[str, Any] = {}
    async with client.connected() as stream:
        notified = Notified(service)
        await service.subscribe(SERVICE, NODE)
        await service.publish(SERVICE, NODE, Entry.of("10.1.0.1/32", 10000), id_="one")
        saw["before"] = (await notified.next())[3]
        saw["resumable"] = stream.sm_resumable
        await asyncio.wait_for(resumed.wait(), TIMEOUT)
        await service.publish(SERVICE, NODE, Entry.of("10.1.0.2/32", 10000), id_="two")
        saw["after"] = (await notified.next())[3]
        saw["besides"] = notified.rest()
    print(json.dumps(saw))


async def log_in(jid: str, host: str, port: str, authority: str, password: str) -> None:
    """Once; the library would try three times."""

    async def said(client_jid: Any, attempt: int) -> str:
        return password

    provider = aioxmpp.security_layer.PasswordSASLProvider(said, max_auth_attempts=1)
    client = client_of(jid, host, port, security_layer(provider, authority))
    try:
        async with client.connected():
            saw = {"jid": str(client.local_jid.bare())}
    except aiosasl.AuthenticationFailure as failure:
        saw = {"refused": failure.opaque_error}
    print(json.dumps(saw))


if __name__ == "__main__":
    words = sys.argv[1:]
    asyncio.run({5: log_in, 6: broken, 7: main}[len(words)](*words))
