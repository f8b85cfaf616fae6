"""What the whole host must have: kernel features, sysctls, and the UDP port that tunnels arrive at.

`missing_features` loads the modules it can and says, one line each, what the kernel still lacks and what brings
it.  Sysctls are written as files, and only when they differ: writing `ip_forward` resets other settings even when
it changes nothing.  Paths are file paths, because an interface name may hold a dot.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import subprocess
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Final

from forwarder.dataplane.linux.facts import FouPort
from forwarder.dataplane.linux.names import MPLS_IN_UDP_PORT
from forwarder.dataplane.linux.tunnel_devices import TTL
from forwarder.dataplane.netlink import numbers, rtlinks, rtroutes, rttc
from forwarder.dataplane.netlink.codec import Message, NetlinkError, as_int, attribute, attributes, text, u8
from forwarder.dataplane.netlink.socket import NETLINK_GENERIC, Netlink

SYSCTLS: Final = Path("/proc/sys")
_MODULES: Final = ("vrf", "mpls_router", "mpls_iptunnel", "ip_gre", "ipip", "fou", "dummy")
_MODULES_OVER_IPV6: Final = ("ip6_gre", "ip6_tunnel", "fou6")
_LOOPBACK: Final = IPv4Address("127.0.0.1")
_LOOPBACK_6: Final = IPv6Address("::1")
_LOOPBACK_INDEX: Final = 1
_PROBE_DEVICE: Final = "es-probe"
_PROBE_TABLE: Final = 0xFFFFFFFE

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_FOU_CMD_ADD, _FOU_CMD_DEL, _FOU_CMD_GET = 1, 2, 3
_FOU_ATTR_PORT, _FOU_ATTR_AF, _FOU_ATTR_IPPROTO, _FOU_ATTR_TYPE = 1, 2, 3, 4
_FOU_DIRECT = 1
_VERSIONS: Final = {numbers.AF_INET: 4, numbers.AF_INET6: 6}
_GENERIC = struct.Struct("=BBxx")  # command, version


def read_sysctl(path: str) -> str | None:
    """The value with single spaces, or None if there is no such setting."""
    try:
        return " ".join((SYSCTLS / path).read_text().split())
    except FileNotFoundError:
        return None


def write_sysctl(path: str, value: str) -> None:
    (SYSCTLS / path).write_text(value)


def missing_features(netlink: Netlink, versions: Collection[int] = (4,)) -> list[str]:
    """One line each; `versions` are the IP versions of our infrastructure addresses."""
    modules = _MODULES + (_MODULES_OVER_IPV6 if 6 in versions else ())
    with contextlib.suppress(FileNotFoundError):  # without modprobe, what is loaded has to do
        subprocess.run(["modprobe", "-q", "-a", *modules], capture_output=True, check=False)
    return [
        f"the kernel has no {feature}: load the module {module} (CONFIG_{option}; Debian's linux-image-amd64 has it)"
        for feature, module, option in (*_lacking(netlink), *(_lacking_over_ipv6(netlink) if 6 in versions else ()))
    ]


def _lacking(netlink: Netlink) -> Iterator[tuple[str, str, str]]:
    """(what, module, kernel option)"""
    if not (SYSCTLS / "net/ipv6").exists():
        yield "IPv6", "ipv6", "IPV6"
    if not (SYSCTLS / "net/mpls/platform_labels").exists():
        yield "MPLS forwarding", "mpls_router", "MPLS_ROUTING"
    hop = rtroutes.NextHopEntry(_LOOPBACK_INDEX, label=16)
    route = rtroutes.KernelRoute(_PROBE_TABLE, ip_network("203.0.113.0/32"), 0, numbers.OWN, hops=(hop,))
    if not _accepted(netlink, rtroutes.put_route(route), rtroutes.delete_route(route)):
        yield "MPLS encapsulation of routes", "mpls_iptunnel", "MPLS_IPTUNNEL"
    devices: tuple[tuple[str, str, str, str, list[bytes]], ...] = (
        ("VRF devices", "vrf", "NET_VRF", "vrf", rtlinks.vrf_data(_PROBE_TABLE)),
        ("GRE devices", "ip_gre", "NET_IPGRE", "gre", rtlinks.gre_data(_LOOPBACK, TTL)),
        ("IP-in-IP devices", "ipip", "NET_IPIP", "ipip", rtlinks.mpls_in_ip_data(_LOOPBACK, TTL)),
        ("dummy devices", "dummy", "DUMMY", "dummy", []),
    )
    for feature, module, option, kind, data in devices:
        if not _accepted(netlink, *_probe_device(kind, data)):
            yield feature, module, option
    if not _has_flow_hashes(netlink):
        yield "flow hashes by traffic control", "act_skbedit", "NET_ACT_SKBEDIT"
    try:
        Fou().close()
    except NetlinkError:
        yield "UDP encapsulation of tunnels", "fou", "NET_FOU"


def _lacking_over_ipv6(netlink: Netlink) -> Iterator[tuple[str, str, str]]:
    """What only an IPv6 underlay needs."""
    gre = rtlinks.gre6_data(_LOOPBACK_6, TTL)
    if not _accepted(netlink, *_probe_device("ip6gre", gre)):
        yield "GRE devices over IPv6", "ip6_gre", "IPV6_GRE"
    if not _accepted(netlink, *_probe_device("ip6tnl", rtlinks.mpls_in_ip6_data(_LOOPBACK_6, TTL))):
        yield "IP-in-IPv6 devices", "ip6_tunnel", "IPV6_TUNNEL"
    udp = rtlinks.mpls_in_ip6_data(_LOOPBACK_6, TTL, port=MPLS_IN_UDP_PORT)
    if not _accepted(netlink, *_probe_device("ip6tnl", udp), lacking=errno.EINVAL):
        yield "UDP encapsulation of tunnels over IPv6", "fou6", "IPV6_FOU_TUNNEL"


def _has_flow_hashes(netlink: Netlink) -> bool:
    make, undo = _probe_device("dummy", [])
    if not _accepted(netlink, make, undo):
        return True  # not known; the dummy device is what is missing
    netlink.ask(make)
    try:
        index = rtlinks.parse_link(netlink.ask(rtlinks.get_link(_PROBE_DEVICE))[0]).index
        netlink.ask(rttc.put_clsact(index))
        netlink.ask(rttc.put_marker(index, 1, mark=1))
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        return False
    finally:
        netlink.ask(undo)
    return True


def _probe_device(kind: str, data: list[bytes]) -> tuple[Message, Message]:
    return rtlinks.new_link(_PROBE_DEVICE, kind, *data), rtlinks.delete_link_named(_PROBE_DEVICE)


def _accepted(netlink: Netlink, make: Message, undo: Message, lacking: int = errno.EOPNOTSUPP) -> bool:
    """Whether the kernel knows what is asked; other errors are no sign of a missing feature.

    Raises NetlinkError if we may not ask.
    """
    try:
        netlink.ask(make)
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise NetlinkError(error.code, "run it as root") from None
        return error.code != lacking
    netlink.ask(undo)
    return True


class Fou:
    """The generic netlink family of foo-over-UDP. Raises NetlinkError at once if the kernel has none."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_GENERIC)
        body = _GENERIC.pack(_CTRL_CMD_GETFAMILY, 1) + text(_CTRL_ATTR_FAMILY_NAME, "fou")
        try:
            answers = self._netlink.ask(Message(_GENL_ID_CTRL, 0, body))
        except NetlinkError:
            self.close()
            raise
        self._family = as_int(attributes(answers[0], _GENERIC.size)[_CTRL_ATTR_FAMILY_ID])

    def close(self) -> None:
        self._netlink.close()

    def ports(self) -> list[FouPort]:
        found = []
        for body in self._netlink.dump(self._family, _GENERIC.pack(_FOU_CMD_GET, 1)):
            told = attributes(body, _GENERIC.size)
            version = _VERSIONS.get(as_int(told[_FOU_ATTR_AF]))
            if version is not None and as_int(told[_FOU_ATTR_TYPE]) == _FOU_DIRECT:
                port = int.from_bytes(told[_FOU_ATTR_PORT], "big")
                found.append(FouPort(port, as_int(told[_FOU_ATTR_IPPROTO]), version))
        return found

    def put(self, wanted: FouPort) -> None:
        self._ask(_FOU_CMD_ADD, wanted)

    def drop(self, unwanted: FouPort) -> None:
        self._ask(_FOU_CMD_DEL, unwanted)

    def _ask(self, command: int, wanted: FouPort) -> None:
        body = _GENERIC.pack(command, 1)
        family = numbers.AF_INET if wanted.version == 4 else numbers.AF_INET6
        body += attribute(_FOU_ATTR_PORT, wanted.port.to_bytes(2, "big")) + u8(_FOU_ATTR_AF, family)
        body += u8(_FOU_ATTR_IPPROTO, wanted.protocol) + u8(_FOU_ATTR_TYPE, _FOU_DIRECT)
        self._netlink.ask(Message(self._family, 0, body))
