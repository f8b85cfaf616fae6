"""A route server in this process under fire from XMPP clients, without sockets, and those it must not hurt.

A round is a list of steps made from a seed: clients come at one stage of a login or another, each under its own name,
and say what is mutated or noise, in pieces, in turns.  A `Range` takes steps.  Two witnesses are joined to the same
core; they publish and hold routes of a VPN only they may see and of one that is everybody's.  Steps are tuples and mean
something in any state, so a failing list can be cut down and replayed.
"""

from __future__ import annotations

import gc
import itertools
import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from random import Random
from typing import Any, TypeAlias

from lxml import etree

from routeserver.xmpp.accounts import Accounts, AccountSettings
from routeserver.xmpp.events import StartTls, StreamClosed, XmppEvent
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.sasl import ClientCertificate
from routeserver.xmpp.stream import StreamLimits, Unfinished
from tests.fuzz.xmpp_mutations import mutated, noise, pieces, well_formed
from tests.fuzz.xmpp_seeds import PREVIOUS, STAGES, story
from tests.support.conversation import Conversation, Forwarder
from tests.support.routes import item, vpn
from tests.support.xmpp_script import AUTH, DOMAIN, HEADER, STARTTLS, bind, new_session

Step: TypeAlias = tuple[Any, ...]
SLOTS = 4
WITNESSES = ("w1.example.net", "w2.example.net")
_LIMITS = StreamLimits(ping_interval=1e5, stanza_timeout=1e5)
_ENABLED = re.compile(b"<enabled [^>]*id='([^']*)'")
_ACCOUNT = AccountSettings(Jid("lab", DOMAIN), "a password")
_LONG = 1e7
"""Seconds after which nobody who left is waited for."""


def jid(slot: int) -> str:
    return f"evil{slot}.example.net"


def steps(seed: str, length: int) -> tuple[list[Step], int]:
    """One round: sessions in every slot, one after the other, and how many chunks of it are mutated or noise."""
    random = Random(seed)
    talks = [_talk(random, slot) for slot in range(SLOTS)]
    made: list[Step] = []
    chunks = 0
    while chunks < length:
        slot = random.randrange(SLOTS)
        step = next(talks[slot], None)
        if step is None:
            talks[slot] = _talk(random, slot)
            continue
        made.append(step)
        chunks += step[0] == "chunk"
        if random.random() < 0.1:
            made.append(random.choice(_ASIDES)(random))
    return made, chunks


def _talk(random: Random, slot: int) -> Iterator[Step]:
    """A session of a client. `say` is what is as it should be, a `chunk` is not."""
    stage = random.choice((*STAGES, "bound", "bound", "bound"))
    yield "connect", slot, stage
    parts = story(random, stage, jid(slot), random.choice((1, 5, 30)))
    change = well_formed if random.random() < 0.6 else mutated
    for number, part in enumerate(parts):
        chance = random.random()
        if chance < 0.05:
            yield from (("chunk", slot, piece) for piece in pieces(random, noise(random)) if piece)
        elif chance < (0.85 if stage == "bound" else 0.4):
            other = parts[random.randrange(len(parts))] if number else random.choice(parts)
            yield from (("chunk", slot, piece) for piece in pieces(random, change(random, part, other)) if piece)
        else:
            yield from (("say", slot, piece) for piece in pieces(random, part) if piece)


_ASIDES = (
    lambda random: ("lose", random.randrange(SLOTS)),
    lambda random: ("writable", random.randrange(SLOTS), random.random() < 0.5),
    lambda random: ("wait", random.choice((0.1, 1.0, 25.0, 40.0, 200.0))),
    lambda random: ("turn",),
    lambda random: ("turn",),
)


class Attacker:
    """A session of the server with somebody hostile at the other end."""

    def __init__(self, name: str, slot: int, now: float, **shared: Any) -> None:
        self.certificate = ClientCertificate(xmpp_addresses=(jid(slot),))
        self.session = new_session(limits=_LIMITS, now=now, ids=name, **shared)
        self.session.peer_address = ip_address("192.0.2.6")
        self.written = b""
        self.resumption = b""
        """What the server calls the session once it may be resumed."""

    def read(self) -> None:
        """What the server wrote is a beginning of documents."""
        self.written += self.session.data_to_send()
        if enabled := _ENABLED.search(self.written):
            self.resumption = enabled[1]
        if self.session.closing:
            documents, self.written = self.written.split(b"<?xml version='1.0'?>")[1:], b""
            for text in documents:
                assert_document(text)


def assert_document(text: bytes) -> None:
    parser = etree.XMLPullParser(events=("start",))
    parser.feed(text)
    assert len(parser.feed_error_log) == 0, text


