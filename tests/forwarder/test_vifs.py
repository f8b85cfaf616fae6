"""Labels, instance-ids and sequence numbers of served interfaces, and the items that follow from them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from forwarder.attachments import Attachment, parse_attachment
from forwarder.labels import AllocationError
from forwarder.state import State
from forwarder.vifs import ConflictError, VifTable
from schema.items import RouteItem
from schema.values import UINT32_MAX, Encapsulation, NextHop

BOTH = (Encapsulation.UDP, Encapsulation.GRE)


def attachment(
    vif_id: str, *addresses: str, vpn: str = "blue", interface: str | None = None, **more: Any
) -> Attachment:
    named = interface or f"t-{vif_id}"
    return parse_attachment(vif_id, vpn=vpn, interface=named, addresses=addresses or ["10.1.0.1"], **more)


def items(vifs: VifTable) -> dict[str, tuple[list[int], int, int]]:
    """Labels, sequence number and local-preference by prefix."""
    return {
        str(item.prefix): ([hop.label for hop in item.next_hops], item.sequence_number, item.local_preference)
        for item in vifs.wanted().items.values()
    }


def table(address: str = "192.0.2.1", state: State | None = None) -> VifTable:
    return VifTable(ip_address(address), BOTH, state or State())


def test_an_address_is_published_once_it_is_numbered_under_the_drafts_form_of_id() -> None:
    vifs = table()
    vif = vifs.add(attachment("vm1", "10.1.0.1", "fd00::1"), 0.0)
    assert vifs.wanted().vpns == {"blue": 1}
    assert vifs.wanted().items == {}
    assert [str(prefix) for _, prefix in vifs.undecided("blue")] == ["10.1.0.1/32", "fd00::1/128"]
    assert vifs.decide("blue", lambda vpn, prefix: 4 if prefix.version == 4 else None)
    hop = NextHop(ip_address("192.0.2.1"), 16, BOTH)
    assert vifs.wanted().items == {
        ("blue", "192.0.2.1:1:10.1.0.1/32"): RouteItem(ip_network("10.1.0.1/32"), (hop,), 5),
        ("blue", "192.0.2.1:1:fd00::1/128"): RouteItem(ip_network("fd00::1/128"), (hop,), 0),
    }
    assert not vifs.decide("blue", lambda vpn, prefix: 100), "a number is given once"
    assert (vif.table, vif.vif().label, vif.local_vif().label) == (1001, 16, 16)


def test_a_sequence_number_does_not_run_over() -> None:
    vifs = table()
    vif = vifs.add(attachment("vm1"), 0.0)
    vifs.decide("blue", lambda vpn, prefix: UINT32_MAX)
    assert list(vif.sequence_numbers.values()) == [UINT32_MAX]


def test_an_ipv6_underlay_gives_ids_that_name_no_rd() -> None:
    vifs = table("2001:db8::1")
    vifs.add(attachment("vm1"), 0.0)
    vifs.decide("blue", lambda vpn, prefix: None)
    assert list(vifs.wanted().items) == [("blue", "[2001:db8::1]:1:10.1.0.1/32")]


@pytest.mark.parametrize("leaving", [True, False])
def test_what_leaves_or_failed_is_neither_published_nor_subscribed_for(leaving: bool) -> None:
    vifs = table()
    vif = vifs.add(attachment("vm1"), 0.0)
    vifs.decide("blue", lambda vpn, prefix: None)
    vif.is_leaving, vif.problem = leaving, None if leaving else "no such interface"
    assert (dict(vifs.wanted().items), dict(vifs.wanted().vpns)) == ({}, {})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (attachment("vm2", "10.1.0.2", interface="t-vm1"), "interface t-vm1 is attached as vm1"),
        (attachment("vm2", "10.1.0.2", "10.1.0.1"), "address 10.1.0.1 of VPN blue is attached as vm1"),
        (attachment("vm2", "10.1.0.2", prefixes=["10.1.0.1/32"]), "address 10.1.0.1 of VPN blue is attached as vm1"),
        (attachment("vm2", "10.1.0.2", prefixes=["10.2.0.0/24"]), "prefix 10.2.0.0/24 of VPN blue is attached as vm1"),
    ],
)
def test_a_conflict_names_the_other_and_the_way_out(other: Attachment, reason: str) -> None:
    vifs = table()
    vifs.add(attachment("vm1", prefixes=["10.2.0.0/24"]), 0.0)
    with pytest.raises(ConflictError, match=f"attachment vm2: {reason}; run `forwarder detach vm1` first$"):
        vifs.check(other)


def test_prefixes_are_published_like_addresses_with_the_same_label() -> None:
    vifs = table()
    vif = vifs.add(attachment("vm1", prefixes=["10.2.0.0/24", "0.0.0.0/0"]), 0.0)
    vifs.decide("blue", lambda vpn, prefix: 4 if prefix.prefixlen == 24 else None)
    assert items(vifs) == {"10.1.0.1/32": ([16], 0, 100), "10.2.0.0/24": ([16], 5, 100), "0.0.0.0/0": ([16], 0, 100)}
    assert vif.vif().prefixes == vif.local_vif().prefixes == vif.attachment.prefixes
    vifs.change(vif, attachment("vm1", prefixes=["10.2.0.0/24", "10.3.0.0/24"]))
    assert items(vifs) == {"10.1.0.1/32": ([16], 0, 100), "10.2.0.0/24": ([16], 5, 100)}, "and 10.3.0.0/24 later"


def test_a_sequence_number_that_was_named_is_published_at_once_and_never_raised() -> None:
    vifs = table()
    vif = vifs.add(attachment("vm1", prefixes=["10.2.0.0/24"], sequence_number=0, local_preference=7), 0.0)
    assert items(vifs) == {"10.1.0.1/32": ([16], 0, 7), "10.2.0.0/24": ([16], 0, 7)}
    assert not vifs.decide("blue", lambda vpn, prefix: 100)
    vifs.change(vif, attachment("vm1", prefixes=["10.2.0.0/24"], sequence_number=9))
    assert items(vifs) == {"10.1.0.1/32": ([16], 9, 100), "10.2.0.0/24": ([16], 9, 100)}
    vifs.change(vif, attachment("vm1", "10.1.0.1", "10.1.0.5"))
    assert items(vifs) == {"10.1.0.1/32": ([16], 9, 100)}, "what has one keeps it, and nobody names one for the other"
    assert items(table(state=vifs.state(0.0))) == items(vifs)


def test_anycast_on_one_host_is_one_item_with_a_next_hop_for_each() -> None:
    vifs = table()
    first = vifs.add(attachment("vm1", prefixes=["10.2.0.0/24"], sequence_number=0), 0.0)
    same = attachment("vm2", "10.1.0.2", "10.1.0.1", prefixes=["10.2.0.0/24"], sequence_number=0)
    vifs.check(same)
    vifs.add(same, 0.0)
    both = {"10.1.0.1/32": ([16, 17], 0, 100), "10.2.0.0/24": ([16, 17], 0, 100), "10.1.0.2/32": ([17], 0, 100)}
    assert items(vifs) == both
    assert items(table(state=vifs.state(0.0))) == both
    first.is_leaving = True
    assert items(vifs) == {prefix: ([17], 0, 100) for prefix in both}


@pytest.mark.parametrize("more", [{"sequence_number": 1}, {"sequence_number": 0, "local_preference": 1}, {}])
def test_what_does_not_say_the_same_is_no_anycast(more: dict[str, int]) -> None:
    vifs = table()
    vifs.add(attachment("vm1", sequence_number=0), 0.0)
    hint = ", or give both the same --sequence-number and --local-preference" if more else "$"
    with pytest.raises(ConflictError, match=r"run `forwarder detach vm1` first" + hint):
        vifs.check(attachment("vm2", **more))
    with pytest.raises(ConflictError, match="interface t-vm1"):
        vifs.check(attachment("vm2", "10.1.0.2", interface="t-vm1", sequence_number=0))


def test_a_host_that_is_drained_publishes_everything_as_the_last_resort() -> None:
    vifs = table()
    vifs.add(attachment("vm1", sequence_number=3, local_preference=200), 0.0)
    vifs.is_draining = True
    vifs.add(attachment("vm2", "10.1.0.2"), 0.0)
    vifs.decide("blue", lambda vpn, prefix: None)
    assert items(vifs) == {"10.1.0.1/32": ([16], 3, 0), "10.1.0.2/32": ([17], 0, 0)}
    again = table(state=vifs.state(0.0))
    assert again.is_draining
    again.is_draining = False
    assert items(again) == {"10.1.0.1/32": ([16], 3, 200), "10.1.0.2/32": ([17], 0, 100)}


def test_the_same_address_in_another_vpn_and_the_same_id_again_are_no_conflicts() -> None:
    vifs = table()
    vifs.add(attachment("vm1"), 0.0)
    vifs.check(attachment("vm2", vpn="red"))
    vifs.check(attachment("vm1", "10.1.0.1", "10.1.0.2"))
    assert len(vifs) == 1


def test_a_change_keeps_the_numbers_of_the_addresses_that_stay() -> None:
    vifs = table()
    vif = vifs.add(attachment("vm1", "10.1.0.1", "10.1.0.2"), 0.0)
    vifs.decide("blue", lambda vpn, prefix: 6)
    vifs.change(vif, attachment("vm1", "10.1.0.2", "10.1.0.3"))
    assert {str(prefix): number for prefix, number in vif.sequence_numbers.items()} == {"10.1.0.2/32": 7}
    assert [str(prefix) for _, prefix in vifs.undecided("blue")] == ["10.1.0.3/32"]


def test_everything_given_out_survives_a_restart() -> None:
    vifs = table()
    vifs.add(attachment("vm1"), 0.0)
    gone = vifs.add(attachment("vm2", "10.1.0.2", vpn="red"), 0.0)
    vifs.decide("blue", lambda vpn, prefix: 1)
    vifs.remove(gone, 100.0)
    again = table(state=vifs.state(110.0))
    assert again.wanted() == vifs.wanted()
    assert [vif.attachment.id for vif in again] == ["vm1"]
    assert (again.labels(), again.resting_labels(110.0)) == ([16], [(17, 100.0)])
    assert again.add(attachment("vm3", "10.1.0.3", vpn="red"), 120.0).label == 18
    assert again.instance_id("red") == 2


def test_a_label_known_to_the_kernel_only_is_kept_for_its_owner() -> None:
    vifs = table()
    vifs.reserve_label(16)
    assert vifs.add(attachment("vm1"), 0.0).label == 17
    assert vifs.add(attachment("vm2", "10.1.0.2"), 0.0, label=16).label == 16
    with pytest.raises(AllocationError):
        vifs.reserve_label(17)
