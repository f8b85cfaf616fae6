"""What is told of the paths of a prefix: which is selected, which are used beside it, and why the others are not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.iana import VPN_FAMILIES
from routeserver.settings import GracefulRestart, NeighborSettings
from routeserver.views import routes as views_routes
from schema.values import Encapsulation
from tests.support.conversation import Conversation
from tests.support.far_neighbor import Neighbor
from tests.support.routes import LOCAL_AS, UDP, attributes, hop, item, vpn

_PREFIX = "10.0.0.1/32"
_NEIGHBORS = (
    NeighborSettings(ip_address("127.0.2.1"), LOCAL_AS, graceful_restart=GracefulRestart(long_lived=60)),
    NeighborSettings(ip_address("127.0.2.2"), LOCAL_AS, route_reflector_client=True),
    NeighborSettings(ip_address("127.0.3.1"), 65001),
)
_UNKNOWN_TUNNEL = b"\x03\x0c\0\0\0\0\x03\xe7"
_COLOR_7 = bytes.fromhex("030b000000000007")


def _endpoint(tunnel: int, *sub_tlvs: str) -> bytes:
    """A TLV of attribute 23 that ends at 198.51.100.1, with more sub-TLVs."""
    content = bytes.fromhex("060a000000000001c6336401" + "".join(sub_tlvs))
    return tunnel.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


class _Scene:
    def __init__(self, max_paths: int = 1) -> None:
        blue = vpn("blue", ["64512:100"], max_paths=max_paths)
        self.talk = Conversation(blue, vpn("red", ["64512:200"]), neighbors=_NEIGHBORS)
        self.internal, self.client, self.external = (
            self.talk.neighbor(str(n.address), VPN_FAMILIES) for n in _NEIGHBORS
        )

    def publish(self, host: int, **words: int) -> None:
        forwarder = self.talk.forwarder(f"h{host}.example.net")
        forwarder.subscribe("blue", instance=1)
        assert forwarder.publish("blue", (f"h{host}", item(_PREFIX, hop(f"192.0.2.{host}"), **words))).is_result

    def announce(self, neighbor: Neighbor, rd: str, attrs: PathAttributes, label: int = 20) -> None:
        neighbor.announce(rd, _PREFIX, attrs, label)
        self.talk.turn()

    def paths(self) -> list[dict[str, Any]]:
        """Of the prefix when asked for by itself; the list of all says the same, less what was not imported."""
        page = views_routes.routes(self.talk.core, "blue", ip_network(_PREFIX), b"", 10)
        assert page is not None
        whole = views_routes.routes(self.talk.core, "blue", None, b"", 10)
        assert whole is not None
        paths = page.items[0]["paths"] if page.items else []
        listed = whole.items[0]["paths"] if whole.items else []
        assert [path for path in paths if path in listed] == listed
        return list(paths)

    def shown(self) -> list[tuple[str, str | None, str | None]]:
        """(RD, reason, among what) of each path."""
        keys = "route-distinguisher", "not-selected-because", "not-selected-among"
        return [tuple(path[key] for key in keys) for path in self.paths()]  # type: ignore[misc]


def _from_pe(**words: Any) -> PathAttributes:
    return attributes(local_pref=100, **words)


def test_the_path_that_is_alone_is_selected() -> None:
    scene = _Scene()
    scene.publish(1)
    (path,) = scene.paths()
    assert (path["selected"], path["not-selected-because"], path["not-selected-among"]) == (True, None, None)


def test_a_path_is_lost_among_those_of_its_rd_or_in_the_vpn() -> None:
    scene = _Scene()
    scene.publish(1, seq=1)
    scene.announce(scene.internal, "192.0.2.1:1", _from_pe(seq=1))
    scene.announce(scene.client, "64512:9", _from_pe(seq=0))
    scene.announce(scene.external, "64512:9", attributes(seq=0, as_path=(65001,)))
    sequence, here = "not sticky, or lower sequence-number", "published here as well"
    assert scene.shown() == [
        ("192.0.2.1:1", None, None),
        ("192.0.2.1:1", here, "route-distinguisher"),
        ("64512:9", sequence, "vpn"),
        ("64512:9", "longer AS_PATH", "route-distinguisher"),
    ]
    assert [path["source"] for path in scene.paths()] == [
        "h1.example.net", "127.0.2.1", "127.0.2.2", "127.0.3.1",
    ]  # fmt: skip


def test_a_stale_path_says_so() -> None:
    scene = _Scene()
    scene.publish(1, seq=9)
    scene.talk.forwarders[-1].lose()
    scene.publish(2)
    assert scene.shown() == [("192.0.2.2:1", None, None), ("192.0.2.1:1", "stale", "vpn")]


def test_what_is_used_beside_the_selected_path_is_marked_and_keeps_its_reason() -> None:
    scene = _Scene(max_paths=2)
    for host in (3, 2, 1):
        scene.publish(host)
    assert [(path["selected"], path["multipath"]) for path in scene.paths()] == [
        (True, False), (False, True), (False, False),
    ]  # fmt: skip
    assert scene.shown()[1:] == [("192.0.2.2:1", "higher next hop", "vpn"), ("192.0.2.3:1", "higher next hop", "vpn")]


_TUNNELS: list[Any] = [
    pytest.param({}, 15, False, id="label below 16"),
    pytest.param({}, 16, True, id="label 16"),
    pytest.param({"encapsulations": (Encapsulation.VXLAN,)}, 20, False, id="VXLAN only"),
    pytest.param({"encapsulations": (Encapsulation.VXLAN, UDP)}, 20, True, id="VXLAN and UDP"),
    pytest.param({"extra": (_UNKNOWN_TUNNEL,)}, 20, False, id="a tunnel nobody knows"),
    pytest.param({"tunnel_encapsulation": _endpoint(13)}, 20, True, id="attribute 23: UDP"),
    pytest.param({"tunnel_encapsulation": _endpoint(8)}, 20, False, id="attribute 23: VXLAN only"),
    pytest.param({"tunnel_encapsulation": _endpoint(13, "08020050")}, 20, False, id="UDP at a port of its own"),
    pytest.param({"tunnel_encapsulation": _endpoint(2, "02020800")}, 20, False, id="for IPv4 packets only"),
    pytest.param({"tunnel_encapsulation": _endpoint(13, "0408030b000000000007")}, 20, False, id="another color"),
    pytest.param(
        {"tunnel_encapsulation": _endpoint(13, "0408030b000000000007"), "extra": (_COLOR_7,)}, 20, True, id="its color"
    ),
    pytest.param({"tunnel_encapsulation": _endpoint(8) + _endpoint(13)}, 20, True, id="one of two tunnels"),
]


@pytest.mark.parametrize(("words", "label", "feasible"), _TUNNELS)
def test_a_path_no_forwarder_could_use_is_in_no_vpn_and_shown_by_who_asks_for_it(
    words: dict[str, Any], label: int, feasible: bool
) -> None:
    """RFC 9012 section 6: with an attribute 23 that has no feasible tunnel a route is unresolvable."""
    scene = _Scene()
    reader = scene.talk.forwarder("reader.example.net")
    reader.subscribe("blue")
    scene.announce(scene.internal, "64512:9", _from_pe(**words), label)
    assert (_PREFIX in reader.prefixes()) is feasible
    unusable = ("64512:9", "no label or tunnel a forwarder could use", "vpn")
    assert scene.shown() == [("64512:9", None, None) if feasible else unusable]
    scene.publish(1, lp=1)
    if not feasible:
        assert scene.shown() == [("192.0.2.1:1", None, None), unusable]
    assert scene.client.keys(), "it is passed on all the same"


def test_a_path_behind_one_of_other_targets_is_shown_by_who_asks_for_it() -> None:
    scene = _Scene()
    scene.announce(scene.internal, "64512:9", _from_pe())
    scene.announce(scene.client, "64512:9", attributes(("64512:200",), local_pref=200))
    assert scene.shown() == [("64512:9", "lower local-preference", "route-distinguisher")]
    scene.publish(1)
    assert scene.shown()[0] == ("192.0.2.1:1", None, None)


def test_of_a_prefix_nobody_has_and_a_vpn_nobody_knows() -> None:
    scene = _Scene()
    scene.internal.announce("64512:9", "10.0.0.2/32", _from_pe(), label=3)
    scene.talk.turn()
    assert scene.paths() == []
    assert views_routes.routes(scene.talk.core, "green", None, b"", 10) is None
