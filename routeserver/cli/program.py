"""The command line of `routeserver`.

`run` and `config check` work on the configuration file, `status`, `get` and `describe` ask the HTTP API of a running
server, `trace` has it record a neighbor and shows such a record, `drain` sends its clients elsewhere, `pki` makes
certificates, and `account` lets a client without one log in.  Results go to stdout, what is wrong goes to stderr in one
line, and the exit code tells the kinds apart: 0 fine, 1 error, 2 usage or configuration, 3 not found, 4 server
unreachable, 5 degraded.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from routeserver import log, pki
from routeserver.cli import account as cli_account
from routeserver.cli import describe as cli_describe
from routeserver.cli import drain as cli_drain
from routeserver.cli import get as cli_get
from routeserver.cli import trace as cli_trace
from routeserver.cli.client import EXIT_ERROR, EXIT_OK, EXIT_USAGE, CommandError, Output
from routeserver.config.file import Config, ConfigError, load

DEFAULT_API = "http://127.0.0.1:8080"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = chosen.command
    try:
        code = command(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough; the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except CommandError as error:
        if str(error):
            print(f"routeserver: {error}", file=sys.stderr)
        return error.exit_code
    except pki.PkiError as error:
        print(f"routeserver: {error}", file=sys.stderr)
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="routeserver", description="End-system route server: XMPP and BGP in one.")
    verbs = parser.add_subparsers(required=True, metavar="run|config|status|get|describe|trace|drain|pki|account")
    run = verbs.add_parser("run", help="run the server until SIGTERM; SIGHUP has it read FILE again")
    _add_config(run, _run)
    config_file = verbs.add_parser("config", help="work on the configuration file")
    config = config_file.add_subparsers(required=True, metavar="check")
    _add_config(config.add_parser("check", help="read the file and say what is wrong with it"), _check)
    status = verbs.add_parser("status", help="is it ready, and what is degraded")
    _add_output(status, cli_get.status)
    _add_get(verbs.add_parser("get", help="show what the server knows"))
    describe = verbs.add_parser("describe", help="show all there is to know of one thing")
    described = describe.add_subparsers(required=True, metavar="neighbor").add_parser("neighbor", help="a BGP neighbor")
    described.add_argument("address", metavar="ADDRESS", help="as in `get neighbors`")
    _add_output(described, cli_describe.neighbor)
    _add_trace(verbs.add_parser("trace", help="record what is said with a BGP neighbor, and read it"))
    _add_drain(verbs.add_parser("drain", help="send XMPP clients to another route server, before maintenance"))
    authority = verbs.add_parser("pki", help="a certificate authority of your own")
    _add_pki(authority.add_subparsers(required=True, metavar="init|issue"))
    cli_account.add_account(verbs.add_parser("account", help="make a table for a client that has a password"))
    return parser


def _add_config(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="configuration file (TOML)")
    parser.set_defaults(command=command)


def _add_get(parser: argparse.ArgumentParser) -> None:
    get = parser.add_subparsers(required=True, metavar="vpns|routes|forwarders|neighbors|rtc|rib")
    for name, what in (
        ("vpns", "VPNs"),
        ("forwarders", "forwarders"),
        ("neighbors", "BGP neighbors"),
        ("rtc", "RT-Constraint memberships"),
    ):
        _add_output(get.add_parser(name, help=f"list the {what}"), getattr(cli_get, name))
    routes = get.add_parser("routes", help="list the routes of a VPN")
    routes.add_argument("vpn", metavar="VPN", help="its name, as in `get vpns`")
    routes.add_argument("--prefix", metavar="PREFIX", help="exactly this one, with every path that could have been it")
    routes.add_argument("--member", metavar="JID", help="as this forwarder sees the VPN, if it has other route targets")
    _add_output(routes, cli_get.routes)
    rib = get.add_parser("rib", help="list the VPN table over all route distinguishers, with all paths")
    rib.add_argument("--afi-safi", metavar="NAME", help="l3vpn-ipv4-unicast or l3vpn-ipv6-unicast")
    rib.add_argument("--rd", metavar="RD", help="such as 64512:1 or 192.0.2.1:1")
    rib.add_argument("--prefix", metavar="PREFIX", help="exactly this one")
    _add_output(rib, cli_get.rib)


def _add_trace(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="on|off|show")
    for word, what in (("on", "record from now on, into a file of the server's"), ("off", "record no more")):
        switch = verbs.add_parser(word, help=what)
        switch.add_argument("address", metavar="ADDRESS", help="of the neighbor, as in `get neighbors`")
        switch.set_defaults(enabled=word == "on")
        _add_output(switch, cli_trace.switch)
    show = verbs.add_parser("show", help="print a record, decoded")
    show.add_argument("file", metavar="FILE", type=Path)
    show.set_defaults(command=cli_trace.show)


def _add_drain(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", metavar="HOST[:PORT]", help="where clients are to go")
    what.add_argument("--cancel", action="store_true", help="let clients in again")
    parser.add_argument("--over", metavar="TIME", help="how long it may take, such as 60s or 5m (default 30s)")
    _add_output(parser, cli_drain.drain)


def _add_output(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    api = os.environ.get("ROUTESERVER_API", DEFAULT_API)
    parser.add_argument(
        "-o", "--output", type=Output, choices=list(Output), default=Output.TABLE,
        help="wide has more columns and, for routes, the paths not selected; json is the API's own (default table)",
    )  # fmt: skip
    parser.add_argument("--api", metavar="URL", default=api, help=f"where the API is (ROUTESERVER_API; now {api})")
    parser.set_defaults(command=command)


def _add_pki(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = verbs.add_parser("init", help="make the authority and the route server's certificate")
    init.add_argument("directory", metavar="DIR", type=Path, help="where the files go; it is made if it is not there")
    init.add_argument("--domain", required=True, help="the XMPP domain the server's certificate names")
    init.set_defaults(command=_pki_init)
    issue = verbs.add_parser("issue", help="make a forwarder's certificate")
    issue.add_argument("directory", metavar="DIR", type=Path, help="where the authority is, and the new files go")
    issue.add_argument("name", metavar="NAME", help="the forwarder's JID, such as host1.example.net")
    issue.add_argument(
        "--address", metavar="IP", type=ipaddress.ip_address, action="append", default=[],
        help="an infrastructure address it may publish as next hop; may be repeated",
    )  # fmt: skip
    issue.set_defaults(command=_pki_issue)


def _run(arguments: argparse.Namespace) -> int:
    import uvloop

    from routeserver.io.server import serve
    from routeserver.io.tcp import UnprotectedError

    config = _load(arguments.config)
    log.setup()
    _raise_descriptor_limit()
    try:
        uvloop.run(serve(config, lambda: load(arguments.config)))
    except UnprotectedError as error:
        raise CommandError(EXIT_ERROR, str(error)) from None
    except OSError as error:
        raise CommandError(EXIT_ERROR, f"cannot listen: {error.strerror or error}") from None
    return EXIT_OK


def _check(arguments: argparse.Namespace) -> int:
    settings = _load(arguments.config).settings
    print(f"{arguments.config}: fine: {len(settings.vpns)} VPNs, {len(settings.neighbors)} BGP neighbors")
    return EXIT_OK


def _load(file: Path) -> Config:
    try:
        return load(file)
    except ConfigError as error:
        raise CommandError(EXIT_USAGE, str(error)) from None


def _raise_descriptor_limit() -> None:
    """A session is a file descriptor, and the usual soft limit of 1024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _pki_init(arguments: argparse.Namespace) -> int:
    return _show_files(pki.init(arguments.directory, arguments.domain))


def _pki_issue(arguments: argparse.Namespace) -> int:
    return _show_files(pki.issue(arguments.directory, arguments.name, arguments.address))


def _show_files(files: Sequence[Path]) -> int:
    for file in files:
        print(file)
    return EXIT_OK
