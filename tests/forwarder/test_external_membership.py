"""Memberships by themselves: whatever end-systems say in whatever order, no VLAN of a port is two interfaces'."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from forwarder.attachments import Attachment, parse_attachment
from forwarder.external.membership import (
    EndSystem,
    Memberships,
    Speaker,
    attachment_of,
    interface_name,
    is_of_an_end_system,
)
from forwarder.external.queries import retrieved
from routeserver.xmpp.errors import StanzaError
from routeserver.xmpp.events import GetItems, Iq, PageRequest, PublishedItem
from routeserver.xmpp.jid import Jid
from schema.items import RouteItem
from schema.values import IPNetwork, NextHop

STALE = 60.0
IQ = Iq("1", None)
VPNS = ("blue", "red")
ONE, TWO, THREE = (
    EndSystem(Jid.parse(f"es{n}.example.net"), port, f"02:00:00:00:00:0{n}", VPNS)
    for n, port in ((1, "eth1"), (2, "eth1"), (3, "eth2"))
)


def item(address: str, item_id: str | None = None) -> PublishedItem:
    prefix = ip_network(address)
    return PublishedItem(item_id, RouteItem(prefix, (NextHop(ip_address("127.0.0.1"), 16),)))


def speaker(end_system: EndSystem, resource: str = "r") -> Speaker:
    return Speaker(end_system, Jid(end_system.jid.local, end_system.jid.domain, resource))


@pytest.mark.parametrize(
    ("port", "vlan", "name"),
    [
        ("eth1", 1, "eth1.1"),
        ("eth1", 4094, "eth1.4094"),
        ("enp130s0f1", 4094, "enp130s0f1.4094"),
        ("enp130s0f1np1", 4094, "ese9f0d1ab.4094"),
    ],
)
def test_the_name_of_a_sub_interface_fits_the_kernel(port: str, vlan: int, name: str) -> None:
    made = interface_name(port, vlan)
    assert len(made) <= 15
    assert made.endswith(f".{vlan}")
    assert (made == name) is (len(f"{port}.{vlan}") <= 15)


def test_the_same_id_overwrites_and_another_address_keeps() -> None:
    known, one = Memberships([ONE], STALE), speaker(ONE)
    known.subscribe(one, "blue", 100)
    known.publish(one, "blue", [item("10.0.0.1", "a"), item("10.0.0.2", "b")])
    own = known.publish(one, "blue", [item("10.0.0.3", "a")])
    assert list(map(str, own.claims)) == ["10.0.0.2/32", "10.0.0.3/32"]
    own = known.publish(one, "blue", [item("10.0.0.3")])
    with pytest.raises(StanzaError):
        known.retract(one, "blue", ["a"])
    assert list(map(str, known.retract(one, "blue", ["10.0.0.3/32"]).claims)) == ["10.0.0.2/32"]
    assert own.attachment() is not None


def test_restored_is_what_the_configuration_still_has_a_place_for() -> None:
    served = attachment_of(ONE, 100, "blue", [ip_network("10.0.0.1")])
    assert is_of_an_end_system(served)
    moved = EndSystem(ONE.jid, "eth9", ONE.mac, VPNS)
    other_mac = EndSystem(ONE.jid, ONE.port, "02:00:00:00:00:99", VPNS)
    no_vpn = EndSystem(ONE.jid, ONE.port, ONE.mac, ("red",))
    not_its = EndSystem(ONE.jid, ONE.port, ONE.mac, VPNS, (ip_network("10.9.0.0/16"),))
    for end_systems, is_kept in (
        ([ONE], True),
        ([TWO], False),
        ([moved], False),
        ([other_mac], False),
        ([no_vpn], False),
        ([not_its], False),
    ):
        known = Memberships(end_systems, STALE)
        assert known.restore(served, 0.0) is is_kept
        assert [one.attachment() for one in known] == [served] * is_kept
        assert known.sweep(STALE) == [served.id] * is_kept
        assert list(known) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_events_gives_a_vlan_to_two(seed: int) -> None:
    chance, now = random.Random(seed), 0.0
    known = Memberships([ONE, TWO, THREE], STALE)
    speakers: list[Speaker] = []
    refused = Counter[str]()

    def step() -> None:
        nonlocal now
        kind = chance.randrange(8)
        if kind == 0 or not speakers:
            speakers.append(speaker(chance.choice([ONE, TWO, THREE]), chance.choice("ab")))
            return
        one, vpn = chance.choice(speakers), chance.choice(VPNS)
        match kind:
            case 1 | 2:
                known.subscribe(one, vpn, chance.choice([None, 100, 101, 102]))
            case 3 | 4:
                known.publish(one, vpn, [item(f"10.0.0.{chance.randrange(1, 9)}", chance.choice(["x", "y", None]))])
            case 5:
                known.unsubscribe(one, vpn)
            case 6:
                known.end_of_publish(one)
            case 7:
                speakers.remove(one)
                known.closed(one, now)
                now += chance.choice([1.0, 100.0])
                known.sweep(now)

    for _ in range(400):
        try:
            step()
        except StanzaError as error:
            refused[error.condition] += 1
        places = [(one.end_system.port, one.vlan) for one in known]
        assert len(set(places)) == len(places)
        assert all(one.speaker in speakers or one.until is not None for one in known)
        assert all(claim.is_confirmed or one.until is not None for one in known for claim in one.claims.values())
        mine = [(one.speaker, one.vpn) for one in known if one.speaker is not None]
        assert len(set(mine)) == len(mine)
    assert refused["bad-request"]
    for one in speakers:
        known.closed(one, now)
    known.sweep(now + STALE)
    assert (list(known), known.next_sweep()) == ([], None)


def test_what_a_publish_costs_does_not_grow_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred items of which the last ones are too many were a hundred times as many addresses looked at."""
    known, one = Memberships([ONE], STALE), speaker(ONE)
    known.subscribe(one, "blue", 100)
    looked_at = 0

    def counting(attachment_id: str, *, addresses: Sequence[str], prefixes: Sequence[str], **rest: str) -> Attachment:
        nonlocal looked_at
        looked_at += len(addresses) + len(prefixes)
        return parse_attachment(attachment_id, addresses=addresses, prefixes=prefixes, **rest)

    monkeypatch.setattr("forwarder.external.membership.parse_attachment", counting)
    known.publish(one, "blue", [item(f"10.0.0.{n}") for n in range(64)])
    assert 64 <= looked_at <= 2 * 64
    with pytest.raises(StanzaError, match="at most 64"):
        known.publish(one, "blue", [item(f"10.0.1.{n}") for n in range(100)])
    assert looked_at <= 2 * 164


def test_only_the_routes_of_a_page_are_put_into_words() -> None:
    told: list[IPNetwork] = []

    def item_of(prefix: IPNetwork) -> RouteItem:
        told.append(prefix)
        return RouteItem(prefix, (NextHop(ip_address("192.0.2.1"), 16),))

    prefixes = list(ip_network("10.0.0.0/16").subnets(new_prefix=30))
    page = PageRequest(max=3, after="10.0.0.4/30")
    answer = retrieved(GetItems(IQ, "blue", page=page), reversed(prefixes), item_of)
    assert told == prefixes[2:5]
    assert all(f"id='{prefix}'" in answer for prefix in told)
    assert f"<count>{len(prefixes)}</count>" in answer
    told.clear()
    whole = retrieved(GetItems(IQ, "blue"), prefixes, item_of)
    assert len(whole) < 1 << 20
    assert 100 < len(told) < len(prefixes), "what does not fit into an answer waits for the next page"
