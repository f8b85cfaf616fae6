"""What attachments name beyond addresses, a drained host, and listening to one route server: with the real one."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from forwarder import xmpp as forwarder_xmpp
from forwarder.choice import own_order
from forwarder.dataplane.values import Hop, LocalHop, RemoteHop, RouteChange, RouteKey
from schema.values import Encapsulation
from tests.support.forwarder import Host, forwarder
from tests.support.pki import Pki
from tests.support.server import HEAD, RunningServer, running
from tests.support.two_servers import RecordingDataplane

VPNS = '[[vpns]]\nname = "blue"\nimport-route-target = ["64512:100"]\nexport-route-target = ["64512:100"]\n'
H1, H2, H3 = (f"host{number}.example.net" for number in (1, 2, 3))
A1, A2, A3 = (f"192.0.2.{number}" for number in (1, 2, 3))


@pytest.fixture
def own_pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path)


def to(address: str, *labels: int) -> tuple[Hop, ...]:
    return tuple(RemoteHop(ip_address(address), label, Encapsulation.UDP) for label in labels)


def dropped(changes: list[RouteChange]) -> list[str]:
    return [str(change.prefix) for change in changes if isinstance(change, RouteKey)]


async def paths(server: RunningServer) -> dict[str, list[dict[str, Any]]]:
    """What the route server has from forwarders, by prefix."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in (await server.get("/api/v1/bgp/rib?limit=1000"))[2]["items"]:
        found[entry["prefix"]] += [{**path, "rd": entry["route-distinguisher"]} for path in entry["paths"]]
    return found


async def test_prefixes_behind_an_interface_lead_to_it_from_other_hosts_and_from_its_own(own_pki: Pki) -> None:
    async with (
        running(own_pki, VPNS) as server,
        forwarder(own_pki, H1, A1, server.address("xmpp")) as one,
        forwarder(own_pki, H2, A2, server.address("xmpp")) as two,
    ):
        behind = ["10.2.0.0/24", "0.0.0.0/0"]
        router = await one.attach("router", "10.1.0.1/32", prefixes=behind, local_preference=70)
        await one.attach("vm2", "10.1.0.2/32")
        await two.attach("vm3", "10.1.0.3/32")
        await two.until(lambda: len(two.routes()) == 4, "all of host1 is there")
        for prefix in ("10.1.0.1/32", *behind):
            assert two.routes()["vm3", prefix] == to(A1, router.label)
            assert one.routes()["vm2", prefix] == (LocalHop("router"),)
            assert ("router", prefix) not in one.routes()
        assert (await paths(server))["0.0.0.0/0"][0]["attributes"]["local-preference"] == 70
        assert one.state("router") == "published"
        await one.attach("router", "10.1.0.1/32", prefixes=behind[:1])
        await two.until(lambda: ("vm3", "0.0.0.0/0") not in two.routes(), "it is no default route any more")
        assert two.routes()["vm3", "10.2.0.0/24"] == to(A1, router.label)


async def test_a_sequence_number_that_is_named_is_published_again_when_another_is_named(own_pki: Pki) -> None:
    async with (
        running(own_pki, VPNS) as server,
        forwarder(own_pki, H1, A1, server.address("xmpp")) as one,
        forwarder(own_pki, H2, A2, server.address("xmpp")) as two,
        forwarder(own_pki, H3, A3, server.address("xmpp")) as reader,
    ):
        await reader.attach("vm3", "10.1.0.3/32")
        first = await one.attach("vm1", "10.1.0.9/32", sequence_number=5)
        await reader.until(lambda: reader.routes().get(("vm3", "10.1.0.9/32")) == to(A1, first.label), "host1 has it")
        second = await two.attach("vm1", "10.1.0.9/32", sequence_number=4)
        await two.until(lambda: two.state("vm1") == "published", "host2 says it with a lower number")
        assert reader.routes()["vm3", "10.1.0.9/32"] == to(A1, first.label)
        await two.attach("vm1", "10.1.0.9/32", sequence_number=6)
        await reader.until(lambda: reader.routes()["vm3", "10.1.0.9/32"] == to(A2, second.label), "host2 has it")
        assert [vif.label for vif in two.agent.vifs] == [second.label]


async def test_two_interfaces_of_a_host_share_an_anycast_address_and_one_may_go(own_pki: Pki) -> None:
    async with (
        running(own_pki, VPNS) as server,
        forwarder(own_pki, H1, A1, server.address("xmpp")) as one,
        forwarder(own_pki, H2, A2, server.address("xmpp"), dataplane=(plane := RecordingDataplane())) as two,
    ):
        await two.attach("vm3", "10.1.0.3/32")
        a = await one.attach("a", "10.1.0.9/32", sequence_number=0)
        b = await one.attach("b", "10.1.0.9/32", sequence_number=0)
        both = to(A1, a.label, b.label)
        await two.until(lambda: two.routes().get(("vm3", "10.1.0.9/32")) == both, "both have it")
        assert [vif.attachment.id for vif in one.agent.vifs if one.state(vif.attachment.id) == "published"] == [
            "a",
            "b",
        ]
        await one.agent.detach("a")
        await two.until(lambda: two.routes()["vm3", "10.1.0.9/32"] == to(A1, b.label), "one has it")
        assert dropped(plane.changes) == []


