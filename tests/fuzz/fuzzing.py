"""What is around mutations: the neighbors that send them, what they should come to, and whom they must not hurt.

A `Twin` is a session of the route server's own code in this process, fed the same octets as the one across the socket.
It tells beforehand which message ends the session and with which words, and which routes the neighbor should have at
any moment; so messages can be sent by the hundred, and every difference between the two is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from routeserver.bgp.events import FamilyDisabled, RoutesReceived, RoutesWithdrawn
from routeserver.bgp.iana import Family
from routeserver.bgp.session import BgpSession
from routeserver.config.file import load
from routeserver.rib.export import is_looped
from routeserver.settings import NeighborSettings
from tests.support.bgp_corpus import entries
from tests.support.bgp_mirror import Mirror
from tests.support.bgp_server import LOCAL_AS, VPN, BgpRouteServer, neighbor
from tests.support.process import loopback_address
from tests.support.raw_bgp import (
    KEEPALIVE,
    NOTIFICATION,
    OPEN,
    UPDATE,
    VPNV4,
    VPNV6,
    RawPeer,
    attribute,
    common_attributes,
    message,
    mp_reach,
    open_message,
    update,
    vpn_nlri,
)
from tests.support.waiting import eventually

FAMILIES = (VPNV4, VPNV6, (1, 132))
ENDS_OF_RIB = b"".join(update(attribute(0x80, 15, afi.to_bytes(2, "big") + bytes((safi,)))) for afi, safi in FAMILIES)
TARGET = bytes.fromhex("0002fc0000000064")
_ANCHOR_RD, _CLEAN_RD = "65432:54321", "64512:99"
_ALL = 'afi-safis = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"]'
_CLIENT = "route-reflector-client = true"
_REFRESH, _LONG, _NEXT_HOPS, _PATHS = "4600", "0600", "0506 000100800002", "4508 00018002 00028002"
_RESTART = "400e 4078 00018080 00028080 00018480"
_OLD = "ee04"
"""An unknown capability in the place of that of 4-octet AS numbers."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A neighbor that fuzzes: its AS, what else it announces, and its lines of configuration."""

    name: str
    asn: int
    capabilities: str
    lines: tuple[str, ...] = ()
    has_path_ids: bool = False
    takes_long: bool = False
    is_old: bool = False
    restarts: bool = False
    """Its routes outlive its sessions, those that end with a NOTIFICATION included (RFC 4724, RFC 8538)."""

    @property
    def message_max(self) -> int:
        return 65535 if self.takes_long else 4096

    def opening(self, *, forgets: bool = False) -> bytes:
        """OPEN and KEEPALIVE, the same in every run; one that forgets does not announce that it restarts."""
        identifier = f"192.0.2.{100 + KINDS.index(self)}"
        more = bytes.fromhex(self.capabilities + (_RESTART if self.restarts and not forgets else ""))
        octets = open_message(self.asn, identifier, FAMILIES, more=more)
        if self.is_old:
            octets = octets.replace(b"\x41\x04" + self.asn.to_bytes(4, "big"), bytes.fromhex(_OLD) + bytes(4))
        return octets + message(KEEPALIVE)

    @property
    def path(self) -> tuple[int, ...]:
        return () if self.asn == LOCAL_AS else (self.asn,)

    def attributes(self) -> bytes:
        """What a good UPDATE has besides its routes."""
        octets = common_attributes(TARGET, med=7, as_path=self.path)
        if self.is_old:
            return octets.replace(b"\x40\x02\x06\x02\x01\0\0", b"\x40\x02\x04\x02\x01")
        return octets

    def routes(self, rd: str, numbers: range) -> bytes:
        """Good UPDATEs: host routes of both VPN families, by number."""
        path_id = bytes(4) if self.has_path_ids else b""
        four = [path_id + vpn_nlri(rd, f"10.9.{n}.1/32", 16 + n) for n in numbers]
        six = [path_id + vpn_nlri(rd, f"2001:db8:9::{n:x}/128", 16 + n) for n in numbers]
        reached = mp_reach(VPNV4, "192.0.2.1", b"".join(four)), mp_reach(VPNV6, "2001:db8::1", b"".join(six))
        return b"".join(update(each + self.attributes()) for each in reached)

    def seeds(self) -> list[bytes]:
        """Good UPDATEs of such a neighbor: those of the corpus, and some with several routes."""
        of_its_kind = [
            entry.message
            for entry in entries("good")
            if entry.message[18] == UPDATE
            and entry.peer.context.external == bool(self.path)
            and entry.peer.context.four_octet_as != self.is_old
            and bool(entry.peer.paths_in) == self.has_path_ids
            and not entry.peer.extended_messages
        ]
        several = [range(12), range(2), range(200)] if self.takes_long else [range(12), range(2)]
        return of_its_kind + split_messages(b"".join(self.routes("64512:7", numbers) for numbers in several))


