"""The virtual machine runner, as far as no machine is needed: archive, scripts, what it says and returns."""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/vm/run.py"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vm_runner", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vm_runner"] = module
    spec.loader.exec_module(module)
    return module


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name to (mode, content) of a `newc` archive, read independently of the writer."""
    found, offset = {}, 0
    while True:
        assert archive[offset : offset + 6] == b"070701"
        fields = [int(archive[offset + 6 + 8 * n : offset + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[offset + 110 : offset + 110 + name_size - 1].decode()
        start = offset + 110 + name_size + -(110 + name_size) % 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        offset = start + size + -size % 4


def test_the_ram_disk_is_a_cpio_archive(runner: ModuleType) -> None:
    disk = runner.RamDisk()
    disk.directory("bin")
    disk.add("bin/x", b"12345", 0o100755)
    disk.add("empty")
    assert unpacked(gzip.decompress(disk.packed())) == {
        "bin": (0o40755, b""),
        "bin/x": (0o100755, b"12345"),
        "empty": (0o100644, b""),
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/net/vrf.ko", "vrf"),
        ("kernel/drivers/virtio/virtio-pci.ko.xz", "virtio_pci"),
        ("kernel/fs/9p/9p.ko\n", "9p"),
    ],
)
def test_modules_are_known_by_name(runner: ModuleType, path: str, name: str) -> None:
    assert runner.module_name(path) == name


def kernel_tree(root: Path, dependencies: str) -> Path:
    modules = root / "lib/modules/6.1.0"
    modules.mkdir(parents=True)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6.1.0").touch()
    (modules / "modules.dep").write_text(dependencies)
    (modules / "modules.builtin").write_text("kernel/virtio-pci.ko\n")
    return root


def test_modules_load_after_what_they_need(runner: ModuleType, tmp_path: Path) -> None:
    kernel = runner.Kernel.at(kernel_tree(tmp_path, "a.ko: b.ko c.ko\nb.ko: c.ko\nc.ko:\n"))
    assert [path.name for path in kernel.files_for(["a", "virtio_pci", "b"])] == ["c.ko", "b.ko", "a.ko"]
    with pytest.raises(runner.NoMachine, match="no module overlay"):
        kernel.files_for(["overlay"])


def test_a_directory_without_a_kernel_is_told(runner: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(runner.NoMachine, match="holds no boot/vmlinuz"):
        runner.find_kernel(str(tmp_path))


def test_the_guests_command_keeps_its_words(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTRA", "a 'b")
    monkeypatch.setenv("SECRET", "no")
    monkeypatch.setenv("CI", "true")
    kernel = runner.Kernel.at(kernel_tree(tmp_path, ""))
    options = argparse.Namespace(env=["EXTRA"], command=["echo", "two words", "$HOME"])
    script = runner.guest_command(kernel, options)
    lines = [shlex.split(line) for line in script.splitlines()]
    assert ["export", "EXTRA=a 'b"] in lines
    assert ["export", "IN_VM=1"] in lines
    assert ["export", "CI=true"] in lines
    assert "SECRET" not in script
    assert lines[-1] == ["exec", "echo", "two words", "$HOME"]


def test_kvm_is_not_tried_where_it_failed_before(runner: ModuleType, tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    failed.touch()
    assert runner.accelerators_to_try("auto", failed) == ["tcg"]
    assert runner.accelerators_to_try("kvm", failed) == ["kvm"]


def test_probe_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    """Without any program at all everything is missing, or we are not even root."""
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--probe"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode in (0, 1)
    assert len(done.stdout.splitlines()) == done.returncode


def test_a_missing_kernel_is_125(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kernel", str(tmp_path), "--", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert done.stderr.startswith("vm: ")