class Range:
    """The core, its witnesses, and whoever is in the slots."""

    def __init__(self) -> None:
        everybody, few = vpn("blue", ["64512:100"]), vpn("few", ["64512:101"], max_items=3, max_items_per_publisher=2)
        hidden = vpn("hidden", ["64512:102"], members=("w*.example.net",))
        self.talk = Conversation(everybody, few, hidden, stale_time=60.0)
        self.talk.limits = _LIMITS
        self.attackers: dict[int, Attacker] = {}
        self.ended = 0
        self.unfinished = Unfinished()
        self._accounts = Accounts(DOMAIN, b"secret", (_ACCOUNT,))
        self._resumptions: dict[int, bytes] = {}
        """The latest of each slot."""
        self._numbers = itertools.count(1)
        self.witnesses = [self._witness(name, number) for number, name in enumerate(WITNESSES, 1)]
        self.talk.turn()
        self.calm = self.holdings()

    def _witness(self, name: str, number: int) -> Forwarder:
        witness = self.talk.forwarder(name)
        for node in ("blue", "hidden"):
            assert witness.subscribe(node).is_result
            assert witness.publish(
                node, (f"192.0.2.{number}:1:10.{number}.0.1/32", item(f"10.{number}.0.1/32"))
            ).is_result
        return witness

    def holdings(self) -> list[dict[str, list[str]]]:
        return [{node: sorted(held) for node, held in each.held.items()} for each in self.witnesses]

    def take(self, list_of_steps: Sequence[Step]) -> None:
        for step in list_of_steps:
            getattr(self, "_on_" + step[0])(*step[1:])
        self._check()

    def come_to_rest(self) -> None:
        """All attackers leave and what they left is swept; then all is as it was in the beginning."""
        for slot in range(SLOTS):
            self._on_lose(slot)
        self._on_wait(_LONG)
        self._check()
        core = self.talk.core
        assert self.holdings() == self.calm
        assert [each.items(node).keys() for each in self.witnesses for node in ("blue", "hidden")] == [
            set(held[node]) for held in self.calm for node in ("blue", "hidden")
        ]
        assert set(map(str, core.nodes.forwarders)) == set(WITNESSES)
        assert len(core.nodes.clients) == len(WITNESSES)
        assert not core.nodes.dirty
        assert self.unfinished.octets == 0
        assert self.talk.resumptions.all_detached() == []

    def _check(self) -> None:
        """The witnesses are up and hold what there is; a route of an attacker is in the VPNs it may use only."""
        self.talk.turn()
        for witness in self.witnesses:
            assert not witness.session.closing
            shown = {node: witness.items(node).keys() for node in ("blue", "hidden")}
            assert {node: witness.held[node].keys() for node in shown} == shown
            assert sorted(shown["hidden"]) == self.calm[0]["hidden"]
            witness.take_messages()
            witness.sent = b""

    # What steps mean

    def _on_connect(self, slot: int, stage: str) -> None:
        self._on_lose(slot)
        shared = {"unfinished": self.unfinished, "accounts": self._accounts, "resumptions": self.talk.resumptions}
        attacker = self.attackers[slot] = Attacker(f"a{next(self._numbers)}x", slot, self.talk.now, **shared)
        if stage != "clear":
            self._feed(attacker, HEADER + STARTTLS)
        if stage in ("authenticated", "bound"):
            self._feed(attacker, HEADER + AUTH + (HEADER + bind("vpn") if stage == "bound" else b""))
        attacker.read()

    def _on_say(self, slot: int, data: bytes) -> None:
        """Who was thrown out comes back and goes on."""
        if slot not in self.attackers or self.attackers[slot].session.closing:
            self._on_connect(slot, "bound")
        self._feed(self.attackers[slot], data.replace(PREVIOUS, self._resumptions.get(slot, PREVIOUS)))

    _on_chunk = _on_say

    def _feed(self, attacker: Attacker, data: bytes) -> None:
        self._tell(attacker, attacker.session.receive_data(data, self.talk.now))

    def _tell(self, attacker: Attacker, events: Sequence[XmppEvent]) -> None:
        for event in events:
            if isinstance(event, StartTls):
                self._tell(attacker, attacker.session.tls_established(attacker.certificate))
            else:
                self._count(event)
                self.talk.core.handle(attacker.session, event, self.talk.now)
        if attacker.session.closing:
            attacker.read()

    def _count(self, event: XmppEvent) -> None:
        if isinstance(event, StreamClosed):
            self.ended += 1
            if self.ended % 4 == 0:
                gc.collect(1)

    def _on_lose(self, slot: int) -> None:
        attacker = self.attackers.pop(slot, None)
        if attacker is not None:
            attacker.read()
            self._resumptions[slot] = attacker.resumption or self._resumptions.get(slot, PREVIOUS)
            self._tell(attacker, attacker.session.receive_data(b"", self.talk.now))
            attacker.read()

    def _on_writable(self, slot: int, is_writable: bool) -> None:
        if slot in self.attackers:
            self.attackers[slot].session.writable = is_writable

    def _on_wait(self, seconds: float) -> None:
        self.talk.now += seconds
        for attacker in list(self.attackers.values()):
            self._tell(attacker, attacker.session.handle_timer(self.talk.now))
        for session in self.talk.resumptions.all_detached():
            for event in session.handle_timer(self.talk.now):
                self.talk.core.handle(session, event, self.talk.now)
        self.talk.advance(0.0)
        self.talk.core.handle_timer(self.talk.now)
        self._on_turn()

    def _on_turn(self) -> None:
        """What the server has to say goes out, of which attackers read as much as they want to."""
        self.talk.turn()
        for attacker in self.attackers.values():
            if attacker.session.writable:
                attacker.read()