KINDS = (
    Kind("internal", LOCAL_AS, _REFRESH + _NEXT_HOPS, (_CLIENT, _ALL)),
    Kind("external", 64513, _REFRESH, (_ALL,)),
    Kind("old", 64513, "", (_ALL,), is_old=True),
    Kind(
        "paths", LOCAL_AS, _REFRESH + _LONG + _NEXT_HOPS + _PATHS, (_CLIENT, _ALL, 'add-path = "receive"'), True, True
    ),
    Kind("restarting", LOCAL_AS, _REFRESH + _NEXT_HOPS, (_CLIENT, _ALL), restarts=True),
)


def split_messages(octets: bytes) -> list[bytes]:
    found = []
    while octets:
        length = int.from_bytes(octets[16:18], "big")
        found.append(octets[:length])
        octets = octets[length:]
    return found


class Twin:
    """What a session should be after these octets."""

    def __init__(self, settings: NeighborSettings, server: str) -> None:
        self._router_id = IPv4Address(server)
        self.session = BgpSession(settings, LOCAL_AS, self._router_id, ip_address(server), 0.0)
        self.keys: dict[Family, set[bytes]] = {family: set() for family in settings.families}
        self.disabled = 0

    @property
    def is_over(self) -> bool:
        return self.session.closing

    def feed(self, octets: bytes) -> None:
        for event in self.session.receive_data(octets, 0.0):
            match event:
                case RoutesReceived(family, attributes, nlri):
                    keys = {key for key, _ in nlri}
                    looped = is_looped(attributes, LOCAL_AS, self._router_id)
                    self.keys[family] = self.keys[family] - keys if looped else self.keys[family] | keys
                case RoutesWithdrawn(family, gone):
                    self.keys[family].difference_update(gone)
                case FamilyDisabled(family, _):
                    self.disabled += 1
                    self.keys[family].clear()

    def last_words(self) -> str:
        """The NOTIFICATION it ends with, in hex, or "" where it ends without one."""
        sent = split_messages(self.session.data_to_send())
        return sent[-1][19:].hex() if sent and sent[-1][18] == NOTIFICATION else ""

    def counts(self) -> dict[str, int]:
        return {family.label: len(keys) for family, keys in self.keys.items()}


class Scout:
    """Goes before a twin, so that a session can be long."""

    def __init__(self, twin: Callable[[], Twin]) -> None:
        self._another = twin
        self._twin = twin()

    def finds_harmless(self, octets: bytes) -> bool:
        """Whether these octets are whole messages that leave the session and all its families up."""
        heard = self._twin.session.messages_in["keepalive"]
        self._twin.feed(octets + message(KEEPALIVE))
        if not self._twin.disabled and self._twin.session.messages_in["keepalive"] > heard:
            return True
        self._twin = self._another()
        return False


