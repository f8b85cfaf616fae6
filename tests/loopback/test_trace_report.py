"""A packet's fate beside what the route server said: who offered the route, and where the data plane has another."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from forwarder.api_report import trace_report
from forwarder.dataplane.values import LocalHop, RemoteHop, Route, RouteKey
from schema.values import Encapsulation
from tests.support.forwarder import Host, forwarder
from tests.support.pki import Pki
from tests.support.server import running

VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""


def told(host: Host, destination: str) -> dict[str, Any]:
    return trace_report(host.agent, host.agent.trace("vm1", ip_address(destination)))


async def test_the_route_is_told_with_who_offered_it_and_what_differs(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path)
    async with running(pki, VPNS) as server:
        at = server.address("xmpp")
        async with (
            forwarder(pki, "host1.example.net", "192.0.2.1", at) as one,
            forwarder(pki, "host2.example.net", "192.0.2.2", at) as two,
        ):
            await one.attach("vm1", "10.1.0.1/32")
            await one.attach("vm3", "10.1.0.3/32")
            await two.attach("vm2", "10.1.0.2/32")
            wanted = {("vm1", "10.1.0.2/32"), ("vm1", "10.1.0.3/32")}
            await one.until(lambda: wanted <= one.routes().keys(), "vm2 and vm3 are routes of vm1")
            remote = told(one, "10.1.0.2")
            assert (remote["fate"], remote["vpn"], remote["difference"]) == ("tunnelled", "blue", None)
            assert remote["route"]["route-server"] == f"{at[0]}:{at[1]}"
            assert [way["next-hop"] for way in remote["ways"]] == ["192.0.2.2"]
            local = told(one, "10.1.0.3")
            assert ([way["vif"] for way in local["ways"]], local["difference"]) == (["vm3"], None)
            assert told(one, "10.1.0.1")["fate"] == "own"
            nowhere = told(one, "10.1.0.4")
            assert (nowhere["fate"], nowhere["route"], nowhere["difference"]) == ("no-route", None, None)
            _behind_its_back(one)


def _behind_its_back(one: Host) -> None:
    """The data plane is changed and the agent not told."""
    another = RemoteHop(ip_address("192.0.2.9"), 99, Encapsulation.GRE)
    unasked = Route("vm1", ip_network("10.1.0.4/32"), (another,))
    one.dataplane.apply([RouteKey("vm1", ip_network("10.1.0.2/32")), unasked])
    lost = told(one, "10.1.0.2")
    assert (lost["fate"], lost["dropped"]) == ("no-route", True)
    assert lost["difference"] == (
        "the forwarder's own route is 10.1.0.2/32 to 192.0.2.2 under label 16, and the next audit will make it so"
    )
    assert told(one, "10.1.0.4")["difference"] == "no route server offers such a route"
    mixed = Route("vm1", ip_network("10.1.0.3/32"), (LocalHop("vm3"), another))
    one.dataplane.apply([mixed])
    assert "the forwarder's own route is 10.1.0.3/32 to vm3 on this host" in told(one, "10.1.0.3")["difference"]
