"""Rate limits of a virtual interface, by `tc`: what the VM sends is policed, what it receives is shaped.

Both directions carry the same rate.  Reading back goes over netlink and finds the two rates in the options of
the `tbf` queue and of the police action; a limit of which one half is missing counts as none, and is put again.
"""

from __future__ import annotations

import struct
import subprocess
from typing import Final

from forwarder.dataplane.linux.facts import Rate
from forwarder.dataplane.netlink.codec import as_int, as_text, attributes
from forwarder.dataplane.netlink.socket import Netlink

_RTM_GETQDISC, _RTM_GETTFILTER = 38, 46
_TCM = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_INGRESS: Final = 0xFFFFFFF2
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64 = 1, 4
_TCA_MATCHALL_ACT = 2
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_POLICE_TBF, _TCA_POLICE_RATE64 = 1, 8
_RATE_OF_TBF = 8  # struct tc_tbf_qopt begins with a struct tc_ratespec, whose rate is at offset 8
_RATE_OF_POLICE = 28  # struct tc_police: five numbers, then a struct tc_ratespec
_LATENCY = "50ms"
_PLACE = 2  # behind the filter of `marking`
_SMALLEST_BURST = 32 * 1024


class ShapingError(Exception):
    """tc would not do it; the text is its own."""


def put_rate(rate: Rate) -> None:
    burst = max(_SMALLEST_BURST, rate.bits // 8 // 50)  # 20 ms worth
    device = f"dev {rate.interface}"
    _tc([f"qdisc replace {device} clsact"])
    _tc([f"filter delete {device} ingress pref {_PLACE}"], may_fail=True)  # matchall knows no change in place
    police = f"action police rate {rate.bits}bit burst {burst} conform-exceed drop"
    queue = f"tbf rate {rate.bits}bit burst {burst} latency {_LATENCY}"
    _tc(
        [
            f"filter add {device} ingress pref {_PLACE} protocol all matchall {police}",
            f"qdisc replace {device} root {queue}",
        ]
    )


def drop_rate(interface: str) -> None:
    """Either half may be gone already; the caller reads back."""
    police = f"filter delete dev {interface} ingress pref {_PLACE}"
    _tc([police, f"qdisc delete dev {interface} root"], may_fail=True)


def read_rates(netlink: Netlink, names: dict[int, str]) -> list[Rate]:
    """The rates of the interfaces in `names`, by device index. Half a limit is told as a rate of zero."""
    shaped: dict[int, int] = {}
    policed: set[int] = set()
    for body in netlink.dump(_RTM_GETQDISC, _TCM.pack(0, 0, 0, 0, 0)):
        _, index, _, _, _ = _TCM.unpack_from(body)
        if index not in names:
            continue
        found = attributes(body, _TCM.size)
        kind = as_text(found.get(_TCA_KIND, b""))
        if kind == "tbf":
            options = attributes(found.get(_TCA_OPTIONS, b""))
            shaped[index] = _rate(options, _TCA_TBF_PARMS, _RATE_OF_TBF, _TCA_TBF_RATE64)
        elif kind == "clsact":
            policed.add(index)
    rates = []
    for index in shaped.keys() | policed:
        police = _policed_rate(netlink, index) if index in policed else 0
        shape = shaped.get(index, 0)
        if police or shape:
            rates.append(Rate(names[index], shape * 8 if shape == police else 0))
    return rates


def _policed_rate(netlink: Netlink, index: int) -> int:
    for body in netlink.dump(_RTM_GETTFILTER, _TCM.pack(0, index, 0, _INGRESS, 0)):
        options = attributes(attributes(body, _TCM.size).get(_TCA_OPTIONS, b""))
        for action in attributes(options.get(_TCA_MATCHALL_ACT, b"")).values():
            told = attributes(action)
            if as_text(told.get(_TCA_ACT_KIND, b"")) == "police":
                police = attributes(told.get(_TCA_ACT_OPTIONS, b""))
                return _rate(police, _TCA_POLICE_TBF, _RATE_OF_POLICE, _TCA_POLICE_RATE64)
    return 0


def _rate(options: dict[int, bytes], parameters: int, offset: int, wide: int) -> int:
    """Bytes per second; above 32 bits they are in an attribute of their own."""
    if wide in options:
        return as_int(options[wide])
    return as_int(options.get(parameters, b"")[offset : offset + 4])


def _tc(lines: list[str], may_fail: bool = False) -> None:
    command = ["tc", *(["-force"] if may_fail else []), "-batch", "-"]
    try:
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ShapingError("there is no tc program: install the package iproute2") from None
    if done.returncode and not may_fail:
        raise ShapingError(f"tc: {' '.join(done.stderr.split())}")
