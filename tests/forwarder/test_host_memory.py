"""What is remembered of the host's settings is read as settings of the network, and as nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwarder.dataplane.linux.memory import HostMemory


@pytest.mark.parametrize("way", ["{}", "net/../../..{}", "net/ipv4/../../../..{}"])
def test_a_file_elsewhere_is_no_setting(tmp_path: Path, way: str) -> None:
    """Purge runs as root."""
    victim = tmp_path / "passwd"
    victim.write_text("root")
    (tmp_path / "host.json").write_text(json.dumps({way.format(victim): "nobody"}))
    told = HostMemory(tmp_path).restore(something_was_there=True)
    assert victim.read_text() == "root"
    assert told == ["settings of the host: what they were before is not known, so they stay as they are"]


def test_a_setting_is_one(tmp_path: Path) -> None:
    """It is as it should be already, so nothing has to be written."""
    path = "net/ipv4/ip_forward"
    (tmp_path / "host.json").write_text(json.dumps({path: Path("/proc/sys", path).read_text().strip()}))
    assert HostMemory(tmp_path).restore(something_was_there=True) == []
