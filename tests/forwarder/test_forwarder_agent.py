"""The agent with its data plane in memory and its API on a real unix socket; no route server answers.

What needs one is in tests/loopback/test_forwarder.py.
"""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, UnixConnector
from yarl import URL

from forwarder.__main__ import start_agent
from forwarder.agent import Agent
from forwarder.api import Api, ApiError
from forwarder.config import Config, load
from forwarder.conversation import Wanted
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import DataplaneError, RemoteHop, Route, RouteKey
from forwarder.peers import running_timers
from forwarder.pubsub import StanzaError
from forwarder.stale import MARKERLESS_SECONDS, STALE_SECONDS
from schema.items import RouteItem
from schema.values import Encapsulation, NextHop
from tests.support.forwarder import write_config
from tests.support.pki import Pki
from tests.support.waiting import eventually_async

VM1 = {"vpn": "blue", "interface": "t-a", "addresses": ["10.1.0.1/32"]}
VM2 = {"vpn": "blue", "interface": "t-b", "addresses": ["10.1.0.2/32"]}
NOBODY = ("127.0.0.1", 1)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = load(write_config(Pki.create(tmp_path), "host1.example.net", "192.0.2.1", [NOBODY]))
    return replace(made, api=tmp_path / "run" / "f.sock")


@dataclass(frozen=True, slots=True)
class Running:
    agent: Agent
    dataplane: FakeDataplane
    session: ClientSession

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, f"http://localhost/api/v1{path}", data=data) as response:
            kind = "application/json" if response.status < 400 else "application/problem+json"
            assert response.content_type == kind
            return response.status, await response.json(content_type=None)


@asynccontextmanager
async def run(config: Config, dataplane: FakeDataplane | None = None) -> AsyncIterator[Running]:
    used = FakeDataplane() if dataplane is None else dataplane
    agent = Agent(config, used)
    api = Api(agent, config.api)
    await api.start()
    agent.start()
    async with ClientSession(connector=UnixConnector(str(config.api))) as session:
        yield Running(agent, used, session)
    await api.stop()
    await agent.stop()


async def test_attach_is_accepted_without_a_route_server_and_is_idempotent(config: Config) -> None:
    async with run(config) as f:
        status, vif = await f.call("PUT", "/vifs/vm1", VM1)
        assert status == 201
        assert vif == {
            "id": "vm1", "vpn": "blue", "interface": "t-a", "addresses": ["10.1.0.1/32"], "mac": None, "rate": None,
            "mode": "point-to-point", "prefixes": [], "sequence-number": None, "local-preference": 100,
            "label": 16, "table": 1001, "instance-id": 1, "sequence-numbers": {}, "first-hop": None,
            "state": "unpublished", "reason": "no route server is connected",
        }  # fmt: skip
        assert await f.call("PUT", "/vifs/vm1", VM1) == (200, vif)
        assert await f.call("GET", "/vifs/vm1") == (200, vif)
        status, listed = await f.call("GET", "/vifs")
        assert (status, listed["items"], listed["next-cursor"]) == (200, [vif], None)
        assert [held.id for held in f.dataplane.vifs()] == ["vm1"]


