"""The command line on BGP: tables, one neighbor described, the VPN table over pages, traces on, off and shown."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from routeserver.cli.program import main
from routeserver.cli.words import cut, duration
from tests.support.pki import Pki
from tests.support.protected_dial import connect
from tests.support.raw_bgp import (
    NOTIFICATION,
    VPNV4,
    RawPeer,
    attribute,
    common_attributes,
    message,
    mp_reach,
    update,
    vpn_nlri,
)
from tests.support.server import RunningServer, running

T = TypeVar("T")
ASN, EXTERNAL_AS = 64512, 65001
CLIENT, EXTERNAL, SIGNED = "127.0.2.61", "127.0.2.62", "127.0.2.63"
SECRET = "correct-horse-battery"
RTC = (1, 132)
RT = bytes.fromhex("0002fc0000000064")
FAMILIES = (VPNV4, RTC)
CAPABILITIES = bytes.fromhex("0200 400a 405a 0001 80 80 0002 80 00 4707 0001 80 80 000e10")


def config(directory: Path | None) -> str:
    traces = "" if directory is None else f'trace-directory = "{directory}"'
    return f"""
[bgp]
listen = ["127.0.1.1:0"]
{traces}
[[bgp.policies]]
name = "no-nines"
rules = [{{ action = "reject", prefixes = ["10.9.0.0/16"] }}]
[[bgp.neighbors]]
address = "{CLIENT}"
peer-as = {ASN}
passive = true
route-reflector-client = true
idle-hold = "0s"
max-prefixes = 5000
import-policy = "no-nines"
graceful-restart = {{ mode = "full", long-lived = "2h" }}
afi-safis = ["l3vpn-ipv4-unicast", "route-target-constrain"]
[[bgp.neighbors]]
address = "{EXTERNAL}"
peer-as = {EXTERNAL_AS}
passive = true
idle-hold = "0s"
afi-safis = ["l3vpn-ipv4-unicast"]
[[bgp.neighbors]]
address = "{SIGNED}"
peer-as = {ASN}
passive = true
auth-password-file = "secret"
[[vpns]]
name = "blue"
import-route-target = ["64512:100"]
export-route-target = ["64512:100"]
"""


class Shell:
    """Runs commands against one server, in a thread, so that the server's loop keeps turning."""

    def __init__(self, server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.api = "http://{}:{}".format(*server.address("api"))
        self._capsys = capsys

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, [*words, "--api", self.api])
        return code, *self._capsys.readouterr()

    def captured(self) -> str:
        """What was printed since it was last asked for."""
        return self._capsys.readouterr().out

    async def out(self, *words: str) -> str:
        """What a command that works prints."""
        code, out, err = await self.run(*words)
        assert (code, err) == (0, "")
        return out


@pytest.fixture
async def shell(pki: Pki, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Shell]:
    (pki.directory / "secret").write_text(f"{SECRET}\n")
    async with running(pki, config(tmp_path)) as server:
        yield Shell(server, capsys)


