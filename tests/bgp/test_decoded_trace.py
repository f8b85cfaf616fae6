"""A trace message by message: what each says, which way it went, and what else happened."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from routeserver.bgp.attributes import PathAttributes
from routeserver.bgp.decoded_trace import HERE, IN, OUT, Entry, decoded
from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import KEEPALIVE, RefreshKind, encode_route_refresh
from routeserver.bgp.replay import TraceError, read_trace
from routeserver.bgp.session import BgpSession
from routeserver.bgp.trace import Line, NeighborTrace
from routeserver.bgp.wire import MessageType, frame
from tests.support.bgp_pair import LEFT, RIGHT, peer_open, session
from tests.support.updates import INTERNAL, ROUTE_KEY, attribute, base, mp_reach, mp_unreach, update

VPNS = (Family.VPNV4, Family.VPNV6)
OPEN = peer_open(families=VPNS)
UPDATE = update(mp_reach(), *base(INTERNAL))
ATTRIBUTES = PathAttributes(ip_address("192.0.2.1"), local_pref=100)


class Recorded:
    """A session and its trace."""

    def __init__(self, traced: BgpSession | None = None) -> None:
        self.now = 10.0
        self._written: list[str] = []
        self.trace = NeighborTrace(self._written.append, lambda: self.now)
        self.session = traced or session(families=VPNS, now=self.now)
        self.trace.open(self.session.neighbor.address, "2026-11-20T10:00:00.000Z")
        self.trace.begin(self.session, self.now)

    def hears(self, *chunks: bytes) -> None:
        for data in chunks:
            self.now += 1
            self.session.receive_data(data, self.now)
            self.session.data_to_send()

    def lines(self) -> list[Line]:
        return read_trace("".join(f"{line}\n" for line in self._written))

    def entries(self) -> list[Entry]:
        return list(decoded(self.lines()))

    def said(self, direction: str, kind: str) -> Entry:
        """The last message of a kind that went that way."""
        return [entry for entry in self.entries() if (entry.direction, entry.kind) == (direction, kind)][-1]


def up(sends_paths: bool = False) -> Recorded:
    recorded = Recorded(session(families=VPNS, now=10.0, add_path_send=sends_paths))
    theirs = session(local=RIGHT, peer=LEFT, families=VPNS, add_path_receive=sends_paths)
    recorded.hears(theirs.data_to_send(), KEEPALIVE)
    return recorded


def test_a_session_from_its_beginning_to_its_end() -> None:
    recorded = Recorded()
    recorded.hears(OPEN, KEEPALIVE + UPDATE, b"")
    assert [(entry.direction, entry.kind) for entry in recorded.entries()] == [
        (HERE, "connection"),
        (IN, "OPEN"),
        (OUT, "OPEN"),
        (OUT, "KEEPALIVE"),
        (IN, "KEEPALIVE"),
        (IN, "UPDATE"),
        (IN, "end of connection"),
    ]
    connection, their_open, our_open, _, keepalive, heard, end = recorded.entries()
    assert connection.says == (f"AS 64512 at {LEFT} with AS 64512 at {RIGHT}",)
    assert their_open.says[0] == f"AS 64512, hold time 90 s, identifier {RIGHT}"
    assert "families=1/128,2/128" in their_open.says[1]
    assert our_open.says[0] == f"AS 64512, hold time 90 s, identifier {LEFT}"
    assert keepalive.says[0].startswith("Established ")
    assert heard.octets == UPDATE
    assert heard.says[0].startswith("RoutesReceived l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.1/32 label 16 with ")
    assert end.says == ("SessionClosed reason=connection closed by the peer",)
    assert [entry.at for entry in recorded.entries()] == [10.0, 11.0, 11.0, 11.0, 12.0, 12.0, 13.0]


def test_messages_are_told_apart_in_one_read_and_joined_from_several() -> None:
    recorded = up()
    recorded.hears(UPDATE + UPDATE[:30], UPDATE[30:])
    entries = recorded.entries()[-2:]
    assert [(entry.at, entry.octets) for entry in entries] == [(13.0, UPDATE), (14.0, UPDATE)]


def test_a_trace_begun_in_the_middle_of_a_message() -> None:
    connected = up().session
    connected.receive_data(UPDATE[:30], 12.0)
    recorded = Recorded(connected)
    recorded.hears(UPDATE[30:])
    connection, heard = recorded.entries()
    assert connection.says[1] == "in the middle: established"
    assert (heard.kind, heard.octets) == ("UPDATE", UPDATE)
    assert heard.says[0].startswith("RoutesReceived l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.1/32 ")


SAID = {
    "announces": (lambda s: s.send_routes(Family.VPNV4, ATTRIBUTES, [(ROUTE_KEY, 16)]), "UPDATE",
                  "announces l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.1/32 label 16 with "
                  "next-hop=192.0.2.1 origin=igp local-preference=100"),
    "withdraws": (lambda s: s.send_withdrawals(Family.VPNV4, [ROUTE_KEY]), "UPDATE",
                  "withdraws l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.1/32"),
    "End-of-RIB": (lambda s: s.send_end_of_rib(Family.VPNV6), "UPDATE", "End-of-RIB l3vpn-ipv6-unicast"),
    "refresh": (lambda s: s.send_refresh(Family.VPNV4), "ROUTE-REFRESH", "request l3vpn-ipv4-unicast"),
    "refresh begins": (lambda s: s.send_refresh_begin(Family.VPNV4), "ROUTE-REFRESH", "begin l3vpn-ipv4-unicast"),
}  # fmt: skip


@pytest.mark.parametrize(("send", "kind", "words"), SAID.values(), ids=SAID)
def test_what_we_say(send: object, kind: str, words: str) -> None:
    recorded = up()
    assert callable(send)
    send(recorded.session)
    recorded.session.data_to_send()
    assert recorded.said(OUT, kind).says == (words,)


def test_path_identifiers_we_give_are_read_as_such() -> None:
    recorded = up(sends_paths=True)
    recorded.session.send_withdrawals(Family.VPNV4, [b"\0\0\0\7" + ROUTE_KEY])
    recorded.session.data_to_send()
    assert recorded.said(OUT, "UPDATE").says == ("withdraws l3vpn-ipv4-unicast path 7 of 192.0.2.1:5 10.1.2.1/32",)


HEARD = {
    "a withdrawal": (update(mp_unreach()), "UPDATE", "RoutesWithdrawn l3vpn-ipv4-unicast 192.0.2.1:5 10.1.2.2/32"),
    "a fault": (
        update(mp_reach(), *base(INTERNAL, without=1), attribute(0x40, 1, "07")), "UPDATE",
        "UpdateMalformed ORIGIN: origin 7 (treat-as-withdraw); routes: 192.0.2.1:5 10.1.2.1/32"),
    "a request": (encode_route_refresh(Family.VPNV6), "ROUTE-REFRESH", "RefreshRequested l3vpn-ipv6-unicast"),
    "a beginning": (encode_route_refresh(Family.VPNV6, RefreshKind.BEGIN), "ROUTE-REFRESH",
                    "RefreshBegins l3vpn-ipv6-unicast"),
    "a NOTIFICATION": (frame(MessageType.NOTIFICATION, bytes.fromhex("0602026869")), "NOTIFICATION",
                       "6/2 (administrative shutdown): 'hi'"),
    "no header": (b"\0" * 19, "no message", "SessionClosed reason=sent NOTIFICATION 1/1 "
                  "(connection not synchronized): marker is not all ones notification=1/1"),
    "a type nobody knows": (frame(MessageType.KEEPALIVE)[:-1] + b"\x09", "no message",
                            "SessionClosed reason=sent NOTIFICATION 1/3 (bad message type): "
                            "message type 9 is unknown notification=1/3 data=09"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "words"), HEARD.values(), ids=HEARD)
@pytest.mark.parametrize("before", [b"", UPDATE], ids=["alone", "after another"])
def test_what_the_neighbor_says(data: bytes, kind: str, words: str, before: bytes) -> None:
    recorded = up()
    recorded.hears(before + data)
    entry = recorded.said(IN, kind)
    assert entry.says[0] == words
    assert entry.octets == data


def test_what_is_no_message_is_shown_from_its_beginning() -> None:
    recorded = up()
    recorded.hears(UPDATE + b"\0" * 10, b"\0" * 9)
    assert recorded.said(IN, "no message").octets == b"\0" * 19


def test_the_data_of_a_notification_are_shown() -> None:
    recorded = up()
    recorded.hears(frame(MessageType.NOTIFICATION, bytes.fromhex("0601000180")))
    assert recorded.said(IN, "NOTIFICATION").says[:2] == (
        "6/1 (maximum number of prefixes reached)",
        "data 000180",
    )


def test_ends_from_here_and_by_the_timer() -> None:
    stopped = up()
    stopped.session.stop(ErrorCode.CEASE, Cease.ADMIN_SHUTDOWN, "bye")
    stopped.session.data_to_send()
    end, told = stopped.entries()[-2:]
    assert (end.direction, end.kind) == (HERE, "manual-stop")
    assert end.says[0].startswith(
        "SessionClosed reason=sent NOTIFICATION 6/9 (hard reset): 6/2 (administrative shutdown): bye"
    )
    assert (told.direction, told.kind, told.says[0]) == (
        OUT,
        "NOTIFICATION",
        "6/9 (hard reset): 6/2 (administrative shutdown): 'bye'",
    )
    silent = up()
    for wait in (50.0, 200.0):
        silent.session.handle_timer(silent.now + wait)
    (entry,) = [entry for entry in silent.entries() if entry.kind == "timer"]
    assert "hold timer expired" in entry.says[0]


def test_an_open_that_cannot_be_read() -> None:
    recorded = Recorded()
    recorded.hears(OPEN[:19] + b"\3" + OPEN[20:])
    assert recorded.said(IN, "OPEN").says[0] == "NOTIFICATION 2/1 (unsupported version number): version 3"


def test_a_message_of_ours_that_is_longer_than_4096_octets() -> None:
    recorded = up()
    long = replace(ATTRIBUTES, unknown=((0xE0, 99, bytes(5000)),))
    recorded.session.send_routes(Family.VPNV4, long, [(ROUTE_KEY, 16)])
    recorded.session.data_to_send()
    assert len(recorded.said(OUT, "UPDATE").octets) > 4096


def test_a_line_that_makes_no_sense() -> None:
    recorded = up()
    lines = [*recorded.lines(), {"at": 12.0, "session": 1, "out": "zz"}]
    with pytest.raises(TraceError, match=f"line {len(lines)}: "):
        list(decoded(lines))
