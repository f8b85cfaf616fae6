"""Sessions with GoBGP, FRR and BIRD: inside the AS and across its border, dialled and dialling, plain and signed.

For each of the three one route server has eight neighbors of its kind, one for each way, and a raw client beside them.
The client gives it routes and reads what it passes on, so routes are compared field by field at both ends: ours at
the speaker, the speaker's at the client.  A forwarder publishes as well.  Then the sessions are cleared by the
speakers and cut on the way, all eight at once, and must be back with all their routes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.support.bird import Bird
from tests.support.connection_cut import cut
from tests.support.frr import Frr
from tests.support.gobgp import GoBgp
from tests.support.interop_page import SESSIONS, Page
from tests.support.process import loopback_address
from tests.support.published import Published
from tests.support.raw_bgp import VPNV4 as RAW_VPNV4
from tests.support.raw_bgp import VPNV6 as RAW_VPNV6
from tests.support.raw_bgp import RawPeer, attribute, common_attributes, mp_reach, mp_unreach, update, vpn_nlri
from tests.support.raw_table import RawTable
from tests.support.routeserver import ForwarderConfig, RouteServerProcess, VpnConfig
from tests.support.speaker import BGP_PORT, VPNV4, VPNV6, NeighborConfig, Origination, SeenRoute, Speaker
from tests.support.waiting import eventually

pytestmark = pytest.mark.interop

AS, OTHER_AS = 64512, 64513
PASSWORD = "correct-horse"
BLUE = VpnConfig("blue", "64512:100")
HOST = ForwarderConfig("host1.example.net", ("192.0.2.1", "2001:db8::1"), router_id="192.0.2.1")
TUNNELS = {2, 13}
FAMILIES = {"VPNv4": VPNV4, "VPNv6": VPNV6}
RAW_FAMILIES = {VPNV4: RAW_VPNV4, VPNV6: RAW_VPNV6}
TARGETS = ("64512:100", "192.0.2.70:9")
KEPT = ("192.0.2.9:900", "10.5.0.0/24")
"""RD and prefix of a route the raw client leaves with us while sessions break."""
RT_OCTETS = bytes.fromhex("0002fc0000000064 0102c00002460009")
SITE_OF_ORIGIN, ENCAPSULATIONS = bytes.fromhex("0003fc0000000007"), bytes.fromhex("030c000000000002 030c00000000000d")


@dataclass(slots=True)
class Lab:
    """A route server, the raw client `raw`, and a speaker for each of `SESSIONS`."""

    server: RouteServerProcess
    speakers: dict[str, Speaker]
    raw: RawTable

    def neighbor(self, speaker: Speaker) -> dict[str, Any]:
        """Our view of the session, from the API."""
        found = {n["address"]: n for n in self.server.get("/bgp/neighbors")["items"]}
        return dict(found[speaker.address])

    def is_up(self, speaker: Speaker) -> bool:
        here = self.neighbor(speaker)["state"] == "established"
        return here and speaker.session_state(self.server.address) == "established"

    def wait_up(self, speaker: Speaker) -> None:
        eventually(lambda: self.is_up(speaker), 40.0, f"the session with {speaker.name} is up at both ends")

    def has_all(self, speaker: Speaker) -> bool:
        """Whether the speaker's End-of-RIB has come, of both families."""
        return all(family["end-of-rib-received"] for family in self.neighbor(speaker)["afi-safis"])

    def told(self, route: Origination) -> SeenRoute:
        """The route as the raw client is told of it."""
        return self.raw.wait_route(route.rd, route.prefix).seen


@dataclass(frozen=True, slots=True)
class Session:
    """One of the eight: `name` is its row on the page."""

    name: str
    lab: Lab

    @property
    def speaker(self) -> Speaker:
        return self.lab.speakers[self.name]

    @property
    def is_external(self) -> bool:
        return self.name.startswith("eBGP")

    @property
    def number(self) -> int:
        return SESSIONS.index(self.name)

    @property
    def table(self) -> str:
        return f"Sessions with {self.speaker.name_of_program}"

    def origination(self, family: str) -> Origination:
        """A route for the speaker, unlike that of any other session."""
        prefix, hop = f"10.2.{self.number}.0/24", "192.0.2.70"
        if family == VPNV6:
            prefix, hop = f"2001:db8:2{self.number}::/48", "2001:db8::70"
        tunnels = ("gre", "mpls-in-udp") if self.speaker.can_originate_encapsulation else ()
        return Origination(f"64512:{self.number}", prefix, 2000 + self.number, hop, TARGETS, tunnels, 7, 300)


