"""A client's connection breaks after any octet of either direction, over and over, and it resumes (XEP-0198).

Whatever arrived and whatever did not: what the client holds at last is what the VPN has, each request had one answer,
each prefix was heard of in the order of its changes, and no id was taken back that the client did not have.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from lxml import etree

from routeserver.xmpp.session import XmppSession
from schema.items import RouteItem, entry_xml, read_offered_entry
from schema.names import NS_CLIENT, NS_EVENT, NS_IN_SYNC, NS_MANAGEMENT, NS_PUBSUB
from tests.support.conversation import Conversation
from tests.support.routes import hop, item, vpn
from tests.support.xmpp_script import authenticated, bind

JID = "h1.example.net"
_IDS = ("a", "b", "c", "d")


class _Client:
    """Keeps what it has sent until that is acknowledged, and believes what it has heard in full."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._connections = 0
        self._previd = ""
        self._handled = 0
        self._sent = 0
        self._unacknowledged: list[bytes] = []
        self._seen: dict[str, int] = {}
        self.held: dict[str, RouteItem] = {}
        self.answers: Counter[str] = Counter()
        self.asked = 0
        self.markers = 0
        self._connect()
        self._tell(bind("vpn"))
        self._tell(f"<enable xmlns='{NS_MANAGEMENT}' resume='true'/>".encode())
        self.hear()

    def _connect(self) -> None:
        self._connections += 1
        self._is_mute = self._is_deaf = False
        talk, ids = self._talk, f"every{self._connections}-"
        self.session: XmppSession = authenticated(
            JID, talk.now, limits=talk.limits, resumptions=talk.resumptions, ids=ids
        )

    def _tell(self, data: bytes) -> None:
        if data and not self._is_mute:
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        for event in self.session.receive_data(data, self._talk.now):
            self._talk.core.handle(self.session, event, self._talk.now)

    def ask(self, *operations: str, octets: int | None = None) -> None:
        """Send these requests, of which so many octets arrive, and then nothing."""
        self.asked += len(operations)
        first = self.asked - len(operations) + 1
        requests = [
            f"<iq type='set' id='{number}'>{operation}</iq>".encode()
            for number, operation in enumerate(operations, first)
        ]
        self._unacknowledged += requests
        self._sent += len(requests)
        data = b"".join(requests)
        self._tell(data[:octets])
        self._is_mute |= octets is not None

    def hear(self, octets: int | None = None) -> bool:
        """What the server has written, of which so many octets arrive and no more; whether there was any."""
        data = b"" if self._is_deaf else self.session.data_to_send()
        self._is_deaf |= octets is not None
        for element in _complete(data[:octets]):
            self._read(element)
        return bool(data)

    def lose(self) -> None:
        """The connection breaks, and what is not heard by now is lost with it."""
        self._deliver(b"")
        assert self.session.is_detached

    def resume(self, octets: int | None = None) -> None:
        """Over a new connection, of which so many octets arrive; ask again what the server does not know of."""
        self._connect()
        self._tell(f"<resume xmlns='{NS_MANAGEMENT}' previd='{self._previd}' h='{self._handled}'/>".encode())
        self._is_mute = True
        self._talk.core.flush(self._talk.now)
        self.hear(octets)

    def _read(self, element: etree._Element) -> None:
        kind = etree.QName(element).localname
        if etree.QName(element).namespace == NS_CLIENT:
            self._handled += bool(self._previd)
            (self._notified if kind == "message" else self._answered)(element)
        elif kind == "enabled":
            self._previd = element.attrib["id"]
        elif kind == "r":
            self._tell(f"<a xmlns='{NS_MANAGEMENT}' h='{self._handled}'/>".encode())
        else:
            assert kind == "resumed"
            self._is_mute = False
            unknown = self._sent - int(element.attrib["h"])
            assert 0 <= unknown <= len(self._unacknowledged)
            self._unacknowledged = self._unacknowledged[len(self._unacknowledged) - unknown :]
            self._tell(b"".join(self._unacknowledged))

    def _answered(self, iq: etree._Element) -> None:
        assert iq.get("type") == "result"
        self.answers[iq.get("id", "")] += 1

    def _notified(self, message: etree._Element) -> None:
        self.markers += message.find(f"{{{NS_IN_SYNC}}}in-sync") is not None
        for child in message.iterfind(f"{{{NS_EVENT}}}event/{{{NS_EVENT}}}items/*"):
            item_id = child.attrib["id"]
            if etree.QName(child).localname == "retract":
                assert self.held.pop(item_id, None) is not None, "it is not there"
                continue
            route = read_offered_entry(child[0])
            prefix, label = str(route.prefix), route.next_hops[0].label
            assert label > self._seen.get(prefix, 0), "out of order, or twice"
            self._seen[prefix] = label
            self.held[item_id] = route