async def blocking(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    return await asyncio.to_thread(partial(call, *arguments, **more))


async def gets_in(shell: Shell, source: str = CLIENT, asn: int = ASN) -> RawPeer:
    families = FAMILIES if source == CLIENT else (VPNV4,)
    peer = await blocking(connect, source, shell.server.address("bgp"))
    await blocking(peer.establish, asn, source, families, more=CAPABILITIES if source == CLIENT else b"")
    return peer


async def until(shell: Shell, address: str, condition: Callable[[Any], object]) -> None:
    async with asyncio.timeout(20):
        while not condition((await shell.server.get(f"/api/v1/bgp/neighbors/{address}"))[2]):
            pass


def routes(*prefixes: str, label: int = 300, as_path: tuple[int, ...] = ()) -> bytes:
    nlri = b"".join(vpn_nlri("64512:1", prefix, label) for prefix in prefixes)
    return update(mp_reach(VPNV4, "192.0.2.1", nlri) + common_attributes(RT, as_path=as_path))


MEMBERSHIP = update(
    attribute(0x80, 14, bytes.fromhex("0001 84 04 c000023d 00 60 0000fc00 0002fc0000000064"))
    + common_attributes(RT)[:14]
)
"""Of target 64512:100 in our AS."""


def received(count: int) -> Callable[[Any], bool]:
    return lambda view: view["afi-safis"][0]["received"] == count


def steady(text: str) -> str:
    """The text with every time and size that differs between runs in its place held by `~`."""
    return re.sub(r"\b\d+m?s\b", "~", text)


# --- Tables -----------------------------------------------------------------------------------------------------------


async def test_neighbors(shell: Shell) -> None:
    with closing(await gets_in(shell)) as client, closing(await gets_in(shell, EXTERNAL, EXTERNAL_AS)) as external:
        client.send(routes("10.1.0.0/24", "10.2.0.0/24", "10.9.1.0/24"))
        external.send(message(NOTIFICATION, bytes((6, 2, 70)) + b"x" * 70))
        await until(shell, CLIENT, received(2))
        await until(shell, EXTERNAL, lambda view: view["last-notification-received"])
        table = steady(await shell.out("get", "neighbors"))
        assert [line.split(maxsplit=6) for line in table.splitlines()] == [
            ["ADDRESS", "PEER-AS", "STATE", "TIME-IN-STATE", "RECEIVED", "SENT", "LAST-ERROR"],
            [CLIENT, "64512", "established", "~", "2", "0", "-"],
            [EXTERNAL, "65001", "active", "~", "0", "0", "received NOTIFICATION 6/2 (administrative shutdow…"],
            [SIGNED, "64512", "active", "~", "0", "0", "-"],
        ]
        assert max(map(len, table.splitlines())) <= 120
        wide = [line.split() for line in (await shell.out("get", "neighbors", "-o", "wide")).splitlines()]
        row = dict(zip(wide[0], wide[1], strict=True))
        assert (row["REFUSED"], row["STALE"], row["TYPE"], row["DYNAMIC"]) == ("1", "0", "internal", "no")
        assert row["AFI-SAFIS"] == "l3vpn-ipv4-unicast,route-target-constrain"
        assert " ".join(wide[2]).endswith(f"received NOTIFICATION 6/2 (administrative shutdown): '{'x' * 70}'")


async def test_memberships(shell: Shell) -> None:
    forwarder = await shell.server.login("host1.example.net")
    await forwarder.subscribe("blue", instance_id=1)
    with closing(await gets_in(shell)):
        await until(shell, CLIENT, lambda view: view["afi-safis"][1]["sent"] == 1)
        assert await shell.out("get", "rtc") == (
            "ORIGIN-AS  ROUTE-TARGET  ORIGINATED  RECEIVED-FROM  ADVERTISED-TO\n"
            f"64512      64512:100     yes         -              {CLIENT}\n"
        )
        assert "64512:target:64512:100" in await shell.out("get", "rtc", "-o", "wide")
    await forwarder.logout()


async def test_the_table_with_every_path(shell: Shell) -> None:
    with closing(await gets_in(shell)) as client, closing(await gets_in(shell, EXTERNAL, EXTERNAL_AS)) as external:
        client.send(routes("10.1.0.0/24", "10.2.0.0/24"))
        external.send(routes("10.1.0.0/24", label=500, as_path=(EXTERNAL_AS,)))
        await until(shell, CLIENT, received(2))
        await until(shell, EXTERNAL, received(1))
        assert await shell.out("get", "rib") == (
            "ROUTE-DISTINGUISHER  PREFIX       NEXT-HOP   LABEL  SOURCE      STALE  NOT-SELECTED-BECAUSE\n"
            "64512:1              10.1.0.0/24  192.0.2.1  300    127.0.2.61  no     -\n"
            "64512:1              10.1.0.0/24  192.0.2.1  500    127.0.2.62  no     longer AS_PATH\n"
            "64512:1              10.2.0.0/24  192.0.2.1  300    127.0.2.61  no     -\n"
        )
        wide = [line.split() for line in (await shell.out("get", "rib", "-o", "wide")).splitlines()]
        best, other = (dict(zip(wide[0], row, strict=False)) for row in wide[1:3])
        assert (best["AS-PATH"], best["EXTENDED-COMMUNITIES"], best["ADVERTISED-TO"]) == (
            "-",
            "target:64512:100",
            EXTERNAL,
        )
        assert (other["AS-PATH"], other["ADVERTISED-TO"]) == ("65001", "-")
        for words, lines in (
            (("--prefix", "10.2.0.0/24"), 2),
            (("--rd", "64512:1", "--afi-safi", "l3vpn-ipv4-unicast"), 4),
            (("--afi-safi", "l3vpn-ipv6-unicast"), 1),
        ):
            assert len((await shell.out("get", "rib", *words)).splitlines()) == lines
        code, out, err = await shell.run("get", "rib", "--rd", "x")
        assert (code, out, err) == (1, "", "routeserver: rd: 'x' is not a route distinguisher\n")


@pytest.mark.parametrize("words", [("get", "rib"), ("get", "routes", "blue")])
async def test_a_list_of_several_pages_is_one(shell: Shell, words: tuple[str, ...]) -> None:
    prefixes = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(1100)]
    with closing(await gets_in(shell)) as client:
        for start in range(0, len(prefixes), 100):
            client.send(routes(*prefixes[start : start + 100]))
        await until(shell, CLIENT, received(len(prefixes)))
        table = (await shell.out(*words)).splitlines()
        assert {word for line in table[1:] for word in line.split() if "/" in word} == set(prefixes)
        whole = json.loads(await shell.out(*words, "-o", "json"))
        assert (len(whole["items"]), whole["next-cursor"]) == (len(prefixes), None)


