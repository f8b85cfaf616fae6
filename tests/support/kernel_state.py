"""A host whose kernel is looked at from outside: all that attaching and routing could leave in it, as lines of text.

Three virtual interfaces, and routes of every kind to a remote that need not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from forwarder.dataplane.linux.backend import LinuxDataplane
from forwarder.dataplane.values import LocalHop
from tests.support.dataplane_contract import A, B, C, route, via
from tests.support.vpn_lab import Hypervisor

FIRST_HOPS = ("169.254.1.1/32", "fe80::1/64")
VIFS = [A, B, C]
ROUTES = [
    route("10.0.0.2/32", via(20)),
    route("10.0.0.3/32", via(21, "gre")),
    route("10.1.0.0/16", via(20), via(21, "gre")),
    route("fd00::2/128", via(20)),
    route("fd00::3/128", via(21, "gre"), via(20)),
    route("10.0.0.9/32", LocalHop("vm-c"), vif=B),
]


@dataclass
class Host:
    hypervisor: Hypervisor
    plane: LinuxDataplane

    def state(self) -> list[str]:
        """All that attaching and routing could leave behind, as sorted lines that do not depend on history."""
        run = self.hypervisor.namespace.run
        lines = [line.split()[0] for line in run("ip", "-br", "link").splitlines()]
        for query in ("ip route show table all", "ip -6 route show table all"):
            lines += [line for line in run(*query.split()).splitlines() if " proto 20" in line]
        for query in ("ip rule", "ip -6 rule", "ip -f mpls route", "ip neigh show nud permanent", "ip fou show"):
            lines += run(*query.split()).splitlines()
        for name in ("t-a", "t-b", "t-c"):
            found = run("ip", "-o", "addr", "show", name, check=False).splitlines()
            lines += [f"{name} {address}" for line in found for address in FIRST_HOPS if address in line]
            lines += run("ip", "-br", "link", "show", name, check=False).splitlines()
        lines += re.sub(r" [0-9a-f]+: ", " ", run("tc", "qdisc", "show", "dev", "t-b")).splitlines()
        lines.append(run("sysctl", "net.ipv4.conf.t-b.proxy_arp", "net.ipv4.neigh.t-b.proxy_delay"))
        elements = run("nft", "-s", "list", "ruleset").replace(",", " ").split()
        return sorted(line.strip() for line in lines) + sorted(elements)
