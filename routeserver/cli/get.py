"""`status` and `get`: what the API of a running server lists, as tables or as the API's own JSON.

A table is plain text in aligned columns; `wide` has more columns and, for routes, the paths that were not selected
with the reason.  `json` prints the object the API returned, also when it is an error; a list is whole then, however
many pages it came in.
"""

from __future__ import annotations

import argparse
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from routeserver.cli.client import EXIT_DEGRADED, EXIT_OK, Output, ask, ask_list
from routeserver.cli.words import Row, cell, cut, duration, print_json, print_table

_Rows: TypeAlias = Callable[[Iterable[Row], bool], Iterable[Row]]
_ERROR_WIDTH = 50


def status(arguments: argparse.Namespace) -> int:
    """`routeserver status`."""
    answer = ask(arguments, "readyz?verbose")
    checks = answer["checks"]
    if arguments.output is Output.JSON:
        print_json(answer)
    else:
        print(f"ready: {cell(answer['ready'])}")
        print_table(("check", "ok", "detail"), checks)
    return EXIT_OK if answer["ready"] and all(check["ok"] for check in checks) else EXIT_DEGRADED


def vpns(arguments: argparse.Namespace) -> int:
    """`routeserver get vpns`."""
    columns = ("name", "import-route-target", "export-route-target", "subscribers", "published-items", "routes")
    return _list(arguments, "api/v1/vpns", columns, (*columns, "members", "prefixes"), _vpn_rows)


def routes(arguments: argparse.Namespace) -> int:
    """`routeserver get routes VPN`."""
    columns = ("prefix", "next-hop", "label", "tunnel-encapsulation", "protocol", "source")
    more = ("local-preference", "sequence-number", "route-distinguisher", "route-target", "stale", "item-id")
    path = f"api/v1/vpns/{urllib.parse.quote(arguments.vpn, safe='')}/routes"
    wide = (*columns, *more, "multipath", "not-selected-because", "not-selected-among")
    return _list(arguments, path, columns, wide, _route_rows, {"prefix": arguments.prefix, "member": arguments.member})


def forwarders(arguments: argparse.Namespace) -> int:
    """`routeserver get forwarders`."""
    columns = ("jid", "connected", "address", "published-items", "stale-items")
    wide = (*columns, "sessions", "instance-ids", "refused")
    return _list(arguments, "api/v1/forwarders", columns, wide, _forwarder_rows)


def neighbors(arguments: argparse.Namespace) -> int:
    """`routeserver get neighbors`."""
    columns = ("address", "peer-as", "state", "time-in-state", "received", "sent")
    more = ("stale", "refused", "type", "dynamic", "passive", "route-reflector-client", "router-id", "sessions-lost")
    wide = (*columns, *more, "malformed-updates", "afi-safis", "last-error")
    return _list(arguments, "api/v1/bgp/neighbors", (*columns, "last-error"), wide, _neighbor_rows)


def rtc(arguments: argparse.Namespace) -> int:
    """`routeserver get rtc`."""
    columns = ("origin-as", "route-target", "originated", "received-from", "advertised-to")
    return _list(arguments, "api/v1/rt-constraints", columns, (*columns, "prefix-length", "membership"), _as_they_are)


def rib(arguments: argparse.Namespace) -> int:
    """`routeserver get rib`."""
    columns = ("route-distinguisher", "prefix", "next-hop", "label", "source", "stale", "not-selected-because")
    more = ("local-preference", "as-path", "extended-communities", "communities", "path-id", "vpn", "advertised-to")
    query = {"afi-safi": arguments.afi_safi, "rd": arguments.rd, "prefix": arguments.prefix}
    return _list(arguments, "api/v1/bgp/rib", columns, (*columns[:-1], *more, columns[-1]), _rib_rows, query)


def _list(
    arguments: argparse.Namespace,
    path: str,
    columns: Sequence[str],
    wide: Sequence[str],
    rows: _Rows,
    query: Mapping[str, str | None] | None = None,
) -> int:
    answer = ask_list(arguments, path, query)
    if arguments.output is Output.JSON:
        print_json(answer)
    else:
        is_wide = arguments.output is Output.WIDE
        print_table(wide if is_wide else columns, rows(answer["items"], is_wide))
    return EXIT_OK


# --- From the API's objects to rows of a table ----------------------------------------------------------------------


def _as_they_are(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    return items


def _vpn_rows(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    return ({**vpn, "subscribers": len(vpn["subscribers"])} for vpn in items)


def _route_rows(items: Iterable[Row], wide: bool) -> Iterable[Row]:
    for route in items:
        for path in route["paths"]:
            if wide or path["selected"] or path["multipath"]:
                yield from ({**route, **path, **hop} for hop in path["next-hops"])


def _rib_rows(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    for destination in items:
        for path in destination["paths"]:
            told = destination["advertised-to"] if path["selected"] else None
            yield {**destination, **path["attributes"], **path, "advertised-to": told}


def _forwarder_rows(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    for forwarder in items:
        sessions = forwarder["sessions"]
        yield {
            **forwarder,
            "address": [session["address"] for session in sessions if not session["detached"]],
            "sessions": [session["jid"] + " (detached)" * session["detached"] for session in sessions],
        }


def _neighbor_rows(items: Iterable[Row], wide: bool) -> Iterable[Row]:
    """An established neighbor's last error is history, and only wide tables have room for that."""
    for neighbor in items:
        families, error = neighbor["afi-safis"], neighbor["last-error"]
        if not wide:
            error = None if neighbor["state"] == "established" else cut(error, _ERROR_WIDTH)
        yield {
            **neighbor,
            "time-in-state": duration(neighbor["seconds-in-state"]),
            **{name: sum(family[name] for family in families) for name in ("received", "stale", "sent")},
            "refused": sum(sum(family["refused"].values()) for family in families),
            "afi-safis": [family["afi-safi"] for family in families if family["negotiated"]],
            "last-error": error,
        }