# --- One neighbor -----------------------------------------------------------------------------------------------------

DESCRIBED = """\
neighbor 127.0.2.61
  peer-as                   64512 (internal, passive, route-reflector-client)
  state                     established for ~
  router-id                 127.0.2.61
  local-address             127.0.1.1
  waits for rt-constraints  ~
  last-error                sent NOTIFICATION 1/3 (bad message type): message type 9 is unknown
  sessions                  2 established, 1 of them over
  failures in a row         1
  trace                     off

routes
  AFI-SAFI                NEGOTIATED  RECEIVED  REFUSED   STALE  SENT  END-OF-RIB  MAX-PREFIXES       KEPT
  l3vpn-ipv4-unicast      yes         2         policy=1  0      0     no          0% of 5000, cease  ~
  route-target-constrain  yes         1         -         0      1     no          0% of 5000, cease  -

rt-constraints received
  64512:target:64512:100

negotiated
  afi-safis                               l3vpn-ipv4-unicast,route-target-constrain
  hold-time                               1m30s
  four-octet-as                           yes
  route-refresh                           yes
  enhanced-route-refresh                  no
  extended-messages                       no
  extended-next-hop                       -
  add-path receive                        -
  add-path send                           -
  graceful-restart restarted              no
  graceful-restart restart-time           1m30s
  graceful-restart afi-safis              l3vpn-ipv4-unicast
  graceful-restart forwarding-preserved   l3vpn-ipv4-unicast
  graceful-restart survives-notification  yes
  long-lived-graceful-restart             l3vpn-ipv4-unicast:1h00m
  peer-role                               -
  remarks                                 -

configured
  hold-time                      1m30s
  idle-hold                      0s
  port                           179
  local-address                  -
  tcp-md5                        no
  ttl-security                   -
  graceful-restart mode          full
  graceful-restart restart-time  2m00s
  graceful-restart stale-time    6m00s
  graceful-restart long-lived    2h00m
  add-path receive               no
  add-path send                  no
  role                           -
  role-strict                    no
  import-policy                  no-nines
  export-policy                  -

messages, all sessions
  TYPE           RECEIVED  SENT
  open           2         2
  update         3         ~
  notification   0         1
  keepalive      2         2
  route-refresh  0         0
  octets         ~

faults, all sessions
  last NOTIFICATION sent      ~ ago: 1/3 (bad message type), data 09
  last NOTIFICATION received  -
  malformed UPDATEs           1
    ORIGIN                    1
  unsendable routes           0
"""
MOVING = (
    r"(?<=established for )\S+",
    r"(?<=rt-constraints  )\d\S*",
    r"\S+: waiting for End-of-RIB",
    r"(?<=NOTIFICATION sent      )\S+",
    r"(?<=update         3         )\d+",
    r"(?<=octets         )\d+ +\d+",
)
"""What is another time or another number with every run."""


async def test_a_neighbor_described(shell: Shell) -> None:
    with closing(await gets_in(shell)) as client:
        client.send(message(9))
        await until(shell, CLIENT, lambda view: view["sessions-lost"] == 1)
    with closing(await gets_in(shell)) as client:
        bad_origin = attribute(0x40, 1, b"\7") + common_attributes(RT)[4:]
        client.send(routes("10.1.0.0/24", "10.2.0.0/24", "10.9.1.0/24"))
        client.send(update(mp_reach(VPNV4, "192.0.2.1", vpn_nlri("64512:1", "10.4.0.0/24", 3)) + bad_origin))
        client.send(MEMBERSHIP)
        await until(shell, CLIENT, lambda view: view["afi-safis"][1]["sent"])
        found = await shell.out("describe", "neighbor", CLIENT)
    for pattern in MOVING:
        found = re.sub(pattern, "~", found)
    assert found == DESCRIBED


async def test_a_neighbor_that_was_never_there(shell: Shell) -> None:
    found = await shell.out("describe", "neighbor", EXTERNAL)
    assert "\nnegotiated\n" not in found
    assert re.search(r"^  state +active for \S+$", found, re.MULTILINE)
    assert json.loads(await shell.out("describe", "neighbor", EXTERNAL, "-o", "json"))["address"] == EXTERNAL


async def test_a_neighbor_nobody_knows(shell: Shell) -> None:
    reason = "no neighbor '127.0.9.9' here; GET /api/v1/bgp/neighbors lists them"
    assert await shell.run("describe", "neighbor", "127.0.9.9") == (3, "", f"routeserver: {reason}\n")


# --- Traces -----------------------------------------------------------------------------------------------------------

