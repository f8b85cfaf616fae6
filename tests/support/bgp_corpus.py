"""The corpus of BGP messages: tests/corpus/bgp/good.jsonl and bad.jsonl, one message a line.

A line has `from` (who sent it, or what it is about), `peer` (how that neighbor is configured: internal, external or
old, the latter a speaker of 2-octet AS numbers), `message` in hex, and `says`: what the codec must make of it, in
the words of `told`.  In bad.jsonl that is a verdict, or the NOTIFICATION that ends the session.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from routeserver.bgp.attribute_codec import AttributeContext
from routeserver.bgp.communities import route_target_text
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import decode_open
from routeserver.bgp.nlri import key_prefix, key_rd
from routeserver.bgp.wire import MessageReader, MessageType
from tests.support.updates import EXTERNAL, INTERNAL, OLD, decoder

DIRECTORY = Path(__file__).parent.parent / "corpus" / "bgp"
PEERS: dict[str, AttributeContext] = {"internal": INTERNAL, "external": EXTERNAL, "old": OLD}


@dataclass(frozen=True, slots=True)
class Entry:
    source: str
    context: AttributeContext
    message: bytes
    says: list[str]


def entries(name: str) -> list[Entry]:
    """The lines of a corpus file."""
    lines = (DIRECTORY / name).read_text().splitlines()
    return [
        Entry(line["from"], PEERS[line["peer"]], bytes.fromhex(line["message"]), line["says"])
        for line in map(json.loads, lines)
    ]


def said(context: AttributeContext, message: bytes) -> list[str]:
    """What the codec makes of a whole message, in words."""
    try:
        reader = MessageReader()
        reader.feed(message)
        whole = reader.next_message()
        assert whole == message, "a corpus line is one whole message"
        if message[18] == MessageType.OPEN:
            received = decode_open(message)
            pairs = " ".join(f"{afi}/{safi}" for afi, safi in sorted(received.capabilities.families))
            codes = " ".join(map(str, sorted(received.capabilities.codes)))
            return [
                f"open AS {received.peer_as} hold {received.hold_time} id {received.identifier}",
                f"families {pairs}; capabilities {codes}",
            ]
        return [word for event in decoder(context).decode(message) for word in told(event)]
    except NotificationError as error:
        return [f"reset {error.code}/{error.subcode} {error.data.hex()}".rstrip()]


def told(event: BgpEvent) -> list[str]:
    match event:
        case RoutesReceived(family, attributes, nlri):
            targets = " ".join(sorted(map(route_target_text, attributes.route_targets)))
            path = " ".join(str(number) for _, ases in attributes.as_path for number in ases)
            return [
                *(f"announce {_name(family, key)} label {label}" for key, label in nlri),
                f"next hop {attributes.next_hop}; path {path}; targets {targets}; local-pref {attributes.local_pref}",
                f"encapsulations {' '.join(attributes.encapsulations)}",
            ]
        case RoutesWithdrawn(family, keys):
            return [f"withdraw {_name(family, key)}" for key in keys]
        case EndOfRib(family):
            return [f"end of {family.label}"]
        case FamilyDisabled(family, _):
            return [f"disable {family.label}"]
        case UpdateMalformed(reason, _):
            return [f"malformed {reason}"]
        case _:
            return [repr(event)]


def _name(family: Family, key: bytes) -> str:
    return key.hex() if family is Family.RTC else f"{key_rd(key)} {key_prefix(family, key)}"
