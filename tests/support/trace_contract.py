"""What every data plane must tell of a packet, as tests that run on the fake and on Linux alike.

A test module makes a subclass and gives it the `plane` fixture of `dataplane_contract`.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from forwarder.dataplane.contract import Dataplane
from forwarder.dataplane.traced import Arrival, Fate
from forwarder.dataplane.values import DataplaneError, Hop, LocalHop
from tests.support.dataplane_contract import A, B, key, route, via

SEVERAL = (via(22), via(23, "gre", "192.0.2.3"), via(22, "udp", "192.0.2.4"))
HELD = (
    route("10.0.0.5/32", via(20)),
    route("10.1.0.0/16", *SEVERAL),
    route("10.1.9.0/24", via(24, "gre")),
    route("10.0.0.2/32", LocalHop("vm-b")),
    route("fd00::/64", via(20)),
    route("fd00::8000:0:0:0/65", via(21, "gre"), via(22)),
)
OUT: tuple[tuple[str, Fate, str | None, tuple[Hop, ...]], ...] = (
    ("10.0.0.5", Fate.TUNNELLED, "10.0.0.5/32", (via(20),)),
    ("10.1.2.3", Fate.TUNNELLED, "10.1.0.0/16", SEVERAL),
    ("10.1.9.9", Fate.TUNNELLED, "10.1.9.0/24", (via(24, "gre"),)),
    ("fd00::2", Fate.TUNNELLED, "fd00::/64", (via(20),)),
    ("fd00::8000:0:0:2", Fate.TUNNELLED, "fd00::8000:0:0:0/65", (via(21, "gre"), via(22))),
    ("10.0.0.2", Fate.LOCAL, "10.0.0.2/32", (LocalHop("vm-b"),)),
    ("10.0.0.1", Fate.OWN, "10.0.0.1/32", ()),
    ("fd00::1", Fate.OWN, "fd00::1/128", ()),
    ("169.254.1.1", Fate.HOST, "169.254.1.1/32", ()),
    ("fe80::1", Fate.HOST, "fe80::1/128", ()),
    ("10.0.0.6", Fate.NO_ROUTE, None, ()),
    ("192.0.2.1", Fate.NO_ROUTE, None, ()),
    ("fd01::1", Fate.NO_ROUTE, None, ()),
)


class TraceContract:
    @pytest.fixture
    def traced(self, plane: Dataplane) -> Dataplane:
        plane.attach(A)
        plane.attach(B)
        assert plane.apply(HELD) == []
        return plane

    def test_where_a_packet_goes(self, traced: Dataplane) -> None:
        for destination, fate, prefix, hops in OUT:
            told = traced.trace("vm-a", ip_address(destination))
            assert (told.fate, told.prefix and str(told.prefix)) == (fate, prefix), told
            assert {way.hop for way in told.ways} == set(hops), told
            assert [way.problem for way in told.ways] == [None] * len(hops), told
            assert (told.reason is not None) == fate.is_dropped
            assert told.counter == ("no-route" if fate is Fate.NO_ROUTE else None)

    def test_it_follows_the_routes(self, traced: Dataplane) -> None:
        there = ip_address("10.1.9.9")
        traced.apply([key("10.1.9.0/24")])
        assert str(traced.trace("vm-a", there).prefix) == "10.1.0.0/16"
        traced.apply([key("10.1.0.0/16")])
        assert traced.trace("vm-a", there).fate is Fate.NO_ROUTE
        traced.apply([route("0.0.0.0/0", via(99))])
        assert [way.hop for way in traced.trace("vm-a", there).ways] == [via(99)]

    @pytest.mark.parametrize(("source", "destination"), [("10.0.0.77", "10.0.0.5"), ("fd00::77", "fd00::2")])
    def test_a_source_that_was_not_given_goes_nowhere(self, traced: Dataplane, source: str, destination: str) -> None:
        told = traced.trace("vm-a", ip_address(destination), ip_address(source))
        assert (told.fate, told.counter, told.ways) == (Fate.GUARDED, "source-address", ())
        control = next(address for address in A.addresses if address.version == told.source.version)
        assert traced.trace("vm-a", ip_address(destination), control).fate is Fate.TUNNELLED

    def test_where_nothing_fits_a_subnet_is_not_told(self, traced: Dataplane) -> None:
        assert traced.trace("vm-b", ip_address("10.9.9.9")).fate is Fate.NO_ANSWER
        assert traced.trace("vm-a", ip_address("10.9.9.9")).fate is Fate.NO_ROUTE

    def test_a_prefix_behind_the_interface_is_its_own(self, traced: Dataplane) -> None:
        behind = ip_network("10.3.0.0/24")
        traced.attach(replace(A, prefixes=(behind,)))
        assert traced.trace("vm-a", ip_address("10.0.0.5"), behind[7]).fate is Fate.TUNNELLED
        told = traced.trace("vm-a", behind[7])
        assert (told.fate, told.prefix) == (Fate.OWN, behind)

    def test_what_comes_under_the_label(self, traced: Dataplane) -> None:
        wanted = Arrival(16, "t-a", ip_address("10.0.0.1"), "02:00:00:00:00:01")
        assert traced.trace("vm-a", ip_address("10.9.9.9")).arrival == wanted

    @pytest.mark.parametrize(
        ("vif", "destination", "source", "reason"),
        [
            ("nobody", "10.0.0.5", None, "it is not attached"),
            ("vm-b", "fd00::2", None, "it has no IPv6 address"),
            ("vm-a", "fd00::2", "10.0.0.1", "they are of two families"),
        ],
    )
    def test_what_cannot_be_asked(
        self, traced: Dataplane, vif: str, destination: str, source: str | None, reason: str
    ) -> None:
        with pytest.raises(DataplaneError, match=reason):
            traced.trace(vif, ip_address(destination), None if source is None else ip_address(source))
