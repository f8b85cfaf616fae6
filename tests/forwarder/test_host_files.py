"""The files that keep network managers off the forwarder's devices name all of them."""

from __future__ import annotations

from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest

from forwarder.dataplane.linux.names import DEVICE_PREFIXES, SINK

DEPLOY = Path(__file__).parents[2] / "deploy"
OURS = (*(f"{prefix}c0000201" for prefix in DEVICE_PREFIXES), SINK)
OTHERS = ("eth0", "esp0", "ens3", "es0", "br-esv-1")


def _networkd() -> list[str]:
    parser = ConfigParser()
    parser.read(DEPLOY / "systemd/network/05-end-system.network")
    assert parser["Link"]["Unmanaged"] == "yes"
    return parser["Match"]["Name"].split()


def _network_manager() -> list[str]:
    parser = ConfigParser(delimiters=("+=",))
    parser.read(DEPLOY / "networkmanager/50-end-system.conf")
    listed = parser["keyfile"]["unmanaged-devices"].split(";")
    return [pattern.removeprefix("interface-name:") for pattern in listed]


@pytest.mark.parametrize("patterns", [_networkd(), _network_manager()], ids=["networkd", "NetworkManager"])
def test_every_device_of_ours_is_left_alone_and_no_other(patterns: list[str]) -> None:
    for name in OURS:
        assert any(fnmatch(name, pattern) for pattern in patterns), name
    for name in OTHERS:
        assert not any(fnmatch(name, pattern) for pattern in patterns), name
