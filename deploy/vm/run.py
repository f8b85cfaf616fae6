#!/usr/bin/env python3
"""Run one command under a stock Debian kernel, over the files of this machine.

The forwarder needs VRF, MPLS, GRE and FOU, which many hosts and most CI runners lack.  This script boots a
distribution kernel in QEMU (KVM where it works, emulation elsewhere) and gives it this machine's root file
system over 9p, under an overlay that is thrown away.  The command runs there as root in the current directory:

    deploy/vm/run.py -- .venv/bin/python -m pytest -m kernel tests/kernel

Its output streams through and its exit code is ours.  What it writes is lost, except below the current
directory and each --rw DIR.  It sees IN_VM=1, no network but `lo`, and an empty standard input.

Two codes are the script's own: 124, the time limit passed; 125, the machine did not start or died, in which
case the end of the kernel's console goes to stderr.  The kernel is fetched once by `apt-get download` and kept
in $VM_CACHE (else ~/.cache/end-system-route-server/vm); delete that directory to get a newer one.

Needs: qemu-system-x86 busybox-static kmod.  `--probe` asks whether a VM is needed at all: it exits 0 when this
kernel has all the features and we are root, else 1 with one line that says what is missing.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

TIME_LIMIT_PASSED = 124
NOT_STARTED = 125
KVM_PATIENCE = 20.0
"""Seconds a KVM guest may take to reach user space before we emulate instead."""

EARLY_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
PASSED_VARIABLES = ("PATH", "HOME", "USER", "LANG", "TERM", "CI", "VIRTUAL_ENV")
PASSED_PREFIXES = ("LC_", "PYTHON", "PYTEST_")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What the forwarder and its tests ask of a kernel: a name to tell, and a command that works in an empty network
# namespace only if the kernel has it.
FEATURES = (
    ("vrf", "ip link add p0 type vrf table 10"),
    ("mpls_router", "test -e /proc/sys/net/mpls/platform_labels"),
    ("mpls_iptunnel", "ip link set lo up && ip route add 203.0.113.1/32 encap mpls 20 dev lo"),
    ("ip_gre", "ip link add p1 type gre local 127.0.0.1"),
    ("fou", "ip fou add port 6635 ipproto 137"),
    ("ip6_gre", "ip link add p7 type ip6gre local ::1"),
    ("fou6", "ip link add p8 type ip6tnl mode any local ::1 encap fou encap-dport 6635"),
    ("ipip", "ip link add p2 type ipip mode mplsip local 127.0.0.1"),
    ("dummy", "ip link add p3 type dummy"),
    ("veth", "ip link add p4 type veth peer name p5"),
    ("nf_tables", "nft add table inet probe"),
    ("act_police", "ip link add p6 type dummy && tc qdisc add dev p6 clsact && "
     "tc filter add dev p6 ingress matchall action police rate 1mbit burst 10k conform-exceed drop"),
)  # fmt: skip
LOADABLE = (
    *("vrf", "mpls_router", "mpls_iptunnel", "ip_gre", "ipip", "fou"),
    *("ip6_gre", "ip6_tunnel", "fou6", "dummy", "veth"),
)

FIRST_STAGE = r"""#!/bin/busybox sh
# In the initial RAM disk: reach the machine's files, lay a RAM layer over them, and change over.
bb=/bin/busybox
give_up() { echo "vm: $1"; $bb poweroff -f; }
$bb mkdir -p /proc /sys /dev /below /layer /root
$bb mount -t proc none /proc; $bb mount -t sysfs none /sys; $bb mount -t devtmpfs none /dev
for file in $($bb cat /load-order); do $bb insmod /ko/$file || echo "vm: cannot load $file"; done
share="-t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose"
$bb mount $share,ro files /below || give_up "no root file system"
$bb mount -t tmpfs -o size=75% none /layer && $bb mkdir /layer/upper /layer/work
$bb mount -t overlay -o lowerdir=/below,upperdir=/layer/upper,workdir=/layer/work none /root || give_up "no overlay"
. /writable
for dir in proc sys dev run; do $bb mkdir -p /root/$dir; done
$bb mount -t proc none /root/proc; $bb mount -t sysfs none /root/sys
$bb mount -t devtmpfs none /root/dev; $bb mount -t tmpfs none /root/run
$bb mkdir -p /root/dev/pts /root/dev/shm /root/run/netns /root/run/lock /root/run/vm
$bb mount -t devpts none /root/dev/pts; $bb mount -t tmpfs none /root/dev/shm
$bb mount -t cgroup2 none /root/sys/fs/cgroup; $bb mount -t bpf none /root/sys/fs/bpf
$bb ln -sf /proc/self/fd /root/dev/fd
for n in 0:stdin 1:stdout 2:stderr; do $bb ln -sf /proc/self/fd/${n%:*} /root/dev/${n#*:}; done
$bb cp $bb /command /second-stage /root/run/vm/
for port in /sys/class/virtio-ports/*; do
  case $($bb cat $port/name) in
    stdout) stdout=/dev/${port##*/} ;; stderr) stderr=/dev/${port##*/} ;; status) status=/dev/${port##*/} ;;
  esac
done
exec 6>$stdout 7>$stderr 8>$status || give_up "no channels to the host"
$bb hostname vm
echo started >&8
exec $bb switch_root /root /run/vm/busybox sh /run/vm/second-stage
"""

SECOND_STAGE = r"""bb=/run/vm/busybox
$bb ip link set lo up
/bin/sh /run/vm/command </dev/null >&6 2>&7 6>&- 7>&- 8>&-
echo "exit $?" >&8
$bb sync
$bb poweroff -f
"""


class NoMachine(Exception):  # noqa: N818 - it reads as what it says
    """The virtual machine cannot be started; the text says what is missing and how to get it."""


# ---------------------------------------------------------------- the kernel


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package: the image to boot and the modules that belong to it."""

    image: Path
    modules: Path

    @classmethod
    def at(cls, tree: Path) -> Kernel:
        images, modules = sorted(tree.glob("boot/vmlinuz-*")), sorted(tree.glob("lib/modules/*"))
        if not images or not modules:
            raise NoMachine(f"{tree} holds no boot/vmlinuz-* with lib/modules/*")
        return cls(images[-1], modules[-1])

    def files_for(self, names: Sequence[str]) -> list[Path]:
        """The module files to load, dependencies first; names that are built in need none."""
        needs: dict[str, list[str]] = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, rest = line.partition(":")
            needs[path] = rest.split()
        paths = {module_name(path): path for path in needs}
        built_in = {module_name(line) for line in (self.modules / "modules.builtin").read_text().splitlines()}
        ordered: dict[str, None] = {}
        for name in names:
            if name in paths:
                ordered.update(dict.fromkeys([*reversed(needs[paths[name]]), paths[name]]))
            elif name not in built_in:
                raise NoMachine(f"the kernel {self.modules.name} has no module {name}")
        return [self.modules / path for path in ordered]


def module_name(path: str) -> str:
    return path.strip().rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def cache_directory() -> Path:
    return Path(os.environ.get("VM_CACHE") or Path.home() / ".cache/end-system-route-server/vm")


def find_kernel(wanted: str) -> Kernel:
    """`wanted` is a directory with an unpacked kernel, or a Debian package, looked up in the cache first."""
    if os.path.isdir(wanted):
        return Kernel.at(Path(wanted).resolve())
    shelf = cache_directory() / wanted
    for tree in sorted(shelf.glob("*/lib"), reverse=True):
        return Kernel.at(tree.parent)
    return fetch_kernel(wanted, shelf)


def fetch_kernel(package: str, shelf: Path) -> Kernel:
    """Download and unpack; the tree takes its final name only when it is whole."""
    say(f"fetching {package}")
    shelf.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:  # package lists may be missing, or older than what the archive still has
        subprocess.run(["apt-get", "-q", "update"], stdout=sys.stderr, check=False)
    with tempfile.TemporaryDirectory(dir=shelf, prefix=".") as scratch:
        depends = output_of("apt-cache", "depends", "--important", package)
        real = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
        download = ["apt-get", "-q", "download", (real or [package])[0]]
        if subprocess.run(download, cwd=scratch, stdout=sys.stderr, check=False).returncode:
            raise NoMachine(f"{shlex.join(download)} failed; are there package lists (apt-get update)?")
        archive = next(Path(scratch).glob("*.deb"))
        tree = Path(scratch) / "tree"
        subprocess.run(["dpkg-deb", "-x", archive, tree], check=True)
        kernel = Kernel.at(tree)
        subprocess.run([program("depmod", "kmod"), "-b", tree, kernel.modules.name], check=True)
        home = shelf / archive.stem
        tree.rename(home)
    return Kernel.at(home)


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":" + SYSTEM_PATH)
    if found is None:
        raise NoMachine(f"no {name}: apt-get install {package}")
    return found