@dataclass
class Range:
    """The route server under fire, a witness that hears everything, and an anchor whose routes must stay."""

    server: BgpRouteServer
    sources: Mapping[str, str]
    witness: Mirror
    anchor: Mirror
    settings: Mapping[str, NeighborSettings] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def running(cls, directory: Path, addresses: Mapping[str, str]) -> Iterator[Range]:
        """`addresses` are those of `server`, `witness`, `anchor` and each kind, so that two runs can be the same."""
        sources = {kind.name: addresses[kind.name] for kind in KINDS}
        parts = [neighbor(sources[kind.name], kind.asn, *kind.lines) for kind in KINDS]
        parts += [neighbor(addresses[name], LOCAL_AS, _CLIENT) for name in ("witness", "anchor")]
        with BgpRouteServer(directory, *parts, VPN, address=addresses["server"]) as server:
            witness, anchor = server.mirror(addresses["witness"]), server.mirror(addresses["anchor"])
            loaded = load(directory / "rs.toml").settings.neighbors
            yield cls(server, sources, witness, anchor, {str(each.address): each for each in loaded})
            for each in (witness, anchor):
                assert each.ended == ""
                each.close()
            server.assert_sound()

    def set_anchor(self) -> None:
        """Forty routes that nobody else announces, and the witness has them."""
        self.anchor.send(KINDS[0].routes(_ANCHOR_RD, range(40)))
        self.witness.wait(lambda m: [len(m.routes.get(f, ())) for f in (VPNV4, VPNV6)] == [40, 40], "the anchor's")

    def connect(self, kind: Kind, *, forgets: bool = False) -> tuple[Mirror, Twin]:
        """A session and its twin."""
        opening = kind.opening(forgets=forgets)
        peer = self._dial(kind, opening)
        assert peer.read()[0] == KEEPALIVE
        twin = self.twin(kind, opening)
        twin.session.data_to_send()
        return Mirror(peer), twin

    def twin(self, kind: Kind, octets: bytes) -> Twin:
        """A session that begins so."""
        twin = Twin(self.settings[self.sources[kind.name]], self.server.address)
        twin.feed(octets)
        return twin

    def refusal(self, kind: Kind, octets: bytes) -> str:
        """What a connection that begins so ends with: a NOTIFICATION in hex, or nothing."""
        with closing(self._dial(kind, octets)) as peer:
            try:
                return peer.read_until(NOTIFICATION).hex()
            except EOFError:
                return ""

    def _dial(self, kind: Kind, octets: bytes) -> RawPeer:
        """A connection on which these octets have been sent and an OPEN received."""
        peer = eventually(lambda: self._try(kind, octets), describe=f"a connection of {kind.name}")
        assert peer is not None
        return peer

    def _try(self, kind: Kind, octets: bytes) -> RawPeer | None:
        """None while the neighbor is still in Idle, where connections are refused."""
        peer = self.server.dial(self.sources[kind.name])
        try:
            peer.send(octets)
            assert peer.read()[0] == OPEN
        except (EOFError, ConnectionError):
            peer.close()
            return None
        return peer

    def received(self, kind: Kind) -> dict[str, int]:
        """How many routes of each family the server has of a neighbor."""
        view = self.server.neighbor(self.sources[kind.name])
        return {family["afi-safi"]: family["received"] for family in view["afi-safis"]}

    def holdings(self) -> dict[str, Any]:
        """All routes there are, as the API shows them."""
        return {path: self.server.get(path) for path in ("/bgp/rib", "/rt-constraints", "/vpns/blue/routes")}


def addresses() -> dict[str, str]:
    return {name: loopback_address() for name in ("server", "witness", "anchor", *(kind.name for kind in KINDS))}


def clean_routes(kind: Kind) -> bytes:
    """What a neighbor has to say in the end; each has routes of its own, and some that others have as well."""
    own = f"64512:{900 + KINDS.index(kind)}"
    return kind.routes(own, range(20)) + kind.routes(_CLEAN_RD, range(20))


def refresh_mark(family: tuple[int, int], is_end: bool) -> bytes:
    """BoRR or EoRR (RFC 7313)."""
    return message(5, family[0].to_bytes(2, "big") + bytes((2 if is_end else 1, family[1])))