async def test_detach_is_idempotent_and_the_label_rests(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        assert await f.call("DELETE", "/vifs/vm1") == (200, {"id": "vm1", "was-attached": True})
        assert await f.call("DELETE", "/vifs/vm1") == (200, {"id": "vm1", "was-attached": False})
        assert f.dataplane.vifs() == []
        _, labels = await f.call("GET", "/labels")
        assert [(item["label"], item["state"]) for item in labels["items"]] == [(16, "resting")]
        _, again = await f.call("PUT", "/vifs/vm1", VM1)
        assert again["label"] == 17


async def test_the_same_id_with_other_content_is_a_change(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        status, vif = await f.call("PUT", "/vifs/vm1", {**VM1, "rate": "10mbit", "addresses": ["10.1.0.9/32"]})
        assert (status, vif["label"], vif["rate"], vif["addresses"]) == (200, 16, "10mbit", ["10.1.0.9/32"])
        status, moved = await f.call("PUT", "/vifs/vm1", {**VM1, "vpn": "red"})
        assert (moved["vpn"], moved["label"]) == ("red", 17)
        (held,) = f.dataplane.vifs()
        assert (held.label, held.rate) == (17, None)


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/vifs/vm2", {**VM2, "interface": "t-a"}, 409,
         "attachment vm2: interface t-a is attached as vm1; run `forwarder detach vm1` first"),
        ("/vifs/vm2", {**VM2, "addresses": ["10.1.0.1/32"]}, 409,
         "attachment vm2: address 10.1.0.1 of VPN blue is attached as vm1; run `forwarder detach vm1` first"),
        ("/vifs/vm2", {**VM2, "addresses": ["10.1.0.0/24"]}, 400,
         "addresses: 10.1.0.0/24 is not one host, and attached addresses are host addresses: write 10.1.0.0/32"),
        ("/vifs/vm2", {**VM2, "colour": "blue"}, 400, "Object contains unknown field `colour`"),
        ("/vifs/vm2", {"vpn": "blue"}, 400, "Object missing required field `interface`"),
        ("/vifs/vm2", [], 400, "Expected `object`, got `array`"),
    ],
)  # fmt: skip
async def test_what_cannot_be_attached_is_refused_with_the_reason(
    config: Config, path: str, body: object, status: int, detail: str
) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        answered, problem = await f.call("PUT", path, body)
        assert (answered, problem["status"], problem["detail"]) == (status, status, detail)
        assert set(problem) == {"type", "title", "status", "detail"}
        assert [held.id for held in f.dataplane.vifs()] == ["vm1"]
        assert [item["id"] for item in (await f.call("GET", "/vifs"))[1]["items"]] == ["vm1"]


@pytest.mark.parametrize("vif_id", ["vm{1}", "a%25b", "..", "a+b#c?d", "~!$&'()*,;=:@"])
async def test_any_id_that_may_be_given_can_be_used_in_a_path(config: Config, vif_id: str) -> None:
    async with run(config) as f:
        path = f"/vifs/{quote(vif_id, safe='')}"
        for method, status in (("PUT", 201), ("GET", 200), ("DELETE", 200)):
            url = URL(f"http://localhost/api/v1{path}", encoded=True)
            async with f.session.request(method, url, data=json.dumps(VM1)) as response:
                assert (response.status, (await response.json())["id"]) == (status, vif_id)


async def test_a_body_that_is_no_text_is_refused_as_a_problem_too(config: Config) -> None:
    async with run(config) as f, f.session.put("http://localhost/api/v1/vifs/x", data=b'{"vpn":"\xff"}') as response:
        assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_what_is_not_there_is_a_problem_document_too(config: Config) -> None:
    async with run(config) as f:
        status, problem = await f.call("GET", "/vifs/vm9")
        assert status == 404
        assert "vm9" in problem["detail"]
        assert "forwarder get vifs" in problem["detail"]
        assert (await f.call("GET", "/nothing"))[0] == 404
        assert (await f.call("POST", "/vifs"))[0] == 405


async def test_a_data_plane_that_refuses_leaves_nothing_behind(config: Config) -> None:
    async with run(config) as f:
        f.dataplane.fail_next("attach", "interface t-a does not exist")
        status, problem = await f.call("PUT", "/vifs/vm1", VM1)
        assert (status, problem["detail"]) == (500, "interface t-a does not exist")
        assert (await f.call("GET", "/vifs"))[1]["items"] == []
        assert f.dataplane.vifs() == []
        assert (await f.call("PUT", "/vifs/vm1", VM1))[0] == 201