def neighbor_of(kind: type[Speaker], name: str, address: str) -> NeighborConfig:
    """The speaker of a session as the route server's configuration has it."""
    password = PASSWORD if name.endswith("MD5") else None
    return NeighborConfig(
        address, OTHER_AS if name.startswith("eBGP") else AS, passive="they dial" in name, password=password
    )


@pytest.fixture(scope="module", params=[GoBgp, Frr, Bird], ids=lambda kind: kind.name_of_program)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    kind, ours, raw_address = request.param, loopback_address(), loopback_address()
    neighbors = {name: neighbor_of(kind, name, loopback_address()) for name in SESSIONS}
    speakers: dict[str, Speaker] = {}
    for name, they in neighbors.items():
        we = NeighborConfig(ours, AS, passive=not they.passive, password=they.password)
        speakers[name] = kind(tmp_path_factory.mktemp("speaker"), they.peer_as, (we,), they.address)
    raw = NeighborConfig(raw_address, AS, passive=True, client=True, idle_hold="0s")
    server = RouteServerProcess(tmp_path_factory.mktemp("rs"), AS, (*neighbors.values(), raw), (BLUE,), (HOST,), ours)
    with ExitStack() as stack:
        for daemon in (*speakers.values(), server):
            stack.enter_context(daemon)
        peer = RawPeer.dial(raw_address, ours)
        stack.callback(peer.close)
        peer.establish(AS, raw_address, hold_time=0)
        yield Lab(server, speakers, RawTable(peer))


@pytest.fixture(params=SESSIONS)
def session(lab: Lab, request: pytest.FixtureRequest) -> Session:
    return Session(request.param, lab)


def test_the_session_comes_up(session: Session, page: Page) -> None:
    lab, speaker = session.lab, session.speaker
    with page.cell(session.table, session.name, "established"):
        lab.wait_up(speaker)
        assert lab.neighbor(speaker)["type"] == ("external" if session.is_external else "internal")
        assert lab.neighbor(speaker)["router-id"] == speaker.address
        if "they dial" in session.name and "MD5" in session.name:
            with pytest.raises(TimeoutError):  # who does not sign is not even answered (RFC 2385 section 2)
                socket.create_connection((lab.server.address, BGP_PORT), 0.5, (speaker.address, 0)).close()


OURS = [
    Published("10.1.0.1/32", 10001),
    Published("2001:db8:1::1/128", 10002),
    Published("2001:db8:1::2/128", 10003, "2001:db8::1"),
]