# ---------------------------------------------------------------- the initial RAM disk


@dataclass
class RamDisk:
    """A cpio archive in the `newc` format, as the kernel unpacks it."""

    parts: list[bytes] = field(default_factory=list)

    def add(self, name: str, data: bytes = b"", mode: int = 0o100644) -> None:
        path = name.encode() + b"\0"
        fields = (len(self.parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in fields)
        for piece in (header + path, data):
            self.parts.append(piece + bytes(-len(piece) % 4))

    def directory(self, name: str) -> None:
        self.add(name, mode=0o40755)

    def packed(self) -> bytes:
        self.add("TRAILER!!!", mode=0)
        return gzip.compress(b"".join(self.parts), compresslevel=1)


def build_ram_disk(kernel: Kernel, writable: Sequence[Path], command: str) -> bytes:
    disk = RamDisk()
    for name in ("bin", "ko"):
        disk.directory(name)
    disk.add("bin/busybox", Path(program("busybox", "busybox-static")).read_bytes(), 0o100755)
    disk.add("init", FIRST_STAGE.encode(), 0o100755)
    disk.add("second-stage", SECOND_STAGE.encode())
    disk.add("command", command.encode())
    disk.add("writable", "".join(mount_lines(writable)).encode())
    modules = kernel.files_for(EARLY_MODULES)
    for path in modules:
        data = path.read_bytes()
        disk.add(f"ko/{module_name(path.name)}.ko", lzma.decompress(data) if path.suffix == ".xz" else data)
    disk.add("load-order", "".join(f"{module_name(path.name)}.ko\n" for path in modules).encode())
    return disk.packed()


def mount_lines(writable: Sequence[Path]) -> Iterator[str]:
    for number, path in enumerate(writable):
        target = shlex.quote(f"/root{path}")
        yield f"$bb mkdir -p {target} && $bb mount $share writable{number} {target} || give_up 'no {number}'\n"


def guest_command(kernel: Kernel, options: argparse.Namespace) -> str:
    """The shell script that the guest runs: environment, modules, directory, command."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.isidentifier() and (name in PASSED_VARIABLES or name.startswith(PASSED_PREFIXES) or name in options.env)
    }
    passed["IN_VM"] = "1"
    passed["PATH"] = passed.get("PATH", "") + ":" + SYSTEM_PATH
    home = shlex.quote(f"/lib/modules/{kernel.modules.name}")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(passed.items())]
    lines += [f"mkdir -p {home} && mount --bind {shlex.quote(str(kernel.modules))} {home}"]
    lines += [f"cd {shlex.quote(os.getcwd())} || exit {NOT_STARTED}", f"exec {shlex.join(options.command)}"]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the machine


@dataclass
class Machine:
    """One run of QEMU. `started` is true once the guest reached user space, `code` is what the command returned."""

    arguments: list[str]
    sinks: dict[str, BinaryIO]
    started: bool = False
    code: int | None = None
    late: bool = False
    status: bytes = b""

    def run(self, limit: float, start_limit: float) -> None:
        begin = time.monotonic()
        with selectors.DefaultSelector() as channels:
            arguments, passed = list(self.arguments), []
            for name in ("stdout", "stderr", "status"):
                ours, theirs = socket.socketpair()
                channels.register(ours, selectors.EVENT_READ, name)
                passed.append(theirs)
                arguments += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
                arguments += ["-device", f"virtserialport,chardev={name},name={name}"]
            qemu = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, pass_fds=[end.fileno() for end in passed])
            for end in passed:
                end.close()
            try:
                while channels.get_map() and not self.late:
                    spent = time.monotonic() - begin
                    self.late = spent > limit
                    if not self.started and spent > start_limit:
                        break
                    self.pump(channels)
            finally:
                if not self.late and not channels.get_map():
                    qemu.wait()
                qemu.kill()
                qemu.wait()
                for key in list(channels.get_map().values()):
                    close(channels, key.fileobj)

    def pump(self, channels: selectors.BaseSelector) -> None:
        """Move what has come. QEMU's end closes when QEMU ends, so an empty map means that all is read."""
        for key, _ in channels.select(timeout=0.5):
            try:
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            except ConnectionResetError:
                data = b""
            if not data:
                close(channels, key.fileobj)
            elif key.data == "status":
                self.note(data)
            else:
                self.sinks[key.data].write(data)
                self.sinks[key.data].flush()

    def note(self, data: bytes) -> None:
        *lines, self.status = (self.status + data).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            self.started |= word == b"started"
            if word == b"exit":
                self.code = int(value)


def close(channels: selectors.BaseSelector, end: object) -> None:
    assert isinstance(end, socket.socket)
    channels.unregister(end)
    end.close()


def qemu_arguments(
    options: argparse.Namespace, kernel: Kernel, ram_disk: Path, console: Path, writable: Sequence[Path]
) -> list[str]:
    arguments = [
        program("qemu-system-x86_64", "qemu-system-x86"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"),
        *("-smp", str(options.cpus), "-m", options.memory),
        *("-kernel", str(kernel.image), "-initrd", str(ram_disk)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable net.ifnames=0"),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *("-virtfs", "local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap"),
    ]
    for number, path in enumerate(writable):
        quoted = str(path).replace(",", ",,")
        share = f"local,path={quoted},mount_tag=writable{number},security_model=none,multidevs=remap"
        arguments += ["-virtfs", share]
    return arguments


ACCELERATORS = {
    "kvm": ["-accel", "kvm", "-cpu", "host"],
    "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
}


def accelerators_to_try(wanted: str, failed_before: Path) -> list[str]:
    if wanted != "auto":
        return [wanted]
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK) and not failed_before.exists()
    return ["kvm", "tcg"] if kvm else ["tcg"]


def boot(options: argparse.Namespace) -> int:
    kernel = find_kernel(options.kernel)
    writable = list(dict.fromkeys(Path(path).resolve() for path in [os.getcwd(), *options.rw]))
    if Path("/") in writable:
        raise NoMachine("the whole file system cannot be writable; start in another directory")
    no_kvm = cache_directory() / "kvm-does-not-work-here"
    with tempfile.TemporaryDirectory() as scratch:
        ram_disk, console = Path(scratch) / "ram-disk", Path(scratch) / "console"
        ram_disk.write_bytes(build_ram_disk(kernel, writable, guest_command(kernel, options)))
        arguments = qemu_arguments(options, kernel, ram_disk, console, writable)
        sinks = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        tries = accelerators_to_try(options.accel, no_kvm)
        for accelerator in tries:
            machine = Machine(arguments + ACCELERATORS[accelerator], sinks)
            machine.run(options.timeout, KVM_PATIENCE if len(tries) > 1 and accelerator == "kvm" else options.timeout)
            if machine.started or machine.late:
                break
            if accelerator != tries[-1]:
                say("KVM does not work here: emulating, now and from now on")
                no_kvm.parent.mkdir(parents=True, exist_ok=True)
                no_kvm.touch()
        if machine.late:
            say(f"stopped after {options.timeout:.0f} s")
            return TIME_LIMIT_PASSED
        if machine.code is None:
            text = console.read_text(errors="replace") if console.exists() else ""
            sys.stderr.write("".join(text.splitlines(keepends=True)[-40:]))
            say("the machine did not start, or died")
            return NOT_STARTED
        return machine.code


# ---------------------------------------------------------------- is one needed?


def probe() -> int:
    """Ask this kernel for each feature, in a network namespace of its own so that nothing is left behind."""
    if os.geteuid() != 0:
        print("not root")
        return 1
    path = {**os.environ, "PATH": os.environ.get("PATH", "") + ":" + SYSTEM_PATH}
    script = f"modprobe -qa {' '.join(LOADABLE)} 2>/dev/null\n"
    script += "".join(f"{{ {test}; }} >/dev/null 2>&1 || echo {name}\n" for name, test in FEATURES)
    tried = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, env=path, check=False)
    if tried.returncode and not tried.stdout:
        print(f"cannot make a network namespace: {tried.stderr.strip()}")
        return 1
    missing = tried.stdout.split()
    if missing:
        print(f"kernel {os.uname().release} lacks: {' '.join(missing)}")
    return 1 if missing else 0


# ---------------------------------------------------------------- the command line


def say(text: str) -> None:
    print(f"vm: {text}", file=sys.stderr, flush=True)


def on_terminate(_signal: int, _frame: object) -> NoReturn:
    """As an exception, so that the machine is ended on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", action="store_true", help="say whether this kernel lacks anything, and exit")
    parser.add_argument("--fetch-only", action="store_true", help="fill the kernel cache, and exit")
    parser.add_argument("--kernel", default="linux-image-amd64", help="a Debian package, or an unpacked one")
    parser.add_argument("--rw", action="append", default=[], metavar="DIR", help="keep what is written below DIR")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="pass one more variable")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="for the whole run")
    parser.add_argument("--accel", choices=["auto", *ACCELERATORS], default="auto")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    if options.probe:
        return probe()
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        if options.fetch_only:
            print(find_kernel(options.kernel).image)
            return 0
        if not options.command:
            parser.error("no command to run")
        return boot(options)
    except NoMachine as error:
        say(str(error))
        return NOT_STARTED


if __name__ == "__main__":
    raise SystemExit(main())
