"""`forwarder attach ID --via ADDRESS`: the command line of an end-system whose forwarder is elsewhere.

It runs for as long as the interface is to be there.  What the end-system decides is the VLAN, the VPN, the addresses
and what is routed behind them; everything else that an attach can say is the forwarder's, and refused here.
"""

from __future__ import annotations

import argparse
import asyncio

from forwarder import log
from forwarder.attachments import VLAN_LAST, AttachmentError, parse_attachment
from forwarder.cli import EXIT_ERROR, EXIT_OK, EXIT_USAGE, CommandError
from forwarder.config import ConfigError, EndSystemConfig, RouteServerConfig, load_end_system
from forwarder.external.client import EndSystemClient, Interface

NOT_HERE = ("interface", "mac", "rate", "mode", "sequence_number", "local_preference")


def attach(arguments: argparse.Namespace) -> int:
    """Until it is told to end. Raises CommandError when it cannot begin, or a forwarder refuses."""
    interface = _interface(arguments)
    try:
        config = load_end_system(arguments.config)
    except ConfigError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    forwarders = [_forwarder(config, via) for via in dict.fromkeys(arguments.via)]
    log.setup()
    reason = asyncio.run(_run(config, interface, forwarders))
    if reason is not None:
        raise CommandError(reason, EXIT_ERROR)
    return EXIT_OK


async def _run(config: EndSystemConfig, interface: Interface, forwarders: list[RouteServerConfig]) -> str | None:
    return await EndSystemClient(config, interface, forwarders).run()


def _interface(arguments: argparse.Namespace) -> Interface:
    """Checked as the forwarder will, with a port that stands for its own."""
    given = [name for name in NOT_HERE if getattr(arguments, name) is not None]
    if given:
        option = given[0].replace("_", "-")
        raise CommandError(f"attach {arguments.id}: --{option} is for the forwarder to say, not with --via", EXIT_USAGE)
    if arguments.vlan is None:
        raise CommandError(f"attach {arguments.id}: --vlan N says where the forwarder finds the interface", EXIT_USAGE)
    if not 0 < arguments.vlan <= VLAN_LAST:
        raise CommandError(f"attach {arguments.id}: --vlan: {arguments.vlan} is outside 1..{VLAN_LAST}", EXIT_USAGE)
    try:
        vlan = f"port:{arguments.vlan}"
        checked = parse_attachment(
            arguments.id,
            vpn=arguments.vpn,
            interface="vlan",
            addresses=arguments.address,
            prefixes=arguments.prefix,
            vlan=vlan,
        )
    except AttachmentError as error:
        raise CommandError(f"attach {arguments.id}: {error}", EXIT_USAGE) from None
    return Interface(checked.id, checked.vpn, arguments.vlan, checked.networks)


def _forwarder(config: EndSystemConfig, via: str) -> RouteServerConfig:
    for forwarder in config.forwarders:
        if via in (forwarder.name, forwarder.host):
            return forwarder
    known = ", ".join(forwarder.name for forwarder in config.forwarders)
    raise CommandError(f"--via {via}: the configuration knows {known}", EXIT_USAGE)