async def test_what_a_forwarder_publishes_is_there_and_goes(session: Session, page: Page) -> None:
    speaker = session.speaker
    async with session.lab.server.forwarder(HOST.jid) as forwarder:
        await forwarder.subscribe("blue", 5)
        await forwarder.publish("blue", *(route.item for route in OURS))
        for route in OURS:
            with page.cell(session.table, session.name, "VPNv6" if ":" in route.prefix else "VPNv4"):
                seen = await asyncio.to_thread(speaker.wait_route, route.rd, route.prefix)
                assert (seen.label, seen.next_hop) == (route.label, route.next_hop)
                assert seen.route_targets == {"64512:100"}
                assert seen.encapsulations == (set() if session.is_external else TUNNELS)
                assert seen.as_path == ((AS,) if session.is_external else ())
                assert seen.med in (None, 0)
                assert session.is_external or seen.local_pref == 100
        await forwarder.retract("blue", *(route.item_id for route in OURS))
        with page.cell(session.table, session.name, "withdraw"):
            for route in OURS:
                await asyncio.to_thread(speaker.wait_no_route, route.rd, route.prefix)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_neighbor_of_ours_says_is_there_and_goes(session: Session, name: str, page: Page) -> None:
    speaker, raw = session.speaker, session.lab.raw.peer
    family = RAW_FAMILIES[FAMILIES[name]]
    rd = f"192.0.2.9:{session.number}"
    prefix, next_hop = ("10.3.0.0/22", "192.0.2.9") if name == "VPNv4" else ("2001:db8:3::/49", "2001:db8::9")
    nlri = vpn_nlri(rd, prefix, 0xFFFFF)
    attributes = [
        attribute(0x40, 1, b"\1"),
        attribute(0x40, 2, bytes.fromhex("0202 0000fde9 fffe0001")),
        attribute(0x80, 4, (77).to_bytes(4, "big")),
        attribute(0x40, 5, (250).to_bytes(4, "big")),
        attribute(0xC0, 8, bytes.fromhex("fc000001")),
        attribute(0xC0, 16, RT_OCTETS + SITE_OF_ORIGIN + ENCAPSULATIONS),
    ]
    raw.send(update(mp_reach(family, next_hop, nlri) + b"".join(attributes)))
    with page.cell(session.table, session.name, name):
        seen = speaker.wait_route(rd, prefix)
        assert (seen.label, seen.next_hop) == (0xFFFFF, next_hop)
        assert seen.route_targets == set(TARGETS)
        assert seen.encapsulations == (set() if session.is_external else TUNNELS)
        assert seen.as_path == (((AS,) if session.is_external else ()) + (65001, 0xFFFE0001))
        if session.is_external:
            assert (seen.originator_id, seen.cluster_list) == (None, ())
            assert seen.med in (None, 0)
        else:
            assert (seen.originator_id, seen.cluster_list) == (raw.address, (session.lab.server.address,))
            assert (seen.med, seen.local_pref) == (77, 250)
    raw.send(update(mp_unreach(family, nlri)))
    with page.cell(session.table, session.name, "withdraw"):
        speaker.wait_no_route(rd, prefix)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_speaker_originates_is_passed_on_and_goes(session: Session, name: str, page: Page) -> None:
    lab, speaker = session.lab, session.speaker
    route = session.origination(FAMILIES[name])
    speaker.originate(route)
    with page.cell(session.table, session.name, name):
        seen = lab.told(route)
        # A border router keeps the metric of its own AS to itself (RFC 4271 section 5.1.4).
        med = None if session.is_external and isinstance(speaker, Bird) else 7
        tunnels = frozenset(TUNNELS) if route.encapsulations and not session.is_external else frozenset[int]()
        assert seen == SeenRoute(
            rd=route.rd,
            prefix=route.prefix,
            label=route.label,
            next_hop=route.next_hop,
            route_targets=frozenset(TARGETS),
            encapsulations=tunnels,
            as_path=(OTHER_AS,) if session.is_external else (),
            originator_id=None if session.is_external else speaker.address,
            cluster_list=() if session.is_external else (lab.server.address,),
            med=med,
            local_pref=100 if session.is_external else 300,
        )
        (shown,) = lab.server.get(f"/vpns/blue/routes?prefix={route.prefix}")["items"]
        (path,) = shown["paths"]
        assert path["source"] == speaker.address
        assert path["next-hops"][0]["label"] == route.label
    speaker.withdraw(route)
    with page.cell(session.table, session.name, "withdraw"):
        lab.raw.wait_no_route(route.rd, route.prefix)
        assert lab.server.get(f"/vpns/blue/routes?prefix={route.prefix}")["items"] == []


def test_end_of_rib_is_heard_on_both_sides(session: Session, page: Page) -> None:
    lab, speaker = session.lab, session.speaker
    with page.cell(session.table, session.name, "End-of-RIB"):
        for family in FAMILIES.values():
            eventually(
                lambda family=family: speaker.end_of_rib_received(lab.server.address, family),  # type: ignore[misc]
                describe=f"{speaker.name} counts our End-of-RIB for {family}",
            )
        eventually(
            lambda: lab.has_all(speaker),
            describe=lambda: f"we have {speaker.name}'s End-of-RIB of both: {lab.neighbor(speaker)}",
        )


def test_a_refresh_is_answered_with_the_routes(session: Session, page: Page) -> None:
    lab, speaker = session.lab, session.speaker
    us, rd, prefix = lab.server.address, f"192.0.2.9:2{session.number}", "10.4.0.0/24"
    nlri = vpn_nlri(rd, prefix, 40)
    lab.raw.peer.send(update(mp_reach(RAW_VPNV4, "192.0.2.9", nlri) + common_attributes(RT_OCTETS)))
    speaker.wait_route(rd, prefix)
    before = speaker.updates_received(us)
    speaker.refresh(us)
    limit = None if speaker.asks_for_refresh else "a"
    with page.cell(session.table, session.name, "refresh", limit):
        if speaker.asks_for_refresh:
            eventually(lambda: speaker.updates_received(us) > before, describe="the routes come again")
        else:
            assert speaker.refreshes_sent(us) == 0
        assert speaker.find(rd, prefix) is not None
    lab.raw.peer.send(update(mp_unreach(RAW_VPNV4, nlri)))
    speaker.wait_no_route(rd, prefix)


