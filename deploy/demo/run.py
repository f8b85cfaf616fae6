#!/usr/bin/env python3
"""The main job in a minute's reading: one route server, three hypervisors, a BGP router, and real packets.

Each scene shows something and checks it; the first that fails ends the demo with exit code 1.  Where the kernel
lacks VRF, MPLS, GRE or FOU the whole demo runs in a VM with a stock Debian kernel.  With --keep it stays up
afterwards, to play with.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address

from configs import FORWARDER, GOBGP, ROUTE_SERVER, VPN
from lab import BIN, ROOT, DemoError, Lab, inside, run

from routeserver import pki

RS, PE = "demo-rs", "demo-pe"
RS_ADDRESS, PE_ADDRESS = "192.0.2.101", "192.0.2.11"
HOSTS = {
    "host1": ("192.0.2.1", ["udp", "gre"]),
    "host2": ("192.0.2.2", ["udp", "gre"]),
    "host3": ("192.0.2.3", ["gre"]),
}
VMS = {
    "b1": ("blue", "host1", "10.1.0.1"),
    "b2": ("blue", "host2", "10.1.0.2"),
    "b3": ("blue", "host3", "10.1.0.3"),
    "r1": ("red", "host1", "10.1.0.1"),
    "r2": ("red", "host2", "10.1.0.2"),
}
VPNS = {"blue": "64512:100", "red": "64512:200", "green": "64512:300"}
PE_PREFIX, PE_HOST, PE_LABEL, PE_RD = "10.9.0.0/24", "10.9.0.1", 500, "192.0.2.11:9"
STARTED = time.monotonic()


def say(text: str = "") -> None:
    print(text, flush=True)


def step(text: str) -> None:
    """Progress, for the long parts."""
    say(f"  [{time.monotonic() - STARTED:5.1f} s] {text}")


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        say(f"    {line}")


def check(what: str, holds: object) -> None:
    if not holds:
        raise DemoError(f"does not hold: {what}")
    say(f"  ok: {what}")


class Demo:
    """The lab with everything the scenes need running in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    # Set-up

    def set_up(self) -> None:
        step("namespaces: an underlay, a route server, a PE and three hypervisors")
        self.lab.build()
        self.lab.host(RS, RS_ADDRESS)
        self.lab.host(PE, PE_ADDRESS)
        for host, (address, _) in HOSTS.items():
            self.lab.host(f"demo-{host}", address)
        step("certificates for the route server and each forwarder")
        directory = self.lab.directory
        pki.init(directory, "rs.example.net")
        for host, (address, _) in HOSTS.items():
            pki.issue(directory, f"{host}.example.net", [ip_address(address)])
        self._write_configs()
        step("starting the route server, three forwarders and gobgpd")
        self.lab.start("routeserver", RS, BIN / "routeserver", "run", "--config", directory / "routeserver.toml")
        self.lab.start("gobgpd", PE, "gobgpd", "-f", directory / "gobgpd.toml", "--api-hosts", "127.0.0.1:50051")
        for host in HOSTS:
            command = (BIN / "forwarder", "run", "--config", directory / f"{host}.toml")
            self.lab.start(host, f"demo-{host}", *command)
        for host in HOSTS:
            socket = directory / f"{host}.sock"
            self.lab.eventually(f"the forwarder of {host} listens", socket.exists)
        self._set_up_pe()
        self.lab.eventually("gobgpd and the route server are peers", self._is_established)

    def _write_configs(self) -> None:
        directory = self.lab.directory
        vpns = "".join(VPN.format(name=name, target=target) for name, target in VPNS.items())
        server = ROUTE_SERVER.format(rs=RS_ADDRESS, pe=PE_ADDRESS) + vpns
        (directory / "routeserver.toml").write_text(server)
        (directory / "gobgpd.toml").write_text(GOBGP.format(rs=RS_ADDRESS, pe=PE_ADDRESS))
        for host, (address, encapsulations) in HOSTS.items():
            listed = str(encapsulations).replace("'", '"')
            text = FORWARDER.format(
                host=host, address=address, encapsulations=listed, directory=directory, rs=RS_ADDRESS
            )
            (directory / f"{host}.toml").write_text(text)

    def _set_up_pe(self) -> None:
        """GoBGP forwards nothing: what a router would do with its routes, the demo does by hand in its namespace."""
        run(*inside(PE, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.mpls.platform_labels=1048575"))
        run("ip", "-n", PE, "link", "add", "gre-vpn", "type", "gre", "local", PE_ADDRESS, "ttl", "64")
        run("ip", "-n", PE, "link", "set", "gre-vpn", "up", "mtu", "1476")
        run(*inside(PE, "sysctl", "-qw", "net.mpls.conf.gre-vpn.input=1", "net.ipv4.conf.all.rp_filter=0"))
        run("ip", "-n", PE, "addr", "add", f"{PE_HOST}/32", "dev", "lo")
        run("ip", "-n", PE, "-f", "mpls", "route", "add", PE_LABEL, "dev", "lo")

    def gobgp(self, *words: object) -> str:
        return run(*inside(PE, "gobgp", "-u", "127.0.0.1", "-p", "50051", *words))

    def _is_established(self) -> bool:
        try:
            return "Establ" in self.gobgp("neighbor")
        except DemoError:
            return False

    def routeserver(self, *words: object) -> str:
        return run(*inside(RS, BIN / "routeserver", *words))

    def forwarder(self, host: str, *words: object) -> str:
        socket = self.lab.directory / f"{host}.sock"
        return run(*inside(f"demo-{host}", BIN / "forwarder", *words, "--api", socket))

    def attach(self, vm: str, vpn: str, host: str, address: str) -> None:
        mac = self.lab.vm(f"demo-{vm}", f"demo-{host}", f"t-{vm}", address)
        options = ("--vpn", vpn, "--interface", f"t-{vm}", "--address", f"{address}/32", "--mac", mac)
        self.forwarder(host, "attach", vm, *options)

    def ping(self, vm: str, address: str, count: int = 3) -> bool:
        command = inside(f"demo-{vm}", "ping", "-n", "-c", count, "-i", "0.2", "-W", "2", address)
        return subprocess.run([str(w) for w in command], capture_output=True, check=False).returncode == 0

    def listen(self, namespace: str, interface: str, during: Callable[[], bool], *, plain: bool = False) -> list[str]:
        """The packet lines an interface shows while something happens."""
        command = inside(namespace, sys.executable, ROOT / "deploy/demo/capture.py", interface, 600)
        words = [str(word) for word in command] + (["--plain"] if plain else [])
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as capture:
            assert capture.stderr is not None
            if capture.stderr.readline().strip() != "listening":
                raise DemoError(f"cannot capture on {interface}: {capture.stderr.read()}")
            happened = during()
            time.sleep(0.5)  # the last packet's way through the capture
            capture.terminate()
            lines = capture.communicate()[0].splitlines()
        if not happened:
            raise DemoError(f"no answer while listening on {interface} of {namespace}; seen: {lines}")
        return lines

    # Scenes

    def members(self) -> None:
        """Who is a member of which VPN"""
        for vm, (vpn, host, address) in VMS.items():
            step(f"forwarder attach {vm} --vpn {vpn} --interface t-{vm} --address {address}/32   (on {host})")
            self.attach(vm, vpn, host, address)
        self.lab.eventually("blue has three routes", lambda: self._route_count("blue") == 3)
        self.lab.eventually("red has two routes", lambda: self._route_count("red") == 2)
        show("$ routeserver get forwarders")
        show(self.routeserver("get", "forwarders"))
        for vpn in ("blue", "red"):
            show(f"$ routeserver get routes {vpn}")
            table = self.routeserver("get", "routes", vpn)
            show(table)
            for name, (member_of, host, address) in VMS.items():
                if member_of == vpn:
                    line = next((line for line in table.splitlines() if f"{address}/32" in line), "")
                    check(f"{name} is {address}/32 behind {host} ({HOSTS[host][0]})", HOSTS[host][0] in line)

    def _route_count(self, vpn: str) -> int:
        return len(re.findall(r"10\.1\.0\.\d/32", self.routeserver("get", "routes", vpn)))

    def blue_over_udp(self) -> None:
        """Blue reaches blue across hosts, MPLS over UDP"""
        self._blue("b2", "10.1.0.2", "UDP", r"192\.0\.2\.1 > 192\.0\.2\.2 \| UDP \d+ > 6635 \|")

    def blue_over_gre(self) -> None:
        """Blue reaches blue across hosts, MPLS over GRE (host3 takes nothing else)"""
        self._blue("b3", "10.1.0.3", "GRE", r"192\.0\.2\.1 > 192\.0\.2\.3 \| GRE \|")

    def _blue(self, vm: str, address: str, tunnel: str, outer: str) -> None:
        self.lab.eventually(f"b1 has a way to {vm}", lambda: self.ping("b1", address, 1))
        lines = self.listen("demo-host1", "eth0", lambda: self.ping("b1", address))
        requests = [line for line in lines if "echo request" in line]
        show(f"$ ip netns exec demo-b1 ping {address}      (seen on host1's uplink)")
        show("\n".join(lines[:2]))
        pattern = re.compile(outer + rf" MPLS label \d+ \| 10\.1\.0\.1 > {re.escape(address)} echo request")
        check(f"b1 pings {vm} and the packets are MPLS in {tunnel}", requests and all(map(pattern.fullmatch, requests)))

    def red_is_apart(self) -> None:
        """Red has the same addresses and hears nothing of blue"""
        lines = self.listen("demo-r2", "eth0", lambda: self.ping("b1", "10.1.0.2", 5), plain=True)
        check("b1 pings 10.1.0.2 (that is b2); r2, also 10.1.0.2 and on the same host, hears nothing", not lines)
        self.lab.eventually("r1 has a way to r2", lambda: self.ping("r1", "10.1.0.2", 1))
        lines = self.listen("demo-b2", "eth0", lambda: self.ping("r1", "10.1.0.2", 5), plain=True)
        check("r1 pings 10.1.0.2 (that is r2); b2 hears nothing", not lines)
        check("there is no way from red to 10.1.0.3, which only blue has", not self.ping("r1", "10.1.0.3", 2))

    def as_the_router_sees_it(self) -> None:
        """The VPN routes as the BGP router prints them"""
        self.gobgp("vrf", "add", "blue", "rd", PE_RD, "rt", "both", VPNS["blue"])
        table = self.lab.eventually("gobgpd has the blue routes", self._gobgp_blue_routes)
        show("$ gobgp global rib -a vpnv4")
        show(table)
        line = next(line for line in table.splitlines() if "10.1.0.1/32" in line)
        rd = re.search(r"(192\.0\.2\.1:\d+):10\.1\.0\.1/32", line)
        check(f"10.1.0.1/32 has the RD of its forwarder ({rd[1] if rd else 'none'})", rd)
        check(f"it carries route target {VPNS['blue']}", VPNS["blue"] in line)
        check("it says how to tunnel: UDP or GRE", re.search(r"UDP", line) and re.search(r"GRE", line))
        check(f"and the label the forwarder gave it ({self._label('b1')})", f"[{self._label('b1')}]" in line)
        check("nothing of red, which this router did not ask for", VPNS["red"] not in table)

    def _gobgp_blue_routes(self) -> str | None:
        table = self.gobgp("global", "rib", "-a", "vpnv4")
        return table if table.count("10.1.0.") == 3 else None

    def _label(self, vm: str) -> int:
        vpn, _, address = VMS[vm]
        table = self.routeserver("get", "routes", vpn, "-o", "json")
        found = re.search(rf'"prefix": ?"{re.escape(address)}/32".*?"label": ?(\d+)', table, re.DOTALL)
        if found is None:
            raise DemoError(f"no label for {vm}:\n{table}")
        return int(found[1])

    def from_the_router(self) -> None:
        """A prefix of the router reaches a VM"""
        say(f"    GoBGP forwards nothing: the demo itself set label {PE_LABEL} and the way back in the PE's namespace")
        command = ("-a", "vpnv4", PE_PREFIX, "label", PE_LABEL, "rd", PE_RD, "rt", VPNS["blue"], "nexthop", PE_ADDRESS)
        self.gobgp("global", "rib", "add", *command)
        host1 = ("192.0.2.1", "lladdr", "192.0.2.1", "dev", "gre-vpn", "nud", "permanent")
        run("ip", "-n", PE, "neigh", "replace", *host1)
        way_back = ("encap", "mpls", self._label("b1"), "via", "192.0.2.1", "dev", "gre-vpn", "onlink")
        run("ip", "-n", PE, "route", "replace", "10.1.0.1/32", *way_back, "src", PE_HOST)
        route = self.lab.eventually(f"{PE_PREFIX} is in the VRF of b1", self._route_to_pe)
        show("$ ip -n demo-host1 route show table all      (the line of the VRF)")
        show(route)
        check(f"the route leads to {PE_ADDRESS} with label {PE_LABEL}", f"mpls {PE_LABEL}" in route.replace("  ", " "))
        lines = self.listen("demo-host1", "eth0", lambda: self.ping("b1", PE_HOST))
        show("\n".join(lines[:2]))
        check(f"b1 pings {PE_HOST} behind the router", any("echo reply" in line for line in lines))

    @staticmethod
    def _route_to_pe() -> str | None:
        routes = run("ip", "-n", "demo-host1", "route", "show", "table", "all").splitlines()
        return next((route for route in routes if PE_PREFIX in route), None)

    def interest(self) -> None:
        """The router learns who wants what: RT-Constraint"""
        target = VPNS["green"]
        check(f"nobody here wants {target} yet", target not in self._memberships())
        step("attaching the first VM of green, on host3")
        self.attach("g1", "green", "host3", "10.3.0.1")
        self.lab.eventually("the membership is at gobgpd", lambda: target in self._memberships())
        show("$ gobgp global rib -a rtc")
        show(self._memberships())
        check(f"the membership for {target} came with the first subscriber", target in self._memberships())
        step("detaching it again")
        self.forwarder("host3", "detach", "g1")
        self.lab.eventually("the membership is gone", lambda: target not in self._memberships())
        check(f"and it vanished with the last; {VPNS['blue']} stays", VPNS["blue"] in self._memberships())

    def _memberships(self) -> str:
        return self.gobgp("global", "rib", "-a", "rtc")


SCENES = (
    Demo.members,
    Demo.blue_over_udp,
    Demo.blue_over_gre,
    Demo.red_is_apart,
    Demo.as_the_router_sees_it,
    Demo.from_the_router,
    Demo.interest,
)


def keep(lab: Lab) -> None:
    """Leave everything running until the user has had enough."""
    say("\nStill running. Try, in another terminal, as root:")
    say(f"    ip netns exec {RS} {BIN}/routeserver get neighbors")
    say(f"    ip netns exec demo-host1 {BIN}/forwarder get vifs --api {lab.directory}/host1.sock")
    say("    ip netns exec demo-b1 ping 10.1.0.2")
    say(f"Logs and configuration are in {lab.directory}.")
    try:
        input("Press Enter to take it down. ")
    except (EOFError, KeyboardInterrupt):
        say()


def play(lab: Lab) -> int:
    demo = Demo(lab)
    try:
        say("Setting up")
        demo.set_up()
        for number, scene in enumerate(SCENES, 1):
            say(f"\nScene {number}: {(scene.__doc__ or '').strip()}")
            scene(demo)
    except (DemoError, pki.PkiError, subprocess.TimeoutExpired) as error:
        say(f"\nFAILED: {error}")
        for name in lab.programs:
            say(f"\nThe end of {name}'s log:\n{lab.log(name)[-1500:]}")
        return 1
    say(f"\nAll {len(SCENES)} scenes passed, {time.monotonic() - STARTED:.0f} s.")
    return 0


def in_vm() -> int:
    say("This kernel lacks what the data plane needs, or this is not root: the demo runs in a VM with a stock kernel.")
    if "--keep" in sys.argv:
        say("KEEP=1 has no effect there: the VM has no terminal, and it ends with the demo.")
    command = [sys.executable, "deploy/vm/run.py", "--", sys.executable, "deploy/demo/run.py"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> int:
    probe = [sys.executable, "deploy/vm/run.py", "--probe"]
    if subprocess.run(probe, cwd=ROOT, check=False).returncode:
        return in_vm()
    lab = Lab()
    try:
        code = play(lab)
        if code == 0 and "--keep" in sys.argv:
            keep(lab)
    finally:
        lab.close()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