def _complete(data: bytes) -> Iterator[etree._Element]:
    """The stanzas of which the last octet is there."""
    parser = etree.XMLPullParser(events=("start", "end"))
    parser.feed(f"<stream xmlns='{NS_CLIENT}'>".encode() + data)
    depth = 0
    for event, element in parser.read_events():
        depth += 1 if event == "start" else -1
        if event == "end" and depth == 1:
            yield element


class _Storm:
    """h2 publishes, retracts, gives prefixes other ids and ids other prefixes; every route has a higher label."""

    def __init__(self, seed: int) -> None:
        self.talk = Conversation(vpn("blue", ["64512:100"]), stale_time=60.0)
        self.random = random.Random(seed)
        self.client = _Client(self.talk)
        self._publisher = self.talk.forwarder("h2.example.net")
        self._label = 100
        self._own: dict[str, str] = {}
        self.client.ask(f"<pubsub xmlns='{NS_PUBSUB}'><subscribe node='blue' jid='{JID}'/></pubsub>")
        self.settle()

    def blow(self, changes: int) -> None:
        """So many changes, some of which nobody gets to see."""
        for _ in range(changes):
            item_id, prefix = self.random.choice(_IDS), f"10.0.0.{self.random.randrange(4)}/32"
            if item_id in self._own and self.random.random() < 0.4:
                self._retract(item_id)
                continue
            for other in [other for other, its in self._own.items() if its == prefix and other != item_id]:
                self._retract(other)
            self._own[item_id] = prefix
            assert self._publisher.publish("blue", (item_id, self._route(prefix))).is_result
            if self.random.random() < 0.3:
                self.flush()

    def _retract(self, item_id: str) -> None:
        del self._own[item_id]
        assert self._publisher.retract("blue", item_id).is_result

    def _route(self, prefix: str) -> RouteItem:
        self._label += 1
        return item(prefix, hop("192.0.2.2", self._label))

    def flush(self) -> None:
        self.talk.core.flush(self.talk.now, self.random.choice((1, 3, 1000)))

    def requests(self) -> tuple[str, ...]:
        """What may be done once: of an item that is not there a second retract would be refused."""
        put, again = (entry_xml(self._route("10.9.0.1/32")) for _ in range(2))
        operations = (
            f"<publish node='blue'><item id='own'>{put}</item></publish>",
            f"<publish node='blue'><item id='own'>{again}</item></publish>",
            "<retract node='blue'><item id='own'/></retract>",
        )
        return tuple(f"<pubsub xmlns='{NS_PUBSUB}'>{operation}</pubsub>" for operation in operations)

    def settle(self) -> None:
        """Everything arrives; then all has to be well."""
        client = self.client
        self.talk.turn()
        while client.hear():
            self.talk.turn()
        entries = self.talk.core.rib.vrfs["blue"].entries.values()
        shown = [read_offered_entry(etree.fromstring(entry.xml)[0]) for entry in entries]
        assert {str(route.prefix): route for route in client.held.values()} == {str(one.prefix): one for one in shown}
        assert {entry.item_id for entry in entries} == client.held.keys()
        assert client.answers == Counter(["b1", *map(str, range(1, client.asked + 1))])
        assert client.markers == 1
        assert not self.talk.core.rib.vrfs["blue"].published.get("own")


@pytest.mark.parametrize("seed", range(3))
def test_after_any_octet_the_server_writes(seed: int) -> None:
    storm = _Storm(seed)
    for octets in range(seed, 1500, 7):
        storm.blow(4)
        storm.client.ask(*storm.requests())
        storm.flush()
        storm.client.hear(octets)
        storm.client.lose()
        storm.blow(2)
        storm.client.resume()
        storm.settle()


@pytest.mark.parametrize("seed", range(3))
def test_after_any_octet_the_client_writes(seed: int) -> None:
    storm = _Storm(seed)
    for octets in range(seed, 1500, 7):
        storm.blow(1)
        storm.client.ask(*storm.requests(), octets=octets)
        storm.flush()
        storm.client.hear(storm.random.choice((0, 200, None)))
        storm.client.lose()
        storm.client.resume()
        storm.settle()


@pytest.mark.parametrize("seed", range(15))
def test_again_and_again(seed: int) -> None:
    """A resumption is broken by the next one, with and without the server's noticing."""
    storm = _Storm(seed)
    client, chance = storm.client, storm.random
    for _ in range(20):
        for _ in range(chance.randrange(1, 5)):
            storm.blow(chance.randrange(4))
            client.ask(*storm.requests(), octets=chance.choice((None, chance.randrange(1200))))
            storm.flush()
            client.hear(chance.randrange(3000))
            if chance.random() < 0.7:
                client.lose()
                storm.blow(chance.randrange(4))
            client.resume(chance.choice((0, None, chance.randrange(3000))))
            if chance.random() < 0.5:
                storm.flush()
        client.resume()
        storm.settle()
