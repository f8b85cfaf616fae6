"""What the log is told of addresses that move: too often, backwards, or away from where they are to stay."""

from __future__ import annotations

from ipaddress import ip_address

from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.nodes.moves import MOVES, PERIOD
from routeserver.settings import NeighborSettings
from tests.support.conversation import Conversation, Forwarder
from tests.support.routes import LOCAL_AS, attributes, hop, item, vpn

_PREFIX = "10.0.0.1/32"
_STICKY = bytes((6, 0, 1, 0, 0, 0, 0, 0))


class _Scene:
    """Two hosts that publish to one VPN."""

    def __init__(self) -> None:
        self.talk = Conversation(
            vpn("blue", ["64512:100"]), neighbors=(NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS),)
        )
        self.hosts: list[Forwarder] = []
        for number in (1, 2):
            host = self.talk.forwarder(f"h{number}.example.net")
            host.subscribe("blue", instance=1)
            self.hosts.append(host)

    def publish(self, host: int, seq: int, prefix: str = _PREFIX) -> None:
        route = item(prefix, hop(f"192.0.2.{host}"), seq=seq)
        assert self.hosts[host - 1].publish("blue", (f"{prefix} at {host}", route)).is_result

    def told(self) -> list[str]:
        self.talk.turn()
        return [notice.event for notice in self.talk.core.take_notices()]


def test_a_machine_that_moves_now_and_then_is_no_news() -> None:
    scene = _Scene()
    for seq in range(4 * MOVES):
        scene.publish(1 + seq % 2, seq)
        scene.talk.advance(PERIOD / (MOVES - 1) + 1)
    assert scene.told() == []


def test_an_address_that_moves_too_often_is_told_once_for_each_so_many_moves() -> None:
    """Two hosts have it, and each outbids the other."""
    scene = _Scene()
    for seq in range(MOVES):
        scene.publish(1 + seq % 2, seq)
    assert scene.told() == [], "the first publish is no move"
    scene.publish(1 + MOVES % 2, MOVES)
    scene.talk.turn()
    (notice,) = scene.talk.core.take_notices()
    assert (notice.event, notice.peer) == ("vpn.address.moves", "h2.example.net")
    assert notice.facts == {
        "vpn": "blue", "prefix": item(_PREFIX).prefix, "sequence-number": MOVES, "selected": "h1.example.net",
        "its-sequence-number": MOVES - 1, "moves": MOVES, "seconds": PERIOD,
    }  # fmt: skip
    for seq in range(MOVES + 1, 2 * MOVES):
        scene.publish(1 + seq % 2, seq)
    assert scene.told() == []
    scene.publish(1, 2 * MOVES)
    assert scene.told() == ["vpn.address.moves"]


def test_moves_of_different_addresses_and_higher_numbers_of_one_host_are_not_counted_together() -> None:
    scene = _Scene()
    for number in range(3 * MOVES):
        scene.publish(1, 0, f"10.0.1.{number}/32")
        scene.publish(2, 1, f"10.0.1.{number}/32")
        scene.publish(1, number)
    assert scene.told() == []


def test_a_lower_number_than_the_selected_ones_is_told_and_an_equal_one_is_not() -> None:
    scene = _Scene()
    scene.publish(1, 5)
    scene.publish(2, 5)
    assert scene.told() == [], "the same address at both, deliberately"
    scene.publish(2, 4)
    assert scene.told() == ["vpn.sequence-number.lower"]
    scene.publish(1, 3)
    assert scene.told() == ["vpn.sequence-number.lower"], "its own"
    scene.publish(2, 6, "10.0.0.2/32")
    scene.hosts[1].lose()
    scene.publish(1, 2, "10.0.0.2/32")
    assert scene.told() == [], "what is stale is no measure"


def test_a_publish_against_a_sticky_path_is_told() -> None:
    scene = _Scene()
    pe = scene.talk.neighbor("127.0.2.1", VPN_FAMILIES)
    pe.announce("64512:9", _PREFIX, attributes(local_pref=100, extra=(_STICKY,)))
    scene.talk.turn()
    scene.publish(1, 7)
    assert scene.told() == ["vpn.address.sticky"]


def test_notices_are_few_however_many_there_are_reasons_for() -> None:
    scene = _Scene()
    for number in range(30):
        scene.publish(1, 5, f"10.0.1.{number}/32")
        scene.publish(2, 4, f"10.0.1.{number}/32")
    assert len(scene.told()) == 10
    scene.talk.advance(61)
    scene.publish(1, 3)
    scene.publish(2, 2)
    scene.talk.turn()
    (notice,) = scene.talk.core.take_notices()
    assert notice.facts["left-out"] == 20
