"""Path attributes in words: what the API, the command line and a trace show of them.

`attribute_words` has one entry for each attribute that is there, under the name the configuration and the schema have
for it, with values fit for JSON.  `attribute_line` is the same on one line.  Two sets that differ have different words,
unless they differ only in where an AS_SEQUENCE ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from routeserver.bgp.attributes import AS_SEQUENCE, AsPath, PathAttributes
from routeserver.bgp.communities import community_text, ext_community_text, large_community_text
from routeserver.bgp.iana import Origin
from routeserver.bgp.tunnel_encapsulation import tunnel_texts


def attribute_words(attributes: PathAttributes) -> dict[str, Any]:
    """The attributes that are there, in the order of their types."""
    words: dict[str, Any] = {"next-hop": str(attributes.next_hop), "origin": origin_text(attributes.origin)}
    words["as-path"] = as_path_words(attributes.as_path)
    for name, (field, write) in _WORDS.items():
        value = getattr(attributes, field)
        if not _is_absent(value):
            words[name] = write(value)
    return words


def attribute_line(attributes: PathAttributes) -> str:
    """`next-hop=192.0.2.1 origin=igp as-path=65001,{65002,65003} communities=no-export,64512:7`."""
    return line_of(attribute_words(attributes))


def line_of(words: Mapping[str, Any]) -> str:
    """`name=value` for each of the words that says something; elements of a list are parted by commas."""
    return " ".join(f"{name}={_value_text(value)}" for name, value in words.items() if not _is_absent(value))


def origin_text(origin: int) -> str:
    """RFC 4271 section 4.3."""
    return Origin(origin).name.lower()


def as_path_words(as_path: AsPath) -> list[Any]:
    """AS numbers in order; an AS_SET is a list of its own (RFC 4271 section 4.3)."""
    words: list[Any] = []
    for kind, numbers in as_path:
        words += numbers if kind == AS_SEQUENCE else [list(numbers)]
    return words


def _is_absent(value: Any) -> bool:
    """0 is a value: of MED as of LOCAL_PREF."""
    return value is None or value is False or value in ((), [], frozenset())


_WORDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "med": ("med", int),
    "local-preference": ("local_pref", int),
    "atomic-aggregate": ("atomic_aggregate", bool),
    "aggregator": ("aggregator", lambda value: f"{value[0]}:{value[1]}"),
    "communities": ("communities", lambda value: [*map(community_text, value)]),
    "originator-id": ("originator_id", str),
    "cluster-list": ("cluster_list", lambda value: [*map(str, value)]),
    "extended-communities": ("ext_communities", lambda value: [*map(ext_community_text, value)]),
    "tunnel-encapsulation-attribute": ("tunnel_encapsulation", tunnel_texts),
    "large-communities": ("large_communities", lambda value: [*map(large_community_text, value)]),
    "unknown-attributes": ("unknown", lambda value: [_unknown_text(*one) for one in value]),
    "partial": ("partial", sorted),
}
"""Name -> field of `PathAttributes` and how its value is written."""


def _unknown_text(flags: int, kind: int, value: bytes) -> str:
    return f"type-{kind}:flags-{flags:02x}:0x{value.hex()}"


def _value_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(f"{{{_value_text(one)}}}" if isinstance(one, list) else _value_text(one) for one in value)
    text = "yes" if value is True else str(value)
    return f"({text})" if " " in text else text
