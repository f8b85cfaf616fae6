"""Messages of NETLINK_ROUTE about traffic control: one filter on what comes in by a device; see `rtlinks`.  Pure."""

from __future__ import annotations

import struct
from typing import Final

from forwarder.dataplane.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    as_int,
    as_text,
    attribute,
    attributes,
    nested,
    text,
    u16,
    u32,
)

RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
_TCM = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_CLSACT: Final = 0xFFFFFFF1
_CLSACT_HANDLE: Final = 0xFFFF0000
_INGRESS: Final = 0xFFFFFFF2
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_MATCHALL_ACT = 2
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_SKBEDIT_PARMS, _TCA_SKBEDIT_QUEUE_MAPPING, _TCA_SKBEDIT_MARK = 2, 4, 5
_TCA_SKBEDIT_FLAGS, _TCA_SKBEDIT_QUEUE_MAPPING_MAX = 9, 10
_FLAG_TXQ_SKBHASH: Final = 0x40
_SKBEDIT = struct.Struct("=IIiii")  # index, capabilities, action, reference and bind counts
_GO_ON: Final = -1  # with the next filter
_ALL_PROTOCOLS: Final = as_int(b"\x00\x03")  # ETH_P_ALL in network byte order


def put_clsact(index: int) -> Message:
    """The place that filters of a device hang on. Refused as existing where there is one."""
    body = _TCM.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + text(_TCA_KIND, "clsact")
    return Message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_clsact(index: int) -> Message:
    """With all filters."""
    return Message(RTM_DELQDISC, 0, _TCM.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + text(_TCA_KIND, "clsact"))


def put_marker(index: int, place: int, mark: int) -> Message:
    """Every packet that comes in gets the mark, and its hash computed while addresses and ports are in sight.

    The hash is a by-product: the action uses it to choose one of the queues 0 to 0.
    """
    skbedit = attribute(_TCA_SKBEDIT_PARMS, _SKBEDIT.pack(0, 0, _GO_ON, 0, 0)) + u32(_TCA_SKBEDIT_MARK, mark)
    skbedit += u16(_TCA_SKBEDIT_QUEUE_MAPPING, 0) + u16(_TCA_SKBEDIT_QUEUE_MAPPING_MAX, 0)
    skbedit += attribute(_TCA_SKBEDIT_FLAGS, struct.pack("=Q", _FLAG_TXQ_SKBHASH))
    action = nested(1, text(_TCA_ACT_KIND, "skbedit"), nested(_TCA_ACT_OPTIONS, skbedit))
    body = _filter(index, place) + text(_TCA_KIND, "matchall")
    body += nested(_TCA_OPTIONS, nested(_TCA_MATCHALL_ACT, action))
    return Message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_filter(index: int, place: int) -> Message:
    return Message(RTM_DELTFILTER, 0, _filter(index, place))


def _filter(index: int, place: int) -> bytes:
    return _TCM.pack(0, index, 0, _INGRESS, place << 16 | _ALL_PROTOCOLS)


def filters_on(index: int) -> bytes:
    """The body of a request for the filters on what comes in by a device."""
    return _TCM.pack(0, index, 0, _INGRESS, 0)


def parse_marker(body: bytes) -> int | None:
    """The mark, if the filter is as `put_marker` makes it."""
    options = attributes(attributes(body, _TCM.size).get(_TCA_OPTIONS, b""))
    for action in attributes(options.get(_TCA_MATCHALL_ACT, b"")).values():
        told = attributes(action)
        if as_text(told.get(_TCA_ACT_KIND, b"")) != "skbedit":
            continue
        skbedit = attributes(told.get(_TCA_ACT_OPTIONS, b""))
        if as_int(skbedit.get(_TCA_SKBEDIT_FLAGS, b"")) & _FLAG_TXQ_SKBHASH:
            return as_int(skbedit.get(_TCA_SKBEDIT_MARK, b""))
    return None
