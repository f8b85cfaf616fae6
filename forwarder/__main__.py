"""The `forwarder` command: argument parsing, and the daemon's start and end.

The daemon's modules are imported by `run` only; the other verbs stay light (see `cli`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from forwarder import cli
from forwarder.attachments import Mode
from schema.values import DEFAULT_LOCAL_PREFERENCE

if TYPE_CHECKING:
    from forwarder.agent import Agent
    from forwarder.api import Api
    from forwarder.config import Config
    from forwarder.dataplane.contract import Dataplane
    from forwarder.external.service import ExternalService
    from forwarder.firsthop.responder import Responder

_DEFAULT_API = "/run/forwarder.sock"
_END_SYSTEM = Path("/etc/forwarder/end-system.toml")
_OUTPUTS = ("table", "wide", "json")


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        exit_code: int = arguments.verb(arguments)
    except cli.CommandError as error:
        return cli.fail(error)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="forwarder", description="VPN forwarder of one hypervisor")
    names = "run|config|attach|detach|drain|undrain|external|get|trace|status|purge"
    verbs = parser.add_subparsers(metavar=names, required=True)
    run = verbs.add_parser("run", help="run the forwarder in the foreground")
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration file (TOML)")
    run.set_defaults(verb=_run)
    config = verbs.add_parser("config", help="work on the configuration file").add_subparsers(
        required=True, metavar="check"
    )
    check = config.add_parser("check", help="read the file and say what is wrong with it")
    check.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration file (TOML)")
    check.set_defaults(verb=_check)

    client = argparse.ArgumentParser(add_help=False)
    client.add_argument("--api", default=_DEFAULT_API, metavar="SOCKET", help=f"its socket (default {_DEFAULT_API})")
    client.add_argument(
        "-o", "--output", choices=_OUTPUTS, default="table", help="default table; wide has more columns"
    )
    _add_attach(verbs.add_parser("attach", parents=[client], help="put an interface into a VPN; repeating it is safe"))
    detach = verbs.add_parser("detach", parents=[client], help="take an interface out of its VPN")
    detach.add_argument("id", metavar="ID", help="the attachment's name")
    detach.set_defaults(verb=cli.detach)
    drain = verbs.add_parser("drain", parents=[client], help="move traffic to other hosts, before maintenance")
    drain.set_defaults(verb=cli.drain)
    undrain = verbs.add_parser("undrain", parents=[client], help="take a drain back")
    undrain.set_defaults(verb=cli.undrain)
    external = verbs.add_parser("external", parents=[client], help="end-systems behind this forwarder; its role")
    external.add_argument("role", nargs="?", choices=("active", "standby"), help="what VRRP has made of this one")
    external.set_defaults(verb=cli.external)
    _add_get(verbs.add_parser("get", help="list what the forwarder has"), client)
    trace = verbs.add_parser(
        "trace", parents=[client], help="what would become of a packet; exit code 6 when it would be dropped"
    )
    trace.add_argument("id", metavar="ID", help="the interface that it comes from, by its attachment's name")
    trace.add_argument("destination", metavar="ADDRESS", help="where it is to go")
    trace.add_argument("--source", metavar="ADDRESS", help="where it says it comes from (default: the interface's own)")
    trace.set_defaults(verb=cli.trace)
    status = verbs.add_parser("status", parents=[client], help="route servers and counts; exit code 5 when degraded")
    status.set_defaults(verb=cli.status)
    purge = verbs.add_parser("purge", help="remove all that a forwarder, stopped by now, has made on this host")
    purge.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration it had")
    purge.set_defaults(verb=_purge)
    return parser


def _add_attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the attachment's name, chosen by the caller")
    parser.add_argument("--vpn", required=True, metavar="VPN", help="as the route server calls it")
    parser.add_argument("--interface", metavar="DEVICE", help="the virtual interface on this host")
    parser.add_argument("--address", required=True, action="append", metavar="ADDRESS/32", help="may be repeated")
    parser.add_argument(
        "--prefix", action="append", default=[], metavar="PREFIX",
        help="routed behind the interface, by way of its address: the VM is a router; may be repeated",
    )  # fmt: skip
    parser.add_argument("--mac", metavar="MAC", help="the only one the VM may send from")
    parser.add_argument("--rate", metavar="RATE", help="limit in each direction, for example 100mbit")
    parser.add_argument(
        "--mode", choices=[mode.value for mode in Mode],
        help="first hop 169.254.1.1 (the default), or ARP and ND answered for a whole subnet",
    )  # fmt: skip
    parser.add_argument(
        "--sequence-number", type=int, metavar="N",
        help="publish with this one (0 for anycast); without, one more than another host has",
    )  # fmt: skip
    parser.add_argument(
        "--local-preference", type=int, metavar="N",
        help=f"the highest wins before anything else counts (default {DEFAULT_LOCAL_PREFERENCE})",
    )  # fmt: skip
    via = parser.add_argument_group("on a host without a forwarder of its own; runs for as long as it is attached")
    via.add_argument(
        "--via", action="append", metavar="ADDRESS", help="an external forwarder of the configuration; may be repeated"
    )
    via.add_argument("--vlan", type=int, metavar="N", help="the 802.1Q tag of the interface, which this host has made")
    via.add_argument(
        "--config", type=Path, default=_END_SYSTEM, metavar="FILE", help=f"who this host is (default {_END_SYSTEM})"
    )
    parser.set_defaults(verb=_attach)


def _add_get(parser: argparse.ArgumentParser, client: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(metavar="vifs|routes|labels|drops", required=True, dest="kind")
    vifs = kinds.add_parser("vifs", parents=[client], help="virtual interfaces; why one is not published")
    vifs.add_argument("id", metavar="ID", nargs="?", help="only this one")
    routes = kinds.add_parser("routes", parents=[client], help="learned routes, by virtual interface")
    for name in ("vpn", "vif", "prefix"):
        routes.add_argument(f"--{name}", help=f"only routes with this {name}")
    kinds.add_parser("labels", parents=[client], help="labels in use, and those that rest before they are used again")
    kinds.add_parser("drops", parents=[client], help="packets that guards have dropped, by interface and reason")
    for kind in kinds.choices.values():
        kind.set_defaults(verb=cli.get)


def _attach(arguments: argparse.Namespace) -> int:
    if not arguments.via:
        return cli.attach(arguments)
    from forwarder.external import verb

    return verb.attach(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from forwarder import log

    config = _config(arguments)
    log.setup()
    return asyncio.run(_serve(config))


def _check(arguments: argparse.Namespace) -> int:
    from forwarder import config

    try:
        checked = config.check(arguments.config)
    except config.ConfigError as error:
        raise cli.CommandError(str(error), cli.EXIT_USAGE) from None
    print(f"{arguments.config}: fine: {checked.identity.jid}, {len(checked.route_servers)} route servers")
    return cli.EXIT_OK


def _purge(arguments: argparse.Namespace) -> int:
    from forwarder.dataplane.values import DataplaneError
    from forwarder.purge import StillRunningError, purge
    from forwarder.state import StateError

    config = _config(arguments)
    try:
        removed = purge(config, _dataplane(config))
    except (StillRunningError, DataplaneError, StateError) as error:
        raise cli.CommandError(str(error), cli.EXIT_ERROR) from None
    print("\n".join(removed or ["nothing of the forwarder is on this host"]))
    return cli.EXIT_OK


def _config(arguments: argparse.Namespace) -> Config:
    from forwarder import config

    try:
        return config.load(arguments.config)
    except config.ConfigError as error:
        raise cli.CommandError(str(error), cli.EXIT_USAGE) from None


async def _serve(config: Config) -> int:
    """Until SIGTERM or SIGINT; forwarding outlives it."""
    from forwarder.agent import Agent
    from forwarder.api import Api, ApiError
    from forwarder.collector import calm_the_collector
    from forwarder.dataplane.values import DataplaneError
    from forwarder.external.table import ExternalError
    from forwarder.labels import AllocationError
    from forwarder.log import record
    from forwarder.state import StateError

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        dataplane = _dataplane(config)
        agent = Agent(config, dataplane, _first_hop(config, dataplane))
        calm_the_collector()
        api = Api(agent, config.api)
        await api.start()
        await start_agent(agent, api)
        external = await _start_external(agent, api, config)
    except (ApiError, DataplaneError, AllocationError, StateError, ExternalError) as error:
        raise cli.CommandError(str(error), cli.EXIT_ERROR) from None
    record(logging.INFO, "forwarder.ready", jid=config.identity.jid, api=str(config.api), vifs=len(agent.vifs))
    await stopped.wait()
    record(logging.INFO, "forwarder.stopping")
    if external is not None:
        await external.stop()
    await api.stop()
    await agent.stop()
    return cli.EXIT_OK


async def _start_external(agent: Agent, api: Api, config: Config) -> ExternalService | None:
    """Serve end-systems, if there are any behind this forwarder. Raises ExternalError."""
    if config.external is None:
        return None
    from forwarder.external.service import ExternalService
    from forwarder.external.table import ExternalError
    from forwarder.state import StateError

    service = ExternalService(agent, config.external)
    try:
        await service.start()
    except (OSError, StateError) as error:
        await service.stop()
        await api.stop()
        await agent.stop()
        raise ExternalError(f"external: {getattr(error, 'strerror', None) or error}") from None
    api.external = service
    return service


async def start_agent(agent: Agent, api: Api) -> None:
    """Start the agent; if it cannot, the socket goes too, for hooks take it as the sign that somebody answers."""
    from forwarder.dataplane.values import DataplaneError
    from forwarder.labels import AllocationError
    from forwarder.state import StateError

    try:
        agent.start()
    except (DataplaneError, AllocationError, StateError):
        await api.stop()
        raise


def _dataplane(config: Config) -> Dataplane:
    if config.backend == "fake":
        from forwarder.dataplane.fake import FakeDataplane

        return FakeDataplane()
    from forwarder.dataplane.linux.backend import LinuxDataplane

    return LinuxDataplane(config.addresses, config.peers, config.state, config.encapsulations)


def _first_hop(config: Config, dataplane: Dataplane) -> Responder | None:
    """What answers VMs, where there are any."""
    if config.backend == "fake":
        return None
    from forwarder.firsthop.responder import Responder

    return Responder(config.first_hop, lambda: dataplane.guest_mtu)


if __name__ == "__main__":
    sys.exit(main())
