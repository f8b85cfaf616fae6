"""Stock XMPP clients as end-systems behind an external forwarder: their VLANs become interfaces of this forwarder."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from forwarder.attachments import parse_attachment
from forwarder.dataplane.fake import FakeDataplane
from forwarder.dataplane.values import RemoteHop, Vif
from schema.values import Encapsulation
from tests.support.external import Behind, entry, external, options, publish, subscribe
from tests.support.forwarder import forwarder
from tests.support.pki import Pki
from tests.support.server import running
from tests.support.waiting import eventually_async
from tests.support.xmpp_client import NS_PUBSUB, ElementTree, StanzaRefusedError, XmppClient

VPNS = """
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]

[[vpns]]
name = "red"
import-route-target = ["64512:200"]
export-route-target = ["64512:200"]
"""
FW = "fw1.example.net"
A1, A2 = "192.0.2.1", "192.0.2.2"
ES1 = Behind("es1.example.net")
ES2 = Behind("es2.example.net", mac="02:00:00:00:00:02", vpns=("blue",))
ES3 = Behind("es3.example.net", port="eth2", mac="02:00:00:00:00:03", vpns=("blue",))
NOBODY: tuple[str, int] = ("127.0.0.1", 9)
"""No route server answers there."""


@pytest.fixture
def own_pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path)


async def refused(asked: Awaitable[object]) -> str:
    """What a request was refused with: condition and pub-sub condition."""
    with pytest.raises(StanzaRefusedError) as caught:
        await asked
    return " ".join(filter(None, (caught.value.kind, caught.value.condition, caught.value.application_condition)))


async def test_an_end_system_is_served_as_if_it_were_a_vm_of_the_forwarder(own_pki: Pki) -> None:
    async with running(own_pki, VPNS) as server:
        where = server.address("xmpp")
        async with (
            external(own_pki, FW, A1, (ES1,), where) as host,
            forwarder(own_pki, "h2.example.net", A2, where) as far,
        ):
            await far.attach("vm2", "10.1.0.2/32")
            async with host.end_system(ES1) as client:
                result = await subscribe(client, "blue", 100)
                assert "100" in ElementTree.tostring(result, "unicode"), "the options in effect come back"
                assert host.attached() == {}, "an interface without an address is not served yet"
                await publish(client, "blue", "10.1.0.1", "fd00::1")
                assert host.attached() == {"es:es1.example.net:100": ("eth1:100", "blue", ("10.1.0.1", "fd00::1"))}, (
                    "the answer to a publish comes when it is served"
                )
                (vif,) = host.dataplane.vifs()
                assert (vif.interface, vif.mac) == ("eth1.100", ES1.mac)
                hop = (RemoteHop(ip_address(A1), vif.label, Encapsulation.UDP),)
                await far.until(
                    lambda: far.routes() == {("vm2", "10.1.0.1/32"): hop, ("vm2", "fd00::1/128"): hop},
                    "both are routes",
                )
                await host.until(lambda: (vif.id, "10.1.0.2/32") in host.routes(), "the other VM is a route of its VRF")
                assert client.events == [], "no route goes to the end-system"
                found = await client.retrieve("blue")
                assert list(found) == ["10.1.0.2/32"], "unless it asks"

                await client.retract("blue", "at fd00::1")
                await far.until(lambda: far.routes() == {("vm2", "10.1.0.1/32"): hop}, "one address is gone")
                await client.unsubscribe("blue")
                assert host.attached() == {}
                await far.until(lambda: far.routes() == {}, "and the other with the subscription")


async def test_each_vpn_of_an_end_system_has_its_own_vlan(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1, ES3), NOBODY) as host, host.end_system(ES1) as client:
        await subscribe(client, "blue", 100, form_type=False)
        await subscribe(client, "red", 101)
        await publish(client, "red", "10.1.0.1")
        await publish(client, "blue", "10.1.0.1")
        async with host.end_system(ES3) as other:
            await subscribe(other, "blue", 100)
            await publish(other, "blue", "10.1.0.3")
        assert host.attached() == {
            "es:es1.example.net:100": ("eth1:100", "blue", ("10.1.0.1",)),
            "es:es1.example.net:101": ("eth1:101", "red", ("10.1.0.1",)),
            "es:es3.example.net:100": ("eth2:100", "blue", ("10.1.0.3",)),
        }
        await subscribe(client, "blue", 102)
        assert host.attached()["es:es1.example.net:102"] == ("eth1:102", "blue", ("10.1.0.1",)), (
            "it may change the VLAN"
        )
        assert "es:es1.example.net:100" not in host.attached()
        await subscribe(client, "blue", None)
        assert "es:es1.example.net:102" in host.attached(), "a repeated subscribe without options leaves it"


Ask = Callable[[XmppClient], Awaitable[object]]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda c: subscribe(c, "blue", 101), "modify bad-request invalid-options"),
        (lambda c: subscribe(c, "blue", 0), "modify bad-request invalid-options"),
        (lambda c: subscribe(c, "blue", 4095), "modify bad-request invalid-options"),
        (lambda c: subscribe(c, "green", 7), "cancel item-not-found"),
        (lambda c: subscribe(c, "blue", None), "modify not-acceptable configuration-required"),
        (lambda c: publish(c, "blue", "10.1.0.1"), "cancel unexpected-request not-subscribed"),
        (lambda c: publish(c, "red", "10.1.0.0/24"), "auth forbidden"),
        (lambda c: publish(c, "red", "127.0.0.1"), "modify bad-request invalid-payload"),
        (lambda c: publish(c, "red", "10.9.9.9"), "cancel conflict"),
        (lambda c: publish(c, "red", *(f"10.2.0.{n}" for n in range(65))), "cancel conflict node-full"),
        (lambda c: c.retract("red", "never"), "cancel item-not-found"),
        (lambda c: c.unsubscribe("blue"), "cancel unexpected-request not-subscribed"),
        (lambda c: c.retrieve("green"), "cancel item-not-found"),
    ],
)
async def test_what_is_refused_changes_nothing(own_pki: Pki, ask: Ask, answer: str) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        await host.agent.attach(parse_attachment("vm9", vpn="red", interface="t-9", addresses=["10.9.9.9"]))
        await subscribe(client, "red", 101)
        await publish(client, "red", "10.1.0.1")
        before = host.attached()
        assert await refused(ask(client)) == answer
        assert host.attached() == before
        await publish(client, "red", "10.1.0.2")
        assert host.attached()["es:es1.example.net:101"][2] == ("10.1.0.1", "10.1.0.2"), "and it goes on"


async def test_a_vlan_in_use_is_refused_to_others(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1, ES2), NOBODY) as host, host.end_system(ES1, "one") as client:
        await subscribe(client, "blue", 100)
        async with host.end_system(ES2) as other:
            assert await refused(subscribe(other, "blue", 100)) == "modify bad-request invalid-options"
            await subscribe(other, "blue", 200)
            await publish(other, "blue", "10.1.0.2")
        async with host.end_system(ES1, "two") as second:
            assert await refused(subscribe(second, "blue", 100)) == "modify bad-request invalid-options"
            await subscribe(second, "blue", 101)
            await publish(second, "blue", "10.1.0.3")
        await publish(client, "blue", "10.1.0.1")
        assert {name: found[2] for name, found in host.attached().items()} == {
            "es:es1.example.net:100": ("10.1.0.1",),
            "es:es1.example.net:101": ("10.1.0.3",),
            "es:es2.example.net:200": ("10.1.0.2",),
        }


async def test_an_end_system_has_what_it_may_have_and_routes_what_is_of_that(own_pki: Pki) -> None:
    limited = replace(ES1, prefixes=("10.1.0.0/16", "fd00::/64"))
    async with external(own_pki, FW, A1, (limited,), NOBODY) as host, host.end_system(ES1) as client:
        await subscribe(client, "blue", 100)
        assert await refused(publish(client, "blue", "10.2.0.1")) == "auth forbidden"
        assert await refused(publish(client, "blue", "10.1.7.0/24")) == "modify bad-request invalid-payload", (
            "no way to it"
        )
        await publish(client, "blue", "10.1.0.1", "10.1.7.0/24")
        (vif,) = host.dataplane.vifs()
        assert (vif.addresses, vif.prefixes) == ((ip_address("10.1.0.1"),), (ip_network("10.1.7.0/24"),))
        for wide in ("10.0.0.0/8", "0.0.0.0/0"):
            assert await refused(publish(client, "blue", wide)) == "auth forbidden"
        await client.retract("blue", "at 10.1.0.1")
        assert host.attached() == {}, "there is no way to what it routes either"
        await publish(client, "blue", "10.1.0.2")
        assert [str(vif.prefixes[0]) for vif in host.dataplane.vifs()] == ["10.1.7.0/24"]


async def test_who_is_no_end_system_of_ours_is_not_let_in(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host:
        stranger = host.end_system("es9.example.net")
        await stranger.login()
        await stranger.ended()
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)


async def test_a_session_that_breaks_stops_nothing_until_its_time_is_up(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1, ES3), NOBODY, stale_time="2s") as host:
        first = host.end_system(ES1)
        await first.login()
        await subscribe(first, "blue", 100)
        await publish(first, "blue", "10.1.0.1", "10.1.0.2")
        await subscribe(first, "red", 101)
        await publish(first, "red", "10.1.0.1")
        before = host.attached()
        await first.vanish()
        async with host.end_system(ES1) as again:
            await subscribe(again, "blue", 100)
            assert host.attached() == before, "nothing has changed yet"
            await publish(again, "blue", "10.1.0.1")
            await eventually_async(lambda: len(host.attached()) == 1, describe="what nobody has confirmed is gone")
            assert host.attached() == {"es:es1.example.net:100": ("eth1:100", "blue", ("10.1.0.1",))}


async def test_the_end_of_publish_leaves_what_this_session_has_said(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host:
        for vpn, vlan in (("blue", 100), ("red", 101)):
            async with host.end_system(ES1, vpn) as client:
                await subscribe(client, vpn, vlan)
                await publish(client, vpn, "10.1.0.1", "10.1.0.2")
        async with host.end_system(ES1, "blue") as again:
            await subscribe(again, "blue", 100)
            await publish(again, "blue", "10.1.0.2")
            await again.end_of_publish()
            assert {name: found[2] for name, found in host.attached().items()} == {
                "es:es1.example.net:100": ("10.1.0.2",),
                "es:es1.example.net:101": ("10.1.0.1", "10.1.0.2"),
            }, "the other session's interface waits for that one"


async def test_a_newer_session_of_one_name_takes_the_place_of_the_older(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1, "it") as first:
        await subscribe(first, "blue", 100)
        await publish(first, "blue", "10.1.0.1")
        async with host.end_system(ES1, "it") as second:
            await first.ended()
            await subscribe(second, "blue", 100)
            await publish(second, "blue", "10.1.0.1")
            assert list(host.attached()) == ["es:es1.example.net:100"]


async def test_a_vlan_that_has_got_another_vpn_is_moved(own_pki: Pki) -> None:
    """The end-system was started again and has counted its interfaces anew."""
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host:
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)
            await publish(client, "blue", "10.1.0.1")
        async with host.end_system(ES1) as client:
            await subscribe(client, "red", 100)
            assert host.attached() == {}, "nothing of the old VPN leads to it"
            await publish(client, "red", "10.1.0.1")
            assert host.attached() == {"es:es1.example.net:100": ("eth1:100", "red", ("10.1.0.1",))}


async def test_a_restart_keeps_what_was_served_and_waits_for_it_to_be_confirmed(own_pki: Pki) -> None:
    plane = FakeDataplane()
    async with external(own_pki, FW, A1, (ES1, ES3), NOBODY, dataplane=plane) as host:
        for behind in (ES1, ES3):
            async with host.end_system(behind) as client:
                await subscribe(client, "blue", 100)
                await publish(client, "blue", f"10.1.0.{behind.port[-1]}")
        before, labels = host.attached(), host.agent.vifs.labels()
    assert [vif.id for vif in plane.vifs()] == list(before), "a forwarder that stops leaves its data plane alone"
    async with external(own_pki, FW, A1, (ES1, ES3), NOBODY, dataplane=plane, stale_time="2s") as host:
        assert (host.attached(), host.agent.vifs.labels()) == (before, labels)
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)
            await publish(client, "blue", "10.1.0.1")
            await eventually_async(lambda: len(host.attached()) == 1, describe="who did not come back is gone")
            assert list(host.attached()) == ["es:es1.example.net:100"]
    async with external(own_pki, FW, A1, (ES3,), NOBODY, dataplane=plane) as host:
        await eventually_async(lambda: host.attached() == {}, describe="who is configured no more is served no more")


async def test_a_publish_that_the_data_plane_refuses_is_undone(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        await subscribe(client, "blue", 100)
        host.dataplane.fail_next("attach", "eth1 is down")
        assert await refused(publish(client, "blue", "10.1.0.1")) == "wait internal-server-error"
        assert host.attached() == {}
        await publish(client, "blue", "10.1.0.2")
        assert host.attached()["es:es1.example.net:100"][2] == ("10.1.0.2",), "the refused one did not come back"


async def test_a_detach_that_fails_is_tried_again(own_pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forwarder.external.service.RETRY_SECONDS", 0.1)
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        await subscribe(client, "blue", 100)
        await publish(client, "blue", "10.1.0.1")
        host.dataplane.fail_next("detach", "busy")
        await client.unsubscribe("blue")
        await eventually_async(lambda: host.attached() == {}, describe="it is gone in the end")


async def test_requests_of_one_session_are_done_in_their_order(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        asked = [subscribe(client, "blue", 100)]
        asked += [client.publish("blue", (f"id {n}", entry(f"10.1.0.{n}"))) for n in range(1, 41)]
        asked += [client.retract("blue", f"id {n}") for n in range(1, 40)]
        await asyncio.gather(*asked)
        assert host.attached()["es:es1.example.net:100"][2] == ("10.1.0.40",)


async def test_who_asks_faster_than_it_can_be_done_is_told_so(own_pki: Pki) -> None:
    """The interface is busy, as with a detach that waits for a route server."""
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        await subscribe(client, "blue", 100)
        async with host.service._locks["es:es1.example.net:100"]:
            first = asyncio.create_task(publish(client, "blue", "10.1.0.1"))
            pending = {asyncio.create_task(client.retract("blue", "none")) for _ in range(300)}
            refusals: list[str] = []
            while len(refusals) < 100:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                refusals += [str(one.exception()) for one in done]
            assert all("resource-constraint" in one for one in refusals), "two hundred wait behind the one"
            assert not first.done()
        await first
        assert all("item-not-found" in str(one) for one in await asyncio.gather(*pending, return_exceptions=True))
        assert len(host.attached()) == 1


async def test_many_sessions_of_one_end_system_may_not_have_more_waiting_than_one_end_system(own_pki: Pki) -> None:
    async with (
        external(own_pki, FW, A1, (ES1, ES3), NOBODY) as host,
        host.end_system(ES1, "a") as a,
        host.end_system(ES1, "b") as b,
        host.end_system(ES1, "c") as c,
        host.end_system(ES3) as other,
        AsyncExitStack() as busy,
    ):
        clients = (a, b, c)
        asked: list[asyncio.Task[object]] = []

        def waiting() -> int:
            return sum(len(talk.waiting) for talk in host.service._talks.values())

        def answered() -> int:
            return sum(one.done() for one in asked)

        for vlan, client in enumerate(clients, 100):
            await subscribe(client, "blue", vlan)
            await busy.enter_async_context(host.service._locks[f"es:{ES1.jid}:{vlan}"])
            asked.append(asyncio.create_task(publish(client, "blue", f"10.1.0.{vlan}")))
            asked += [asyncio.create_task(client.retract("blue", "none")) for _ in range(199)]
            sent = len(asked), vlan - 99
            await eventually_async(
                lambda sent=sent: waiting() + answered() == sent[0] - sent[1],
                describe="each is begun, waits or is refused",
            )
        assert 499 <= waiting() <= 500, "one may have been begun after the last was refused"
        await subscribe(other, "blue", 100)
        refusals = [str(one.exception()) for one in asked if one.done()]
        assert 97 <= len(refusals) <= 98
        assert all("resource-constraint" in one for one in refusals)
        asked.append(asyncio.create_task(c.retract("blue", "none")))
        await eventually_async(lambda: waiting() == 500, describe="there is room for none")
        async with host.end_system(ES1, "d") as late:
            await subscribe(late, "blue", 103)
            await publish(late, "blue", "10.1.0.103")
        await busy.aclose()
        await asyncio.gather(*asked, return_exceptions=True)
        assert host.service._waiting.total() == 0
        await publish(a, "blue", "10.1.0.7")


async def test_an_attachment_of_the_operators_is_no_end_systems_whatever_it_is_called(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        name = f"es:{ES1.jid}:100"
        await host.agent.attach(parse_attachment(name, vpn="red", interface="t-9", addresses=["10.9.9.9"]))
        before = host.attached()
        await subscribe(client, "blue", 100)
        assert await refused(publish(client, "blue", "10.1.0.1")) == "cancel conflict"
        await client.unsubscribe("blue")
        assert host.attached() == before
        await host.agent.detach(name)
        await subscribe(client, "blue", 100)
        await publish(client, "blue", "10.1.0.1")
        assert host.attached()[name][0] == "eth1:100", "nothing else was in the way"


class Timed(FakeDataplane):
    """Knows in which turn of the event loop each attach came."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.attached_in: list[int] = []

    def count(self) -> None:
        self.turn += 1
        asyncio.get_running_loop().call_soon(self.count)

    def attach(self, vif: Vif) -> None:
        self.attached_in.append(self.turn)
        super().attach(vif)


