"""What operators read and install names all that there is: devices, settings of the host, keys of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from forwarder import config
from forwarder.dataplane.linux.names import DEVICE_PREFIXES, SINK
from forwarder.dataplane.linux.read_vifs import proxy_arp_sysctls
from forwarder.dataplane.linux.underlay_facts import _HOST_SYSCTLS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HOST_PAGE = (ROOT / "docs/host.md").read_text()
EXTERNAL_PAGE = (ROOT / "docs/external-forwarder.md").read_text()
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


def test_the_operators_page_names_every_device_and_every_setting() -> None:
    for name in (*DEVICE_PREFIXES, SINK):
        assert f"`{name}" in HOST_PAGE, name
    for path in (*dict(_HOST_SYSCTLS), *proxy_arp_sysctls("INTERFACE"), "net/mpls/conf/DEVICE/input"):
        assert f"`{path.replace('/', '.')}`" in HOST_PAGE, path


def _keys(form: Any) -> Iterator[str]:
    """Every key that a file of this form may have, those of its tables included."""
    if isinstance(form, type) and issubclass(form, msgspec.Struct):
        for field in msgspec.structs.fields(form):
            yield field.encode_name
            yield from _keys(field.type)
    for part in get_args(form):
        yield from _keys(part)


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        (config._File, ((DEPLOY / "config/forwarder.toml").read_text(), EXTERNAL_PAGE)),
        (config._EndSystemFile, (EXTERNAL_PAGE,)),
    ],
    ids=["forwarder.toml", "end-system.toml"],
)
def test_every_key_is_shown_in_a_configuration_to_copy(form: Any, texts: tuple[str, ...]) -> None:
    keys = set(_keys(form))
    assert {"jid", "certificate", "domain"} <= keys
    lines = [line.lstrip("# ") for text in texts for line in text.splitlines()]
    for key in keys:
        assert any(line.startswith((f"{key} = ", f"[{key}]", f"[[{key}]]", f"[[external.{key}]]")) for line in lines), (
            key
        )
