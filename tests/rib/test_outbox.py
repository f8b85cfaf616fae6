"""A subscriber's outbox: item ids, batches, dumps, and that a slow reader ends where a fast one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from routeserver.rib.outbox import SubscriberOutbox
from routeserver.rib.path import Path, Source
from routeserver.rib.rib import Rib
from routeserver.rib.vrf import MANY
from routeserver.settings import Settings
from tests.support.recorders import Subscriber
from tests.support.routes import LOCAL_AS, ROUTER_ID, attributes, bgp_path, hop, ibgp, item, local, published_path, vpn

_LOTS = 1 << 20
_HOST1, _HOST2 = local("host1"), local("host2")
_RD = {_HOST1: "192.0.2.1:1", _HOST2: "192.0.2.2:1"}
_P1, _P2, _P3 = "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"


class _Node:
    """The VRF blue of a RIB, publishers who follow the rules of item ids, and one subscriber."""

    def __init__(self) -> None:
        self.rib = Rib(Settings(ROUTER_ID, LOCAL_AS, vpns=(vpn("blue", ["64512:100"]),)))
        self.vrf = self.rib.vrfs["blue"]
        self.dirty: dict[SubscriberOutbox[Subscriber], None] = {}
        self.client = Subscriber()
        self.outbox = SubscriberOutbox(self.client, self.dirty)

    def publish(self, source: Source, item_id: str, prefix: str, seq: int = 0, label: int = 16) -> None:
        route = item(prefix, hop(_RD[source].partition(":")[0], label), seq=seq)
        self.put(published_path(source, "blue", item_id, route, _RD[source]))

    def put(self, path: Path) -> None:
        assert path.published is not None
        before = self.vrf.published.get(path.published.item_id)
        self.vrf.published[path.published.item_id] = path
        self.rib.update(path)
        if before is not None and before.key != path.key:
            self.rib.withdraw(before.source, before.family, before.key, before.item)

    def retract(self, item_id: str) -> None:
        path = self.vrf.published.pop(item_id)
        self.rib.withdraw(path.source, path.family, path.key, path.item)

    def subscribe(self) -> None:
        self.outbox.subscribe(self.vrf, "host9/vpn")

    def drain(self, budget: int = _LOTS) -> list[tuple[str, str, tuple[str, ...]]]:
        """All that was said before has been written."""
        self.client.unsent = 0
        self.outbox.drain(budget)
        return self.client.take_log()

    def wanted(self) -> dict[str, str]:
        return {entry.item_id: entry.xml for entry in self.vrf.entries.values()}

    def held(self) -> dict[str, str]:
        return {item_id: xml for item_id, (_, xml) in self.client.held.get("blue", {}).items()}


@pytest.fixture
def node() -> _Node:
    node = _Node()
    node.subscribe()
    return node


def test_publish_change_and_retract(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    assert node.drain() == [("items", "blue", ("a",))]
    node.publish(_HOST1, "a", _P1, label=17)
    assert node.drain() == [("items", "blue", ("a",))]
    node.publish(_HOST1, "a", _P1, label=17)
    assert node.drain() == []
    node.retract("a")
    assert node.drain() == [("retracts", "blue", ("a",))]
    assert node.held() == {}


def test_a_best_path_with_another_id_comes_first_and_the_old_id_goes_in_a_second_message(node: _Node) -> None:
    """An event has items or retracts, never both (XEP-0060 section 17.3)."""
    node.publish(_HOST1, "a", _P1)
    node.drain()
    node.publish(_HOST2, "b", _P1, seq=1)
    assert node.drain() == [("items", "blue", ("b",)), ("retracts", "blue", ("a",))]
    node.retract("b")
    assert node.drain() == [("items", "blue", ("a",)), ("retracts", "blue", ("b",))]


def test_whoever_subscribes_to_what_is_yet_to_be_selected_was_told_nothing_before() -> None:
    node = _Node()
    paths = [bgp_path(ibgp(), f"1:{number}", _P1, attributes(seq=number)) for number in range(MANY + 9)]
    for path in paths[:-1]:
        node.rib.update(path)
    node.rib.select()
    node.rib.update(paths[-1])
    node.subscribe()
    assert node.drain() == [("items", "blue", (f"1:{MANY + 8}:{_P1}",))]


def test_an_item_that_is_not_selected_is_not_visible(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1, seq=5)
    node.drain()
    node.publish(_HOST2, "b", _P1)
    node.retract("b")
    assert node.drain() == []


def test_a_bgp_route_with_the_publishers_id_takes_over_without_a_retract(node: _Node) -> None:
    node.publish(_HOST1, f"192.0.2.1:1:{_P1}", _P1)
    node.drain()
    node.rib.update(bgp_path(ibgp(), "192.0.2.1:1", _P1))
    node.retract(f"192.0.2.1:1:{_P1}")
    assert node.drain() == [("items", "blue", (f"192.0.2.1:1:{_P1}",))]


def test_an_id_reused_for_another_prefix_is_overwritten_not_retracted(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    node.drain()
    node.publish(_HOST1, "a", _P2)
    assert node.drain() == [("items", "blue", ("a",))]
    assert node.client.ids() == {"a": _P2}


def test_an_id_reused_for_a_prefix_where_it_is_not_selected_is_retracted(node: _Node) -> None:
    node.publish(_HOST2, "b", _P2, seq=9)
    node.publish(_HOST1, "a", _P1)
    node.drain()
    node.publish(_HOST1, "a", _P2)
    assert node.drain() == [("retracts", "blue", ("a",))]
    node.retract("b")
    assert node.drain() == [("items", "blue", ("a",)), ("retracts", "blue", ("b",))]


def test_two_ids_that_change_places(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    node.publish(_HOST1, "b", _P2)
    node.drain()
    node.publish(_HOST1, "a", _P2)
    node.publish(_HOST1, "b", _P1)
    node.drain()
    assert node.client.ids() == {"a": _P2, "b": _P1}
    assert node.held() == node.wanted()


def test_an_id_that_moved_on_before_its_new_place_was_sent_is_still_retracted(node: _Node) -> None:
    """The retract at the old prefix is left out for the item at the new one, so that item has to go out with it."""
    node.publish(_HOST1, "a", _P1)
    node.drain()
    node.publish(_HOST1, "a", _P1, label=17)  # the note of the old prefix is the older one
    node.publish(_HOST1, "a", _P2)
    node.drain(budget=1)
    node.retract("a")
    node.drain()
    assert node.held() == {}


def test_changes_are_coalesced_and_the_note_remembers_what_was_sent(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    node.drain()
    for seq in range(1, 5):
        node.publish(_HOST2, "b", _P1, seq=seq)
        node.publish(_HOST1, "c", _P1, seq=seq + 10)
        node.retract("c")
    assert node.drain() == [("items", "blue", ("b",)), ("retracts", "blue", ("a",))]
    assert node.held() == node.wanted()


def test_what_came_and_went_unsent_is_never_mentioned(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    node.retract("a")
    assert node.drain() == []


def test_what_came_and_went_unsent_leaves_no_note(node: _Node) -> None:
    node.subscribe()
    node.drain()
    node.publish(_HOST1, "a", _P1)
    assert node.outbox.has_pending
    node.retract("a")
    assert not node.outbox.has_pending


def test_a_change_that_was_undone_costs_one_item_at_most(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    node.drain()
    node.publish(_HOST2, "b", _P1, seq=1)
    node.retract("b")
    assert node.drain() in ([], [("items", "blue", ("a",))])
    assert node.held() == node.wanted()


def test_losing_a_publisher_for_a_while_is_silent(node: _Node) -> None:
    """A stale path that is still the best says what it said before."""
    node.publish(_HOST1, "a", _P1)
    node.drain()
    node.put(replace(node.vrf.published["a"], stale=True))
    node.put(replace(node.vrf.published["a"], stale=False))
    assert node.drain() == []


def test_a_stale_path_gives_way_to_any_fresh_one(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1, seq=9)
    node.publish(_HOST2, "b", _P1)
    node.drain()
    node.put(replace(node.vrf.published["a"], stale=True))
    assert node.drain() == [("items", "blue", ("b",)), ("retracts", "blue", ("a",))]


# Dumps


def test_a_dump_comes_in_prefix_order_and_then_the_marker_is_due() -> None:
    node = _Node()
    for item_id, prefix in (("c", _P3), ("a", _P1), ("b", _P2)):
        node.publish(_HOST1, item_id, prefix)
    node.subscribe()
    assert node.outbox.markers_ready() == []
    assert node.drain() == [("items", "blue", ("a", "b", "c"))]
    assert node.outbox.markers_ready() == [node.vrf]
    node.outbox.send_marker(node.vrf)
    assert node.client.take_log() == [("in-sync", "blue", ())]
    assert node.outbox.markers_ready() == []


def test_the_dump_of_an_empty_node_is_its_marker() -> None:
    node = _Node()
    node.subscribe()
    assert node.dirty
    assert node.drain() == []
    assert node.outbox.markers_ready() == [node.vrf]


def test_a_large_dump_is_cut_into_messages_and_portions() -> None:
    node = _Node()
    for n in range(200):
        node.publish(_HOST1, f"i{n}", f"10.1.0.{n}/32")
    node.subscribe()
    assert [len(ids) for _, _, ids in node.drain(100)] == [64, 36]
    assert node.outbox.markers_ready() == []
    assert [len(ids) for _, _, ids in node.drain(100)] == [64, 36]
    assert node.held() == node.wanted()


def test_a_large_dump_keeps_no_other_vpn_waiting() -> None:
    """Not even one that was subscribed to later: a change of red is in one of the next two portions."""
    rib = Rib(Settings(ROUTER_ID, LOCAL_AS, vpns=(vpn("blue", ["64512:100"]), vpn("red", ["64512:200"]))))
    client = Subscriber()
    outbox: SubscriberOutbox[Subscriber] = SubscriberOutbox(client, {})
    for number in range(2000):
        prefix = f"10.1.{number >> 8}.{number & 255}/32"
        rib.update(published_path(_HOST1, "blue", prefix, item(prefix, hop("192.0.2.1", 16)), _RD[_HOST1]))
    for name in ("blue", "red"):
        outbox.subscribe(rib.vrfs[name], "host9/vpn")
    outbox.drain(_LOTS)
    assert {node for _, node, _ in client.take_log()} == {"blue"}
    rib.update(published_path(_HOST1, "red", "r", item(_P1, hop("192.0.2.1", 16)), "192.0.2.1:2", ["64512:200"]))
    told = []
    for _ in range(2):
        client.unsent = 0
        outbox.drain(_LOTS)
        told += client.take_log()
    assert ("items", "red", ("r",)) in told
    assert outbox.has_pending, "and blue is not through"


def test_a_drain_ends_when_a_portion_waits_to_be_written(node: _Node) -> None:
    for n in range(3000):
        node.publish(_HOST1, f"i{n}", f"10.{n >> 8}.{n & 255}.1/32")
    portions = []
    while node.outbox.has_pending:
        node.outbox.drain(_LOTS)
        assert node.client.take_log() != []
        portions.append(node.client.unsent)
        assert node.outbox.drain(_LOTS) == 0, "the portion before has not been written yet"
        node.client.unsent = 0
    assert len(portions) > 2
    assert all(1 << 16 <= portion < 1 << 17 for portion in portions[:-1])
    assert node.held() == node.wanted()


def test_a_message_has_so_many_characters_and_the_rest_of_one_item(node: _Node) -> None:
    for n in range(100):
        node.publish(_HOST1, f"{n}-" + "x" * 10_000, f"10.0.0.{n}/32")
    while node.outbox.has_pending:
        node.client.unsent = 0
        node.outbox.drain(_LOTS)
    sizes = [len(ids) for _, _, ids in node.client.take_log()]
    assert sizes == [7] * 14 + [2]
    assert node.held() == node.wanted()


def test_notes_are_one_for_each_prefix_however_many_changes_there_are(node: _Node) -> None:
    prefixes = [f"10.0.0.{n}/32" for n in range(20)]
    for n, prefix in enumerate(prefixes):
        node.publish(_HOST1, f"i{n}", prefix)
    node.drain()
    for change in range(50):
        for n, prefix in enumerate(prefixes):
            node.publish(_HOST1, f"i{n}", prefix, seq=change, label=16 + change)
    assert sum(map(len, node.outbox._pending.values())) == len(prefixes)
    assert [len(ids) for _, _, ids in node.drain()] == [len(prefixes)], "one pass brings the newest state"
    assert node.held() == node.wanted()


def test_a_subscribe_during_a_dump_restarts_it() -> None:
    node = _Node()
    for n in range(6):
        node.publish(_HOST1, f"i{n}", f"10.1.0.{n}/32")
    node.subscribe()
    assert node.drain(2) == [("items", "blue", ("i0", "i1"))]
    node.subscribe()
    node.retract("i0")
    sent = [item_id for kind, _, ids in node.drain() for item_id in ids if kind == "items"]
    assert sorted(sent) == ["i1", "i2", "i3", "i4", "i5"]
    assert node.held() == node.wanted(), "i0 had been sent, so its retract was due"
    assert list(node.outbox.markers_due) == [node.vrf]


def test_a_repeated_subscribe_sends_everything_again() -> None:
    node = _Node()
    node.publish(_HOST1, "a", _P1)
    node.subscribe()
    node.drain()
    node.subscribe()
    assert node.drain() == [("items", "blue", ("a",))]


def test_changes_before_the_dump_reached_them_retract_nothing() -> None:
    node = _Node()
    node.publish(_HOST1, "a", _P1)
    node.publish(_HOST1, "b", _P2)
    node.subscribe()
    node.drain(1)
    node.retract("b")
    node.publish(_HOST2, "c", _P2)
    assert node.drain() == [("items", "blue", ("c",))]


def test_an_unsubscribe_ends_everything_at_once(node: _Node) -> None:
    node.publish(_HOST1, "a", _P1)
    node.outbox.unsubscribe(node.vrf)
    node.publish(_HOST1, "a", _P2)
    assert node.drain() == []
    assert not node.outbox.has_pending
    assert not node.vrf.watchers


@pytest.mark.parametrize("seed", range(40))
def test_any_reader_ends_with_the_nodes_entries(seed: int) -> None:
    """Ids wander between prefixes, are reused, lose and win, while the outbox is drained in small portions."""
    random, node = Random(seed), _Node()
    node.subscribe()
    owners = {"a": _HOST1, "b": _HOST1, "c": _HOST2, "d": _HOST2}
    bgp = [bgp_path(ibgp(), "1:1", p, attributes(seq=s)) for p in (_P1, _P2) for s in (0, 2)]
    for _ in range(200):
        match random.randrange(8):
            case 0 | 1 | 2:
                item_id = random.choice(list(owners))
                prefix = random.choice((_P1, _P2, _P3))
                node.publish(owners[item_id], item_id, prefix, random.randrange(3), random.choice((16, 17)))
            case 3 if node.vrf.published:
                node.retract(random.choice(sorted(node.vrf.published)))
            case 4:
                node.rib.update(random.choice(bgp))
            case 5:
                path = random.choice(bgp)
                node.rib.withdraw(path.source, path.family, path.key)
            case 6:
                node.drain(random.choice((1, 1, 2, 3)))
            case 7 if random.random() < 0.2:
                node.subscribe()
        for kind, _, ids in node.client.take_log():
            assert kind != "retracts" or not set(ids) & node.wanted().keys()
    node.drain()
    assert node.held() == node.wanted()


# Order


class _ByPrefix(Subscriber):
    """A reader that knows prefixes: the latest item for one wins, and a retract of an id it had before changes nothing.

    Every message is judged when it comes, by what the node holds then.
    """

    def __init__(self, node: _Node) -> None:
        super().__init__()
        self._node = node
        self.shown: dict[str, str] = {}
        """Prefix -> item id."""
        self._prefix_of: dict[str, str] = {}

    def send_items(self, node: str, to: str, items: Sequence[str]) -> None:
        super().send_items(node, to, items)
        wanted = self.wanted()
        for item_id in self.log[-1][2]:
            prefix = self.ids()[item_id]
            was = self._prefix_of.get(item_id, prefix)
            if was != prefix and self.shown.get(was) == item_id:
                del self.shown[was]
            self._prefix_of[item_id], self.shown[prefix] = prefix, item_id
            assert wanted.get(prefix) == item_id, "an item shows what the prefix has now, never what it had"

    def send_retracts(self, node: str, to: str, ids: Sequence[str]) -> None:
        super().send_retracts(node, to, ids)
        for item_id in ids:
            prefix = self._prefix_of.pop(item_id)  # a retract of what it does not hold is a fault of ours
            if self.shown.get(prefix) == item_id:
                del self.shown[prefix]
                assert prefix not in self.wanted(), "the new item comes before the retract of the old one"

    def wanted(self) -> dict[str, str]:
        return {str(entry.path.prefix): entry.item_id for entry in self._node.vrf.entries.values()}


@pytest.mark.parametrize("seed", range(60))
def test_each_prefix_is_heard_of_in_order_however_little_is_sent_at_a_time(seed: int) -> None:
    random, node = Random(seed), _Node()
    reader = node.outbox.sender = _ByPrefix(node)
    node.subscribe()
    owners = {f"{name}{n}": source for n in range(4) for name, source in (("a", _HOST1), ("b", _HOST2))}
    for version in range(400):
        item_id = random.choice(sorted(owners))
        if random.random() < 0.7:
            prefix = f"10.0.0.{random.randrange(6)}/32"
            node.publish(owners[item_id], item_id, prefix, random.randrange(3), 16 + version)
        elif item_id in node.vrf.published:
            node.retract(item_id)
        if random.random() < 0.3:
            reader.unsent = random.choice((0, 0, 0, _LOTS))
            node.outbox.drain(random.choice((1, 2, 5, _LOTS)))
        if random.random() < 0.01:
            node.subscribe()
    reader.unsent = 0
    node.outbox.drain(_LOTS)
    assert reader.shown == reader.wanted()
    assert {item_id: xml for item_id, (_, xml) in reader.held.get("blue", {}).items()} == node.wanted()


def test_a_note_that_is_out_of_date_retracts_nothing(node: _Node) -> None:
    """The id left the note's prefix for another one, was shown there, and is not carried there any more either."""
    node.publish(_HOST1, "a", _P1)
    node.publish(_HOST1, "b", _P2)
    node.drain()
    node.publish(_HOST2, "x", _P2, seq=1)  # the note of the second prefix is the first to be sent
    node.publish(_HOST1, "a", _P2, seq=2)
    node.publish(_HOST2, "y", _P1)
    assert node.drain(1) == [("items", "blue", ("a",)), ("retracts", "blue", ("b",))]
    node.retract("a")
    assert node.drain(1) == [("items", "blue", ("y",))], "a is what the second prefix was told"
    assert node.drain(1) == [("items", "blue", ("x",)), ("retracts", "blue", ("a",))]
    assert node.held() == node.wanted()
    assert node.outbox._shown_at == {}
