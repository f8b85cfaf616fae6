"""How many items a VPN takes, of all publishers and of one; what is too much is refused whole (node-full)."""

from __future__ import annotations

import pytest

from schema.names import NS_PUBSUB
from tests.support.conversation import Answer, Conversation, Forwarder
from tests.support.routes import hop, item, vpn


def _talk(**limits: int) -> tuple[Conversation, Forwarder, Forwarder]:
    talk = Conversation(vpn("blue", ["64512:100"], **limits), vpn("red", ["64512:200"]))
    return talk, talk.forwarder("h1.example.net"), talk.forwarder("h2.example.net")


def _publish(forwarder: Forwarder, *names: str, node: str = "blue") -> Answer:
    """Items whose names are the last octets of their prefixes."""
    return forwarder.publish(node, *((name, item(f"10.0.0.{name}/32")) for name in names))


def _is_full(answer: Answer) -> bool:
    if answer.is_result:
        return False
    (error,) = answer.element
    assert (error.get("type"), answer.condition, answer.pubsub) == ("cancel", "conflict", "node-full")
    return True


def test_a_vpn_takes_so_many() -> None:
    _, first, second = _talk(max_items=3)
    assert _publish(first, "1", "2").is_result
    assert _publish(second, "3").is_result
    assert _is_full(_publish(first, "4"))
    assert _is_full(_publish(second, "4"))
    assert first.items("blue").keys() == {"1", "2", "3"}
    assert _publish(first, *map(str, range(10)), node="red").is_result, "another VPN"


def test_a_publisher_has_so_many() -> None:
    talk, first, second = _talk(max_items_per_publisher=2)
    assert _publish(first, "1", "2").is_result
    assert _is_full(_publish(first, "3"))
    assert _is_full(_publish(talk.forwarder("h1.example.net", "other"), "3")), "another session is no other publisher"
    assert _publish(second, "3", "4").is_result
    assert _is_full(_publish(second, "5"))
    assert _publish(first, *map(str, range(10)), node="red").is_result


@pytest.mark.parametrize("limits", [{"max_items": 2}, {"max_items_per_publisher": 2}])
def test_a_batch_is_all_or_nothing(limits: dict[str, int]) -> None:
    talk, forwarder, _ = _talk(**limits)
    _publish(forwarder, "1")
    revision = talk.core.revision
    changed = ("1", item("10.0.0.1/32", hop(label=99)))
    assert _is_full(forwarder.publish("blue", changed, ("2", item("10.0.0.2/32")), ("3", item("10.0.0.3/32"))))
    assert talk.core.revision == revision
    assert forwarder.items("blue")["1"].next_hops[0].label != 99
    assert _publish(forwarder, "1", "2", "2").is_result, "one new item, whatever it says of it"


@pytest.mark.parametrize("limits", [{"max_items": 1}, {"max_items_per_publisher": 1}])
def test_a_full_node_still_changes_and_empties(limits: dict[str, int]) -> None:
    _, forwarder, _ = _talk(**limits)
    _publish(forwarder, "1")
    assert forwarder.publish("blue", ("1", item("10.0.0.9/32", hop(label=99)))).is_result
    assert _is_full(_publish(forwarder, "2"))
    assert forwarder.retract("blue", "1").is_result
    assert _publish(forwarder, "2").is_result
    assert _is_full(_publish(forwarder, "1"))


@pytest.mark.parametrize("limits", [{"max_items": 1}, {"max_items_per_publisher": 1}])
def test_items_whose_ids_are_made_here_count_and_are_known_again(limits: dict[str, int]) -> None:
    _, forwarder, _ = _talk(**limits)
    route = item("10.0.0.1/32")
    assert forwarder.publish("blue", (None, route)).is_result
    assert forwarder.publish("blue", (None, route)).is_result
    assert _is_full(forwarder.publish("blue", (None, item("10.0.0.2/32"))))


@pytest.mark.parametrize("limits", [{"max_items": 2}, {"max_items_per_publisher": 2}])
def test_stale_items_count_until_they_are_swept(limits: dict[str, int]) -> None:
    talk, forwarder, _ = _talk(**limits)
    _publish(forwarder, "1", "2")
    forwarder.lose()
    again = talk.forwarder("h1.example.net")
    assert _is_full(_publish(again, "3"))
    assert _publish(again, "1").is_result
    again.end_of_publish()
    assert _publish(again, "3").is_result
    assert again.items("blue").keys() == {"1", "3"}


def test_a_new_instance_id_takes_no_more_room() -> None:
    _, forwarder, _ = _talk(max_items_per_publisher=2)
    forwarder.subscribe("blue", 5)
    _publish(forwarder, "1", "2")
    assert forwarder.subscribe("blue", 6).is_result
    forwarder.retract("blue", "1")
    assert _publish(forwarder, "3").is_result
    assert _is_full(_publish(forwarder, "4"))


def test_the_limit_is_shown() -> None:
    _, forwarder, _ = _talk(max_items=3)
    configure = f"<pubsub xmlns='{NS_PUBSUB}#owner'><configure node='blue'/></pubsub>"
    shown = forwarder.ask(configure, "get").element
    assert shown.findtext(".//{*}field[@var='pubsub#max_items']/{*}value") == "3"
