"""`forwarder attach --via`: an end-system's own program, with external forwarders in the test's event loop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from forwarder.dataplane.fake import FakeDataplane
from tests.support.external import Behind, EndSystemProgram, External, external, publish, subscribe
from tests.support.pki import Pki
from tests.support.waiting import eventually_async

FW1, FW2 = "fw1.example.net", "fw2.example.net"
ES1 = Behind("es1.example.net", vpns=("blue",))
NOBODY: tuple[str, int] = ("127.0.0.1", 9)
WORDS = ("if1", "--vpn", "blue", "--vlan", "100", "--address", "10.1.0.1/32", "--address", "fd00::1")
SERVED = {"es:es1.example.net:100": ("eth1:100", "blue", ("10.1.0.1", "fd00::1"))}


@pytest.fixture
def own_pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path)


def reached(*hosts: External) -> list[tuple[str, tuple[str, int]]]:
    return [(host.jid, host.service.addresses[0]) for host in hosts]


async def test_it_is_attached_by_all_it_names_for_as_long_as_it_runs(own_pki: Pki) -> None:
    async with (
        external(own_pki, FW1, "192.0.2.1", (ES1,), NOBODY) as one,
        external(own_pki, FW2, "192.0.2.2", (ES1,), NOBODY) as two,
    ):
        with EndSystemProgram(own_pki, ES1.jid, reached(one, two), *WORDS) as program:
            await eventually_async(
                lambda: program.log().count("if1 attached: vpn blue, vlan 100") == 2, 60, program.log
            )
            assert (one.attached(), two.attached()) == (SERVED, SERVED)
            assert (program.log().count('"forwarder.connected"'), "route-server" in program.log()) == (2, False)
            program._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            await eventually_async(lambda: program.exit_code == 0, 60, program.log)
        assert (one.attached(), two.attached()) == ({}, {}), "it has given it up before it ended"


async def test_a_forwarder_that_comes_back_is_told_again(own_pki: Pki) -> None:
    plane = FakeDataplane()
    async with external(own_pki, FW1, "192.0.2.1", (ES1,), NOBODY, dataplane=plane) as host:
        where = reached(host)
        program = EndSystemProgram(own_pki, ES1.jid, where, *WORDS)
        program.start()
        await eventually_async(lambda: "if1 attached" in program.log(), 60, program.log)
    try:
        listen = f"{where[0][1][0]}:{where[0][1][1]}"
        async with external(own_pki, FW1, "192.0.2.1", (ES1,), NOBODY, dataplane=plane, listen=listen) as host:
            assert host.attached() == SERVED
            await eventually_async(lambda: program.log().count("if1 attached") == 2, 60, program.log)
            (one,) = host.service.memberships
            assert all(claim.is_confirmed for claim in one.claims.values())
    finally:
        program.stop()


async def test_what_a_forwarder_refuses_ends_it_with_the_reason(own_pki: Pki) -> None:
    async with external(own_pki, FW1, "192.0.2.1", (ES1,), NOBODY) as host, host.end_system(ES1, "other") as client:
        await subscribe(client, "blue", 100)
        await publish(client, "blue", "10.1.0.9")
        program = EndSystemProgram(own_pki, ES1.jid, reached(host), *WORDS)
        program.start()
        await eventually_async(lambda: not program.running, 60, program.log)
        assert program.exit_code == 1
        assert "refuses VLAN 100 in VPN blue: bad-request: VLAN 100 is in use in VPN blue" in program.log()
        assert host.attached()["es:es1.example.net:100"][2] == ("10.1.0.9",)


async def test_both_ends_say_that_an_end_system_is_not_listed(own_pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with external(own_pki, FW1, "192.0.2.1", (ES1,), NOBODY) as host:
        with EndSystemProgram(own_pki, "es2.example.net", reached(host), *WORDS) as program:
            why = "es2.example.net is no end-system of this forwarder"
            await eventually_async(lambda: why in program.log(), 60, program.log)

            def ends() -> list[str]:
                lines = [line for line in caplog.records if line.msg == "xmpp.session.down"]
                return [vars(line)["event_keys"]["reason"] for line in lines]

            await eventually_async(ends, 60, lambda: str(caplog.messages))
            assert ends()[0] == f"not-authorized: {why}"
        assert host.attached() == {}
