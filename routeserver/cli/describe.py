"""`describe neighbor`: all the API has on one neighbor, for reading."""

from __future__ import annotations

import argparse
import urllib.parse
from typing import Any

from routeserver.cli.client import EXIT_OK, Output, ask
from routeserver.cli.words import Row, duration, print_fields, print_json, print_table

_SECONDS = "-seconds"


def neighbor(arguments: argparse.Namespace) -> int:
    """`routeserver describe neighbor ADDRESS`."""
    view = ask(arguments, f"api/v1/bgp/neighbors/{urllib.parse.quote(arguments.address, safe='')}")
    if arguments.output is Output.JSON:
        print_json(view)
        return EXIT_OK
    print_fields(f"neighbor {view['address']}", _head(view))
    print("\nroutes")
    print_table(_ROUTE_COLUMNS, map(_route_row, view["afi-safis"]), "  ")
    if view["rt-constraints"]:
        print("\nrt-constraints received")
        for membership in view["rt-constraints"]:
            print(f"  {membership}")
    if view["negotiated"] is not None:
        print()
        print_fields("negotiated", _said({**view["negotiated"], **_long_lived(view["negotiated"])}))
    print()
    print_fields("configured", _said(view["configured"]))
    print("\nmessages, all sessions")
    print_table(("type", "received", "sent"), _traffic_rows(view), "  ")
    print()
    print_fields("faults, all sessions", _faults(view))
    return EXIT_OK


def _head(view: Row) -> dict[str, Any]:
    """Who it is and how it is; what says nothing is left out."""
    kind = [view["type"]]
    kind += [name for name in ("passive", "dynamic", "route-reflector-client") if view[name]]
    since, trace = duration(view["seconds-in-state"]), view["trace"]
    fields = {
        "peer-as": f"{view['peer-as']} ({', '.join(kind)})",
        "state": view["state"] if since is None else f"{view['state']} for {since}",
        "range": view["range"],
        "router-id": view["router-id"],
        "local-address": view["local-address"],
        "idle for another": duration(view["idle-hold-seconds"]),
        "next dial in": duration(view["next-dial-seconds"]),
        "waits for rt-constraints": duration(view["waits-for-rt-constraints-seconds"]),
        "last-error": view["last-error"],
        "sessions": f"{view['sessions-established']} established, {view['sessions-lost']} of them over",
        "failures in a row": view["failures-in-a-row"] or None,
        "trace": f"on, {trace['file']}" if trace["enabled"] else "off",
    }
    return {name: value for name, value in fields.items() if value is not None}


_COUNTS = ("received", "refused", "stale", "sent")
_ROUTE_COLUMNS = ("afi-safi", "negotiated", *_COUNTS, "end-of-rib", "max-prefixes", "kept")


def _route_row(family: Row) -> Row:
    limit, kept = family["max-prefixes"], family["kept"]
    return {
        **family,
        "end-of-rib": family["end-of-rib-received"],
        "max-prefixes": limit and f"{limit['used-percent']:g}% of {limit['limit']}, {limit['on-excess']}",
        "kept": kept and f"{duration(kept['seconds-left'])}: {kept['because']}",
    }


def _said(section: Row) -> dict[str, Any]:
    """Settings and terms as lines; one that has parts has a line for each of them."""
    fields: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict) and value:
            fields |= {f"{name} {part}": said for part, said in _said(value).items()}
        elif name.endswith(_SECONDS):
            fields[name.removesuffix(_SECONDS)] = duration(value)
        else:
            fields[name] = value
    return fields


def _long_lived(terms: Row) -> Row:
    """Each family with its time, in one line."""
    name = "long-lived-graceful-restart"
    return {name: [f"{said['afi-safi']}:{duration(said['seconds'])}" for said in terms[name]]}


def _traffic_rows(view: Row) -> list[Row]:
    messages = view["messages"]
    kinds = [{"type": kind, **{way: counts[kind] for way, counts in messages.items()}} for kind in messages["sent"]]
    return [*kinds, {"type": "octets", **view["octets"]}]


def _faults(view: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for way in ("sent", "received"):
        told = view[f"last-notification-{way}"]
        fields[f"last NOTIFICATION {way}"] = told and f"{duration(told['seconds-ago'])} ago: {_notification(told)}"
    fields["malformed UPDATEs"] = view["malformed-updates"]
    fields |= {f"  {attribute}": count for attribute, count in view["malformed"].items()}
    fields["unsendable routes"] = view["unsendable-routes"]
    return fields


def _notification(told: Row) -> str:
    text = str(told["text"]).removeprefix("NOTIFICATION ")
    return f"{text}, data {told['data']}" if told["data"] else text