def test_a_new_import_policy_has_us_ask_for_the_routes(session: Session, page: Page) -> None:
    lab, speaker, route = session.lab, session.speaker, session.origination(VPNV4)
    speaker.originate(route)
    lab.told(route)
    lost, accepting = lab.neighbor(speaker)["sessions-lost"], lab.server.neighbors
    rejecting = tuple(replace(n, rejects=(route.prefix,)) if n.address == speaker.address else n for n in accepting)
    with page.cell(session.table, session.name, "our refresh"):
        reload_and_see_us_ask(session, rejecting)
        lab.raw.wait_no_route(route.rd, route.prefix)
        reload_and_see_us_ask(session, accepting)
        lab.told(route)
        assert lab.neighbor(speaker)["sessions-lost"] == lost
    speaker.withdraw(route)
    lab.raw.wait_no_route(route.rd, route.prefix)


def reload_and_see_us_ask(session: Session, neighbors: tuple[NeighborConfig, ...]) -> None:
    lab, speaker = session.lab, session.speaker
    us = lab.server.address
    before = speaker.refreshes_received(us)
    lab.server.reload(neighbors)
    eventually(lambda: speaker.refreshes_received(us) > before, describe="we ask for the routes")
    # The question also wakes BIRD, which else answers a refresh up to three seconds later.
    assert speaker.session_state(us) == "established"


@dataclass(frozen=True, slots=True)
class Broken:
    """All sessions of a lab after each was ended once; `lost` is how many had been lost before, by address."""

    lab: Lab
    lost: dict[str, int]

    def check(self, session: Session) -> None:
        """The session is back, what was said before is there at both ends, and what is said now arrives."""
        lab, speaker = self.lab, session.speaker
        eventually(
            lambda: lab.neighbor(speaker)["sessions-lost"] > self.lost[speaker.address], describe="the session was lost"
        )
        lab.wait_up(speaker)
        speaker.wait_route(*KEPT)
        # Then what is there has been said in this session, and is not a leftover of the last one.
        eventually(lambda: lab.has_all(speaker), describe="the speaker has said all it has")
        for family in FAMILIES.values():
            route = session.origination(family)
            assert lab.server.get(f"/vpns/blue/routes?prefix={route.prefix}")["items"] != []
            speaker.withdraw(route)
            lab.raw.wait_no_route(route.rd, route.prefix)


def broken(lab: Lab, break_one: Callable[[Speaker], None]) -> Broken:
    """End every session in one way, after each speaker has given us routes and has one of ours."""
    nlri = vpn_nlri(*KEPT, 41)
    lab.raw.peer.send(update(mp_reach(RAW_VPNV4, "192.0.2.9", nlri) + common_attributes(RT_OCTETS)))
    for session in (Session(name, lab) for name in SESSIONS):
        lab.wait_up(session.speaker)
        session.speaker.wait_route(*KEPT)
        for family in FAMILIES.values():
            session.speaker.originate(session.origination(family))
            lab.told(session.origination(family))
    lost = {n["address"]: n["sessions-lost"] for n in lab.server.get("/bgp/neighbors")["items"]}
    for speaker in lab.speakers.values():
        break_one(speaker)
    return Broken(lab, lost)


@pytest.fixture(scope="module")
def cleared(lab: Lab) -> Broken:
    return broken(lab, lambda speaker: speaker.clear(lab.server.address))


@pytest.fixture(scope="module")
def severed(lab: Lab) -> Broken:
    return broken(lab, lambda speaker: cut(lab.server.pid, speaker.address))


def test_a_session_the_speaker_clears_comes_back(cleared: Broken, session: Session, page: Page) -> None:
    with page.cell(session.table, session.name, "clear"):
        cleared.check(session)


def test_a_session_whose_connection_is_cut_comes_back(severed: Broken, session: Session, page: Page) -> None:
    with page.cell(session.table, session.name, "cut"):
        severed.check(session)
