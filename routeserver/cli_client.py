"""`status` and `get`: questions to the HTTP API of a running server, answered as tables or as the API's own JSON.

A table is plain text in aligned columns; `wide` has more columns and, for routes, the paths that were not selected
with the reason.  `json` prints the object the API returned, also when it is an error.
"""

from __future__ import annotations

import argparse
import enum
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Any, TypeAlias

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_DEGRADED = range(6)
TIMEOUT = 10.0

Row: TypeAlias = Mapping[str, Any]
# Proxies of the environment are for the world outside; the API is on this host or close by.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Output(enum.StrEnum):
    """The values of `-o`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class CommandError(Exception):
    """A command failed; the text, if there is one, is for stderr."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def status(arguments: argparse.Namespace) -> int:
    """`routeserver status`."""
    answer = _ask(arguments, "readyz?verbose")
    checks = answer["checks"]
    if arguments.output is Output.JSON:
        _print_json(answer)
    else:
        print(f"ready: {_cell(answer['ready'])}")
        _print_table(("check", "ok", "detail"), checks)
    return EXIT_OK if answer["ready"] and all(check["ok"] for check in checks) else EXIT_DEGRADED


def vpns(arguments: argparse.Namespace) -> int:
    """`routeserver get vpns`."""
    columns = ("name", "import-route-target", "export-route-target", "subscribers", "published-items", "routes")
    return _list(arguments, "api/v1/vpns", columns, ("members", "prefixes"), _vpn_rows)


def routes(arguments: argparse.Namespace) -> int:
    """`routeserver get routes VPN`."""
    columns = ("prefix", "next-hop", "label", "tunnel-encapsulation", "protocol", "source")
    more = ("local-preference", "sequence-number", "route-distinguisher", "route-target", "stale", "item-id")
    wide = (*more, "not-selected-because")
    path = f"api/v1/vpns/{urllib.parse.quote(arguments.vpn, safe='')}/routes"
    return _list(arguments, path, columns, wide, _route_rows)


def forwarders(arguments: argparse.Namespace) -> int:
    """`routeserver get forwarders`."""
    columns = ("jid", "connected", "address", "published-items", "stale-items")
    return _list(arguments, "api/v1/forwarders", columns, ("sessions", "instance-ids"), _forwarder_rows)


def neighbors(arguments: argparse.Namespace) -> int:
    """`routeserver get neighbors`."""
    columns = ("address", "peer-as", "type", "state", "received", "sent", "last-closed-because")
    wide = ("router-id", "passive", "route-reflector-client", "sessions-lost", "malformed-updates", "afi-safis")
    return _list(arguments, "api/v1/bgp/neighbors", columns, wide, _neighbor_rows)


def _list(
    arguments: argparse.Namespace,
    path: str,
    columns: Sequence[str],
    wide: Sequence[str],
    rows: Callable[[Iterable[Row], bool], Iterable[Row]],
) -> int:
    answer = _ask(arguments, path)
    if arguments.output is Output.JSON:
        _print_json(answer)
    else:
        is_wide = arguments.output is Output.WIDE
        _print_table((*columns, *(wide if is_wide else ())), rows(answer["items"], is_wide))
    return EXIT_OK


# --- From the API's objects to rows of a table ----------------------------------------------------------------------


def _vpn_rows(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    return ({**vpn, "subscribers": len(vpn["subscribers"])} for vpn in items)


def _route_rows(items: Iterable[Row], wide: bool) -> Iterable[Row]:
    for route in items:
        for path in route["paths"]:
            if wide or path["selected"]:
                yield from ({**route, **path, **hop} for hop in path["next-hops"])


def _forwarder_rows(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    for forwarder in items:
        sessions = forwarder["sessions"]
        yield {
            **forwarder,
            "address": [session["address"] for session in sessions],
            "sessions": [session["jid"] for session in sessions],
        }


def _neighbor_rows(items: Iterable[Row], _wide: bool) -> Iterable[Row]:
    for neighbor in items:
        families = neighbor["afi-safis"]
        yield {
            **neighbor,
            "received": sum(family["received"] for family in families),
            "sent": sum(family["sent"] for family in families),
            "afi-safis": [family["afi-safi"] for family in families if family["negotiated"]],
        }


# --- The API --------------------------------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace, path: str) -> Any:
    """The JSON at `path`. Raises CommandError, after printing the problem object if JSON was asked for."""
    url = f"{arguments.api.rstrip('/')}/{path}"
    try:
        with _OPENER.open(url, timeout=TIMEOUT) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 503:  # not ready, said in the same words as ready
            return json.load(error)
        raise _refusal(arguments, url, error) from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        advice = "--api or ROUTESERVER_API says where the API is"
        raise CommandError(EXIT_UNREACHABLE, f"{url}: {reason}; {advice}") from None


def _refusal(arguments: argparse.Namespace, url: str, error: urllib.error.HTTPError) -> CommandError:
    code = EXIT_NOT_FOUND if error.code == 404 else EXIT_ERROR
    if error.headers.get_content_type() != "application/problem+json":
        return CommandError(code, f"{url}: {error.code} {error.reason}; is that the API of a route server?")
    problem = json.load(error)
    if arguments.output is Output.JSON:
        _print_json(problem)
        return CommandError(code, "")
    return CommandError(code, problem["detail"])


# --- Printing -------------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    table = [[column.upper() for column in columns], *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(map(_cell, value))
        case dict():
            return ",".join(f"{key}={_cell(item)}" for key, item in value.items())
    return str(value)
