"""Two external forwarders and keepalived: the master serves the end-systems, and the other one after it.

keepalived is the real one, with the example of deploy/keepalived, in two network namespaces joined by a veth pair.
The forwarders are programs with the data plane in memory; their sockets are files, so keepalived's namespace is no
matter to what it calls.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from forwarder.api import Api
from forwarder.external.role import NotRedundantError
from forwarder.external.table import Role
from tests.support.external import Behind, EndSystemProgram, external, publish, subscribe, write_external_config
from tests.support.namespaces import Namespace
from tests.support.pki import Pki
from tests.support.process import Daemon
from tests.support.server import RunningServer, running
from tests.support.waiting import eventually_async

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "deploy/keepalived"
VPNS = '\n[[vpns]]\nname = "blue"\nimport-route-target = ["64512:100"]\nexport-route-target = ["64512:100"]\n'
FORWARDERS = (("fw1.example.net", "192.0.2.1"), ("fw2.example.net", "192.0.2.2"))
ES1 = Behind("es1.example.net", vpns=("blue",))
NOBODY: tuple[str, int] = ("127.0.0.1", 9)
"""No route server answers there."""
WITHIN = 60.0


@pytest.fixture
def own_pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path)


# --- The roles ------------------------------------------------------------------------------------------------------


async def test_the_one_on_standby_knows_all_and_serves_nothing(own_pki: Pki) -> None:
    jid, address = FORWARDERS[0]
    async with external(own_pki, jid, address, (ES1,), NOBODY, redundant=True) as host:
        assert host.service.role is Role.STANDBY, "nobody has said that it is the one"
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)
            await publish(client, "blue", "10.1.0.1")
            assert host.attached() == {}
            await host.service.take(Role.ACTIVE)
            served = {"es:es1.example.net:100": ("eth1:100", "blue", ("10.1.0.1",))}
            assert host.attached() == served
            await publish(client, "blue", "10.1.0.2")
            await host.service.take(Role.STANDBY)
            assert host.attached() == {}
            await host.service.take(Role.ACTIVE)
            assert host.attached()["es:es1.example.net:100"][2] == ("10.1.0.1", "10.1.0.2")


async def test_the_only_one_is_active(own_pki: Pki) -> None:
    jid, address = FORWARDERS[0]
    async with external(own_pki, jid, address, (ES1,), NOBODY) as host:
        await host.service.take(Role.ACTIVE)
        with pytest.raises(NotRedundantError, match=r"external\.redundant is not set"):
            await host.service.take(Role.STANDBY)
        assert host.service.role is Role.ACTIVE


async def test_people_are_told_of_end_systems_and_the_role(own_pki: Pki) -> None:
    jid, address = FORWARDERS[0]
    async with external(own_pki, jid, address, (ES1,), NOBODY, redundant=True) as host:
        socket_path = own_pki.directory / "api.sock"
        api = Api(host.agent, socket_path)
        await api.start()

        async def told(*words: str, exit_code: int = 0) -> str:
            command = [sys.executable, "-m", "forwarder", "external", *words, "--api", str(socket_path)]
            run = partial(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
            done = await asyncio.to_thread(run)
            assert done.returncode == exit_code, done
            return str(done.stdout + done.stderr)

        assert "nobody is behind this forwarder" in await told(exit_code=3)
        api.external = host.service
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)
            await publish(client, "blue", "10.1.0.1")
            line = "es:es1.example.net:100  es1.example.net  eth1  100   blue  10.1.0.1/32  yes      {}"
            assert (await told()).splitlines()[0] == "standby, 1 sessions"
            assert (await told()).splitlines()[2] == line.format("no")
            assert (await told("active")).splitlines()[2] == line.format("yes")
        assert '"session": false' in await told("-o", "json")
        await api.stop()


@pytest.mark.parametrize("role", list(Role))
async def test_a_restart_does_not_change_the_role(own_pki: Pki, role: Role) -> None:
    jid, address = FORWARDERS[0]
    async with external(own_pki, jid, address, (ES1,), NOBODY, redundant=True) as host:
        await host.service.take(Role.ACTIVE)
        async with host.end_system(ES1) as client:
            await subscribe(client, "blue", 100)
            await publish(client, "blue", "10.1.0.1")
        await host.service.take(role)
        before, plane = host.attached(), host.dataplane
    async with external(own_pki, jid, address, (ES1,), NOBODY, redundant=True, dataplane=plane) as host:
        assert host.service.role is role
        assert host.attached() == before
        assert bool(before) is (role is Role.ACTIVE)


# --- With keepalived ------------------------------------------------------------------------------------------------


class Program(Daemon):
    """`forwarder run` with end-systems behind it, one of two."""

    def __init__(self, pki: Pki, jid: str, address: str, listen: str, server: RunningServer) -> None:
        super().__init__(jid, pki.directory / f"{jid}.d")
        where = [server.address("xmpp")]
        self._config = write_external_config(pki, jid, address, (ES1,), where, listen=listen, redundant=True)
        self.socket = pki.directory / f"{jid}.sock"

    def start(self) -> None:
        command = [str(ROOT / ".venv/bin/python"), "-m", "forwarder", "run", "--config", self._config]
        self.spawn(command, {"PYTHONPATH": str(ROOT)})


class Keepalived(Daemon):
    """With the example's configuration and script, as fast as VRRP goes."""

    def __init__(self, space: Namespace, interface: str, priority: int, program: Program, directory: Path) -> None:
        super().__init__(f"keepalived {interface}", directory / interface)
        self._space = space
        command = self.directory / "forwarder"
        # Not through a shell's path: keepalived gives its scripts none.
        command.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT} exec {ROOT / ".venv/bin/python"} -m forwarder "$@" --api {program.socket}\n'
        )
        command.chmod(0o755)
        text = (SHIPPED / "keepalived.conf").read_text()
        for shipped, here in {
            "router_id fw1": f"router_id {program.name}",
            "interface eth1": f"interface {interface}",
            "priority 110": f"priority {priority}",
            "advert_int 1": "advert_int 0.2",
            "/opt/end-system/bin/forwarder external": f"{command} external",
            '"/usr/local/lib/forwarder/vrrp-notify': f'"{self._notify(command)}',
        }.items():
            assert shipped in text
            text = text.replace(shipped, here)
        self.file = self.directory / "keepalived.conf"
        self.file.write_text(text)

    def _notify(self, command: Path) -> Path:
        script = self.directory / "vrrp-notify"
        script.write_text(
            f'#!/bin/sh\nFORWARDER={command} RUNTIME_DIRECTORY={self.directory} exec {SHIPPED / "vrrp-notify"} "$@"\n'
        )
        script.chmod(0o755)
        return script

    def start(self) -> None:
        pids = [
            word for name, option in (("main", "-p"), ("vrrp", "-r")) for word in (option, f"{self.directory}/{name}")
        ]
        with self._space:
            self.spawn(["keepalived", "-n", "-l", "-D", "-f", str(self.file), *pids])