async def test_whatever_end_systems_ask_all_else_goes_on_between_two_requests(own_pki: Pki) -> None:
    plane = Timed()
    async with (
        external(own_pki, FW, A1, (ES1, ES3), NOBODY, dataplane=plane) as host,
        host.end_system(ES1) as one,
        host.end_system(ES3) as other,
    ):
        locks = [host.service._locks[f"es:{behind.jid}:100"] for behind in (ES1, ES3)]
        for client in (one, other):
            await subscribe(client, "blue", 100)
        async with locks[0], locks[1]:
            asked = [
                asyncio.create_task(publish(client, "blue", f"10.1.{net}.{n}"))
                for n in range(1, 31)
                for net, client in enumerate((one, other))
            ]
            await eventually_async(
                lambda: [len(talk.waiting) for talk in host.service._talks.values()] == [29, 29],
                describe="all wait behind the first two",
            )
            plane.count()
        await asyncio.gather(*asked)
        begun = plane.attached_in[2:]  # the first two were held up on their way
        assert len(begun) == 58
        assert len(set(begun)) == 58, "no two in one turn of the loop"


async def test_what_an_end_system_may_ask(own_pki: Pki) -> None:
    async with external(own_pki, FW, A1, (ES1,), NOBODY) as host, host.end_system(ES1) as client:
        await subscribe(client, "blue", 100)

        async def text(payload: ElementTree.Element) -> str:
            return ElementTree.tostring(await client.request("get", payload), "unicode")

        def pubsub(name: str, **attributes: str) -> ElementTree.Element:
            made = ElementTree.Element(f"{{{NS_PUBSUB}}}pubsub")
            ElementTree.SubElement(made, f"{{{NS_PUBSUB}}}{name}", attributes)
            return made

        nodes = await text(ElementTree.Element("{http://jabber.org/protocol/disco#items}query"))
        assert [vpn for vpn in ("blue", "green", "red") if f'node="{vpn}"' in nodes] == ["blue", "red"]
        node = await text(ElementTree.Element("{http://jabber.org/protocol/disco#info}query", {"node": "blue"}))
        assert 'type="leaf"' in node
        assert 'node="blue"' in await text(pubsub("subscriptions"))
        assert 'affiliation="publisher"' in await text(pubsub("affiliations"))
        assert ">100<" in await text(pubsub("options", node="blue", jid=ES1.jid))
        changed = options(102)
        changed.attrib.update(node="blue", jid=ES1.jid)
        await client.pubsub("set", changed)
        assert ">102<" in await text(pubsub("options", node="blue", jid=ES1.jid))
        assert (
            await refused(text(pubsub("options", node="red", jid=ES1.jid)))
            == "modify unexpected-request not-subscribed"
        )
