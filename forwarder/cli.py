"""The verbs that talk to a running forwarder: attach, detach, get, trace, status, drain, undrain, external.

They are clients of the unix-socket API and import nothing beyond the standard library and the checks for attachments:
hooks run them while a VM waits for its start.  Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 no forwarder
answers, 5 it answers and is degraded, 6 the packet that was traced would be dropped.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import quote, urlencode

from forwarder.attachments import AttachmentError, parse_attachment

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_DEGRADED, EXIT_DROPPED = range(7)
_TIMEOUT = 30.0
_PREFIX = "/api/v1"
_COLUMNS = {
    "vifs": ("id", "vpn", "interface", "addresses", "prefixes", "label", "table", "state", "reason"),
    "routes": ("vif", "vpn", "prefix", "next-hops", "route-server", "stale"),
    "drops": ("interface", "vif", "reason", "packets", "octets"),
    "external": ("id", "end-system", "port", "vlan", "vpn", "addresses", "session", "served"),
    "labels": ("label", "vif", "state", "seconds-left"),
    "drain": ("vif", "vpn", "prefix"),
    "route-servers": ("address", "domain", "state", "vpns", "vpns-in-sync", "items", "unusable-items", "reason"),
}
_WIDE = {
    "vifs": ("mac", "rate", "mode", "instance-id", "sequence-numbers", "local-preference"),
    "routes": ("local-preference", "sequence-number"),
}
"""Columns that `-o wide` has beside those; before a reason, which is a sentence and stands at the end of its line."""


class CommandError(Exception):
    """The command failed; text for stderr and the exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def attach(arguments: argparse.Namespace) -> int:
    fields = {
        "vpn": arguments.vpn,
        "interface": arguments.interface,
        "addresses": arguments.address,
        "mac": arguments.mac,
        "rate": arguments.rate,
        "mode": arguments.mode,
        "prefixes": arguments.prefix,
        "sequence_number": arguments.sequence_number,
        "local_preference": arguments.local_preference,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    if arguments.interface is None:
        raise CommandError(f"attach {arguments.id}: needs --interface, or --via and --vlan", EXIT_USAGE)
    if arguments.vlan is not None:
        reason = "--vlan is for --via; here name the device of the VLAN with --interface"
        raise CommandError(f"attach {arguments.id}: {reason}", EXIT_USAGE)
    try:
        parse_attachment(arguments.id, **given)
    except AttachmentError as error:
        raise CommandError(f"attach {arguments.id}: {error}", EXIT_USAGE) from None
    given = {name.replace("_", "-"): value for name, value in given.items()}
    vif = _request(arguments.api, "PUT", _vif_path(arguments.id), given)
    text = f"{vif['id']} attached: vpn {vif['vpn']}, interface {vif['interface']}, label {vif['label']}"
    _show(arguments, vif, text)
    return EXIT_OK


def detach(arguments: argparse.Namespace) -> int:
    answer = _request(arguments.api, "DELETE", _vif_path(arguments.id))
    _show(arguments, answer, f"{arguments.id} {'detached' if answer['was-attached'] else 'was not attached'}")
    return EXIT_OK


def get(arguments: argparse.Namespace) -> int:
    kind = arguments.kind
    if kind == "vifs" and arguments.id is not None:
        answer = _request(arguments.api, "GET", _vif_path(arguments.id))
        items = [answer]
    else:
        filters = {key: getattr(arguments, key, None) for key in ("vpn", "vif", "prefix")}
        if filters["prefix"] is not None:
            filters["prefix"] = _canonical("--prefix", ip_network, filters["prefix"])
        query = urlencode({key: value for key, value in filters.items() if value is not None})
        answer = _request(arguments.api, "GET", f"{_PREFIX}/{kind}{'?' + query if query else ''}")
        items = answer["items"]
    _show(arguments, answer, table(items, _columns(kind, arguments.output)))
    return EXIT_OK


def trace(arguments: argparse.Namespace) -> int:
    given = {"destination": _canonical("ADDRESS", ip_address, arguments.destination)}
    if arguments.source is not None:
        given["source"] = _canonical("--source", ip_address, arguments.source)
    query = urlencode(given)
    answer = _request(arguments.api, "GET", f"{_vif_path(arguments.id)}/trace?{query}")
    steps, arrival = answer["steps"], answer["arrival"]
    width = max(len(step["topic"]) for step in steps)
    lines = [answer["summary"], "", *(f"  {step['topic']:{width}}  {step['words']}" for step in steps)]
    _show(arguments, answer, "\n".join([*lines, "", f"  {'back':{width}}  {arrival['words']}"]))
    if answer["dropped"]:
        return EXIT_DROPPED
    return EXIT_OK if answer["difference"] is None and arrival["problem"] is None else EXIT_DEGRADED


def status(arguments: argparse.Namespace) -> int:
    answer = _request(arguments.api, "GET", f"{_PREFIX}/status")
    lines = [
        f"{answer['jid']}: {answer['state']}, {answer['vifs']} vifs, "
        f"{answer['routes']} routes, {answer['refused-routes']} refused, VMs' MTU {answer['guest-mtu']}",
        table(answer["route-servers"], _COLUMNS["route-servers"]),
        *(f"degraded: {reason}" for reason in answer["degraded"]),
    ]
    _show(arguments, answer, "\n".join(lines))
    return EXIT_DEGRADED if answer["degraded"] else EXIT_OK


def external(arguments: argparse.Namespace) -> int:
    """What end-systems have said; with a role, that this forwarder is the one that serves them, or is not."""
    target = f"{_PREFIX}/external"
    role = arguments.role
    answer = _request(arguments.api, "PUT", target, {"role": role}) if role else _request(arguments.api, "GET", target)
    head = f"{answer['role']}, {answer['sessions']} sessions"
    _show(arguments, answer, "\n".join([head, table(answer["items"], _COLUMNS["external"])]))
    return EXIT_OK


def drain(arguments: argparse.Namespace) -> int:
    """Exit code 5 while a route server does not know of it."""
    answer = _request(arguments.api, "PUT", f"{_PREFIX}/drain")
    lines = ["draining: everything here is published with local-preference 0, and stays until `forwarder undrain`"]
    if answer["only-here"]:
        lines += [
            "no other host has these, which are reached here still:",
            table(answer["only-here"], _COLUMNS["drain"]),
        ]
    else:
        lines.append("nothing is only here")
    _show(arguments, answer, "\n".join([*lines, *_unheard(answer)]))
    return EXIT_DEGRADED if _unheard(answer) else EXIT_OK


def undrain(arguments: argparse.Namespace) -> int:
    answer = _request(arguments.api, "DELETE", f"{_PREFIX}/drain")
    lines = ["not draining: everything here is published with its own local-preference", *_unheard(answer)]
    _show(arguments, answer, "\n".join(lines))
    return EXIT_DEGRADED if _unheard(answer) else EXIT_OK


def _unheard(answer: dict[str, Any]) -> list[str]:
    return [
        *(f"route server {name} cannot be reached, and is told when it can" for name in answer["not-told"]),
        *(f"route server {name} has not answered yet" for name in answer["unconfirmed"]),
    ]


def table(items: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Left-aligned columns under upper-case heads; columns nobody has a value for are left out."""
    shown = [column for column in columns if not items or any(item.get(column) not in (None, []) for item in items)]
    rows = [[column.upper() for column in shown], *([_cell(item.get(column)) for column in shown] for item in items)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(shown))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _columns(kind: str, output: str) -> tuple[str, ...]:
    plain = _COLUMNS[kind]
    wide = _WIDE.get(kind, ()) if output == "wide" else ()
    return tuple(sorted((*plain, *wide), key="reason".__eq__)) if wide else plain


def _canonical(option: str, read: Callable[[str], object], text: str) -> str:
    """As the forwarder writes it: an address alone is the prefix of that host."""
    try:
        return str(read(text))
    except ValueError as error:
        raise CommandError(f"{option}: {error}", EXIT_USAGE) from None


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(_cell(element) for element in value)
    if isinstance(value, dict) and value.keys().isdisjoint(("vif", "next-hop")):
        return ",".join(f"{key}={_cell(element)}" for key, element in value.items()) or "-"
    if isinstance(value, dict):
        remote = f"{value.get('next-hop')} label {value.get('label')} {value.get('tunnel-encapsulation')}"
        return f"vif {value['vif']}" if "vif" in value else remote
    return str(value)


def _vif_path(attachment_id: str) -> str:
    return f"{_PREFIX}/vifs/{quote(attachment_id, safe='')}"


def _show(arguments: argparse.Namespace, answer: dict[str, Any], text: str) -> None:
    print(json.dumps(answer, indent=2) if arguments.output == "json" else text)


def _request(path: str, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The decoded answer. Raises CommandError."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
        if not isinstance(answer, dict):
            raise ValueError("no JSON object")
    except PermissionError:
        raise CommandError(f"{path} is for its owner only: run this as root", EXIT_UNREACHABLE) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandError(
            f"no forwarder answers at {path} ({reason}); start it with `forwarder run --config FILE`, "
            "or name its socket with --api",
            EXIT_UNREACHABLE,
        ) from None
    except (http.client.HTTPException, ValueError) as error:
        raise CommandError(f"what answers at {path} is not a forwarder ({error})", EXIT_ERROR) from None
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        exit_code = EXIT_NOT_FOUND if response.status == http.client.NOT_FOUND else EXIT_ERROR
        raise CommandError(answer.get("detail", response.reason), exit_code)
    return answer


def fail(error: CommandError) -> int:
    print(f"forwarder: {error}", file=sys.stderr)
    return error.exit_code
