"""The corpus of BGP messages: tests/corpus/bgp/good/ and bad/, a file for each message.

A file begins with `from:` (who sent the message, or what it is about) and `peer:`, how that neighbor is configured:
`internal`, `external` or `old` (external, and a speaker of 2-octet AS numbers), then what else was negotiated or is so,
in the words of `_TERMS`.  After an empty line comes the message in hex, after another one what the codec must make of
it, in the words of `told`.  In bad/ that is a verdict, or the NOTIFICATION that ends the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from routeserver.bgp.attribute_codec import AttributeContext
from routeserver.bgp.attributes import AS_SET
from routeserver.bgp.communities import community_text, ext_community_text, large_community_text
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    FamilyDisabled,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.bgp.messages import decode_open
from routeserver.bgp.nlri import key_text
from routeserver.bgp.tunnel_encapsulation import tunnel_texts
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import MessageReader, MessageType
from tests.support.updates import EXTERNAL, INTERNAL, OLD

DIRECTORY = Path(__file__).parent.parent / "corpus" / "bgp"
_CONTEXTS = {"internal": INTERNAL, "external": EXTERNAL, "old": OLD}
_TERMS = ("on loopback", "path identifiers", "IPv6 next hops", "extended messages", "route server")


@dataclass(frozen=True, slots=True)
class Peer:
    """A neighbor and the terms of its session."""

    context: AttributeContext
    paths_in: frozenset[Family] = frozenset()
    ipv6_next_hops: frozenset[Family] = frozenset()
    extended_messages: bool = False

    @classmethod
    def parse(cls, text: str) -> Peer:
        kind, *terms = text.split(", ")
        assert set(terms) <= set(_TERMS), text
        context = _CONTEXTS[kind]
        context = replace(context, on_loopback="on loopback" in terms, from_route_server="route server" in terms)
        return cls(
            context,
            frozenset(VPN_FAMILIES if "path identifiers" in terms else ()),
            frozenset({Family.VPNV4} if "IPv6 next hops" in terms else ()),
            "extended messages" in terms,
        )

    def decoder(self) -> UpdateDecoder:
        return UpdateDecoder(self.context, frozenset(Family), self.paths_in, self.ipv6_next_hops)


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    about: str
    peer: Peer
    message: bytes
    says: list[str]


def entries(directory: str) -> list[Entry]:
    """The messages of `good` or `bad`, by the names of their files."""
    return [_entry(path) for path in sorted((DIRECTORY / directory).glob("*.txt"))]


def _entry(path: Path) -> Entry:
    head, octets, said_of_it = (path.read_text().rstrip("\n") + "\n").split("\n\n")
    values = dict(line.split(": ", 1) for line in head.splitlines())
    return Entry(
        path.stem,
        values["from"],
        Peer.parse(values["peer"]),
        bytes.fromhex(octets),
        said_of_it.strip("\n").splitlines(),
    )


def said(peer: Peer, message: bytes) -> list[str]:
    """What the codec makes of a whole message, in words."""
    try:
        reader = MessageReader()
        if peer.extended_messages:
            reader.accept_extended()
        reader.feed(message)
        whole = reader.next_message()
        assert whole == message, "a file holds one whole message"
        if message[18] == MessageType.OPEN:
            received = decode_open(message)
            pairs = " ".join(f"{afi}/{safi}" for afi, safi in sorted(received.capabilities.families))
            codes = " ".join(map(str, sorted(received.capabilities.codes)))
            return [
                f"open AS {received.peer_as} hold {received.hold_time} id {received.identifier}",
                f"families {pairs}; capabilities {codes}",
            ]
        events = peer.decoder().decode(message)
        return [word for event in events for word in told(event, peer.paths_in)] or ["nothing"]
    except NotificationError as error:
        return [f"reset {error.code}/{error.subcode} {error.data.hex()}".rstrip()]


def told(event: BgpEvent, paths_in: frozenset[Family] = frozenset()) -> list[str]:
    match event:
        case RoutesReceived(family, _, nlri):
            return [
                *(f"announce {key_text(family, key, family in paths_in)} label {label}" for key, label in nlri),
                *(f"  {line}" for line in _attribute_lines(event)),
            ]
        case RoutesWithdrawn(family, keys):
            return [f"withdraw {key_text(family, key, family in paths_in)}" for key in keys]
        case EndOfRib(family):
            return [f"end of {family.label}"]
        case FamilyDisabled(family, _):
            return [f"disable {family.label}"]
        case UpdateMalformed(reason, _):
            return [f"malformed {reason}"]
        case _:
            return [repr(event)]


def _attribute_lines(event: RoutesReceived) -> Iterator[str]:
    """Next hop first, then whatever is there."""
    a = event.attributes
    yield f"next-hop {a.next_hop}"
    yield f"origin {a.origin}"
    yield f"as-path {' '.join(map(_segment_text, a.as_path)) or 'empty'}"
    for name in ("med", "local_pref", "originator_id"):
        if (value := getattr(a, name)) is not None:
            yield f"{name.replace('_', '-')} {value}"
    if a.atomic_aggregate:
        yield "atomic-aggregate"
    if a.aggregator:
        yield "aggregator {} {}".format(*a.aggregator)
    if a.communities:
        yield f"communities {' '.join(map(community_text, a.communities))}"
    if a.cluster_list:
        yield f"cluster-list {' '.join(map(str, a.cluster_list))}"
    if a.ext_communities:
        yield f"ext-communities {' '.join(map(ext_community_text, a.ext_communities))}"
    if a.large_communities:
        yield f"large-communities {' '.join(map(large_community_text, a.large_communities))}"
    if a.tunnel_encapsulation is not None:
        yield from (f"tunnel {text}" for text in tunnel_texts(a.tunnel_encapsulation))
    yield from (f"carried {kind} flags {flags:02x} {value.hex()}".rstrip() for flags, kind, value in a.unknown)
    if a.partial:
        yield f"partial {' '.join(map(str, sorted(a.partial)))}"
    yield f"encapsulations {' '.join(a.encapsulations) or 'none'} to {a.tunnel_endpoint}"


def _segment_text(segment: tuple[int, tuple[int, ...]]) -> str:
    numbers = " ".join(map(str, segment[1]))
    return f"{{{numbers}}}" if segment[0] == AS_SET else numbers