async def test_a_change_that_is_refused_puts_back_what_was(config: Config) -> None:
    async with run(config) as f:
        _, before = await f.call("PUT", "/vifs/vm1", VM1)
        f.dataplane.fail_next("attach", "no such queue discipline")
        status, _ = await f.call("PUT", "/vifs/vm1", {**VM1, "rate": "10mbit"})
        assert status == 500
        assert await f.call("GET", "/vifs/vm1") == (200, before)
        (held,) = f.dataplane.vifs()
        assert held.rate is None


@pytest.mark.parametrize("change", [{"interface": "t-b"}, {"interface": "t-c", "addresses": ["10.1.0.2/32"]}])
async def test_a_move_that_conflicts_changes_nothing(config: Config, change: dict[str, Any]) -> None:
    async with run(config) as f:
        _, before = await f.call("PUT", "/vifs/vm1", VM1)
        await f.call("PUT", "/vifs/vm2", VM2)
        status, problem = await f.call("PUT", "/vifs/vm1", {**VM1, **change})
        assert (status, problem["title"]) == (409, "Another attachment is in the way")
        assert await f.call("GET", "/vifs/vm1") == (200, before)
        assert {held.id for held in f.dataplane.vifs()} == {"vm1", "vm2"}


async def test_a_detach_that_fails_is_told_and_can_be_repeated(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        f.dataplane.fail_next("detach", "the kernel is busy")
        status, problem = await f.call("DELETE", "/vifs/vm1")
        assert (status, problem["detail"]) == (500, "the kernel is busy")
        assert (await f.call("GET", "/vifs/vm1"))[1]["state"] == "leaving"
        assert await f.call("DELETE", "/vifs/vm1") == (200, {"id": "vm1", "was-attached": True})
        assert f.dataplane.vifs() == []


async def test_a_restart_attaches_again_and_flushes_nothing(config: Config) -> None:
    dataplane = FakeDataplane()
    async with run(config, dataplane) as f:
        _, before = await f.call("PUT", "/vifs/vm1", VM1)
    route = Route("vm1", ip_network("10.1.0.0/24"), (RemoteHop(ip_address("192.0.2.9"), 99, Encapsulation.UDP),))
    assert dataplane.apply([route]) == []
    async with run(config, dataplane) as f:
        assert await f.call("GET", "/vifs/vm1") == (200, before)
        assert dataplane.routes() == [route]
        _, routes = await f.call("GET", "/routes?vpn=blue")
        assert routes["items"] == [
            {
                "vif": "vm1", "vpn": "blue", "prefix": str(route.prefix), "route-server": None, "stale": True,
                "next-hops": [{"next-hop": "192.0.2.9", "label": 99, "tunnel-encapsulation": "udp"}],
                "sequence-number": None, "local-preference": None,
            }
        ]  # fmt: skip
        assert (await f.call("GET", "/routes?vpn=red"))[1]["items"] == []


async def test_what_cannot_be_attached_again_after_a_restart_is_kept_and_shown(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
    dataplane = FakeDataplane()
    dataplane.fail_next("attach", "interface t-a does not exist")
    async with run(config, dataplane) as f:
        _, vif = await f.call("GET", "/vifs/vm1")
        assert (vif["state"], vif["reason"], vif["label"]) == ("failed", "interface t-a does not exist", 16)
        assert any("vm1 failed" in reason for reason in (await f.call("GET", "/status"))[1]["degraded"])
        status, vif = await f.call("PUT", "/vifs/vm1", VM1)
        assert (status, vif["state"], vif["label"]) == (200, "unpublished", 16)
        assert [held.id for held in dataplane.vifs()] == ["vm1"]


async def test_without_its_state_it_leaves_the_kernel_alone_and_takes_over_by_id(config: Config) -> None:
    dataplane = FakeDataplane()
    async with run(config, dataplane) as f:
        await f.call("PUT", "/vifs/vm0", {**VM2, "interface": "t-c", "addresses": ["10.1.0.3/32"]})
        await f.call("PUT", "/vifs/vm1", VM1)
    _write_state(config, "{")
    async with run(config, dataplane) as f:
        assert (await f.call("GET", "/vifs"))[1]["items"] == []
        assert {held.id for held in dataplane.vifs()} == {"vm0", "vm1"}
        assert (await f.call("PUT", "/vifs/vm2", VM2))[1]["label"] == 18, "labels in the kernel are not given again"
        assert (await f.call("PUT", "/vifs/vm1", VM1))[1]["label"] == 17, "the one it had"
        assert await f.call("DELETE", "/vifs/vm0") == (200, {"id": "vm0", "was-attached": True})
        assert {held.id for held in dataplane.vifs()} == {"vm1", "vm2"}


def _item(prefix: str) -> RouteItem:
    return RouteItem(ip_network(prefix), (NextHop(ip_address("192.0.2.9"), 99),))


async def test_one_route_that_the_kernel_refuses_is_told_and_tried_again_and_the_rest_stand(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        server = next(iter(f.agent.peers))
        f.dataplane.fail_next("apply", "Network is down")
        for number in range(3):
            f.agent.fib.offer(server, "blue", str(number), _item(f"10.2.{number}.0/24"))
        f.agent.fib.in_sync(server, "blue")
        f.agent.installer.schedule()
        await eventually_async(lambda: len(f.dataplane.routes()) == 2)
        _, status = await f.call("GET", "/status")
        assert status["refused-routes"] == 1
        assert status["guest-mtu"] == f.dataplane.guest_mtu
        (reason,) = f.agent.installer.refusals.values()
        assert reason == "Network is down"
        assert any("refuse" in reason for reason in status["degraded"])
        f.dataplane.lose(RouteKey("vm1", f.dataplane.routes()[0].prefix))
        await eventually_async(lambda: len(f.dataplane.routes()) == 3, describe="both are there again", within=30)
        assert (await f.call("GET", "/status"))[1]["refused-routes"] == 0


def _write_state(config: Config, text: str | None) -> None:
    """Both files; None: there are none."""
    for name in ("state.json", "state.json.copy"):
        (config.state / name).unlink()
        if text is not None:
            (config.state / name).write_text(text)


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.8, 0.999])
async def test_a_state_file_torn_in_half_costs_nothing(config: Config, part: float) -> None:
    dataplane = FakeDataplane()
    async with run(config, dataplane) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        await f.call("PUT", "/vifs/vm2", {**VM2, "vpn": "red"})
        await f.call("DELETE", "/vifs/vm1")
        await f.call("PUT", "/vifs/vm1", VM1)
        before = f.agent.vifs.state(0.0), f.agent.vifs.wanted(), dataplane.vifs()
    file = config.state / "state.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    async with run(config, dataplane) as f:
        assert (f.agent.vifs.state(0.0), f.agent.vifs.wanted(), dataplane.vifs()) == before


async def test_a_detached_label_nobody_knew_of_rests_like_any_other(config: Config) -> None:
    dataplane = FakeDataplane()
    async with run(config, dataplane) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
    _write_state(config, None)
    async with run(config, dataplane) as f:
        await f.call("DELETE", "/vifs/vm1")
        _, labels = await f.call("GET", "/labels")
        assert [(item["label"], item["state"]) for item in labels["items"]] == [(16, "resting")]


async def test_what_is_taken_over_by_id_keeps_its_routes_until_a_picture_comes(config: Config) -> None:
    dataplane = FakeDataplane()
    async with run(config, dataplane) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
    route = Route("vm1", ip_network("10.1.0.0/24"), (RemoteHop(ip_address("192.0.2.9"), 99, Encapsulation.UDP),))
    dataplane.apply([route])
    _write_state(config, None)
    async with run(config, dataplane) as f:
        dataplane.fail_next("attach", "not now")
        assert (await f.call("PUT", "/vifs/vm1", VM1))[0] == 500
        assert dataplane.routes() == [route], "refused, it is what it was"
        assert (await f.call("PUT", "/vifs/vm1", VM1))[1]["label"] == 16
        (shown,) = (await f.call("GET", "/routes"))[1]["items"]
        assert (shown["prefix"], shown["stale"]) == ("10.1.0.0/24", True)
        f.agent.fib.in_sync(next(iter(f.agent.peers)), "blue")
        while f.agent.fib.is_dirty:
            f.agent.installer.apply_some()
        assert dataplane.routes() == [], "nobody offers it"


async def test_what_could_not_be_saved_is_saved_by_the_next_detach(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        blocked = config.state / "state.tmp"
        blocked.mkdir()
        assert (await f.call("DELETE", "/vifs/vm1"))[0] == 500
        blocked.rmdir()
        assert await f.call("DELETE", "/vifs/vm1") == (200, {"id": "vm1", "was-attached": False})
    async with run(config) as f:
        assert (await f.call("GET", "/vifs"))[1]["items"] == [], "it does not come back"


async def test_a_data_plane_that_cannot_be_opened_ends_the_start(config: Config) -> None:
    dataplane = FakeDataplane()
    dataplane.fail_next("open", "the kernel has no MPLS; run modprobe mpls_router")
    with pytest.raises(DataplaneError, match="modprobe"):
        Agent(config, dataplane).start()


async def test_a_start_that_fails_leaves_no_socket_behind(config: Config) -> None:
    dataplane = FakeDataplane()
    dataplane.fail_next("open", "the kernel has no MPLS; run modprobe mpls_router")
    agent = Agent(config, dataplane)
    api = Api(agent, config.api)
    await api.start()
    assert config.api.is_socket()
    with pytest.raises(DataplaneError, match="modprobe"):
        await start_agent(agent, api)
    assert not config.api.exists()


async def test_the_socket_is_its_owners_and_one_forwarder_has_it(config: Config) -> None:
    async with run(config) as f:
        assert stat.S_IMODE(config.api.stat().st_mode) == 0o600
        assert stat.S_IMODE(config.api.parent.stat().st_mode) & 0o700 == 0o700
        with pytest.raises(ApiError, match="another forwarder answers there"):
            await Api(f.agent, config.api).start()
    assert not config.api.exists()


async def test_status_says_what_is_wrong(config: Config) -> None:
    async with run(config) as f:
        await f.call("PUT", "/vifs/vm1", VM1)
        status, report = await f.call("GET", "/status")
        assert status == 200
        assert (report["jid"], report["vifs"], report["routes"]) == ("host1.example.net", 1, 0)
        (server,) = report["route-servers"]
        assert (server["address"], server["state"]) == ("127.0.0.1:1", "unreachable")
        assert len(report["degraded"]) == 1
        assert report["degraded"][0].startswith("route server 127.0.0.1:1: ")


async def test_stale_time_runs_where_another_session_stands_in_or_a_marker_is_owed(tmp_path: Path) -> None:
    servers = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    agent = Agent(load(write_config(Pki.create(tmp_path), "host1.example.net", "192.0.2.1", servers)), FakeDataplane())
    first, second = agent.peers
    stale = [(first, "blue")]
    assert running_timers(agent.peers, stale) == {}, "nobody is there: everything is kept"
    subscribe = agent.peers[second].conversation.start(Wanted({}, {"blue": 1}))[0]
    assert running_timers(agent.peers, stale) == {}, "the other one has not told everything yet"
    agent.peers[second].conversation.answered(subscribe, None)
    assert running_timers(agent.peers, stale) == {(second, "blue"): MARKERLESS_SECONDS}
    agent.peers[second].conversation.marker("blue")
    assert running_timers(agent.peers, stale) == {(first, "blue"): STALE_SECONDS}
    again = agent.peers[first].conversation.start(Wanted({}, {"blue": 1}))[0]
    assert running_timers(agent.peers, stale) == {}, "it is back and will say itself"
    agent.peers[first].conversation.answered(again, StanzaError("resource-constraint"))
    assert running_timers(agent.peers, stale) == {(first, "blue"): STALE_SECONDS}, "it is back and will not"