SHOWN = (
    """\
~  1 -  connection
                   AS 64512 at 127.0.1.1 with AS 65001 at 127.0.2.62
""",
    """\
~  1 <  OPEN  43 octets
                   AS 65001, hold time 90 s, identifier 127.0.2.62
""",
    """\
~  1 <  UPDATE  82 octets
                   RoutesReceived l3vpn-ipv4-unicast 64512:1 10.1.0.0/24 label 300 with next-hop=192.0.2.1
                     origin=igp as-path=65001 extended-communities=target:64512:100
                   ffff""",
    """\
~  1 >  NOTIFICATION  22 octets
                   1/3 (bad message type)
                   data 09
""",
)


async def test_a_trace_on_off_and_shown(shell: Shell, tmp_path: Path) -> None:
    (on,) = (await shell.out("trace", "on", EXTERNAL)).splitlines()
    file = on.removeprefix(f"trace of {EXTERNAL}: ")
    assert Path(file).parent == tmp_path
    assert json.loads(await shell.out("trace", "on", EXTERNAL, "-o", "json")) == {"enabled": True, "file": file}
    assert f"on, {file}" in await shell.out("describe", "neighbor", EXTERNAL)
    with closing(await gets_in(shell, EXTERNAL, EXTERNAL_AS)) as external:
        sent = routes("10.1.0.0/24", as_path=(EXTERNAL_AS,))
        external.send(sent + message(9))
        await until(shell, EXTERNAL, lambda view: view["sessions-lost"])
    assert await shell.out("trace", "off", EXTERNAL) == f"trace of {EXTERNAL}: off\n"
    assert await asyncio.to_thread(main, ["trace", "show", file]) == 0
    shown = shell.captured()
    head, _, rest = shown.partition("\n")
    assert head.startswith(f"trace of {EXTERNAL}, begun 20")
    rest = re.sub(r"^\d\d:\d\d:\d\d\.\d{3}", "~", rest, flags=re.MULTILINE)
    places = [rest.find(part) for part in SHOWN]
    assert places == sorted(places), rest
    assert places[0] == 0, rest
    assert f"\n                   {sent.hex()}\n" in rest


async def test_a_trace_of_nobody_and_one_that_has_nowhere_to_go(
    pki: Pki, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await shell.run("trace", "on", "127.0.9.9"))[0] == 3
    async with running(pki, config(None)) as server:
        code, out, err = await Shell(server, capsys).run("trace", "on", CLIENT)
    reason = "there is nowhere to write to: bgp.trace-directory is not in the configuration"
    assert (code, out, err) == (1, "", f"routeserver: {reason}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "line 1: not the head of a BGP trace of version 1"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
    ids=["missing", "empty", "no text"],
)
def test_a_file_that_is_no_trace(
    tmp_path: Path, text: bytes | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace.jsonl"
    if text is not None:
        file.write_bytes(text)
    assert main(["trace", "show", str(file)]) == 1
    assert capsys.readouterr() == ("", f"routeserver: {file}: {reason}\n")


# --- Secrets, words, usage --------------------------------------------------------------------------------------------


async def test_nothing_printed_has_the_password(shell: Shell, tmp_path: Path) -> None:
    await shell.out("trace", "on", SIGNED)
    peer = await blocking(connect, SIGNED, shell.server.address("bgp"), password=SECRET.encode())
    await blocking(peer.establish, ASN, SIGNED, (VPNV4,))
    with closing(peer):
        await until(shell, SIGNED, lambda view: view["state"] == "established")
        for words in (("describe", "neighbor", SIGNED), ("get", "neighbors"), ("get", "rib"), ("status",)):
            for output in ("table", "wide", "json"):
                assert SECRET not in (await shell.run(*words, "-o", output))[1]
    await shell.out("trace", "off", SIGNED)
    text = await blocking(lambda: next(tmp_path.iterdir()).read_text().lower())
    assert '"in": "ff' in text
    assert not [word for word in (SECRET, SECRET.encode().hex()) if word in text]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.0, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (312, "5m12s"),
        (3599, "59m59s"),
        (3720, "1h02m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (273600, "3d04h"),
        (8640000, "100d00h"),
    ],
)
def test_durations(seconds: float | None, text: str | None) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("text", "width", "shown"), [(None, 3, None), ("abc", 3, "abc"), ("abcd", 3, "ab…")])
def test_what_is_too_long_is_cut(text: str | None, width: int, shown: str | None) -> None:
    assert cut(text, width) == shown


@pytest.mark.parametrize(
    "words",
    [
        ["describe"],
        ["describe", "neighbor"],
        ["describe", "vpn", "blue"],
        ["trace"],
        ["trace", "on"],
        ["trace", "show"],
    ],
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith("usage: routeserver")
