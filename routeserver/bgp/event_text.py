"""Events of a session in words, one line each: what a trace records, and what a replay is compared by.

Equal events have equal words in every version, so the words say all that the core is told and nothing of how it was
found out: routes as RD and prefix with label, attributes by `attribute_text`, records field by field.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from routeserver.bgp.attribute_text import attribute_line
from routeserver.bgp.events import (
    BgpEvent,
    EndOfRib,
    Established,
    RefreshBegins,
    RefreshEnds,
    RefreshRequested,
    RoutesReceived,
    RoutesWithdrawn,
    UpdateMalformed,
)
from routeserver.bgp.iana import Family, Role
from routeserver.bgp.nlri import key_text


def event_text(event: BgpEvent, paths_in: frozenset[Family]) -> str:
    """The kind of the event and what it says; keys of families in `paths_in` begin with a path identifier."""
    return f"{type(event).__name__} {_says(event, paths_in)}".rstrip()


def _says(event: BgpEvent, paths_in: frozenset[Family]) -> str:
    match event:
        case RoutesReceived():
            return f"{event.family.label} {routes_text(event, paths_in)} with {attribute_line(event.attributes)}"
        case RoutesWithdrawn():
            keys = (key_text(event.family, key, event.family in paths_in) for key in event.keys)
            return f"{event.family.label} {', '.join(keys)}"
        case Established():
            return record_line(event.negotiated)
        case UpdateMalformed():
            return event.reason
        case EndOfRib() | RefreshRequested() | RefreshBegins() | RefreshEnds():
            return event.family.label
        case _:
            return record_line(event)


def routes_text(event: RoutesReceived, paths_in: frozenset[Family]) -> str:
    """`64512:7 10.1.2.0/24 label 300, …`."""
    with_id, is_labelled = event.family in paths_in, event.family is not Family.RTC
    return ", ".join(
        f"{key_text(event.family, key, with_id)}{f' label {label}' if is_labelled else ''}" for key, label in event.nlri
    )


def record_line(record: Any) -> str:
    """The fields of a dataclass that say something, as `name=value`: a feature nobody has yet changes no words."""
    values = ((field.name.replace("_", "-"), getattr(record, field.name)) for field in fields(record))
    return " ".join(f"{name}={_text(value)}" for name, value in values if not _is_nothing(value))


def _is_nothing(value: Any) -> bool:
    """0 is a value."""
    return value is None or value is False or value in ((), {}, "", frozenset())


def _text(value: Any) -> str:
    match value:
        case Family() | Role():
            return value.label
        case bool():
            return "yes" if value else "no"
        case frozenset():
            return ",".join(sorted(map(_text, value)))
        case tuple():
            return "/".join(map(_text, value))
        case dict():
            return ",".join(f"{_text(key)}:{_text(value[key])}" for key in sorted(value))
    return f"({record_line(value)})" if is_dataclass(value) else str(value)
