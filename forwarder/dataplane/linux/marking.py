"""What is noted on each packet of a VM as it comes in: a hash of its flow, and a mark that names its VRF.

**Hash.**  A tunnel over UDP takes its source port from the packet's hash (RFC 7510 section 3).  Once the packet is
labelled the kernel sees neither addresses nor ports, and all flows would have the same port: the hash has to be there
before.

**Mark.**  When an IPv6 packet does not fit its tunnel, the kernel says so to the VM; but it looks for the way back in
the table of the tunnel's device, which is the host's, and there is none (Linux 6.1, 6.12).  With
`net.ipv6.fwmark_reflect` the message has the mark of the packet that it is about, and a rule per VRF leads it by this
mark into the VRF's table.  One rule before these leads all else past them.  The packet filter takes the mark off again
as soon as the packet has been routed, so that nobody else meets it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Final

from forwarder.dataplane.linux.facts import ErrorRule, ErrorRules, Fact, Marking
from forwarder.dataplane.linux.names import MARK_BITS, MARKED, mark_of
from forwarder.dataplane.linux.steps import Hands, Step
from forwarder.dataplane.netlink import numbers, rtlinks, rttc
from forwarder.dataplane.netlink.codec import Message, NetlinkError
from forwarder.dataplane.netlink.socket import Netlink

PLACE: Final = 1
"""Of the filter among those of the device: the first."""
_SKIP_PRIORITY: Final = 1001  # behind the kernel's rule for VRFs
_PRIORITY: Final = 1002
_REST_PRIORITY: Final = 32765  # the rule for the host's own addresses


def read_marking(netlink: Netlink, names: Mapping[int, str]) -> Iterator[Fact]:
    """Of the interfaces in `names`, by device index."""
    for index, name in names.items():
        for body in netlink.dump(rttc.RTM_GETTFILTER, rttc.filters_on(index)):
            mark = rttc.parse_marker(body)
            if mark is not None:
                yield Marking(name, mark)


def read_error_rules(netlink: Netlink, table: int = 0) -> Iterator[Fact]:
    """Those of all VRFs, or of one."""
    for rule in _rules(netlink):
        if rule.priority == _PRIORITY and table in (0, rule.table):
            yield ErrorRule(rule.table, rule == _rule(rule.table))


def leads_past_error_rules(netlink: Netlink) -> bool:
    return _skip() in _rules(netlink)


def _rules(netlink: Netlink) -> Iterator[rtlinks.MarkRule]:
    for body in netlink.dump(rtlinks.RTM_GETRULE, rtlinks.rules_of(numbers.AF_INET6)):
        rule = rtlinks.parse_mark_rule(body)
        if rule is not None:
            yield rule


def _skip() -> rtlinks.MarkRule:
    return rtlinks.MarkRule(_SKIP_PRIORITY, MARKED, MARKED | 1 << 31, goto=_REST_PRIORITY)


def _rule(table: int) -> rtlinks.MarkRule:
    return rtlinks.MarkRule(_PRIORITY, mark_of(table), MARK_BITS, table=table)


def _put_marking(hands: Hands, fact: Marking) -> None:
    index = hands.index(fact.interface)
    _unless(errno.EEXIST, hands, rttc.put_clsact(index))
    _unless(errno.ENOENT, hands, rttc.delete_filter(index, PLACE))
    hands.netlink.ask(rttc.put_marker(index, PLACE, fact.mark))


def _drop_marking(hands: Hands, fact: Marking) -> None:
    hands.netlink.ask(rttc.delete_clsact(hands.index(fact.interface)))


def _put_error_rules(hands: Hands, fact: ErrorRules) -> None:
    hands.netlink.ask(rtlinks.put_mark_rule(numbers.AF_INET6, _skip()))


def _drop_error_rules(hands: Hands, fact: ErrorRules) -> None:
    hands.netlink.ask(rtlinks.delete_rule_at(numbers.AF_INET6, _SKIP_PRIORITY))


def _put_error_rule(hands: Hands, fact: ErrorRule) -> None:
    _drop_error_rule(hands, fact)
    hands.netlink.ask(rtlinks.put_mark_rule(numbers.AF_INET6, _rule(fact.table)))


def _drop_error_rule(hands: Hands, fact: ErrorRule) -> None:
    _unless(errno.ENOENT, hands, rtlinks.delete_rule_at(numbers.AF_INET6, _PRIORITY, fact.table))


def _unless(accepted: int, hands: Hands, message: Message) -> None:
    try:
        hands.netlink.ask(message)
    except NetlinkError as error:
        if error.code != accepted:
            raise


PUT: Final[dict[type[Fact], Step]] = {
    Marking: _put_marking,
    ErrorRules: _put_error_rules,
    ErrorRule: _put_error_rule,
}
DROP: Final[dict[type[Fact], Step]] = {
    Marking: _drop_marking,
    ErrorRules: _drop_error_rules,
    ErrorRule: _drop_error_rule,
}