async def test_a_drained_host_hands_over_what_others_have_and_keeps_the_rest(own_pki: Pki) -> None:
    async with (
        running(own_pki, VPNS) as server,
        forwarder(own_pki, H2, A2, server.address("xmpp")) as other,
        forwarder(own_pki, H3, A3, server.address("xmpp"), dataplane=(plane := RecordingDataplane())) as reader,
    ):
        await reader.attach("vm3", "10.1.0.3/32")
        spare = await other.attach("spare", "10.1.0.9/32")
        await reader.until(lambda: ("vm3", "10.1.0.9/32") in reader.routes(), "host2 has it")
        async with forwarder(own_pki, H1, A1, server.address("xmpp")) as host:
            main = await host.attach("main", "10.1.0.9/32")
            alone = await host.attach("alone", "10.1.0.8/32")
            here = {("vm3", "10.1.0.9/32"): to(A1, main.label), ("vm3", "10.1.0.8/32"): to(A1, alone.label)}
            await reader.until(lambda: reader.routes() == here, "host1 has both, by a higher sequence number")
            plane.changes.clear()
            drained = await host.agent.draining.drain()
            only = [(one.vif_id, str(one.prefix)) for one in drained.only_here]
            assert (only, drained.not_told, drained.unconfirmed) == ([("alone", "10.1.0.8/32")], [], [])
            moved = {**here, ("vm3", "10.1.0.9/32"): to(A2, spare.label)}
            await reader.until(lambda: reader.routes() == moved, "host2 has what it may have")
            assert host.dataplane.vifs() != []
            await host.attach("late", "10.1.0.7/32")
            await reader.until(lambda: ("vm3", "10.1.0.7/32") in reader.routes(), "what comes meanwhile can be reached")
            assert (await paths(server))["10.1.0.7/32"][0]["attributes"]["local-preference"] == 0
            await host.agent.detach("late")
            await reader.until(lambda: reader.routes() == moved, "and go")
            plane.changes.clear()
        assert reader.routes() == moved
        async with forwarder(own_pki, H1, A1, server.address("xmpp"), dataplane=host.dataplane) as again:
            await again.until(lambda: again.is_in_sync() and again.state("main") == "published", "it is back")
            assert again.agent.draining.report().is_draining, "a restart takes nothing back"
            assert reader.routes() == moved
            await again.agent.draining.undrain()
            await reader.until(lambda: reader.routes() == here, "as before")
        assert dropped(plane.changes) == []


async def test_one_route_server_is_listened_to_and_the_next_one_when_that_is_gone(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as a, running(own_pki, VPNS) as b:
        by_name = {"{}:{}".format(*server.address("xmpp")): server for server in (a, b)}
        order = own_order(H1, by_name)
        addresses = [server.address("xmpp") for server in (a, b)]
        plane = RecordingDataplane()
        async with (
            forwarder(own_pki, H1, A1, *addresses, dataplane=plane, subscribe="one") as one,
            forwarder(own_pki, H2, A2, *addresses) as two,
        ):
            await one.attach("vm1", "10.1.0.1/32")
            vm2 = await two.attach("vm2", "10.1.0.2/32")
            await one.until(
                lambda: one.routes().get(("vm1", "10.1.0.2/32")) == to(A2, vm2.label), "it has heard of vm2"
            )
            await one.until(lambda: one.state("vm1") == "published", "it has told both")
            assert listened(one) == order[:1]
            told = [(await paths(server))["10.1.0.1/32"] for server in (a, b)]
            assert [[path["rd"] for path in each] for each in told] == [["192.0.2.1:1"]] * 2, "one NLRI at both"
            plane.changes.clear()
            await by_name[order[0]].server.stop()
            await one.until(lambda: listened(one) == order[1:] and is_swept(one), "the other one has told everything")
            assert plane.changes == []
            vm4 = await two.attach("vm4", "10.1.0.4/32")
            await one.until(
                lambda: one.routes().get(("vm1", "10.1.0.4/32")) == to(A2, vm4.label), "and tells what is new"
            )


async def test_the_one_that_comes_back_is_listened_to_again_and_no_route_is_lost_by_it(
    own_pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_xmpp, "BACKOFF_LAST", 0.5)  # everybody is back long before the hold is over
    monkeypatch.setattr(forwarder_xmpp, "BACKOFF_FIRST", 0.5)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running(own_pki, VPNS)) for _ in range(2)]
        addresses = [server.address("xmpp") for server in servers]
        by_name = dict(zip(("{}:{}".format(*address) for address in addresses), servers, strict=True))
        order = own_order(H1, by_name)
        plane = RecordingDataplane()
        one = await stack.enter_async_context(forwarder(own_pki, H1, A1, *addresses, dataplane=plane, subscribe="one"))
        two = await stack.enter_async_context(forwarder(own_pki, H2, A2, *addresses))
        await one.attach("vm1", "10.1.0.1/32")
        await two.attach("vm2", "10.1.0.2/32")
        await one.until(lambda: ("vm1", "10.1.0.2/32") in one.routes(), "it knows vm2")
        await one.until(lambda: listened(one) == order[:1], "it listens to the first")
        plane.changes.clear()
        await by_name[order[0]].server.stop()
        await one.until(lambda: listened(one) == order[1:] and is_swept(one), "it listens to the second")
        listen = f'listen = ["{order[0]}"]'
        head = HEAD.replace('listen = ["127.0.0.1:0"]', listen, 1).replace('startup-hold = "0s"', 'startup-hold = "8s"')
        assert listen in head
        await stack.enter_async_context(running(own_pki, VPNS, head))
        await one.until(lambda: listened(one) == order[:1], "it listens to the first again")
        assert plane.changes == []


def listened(host: Host) -> list[str]:
    """The route servers it is in sync with, and subscribed to."""
    return [name for name, peer in host.agent.peers.items() if peer.conversation.is_in_sync("blue")]


def is_swept(host: Host) -> bool:
    """Nothing is left of a route server that is gone."""
    return not host.agent.fib.stale()