@pytest.fixture
def link() -> Iterator[tuple[Namespace, Namespace]]:
    if os.geteuid() != 0 or shutil.which("keepalived") is None:
        pytest.skip("needs root and keepalived")
    one, two = Namespace("fw"), Namespace("fw")
    one.batch(
        f"link add v1 type veth peer name v2 netns {two.name}", "addr add 198.51.100.1/24 dev v1", "link set v1 up"
    )
    two.batch("addr add 198.51.100.2/24 dev v2", "link set v2 up")
    yield one, two
    one.delete()
    two.delete()


@pytest.mark.timeout(300)
async def test_keepalived_moves_the_end_systems_to_the_other_forwarder(
    own_pki: Pki, link: tuple[Namespace, Namespace]
) -> None:
    listens = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    async with running(own_pki, VPNS) as server:
        programs = [Program(own_pki, *who, at, server) for who, at in zip(FORWARDERS, listens, strict=True)]
        keepers = [
            Keepalived(space, f"v{n}", 120 - 10 * n, program, own_pki.directory)
            for n, (space, program) in enumerate(zip(link, programs, strict=True), 1)
        ]
        reached = [(jid, ("127.0.0.1", int(at[10:]))) for (jid, _), at in zip(FORWARDERS, listens, strict=True)]
        words = ("if1", "--vpn", "blue", "--vlan", "100", "--address", "10.1.0.1")
        end_system = EndSystemProgram(own_pki, ES1.jid, reached, *words)
        try:
            for program in programs:
                program.start()
            end_system.start()
            await eventually_async(lambda: end_system.log().count("if1 attached") == 2, WITHIN, end_system.log)
            keepers[0].start()
            async with await server.login("watch.example.net") as watch:
                await watch.subscribe("blue", 1)

                def hop() -> list[str]:
                    items = list(watch.node_items["blue"].values())
                    path = ".//{urn:ietf:params:xml:ns:bgp:l3vpn:unicast}next-hop/{*}address"
                    return [str(found.text) for item in items if (found := item.find(path)) is not None]

                async def served_by(which: int) -> None:
                    address = FORWARDERS[which][1]
                    told = "\n".join(one.log_tail(20) for one in (*programs, *keepers))
                    await watch.until(lambda: hop() == [address], f"{address} has it: {hop()}\n{told}", WITHIN)

                await served_by(0)
                keepers[1].start()  # not earlier: what works is left alone, and either may be the first to work
                await asyncio.to_thread(keepers[1].wait_ready, partial(_is_backup, keepers[1], 0), WITHIN)
                keepers[0].stop()
                await served_by(1)
                before = keepers[0].log().count("BACKUP STATE")
                keepers[0].start()
                again = partial(_is_backup, keepers[0], before)
                await asyncio.to_thread(keepers[0].wait_ready, again, WITHIN)
                programs[1].kill()
                await served_by(0)
        finally:
            for daemon in (end_system, *keepers, *programs):
                daemon.stop()


def _is_backup(keeper: Keepalived, before: int) -> bool:
    """It has said so once more."""
    return keeper.log().count("BACKUP STATE") > before


def _free_ports(count: int) -> list[int]:
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in made]
    for one in made:
        one.close()
    return ports
