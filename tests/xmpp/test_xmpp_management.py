"""Stream management (XEP-0198) of one session and of the one that resumes it: elements, counters, what is kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from routeserver.xmpp.events import Bound, Detached, EndOfPublish, Iq, Resumed, StreamClosed
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.management import Management, Resumptions
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits
from tests.support import xmpp_script
from tests.support.xmpp_script import CLIENT, HEADER, STREAM_END, bind, new_session, secured, stanzas

NS = "urn:xmpp:sm:3"
WRAP = 1 << 32
ENABLE = f"<enable xmlns='{NS}' resume='true'/>".encode()
REQUEST = f"<r xmlns='{NS}'/>".encode()
UNEXPECTED = b"<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
BAD = UNEXPECTED.replace(b"unexpected-request", b"bad-request")
NOT_FOUND = UNEXPECTED.replace(b"unexpected-request", b"item-not-found")
FULL_JID = Jid.parse(f"{CLIENT}/vpn")
_numbers = itertools.count(1)


def ack(h: object) -> bytes:
    return f"<a xmlns='{NS}' h='{h}'/>".encode()


def resume(previd: str, h: object = 0) -> bytes:
    return f"<resume xmlns='{NS}' previd='{previd}' h='{h}'/>".encode()


@dataclass
class Server:
    """What the sessions of a server share."""

    resumptions: Resumptions[XmppSession]
    limits: StreamLimits

    def authenticated(self, jid: str = CLIENT) -> XmppSession:
        ids = f"t{next(_numbers)}-"
        return xmpp_script.authenticated(jid, limits=self.limits, resumptions=self.resumptions, ids=ids)

    def bound(self, jid: str = CLIENT, resource: str = "vpn") -> XmppSession:
        session = self.authenticated(jid)
        session.receive_data(bind(resource), 0.0)
        session.data_to_send()
        return session

    def managed(self) -> tuple[XmppSession, str]:
        """A session that can be resumed, and its resumption id."""
        session = self.bound()
        session.receive_data(ENABLE, 0.0)
        (enabled,) = stanzas(session.data_to_send())
        return session, enabled.attrib["id"]

    def resumed(self, previd: str, h: int = 0, more: bytes = b"") -> tuple[XmppSession, bytes]:
        """A session that has tried to resume, and all it has been told."""
        session = self.authenticated()
        session.receive_data(resume(previd, h) + more, 0.0)
        return session, session.data_to_send()


def server(seconds: float = 60.0, **limits: int) -> Server:
    return Server(Resumptions(seconds), StreamLimits(**limits))  # type: ignore[arg-type]


def say(session: XmppSession, *item_ids: str) -> None:
    for item_id in item_ids:
        session.send_retracts("blue", CLIENT, [item_id])


def heard(sent: bytes) -> list[str]:
    """The item ids of messages."""
    return [one.get("id", "") for one in _all(sent) if one.tag.endswith("}retract")]


def _all(sent: bytes) -> list[xmpp_script.etree._Element]:
    return [one for stanza in stanzas(sent) for one in stanza.iter()]


# --- Which element at which stage -------------------------------------------------------------------------------------

ELEMENTS = {"enable": ENABLE, "resume": resume("nobody"), "a": ack(0), "r": REQUEST}
STAGES = {
    "in the clear": lambda: _opened(new_session()),
    "before login": lambda: _opened(secured(None)),
    "before binding": lambda: server().authenticated(),
    "bound": lambda: server().bound(),
    "enabled": lambda: server().managed()[0],
}
FAILED = ("failed", UNEXPECTED)
UNKNOWN, TOO_MUCH = ("error", b"unsupported-stanza-type"), ("error", b"policy-violation")
ANSWERS = {
    "in the clear": {"enable": FAILED, "resume": FAILED, "a": UNKNOWN, "r": UNKNOWN},
    "before login": {"enable": FAILED, "resume": FAILED, "a": UNKNOWN, "r": UNKNOWN},
    "before binding": {"enable": FAILED, "resume": ("failed", NOT_FOUND), "a": UNKNOWN, "r": UNKNOWN},
    "bound": {"enable": ("enabled", b" resume='true' max='60'/>"), "resume": FAILED, "a": TOO_MUCH, "r": TOO_MUCH},
    "enabled": {"enable": TOO_MUCH, "resume": FAILED, "a": ("", b""), "r": ("a", b" h='0'/>")},
}


def _opened(session: XmppSession) -> XmppSession:
    session.receive_data(HEADER, 0.0)
    session.data_to_send()
    return session


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_element_at_every_stage(stage: str, element: str) -> None:
    session = STAGES[stage]()  # type: ignore[no-untyped-call]
    kind, text = ANSWERS[stage][element]
    events = session.receive_data(ELEMENTS[element], 0.0)
    sent = session.data_to_send()
    assert session.closing is (kind == "error")
    assert [type(event) for event in events] == [StreamClosed] * session.closing
    if kind == "error":
        assert b"<stream:error><" + text + b" " in sent
    else:
        assert sent.startswith(f"<{kind} xmlns='{NS}'".encode() if kind else b"")
        assert sent.endswith(text)


def test_it_is_offered_beside_binding() -> None:
    session = secured(xmpp_script.ClientCertificate(xmpp_addresses=(CLIENT,)))
    session.receive_data(HEADER + xmpp_script.AUTH + HEADER, 0.0)
    features = stanzas(session.data_to_send().partition(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")[2])[0]
    assert [child.tag for child in features] == ["{urn:ietf:params:xml:ns:xmpp-bind}bind", f"{{{NS}}}sm"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", {}),
        (" resume='false' max='5'", {}),
        (" resume='0'", {}),
        (" resume='1'", {"resume": "true", "max": "60"}),
        (" resume=' true '", {"resume": "true", "max": "60"}),
        (" resume='true' max='10'", {"resume": "true", "max": "10"}),
        (" resume='true' max='+0010'", {"resume": "true", "max": "10"}),
        (" resume='true' max='60'", {"resume": "true", "max": "60"}),
        (" resume='true' max='61'", {"resume": "true", "max": "60"}),
        (f" resume='true' max='{'9' * 5000}'", {"resume": "true", "max": "60"}),
    ],
)
def test_enabled_says_for_how_long(attributes: str, expected: dict[str, str]) -> None:
    session = server().bound()
    session.receive_data(f"<enable xmlns='{NS}'{attributes}/>".encode(), 0.0)
    (enabled,) = stanzas(session.data_to_send())
    given = dict(enabled.attrib)
    assert bool(given.pop("id", "")) is bool(expected)
    assert given == expected


@pytest.mark.parametrize(
    "attributes", [" resume='maybe'", " resume=''", " max='0'", " max='-5'", " max=''", " max='1.5'", " max='\u0661'"]
)
def test_an_enable_that_is_none_fails_and_harms_nothing(attributes: str) -> None:
    session = server().bound()
    assert session.receive_data(f"<enable xmlns='{NS}'{attributes}/>".encode(), 0.0) == []
    assert session.data_to_send() == BAD
    session.receive_data(ENABLE, 0.0)
    assert b"<enabled " in session.data_to_send()


def test_who_keeps_nothing_for_less_than_a_second_offers_no_resumption() -> None:
    session = server(seconds=0.9).bound()
    session.receive_data(ENABLE + REQUEST, 0.0)
    assert session.data_to_send() == f"<enabled xmlns='{NS}'/><a xmlns='{NS}' h='0'/>".encode()


# --- Counting ---------------------------------------------------------------------------------------------------------


def test_iq_message_and_presence_count_and_nothing_else() -> None:
    session, _ = server().managed()
    pong = b"<iq type='result' id='x'/>"
    session.receive_data(pong + b"<message/>" + REQUEST + ack(0) + b" <presence/>" + REQUEST, 0.0)
    assert [one.get("h") for one in stanzas(session.data_to_send())] == ["2", "3"]


def test_what_came_before_is_not_counted() -> None:
    session = server().bound()
    session.receive_data(b"<presence/>" + ENABLE + b"<presence/>" + REQUEST, 0.0)
    assert b"h='1'" in session.data_to_send()


def test_a_request_is_made_once_and_again_when_there_is_something_new() -> None:
    session, _ = server().managed()
    assert session.data_to_send() == b""
    say(session, "a", "b")
    assert session.data_to_send().endswith(b"</message>" + REQUEST)
    say(session, "c")
    assert REQUEST not in session.data_to_send(), "one is unanswered"
    session.receive_data(ack(2), 0.0)
    assert session.data_to_send() == REQUEST, "about what was sent meanwhile"
    session.receive_data(ack(2), 0.0)
    assert session.data_to_send() == b"", "a client that acknowledges nothing is not asked for ever"
    session.receive_data(ack(3), 0.0)
    assert session.data_to_send() == b""


@pytest.mark.parametrize("h", ["4294967296", "-1", "", " ", "1.0", "one", "\u0661", "9" * 5000])
def test_a_number_that_is_none_ends_the_stream(h: str) -> None:
    session, _ = server().managed()
    (closed,) = session.receive_data(ack(h), 0.0)
    assert isinstance(closed, StreamClosed)
    assert b"<stream:error><invalid-xml " in session.data_to_send()


def test_an_acknowledgement_without_a_number_ends_the_stream() -> None:
    session, _ = server().managed()
    session.receive_data(f"<a xmlns='{NS}'/>".encode(), 0.0)
    assert b"an acknowledgement with no h" in session.data_to_send()


@pytest.mark.parametrize("h", ["0", "+0", " 000000000000 ", "1", "0000000002"])
def test_a_number_may_be_written_as_xml_schema_has_it(h: str) -> None:
    session, _ = server().managed()
    say(session, "a", "b")
    assert session.receive_data(ack(h), 0.0) == []


@pytest.mark.parametrize(("sent", "h"), [(0, 1), (2, 3), (2, WRAP - 1)])
def test_more_acknowledged_than_sent_ends_the_stream(sent: int, h: int) -> None:
    session, _ = server().managed()
    say(session, *"ab"[:sent])
    (closed,) = session.receive_data(ack(h), 0.0)
    assert isinstance(closed, StreamClosed)
    end = session.data_to_send()
    assert b"<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>" in end
    assert f"<handled-count-too-high xmlns='{NS}' h='{h}' send-count='{sent}'/></stream:error>".encode() in end


def test_less_acknowledged_than_before_ends_the_stream() -> None:
    """Modulo 2^32 it is more than was sent."""
    session, _ = server().managed()
    say(session, "a", "b")
    session.receive_data(ack(2), 0.0)
    session.receive_data(ack(1), 0.0)
    assert b"h='1' send-count='2'/>" in session.data_to_send()


def test_counters_wrap() -> None:
    shared: Resumptions[XmppSession] = Resumptions()
    counters = Management(StreamLimits(), shared, "id", 60)
    counters.handled = counters.sent = WRAP - 2
    counters.acknowledge(WRAP - 2)
    for text in ("a", "b", "c", "d"):
        counters.sends(text)
        counters.handled += 1
    assert counters.acknowledgement == f"<a xmlns='{NS}' h='2'/>"
    counters.acknowledge(WRAP - 1)
    assert counters.pass_on(StreamLimits()).endswith(" h='2'/>bcd")
    counters.acknowledge(1)
    assert counters.pass_on(StreamLimits()).endswith("/>d")
    assert counters.is_resumable
    with pytest.raises(Exception, match="3 stanzas acknowledged, 2 sent"):
        counters.acknowledge(3)


def test_the_last_word_before_a_clean_end_is_an_acknowledgement() -> None:
    session, _ = server().managed()
    session.receive_data(b"<presence/>" + STREAM_END, 0.0)
    assert session.data_to_send() == ack(1) + STREAM_END
    session, _ = server().managed()
    session.close("system-shutdown")
    assert session.data_to_send().startswith(ack(0) + b"<stream:error>")


# --- The connection is lost -------------------------------------------------------------------------------------------


def _silent(session: XmppSession) -> list[object]:
    for due in (20.0, 40.0, 60.0):
        session.handle_timer(due)
    return list(session.handle_timer(80.0))


def _full(session: XmppSession) -> list[object]:
    session.writable = False
    session.taken(10, 1.0)
    return list(session.handle_timer(1000.0))


ENDINGS = {
    "connection": (lambda s: s.receive_data(b"", 1.0), True),
    "pings": (_silent, True),
    "slow reader": (_full, False),
    "stream end": (lambda s: s.receive_data(STREAM_END, 1.0), False),
    "conflict": (lambda s: s.close("conflict"), False),
    "shutdown": (lambda s: s.close("system-shutdown"), False),
    "see-other-host": (lambda s: s.send_elsewhere("rs2.example.net"), False),
    "policy": (lambda s: s.receive_data(ENABLE, 1.0), False),
    "not XML": (lambda s: s.receive_data(b"</x>", 1.0), False),
    "stream error": (lambda s: s.receive_data(b"<stream:error/>", 1.0), False),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("enabled", [True, False])
def test_which_ends_are_for_good(ending: str, enabled: bool) -> None:
    site = server()
    session, previd = site.managed() if enabled else (site.bound(), "none")
    end, is_lost = ENDINGS[ending]
    if ending == "policy" and not enabled:
        session.receive_data(ENABLE.replace(b" resume='true'", b""), 0.0)
    (event,) = end(session)  # type: ignore[no-untyped-call]
    assert session.closing
    assert session.next_timer() is None
    assert session.is_detached is session.is_outlived is (enabled and is_lost)
    assert isinstance(event, Detached if enabled and is_lost else StreamClosed)
    _, sent = site.resumed(previd)
    assert (b"<resumed " in sent) is (enabled and is_lost)


def test_detached_it_says_why_and_for_how_long() -> None:
    session = server().bound()
    session.receive_data(ENABLE.replace(b"/>", b" max='7'/>"), 0.0)
    assert session.receive_data(b"", 1.0) == [Detached("the connection ended without the end of its stream", 7)]


def test_acknowledgements_alone_make_nothing_resumable() -> None:
    site = server()
    session = site.bound()
    session.receive_data(f"<enable xmlns='{NS}'/>".encode(), 0.0)
    say(session, "a")
    assert session.data_to_send().endswith(REQUEST)
    assert [type(event) for event in session.receive_data(b"", 1.0)] == [StreamClosed]


def test_a_detached_session_that_is_closed_is_over_and_its_driver_hears_why() -> None:
    site = server()
    session, previd = site.managed()
    told: list[tuple[XmppSession, str]] = []
    session.given_up = lambda *words: told.append(words)
    session.receive_data(b"", 1.0)
    assert session.close("connection-timeout", "nobody came") == [
        StreamClosed("connection-timeout: nobody came", clean=False)
    ]
    assert told == [(session, "connection-timeout: nobody came")]
    assert session.close("connection-timeout") == []
    assert site.resumptions.detached(FULL_JID.bare) == []
    assert site.resumed(previd)[1] == NOT_FOUND


# --- Resumption -------------------------------------------------------------------------------------------------------


def test_the_new_session_goes_on_where_the_old_one_was() -> None:
    site = server()
    older, previd = site.managed()
    older.receive_data(b"<presence/>" * 3, 0.0)
    say(older, "a", "b", "c")
    older.data_to_send()
    older.receive_data(ack(1), 0.0)
    older.receive_data(b"", 1.0)
    say(older, "while away")

    newer = site.authenticated()
    events = newer.receive_data(resume(previd, 2) + b"<presence/>" + REQUEST, 0.0)
    assert events == [Resumed(FULL_JID)]
    assert newer.predecessor is older
    assert newer.jid == FULL_JID
    assert newer.next_timer() == 20.0
    sent = newer.data_to_send()
    assert sent.startswith(f"<resumed xmlns='{NS}' previd='{previd}' h='3'/>".encode())
    assert heard(sent) == ["c", "while away"]
    assert ack(4) in sent
    assert sent.endswith(REQUEST)
    say(newer, "d")
    newer.receive_data(ack(5), 0.0)
    assert not newer.closing
    assert not older.is_detached
    assert site.resumptions.octets == 0


def test_a_session_can_be_resumed_again_and_again() -> None:
    site = server()
    session, previd = site.managed()
    for number in range(3):
        say(session, str(number))
        session.receive_data(b"", 1.0)
        session, sent = site.resumed(previd, number)
        assert heard(sent) == [str(number)]


def test_requests_may_follow_at_once() -> None:
    site = server()
    _, previd = site.managed()
    newer = site.authenticated()
    end = b"<iq type='set' id='e'><in-sync xmlns='urn:uuid:5b92200e-ee2a-44ee-8aba-b7733baecab7'/></iq>"
    assert newer.receive_data(resume(previd) + end, 0.0) == [Resumed(FULL_JID), EndOfPublish(Iq("e", None))]


def test_an_old_connection_still_open_is_no_obstacle_and_has_nothing_left() -> None:
    site = server()
    older, previd = site.managed()
    say(older, "a")
    newer, sent = site.resumed(previd)
    assert heard(sent) == ["a"]
    assert older.is_outlived
    assert older.close("conflict") == [StreamClosed("conflict", clean=False)]
    say(newer, "b")
    newer.receive_data(b"", 1.0)
    assert newer.is_detached
    assert heard(site.resumed(previd, 1)[1]) == ["b"]


@pytest.mark.parametrize("whose", ["unknown", "another client", "over"])
def test_what_is_not_there_for_this_client_is_not_found_and_it_may_bind(whose: str) -> None:
    site = server()
    older, previd = site.managed()
    session = site.authenticated("h2.example.net" if whose == "another client" else CLIENT)
    if whose == "over":
        older.receive_data(STREAM_END, 0.0)
    session.receive_data(resume("nobody" if whose == "unknown" else previd), 0.0)
    assert session.data_to_send() == NOT_FOUND
    (event,) = session.receive_data(bind("new"), 0.0)
    assert isinstance(event, Bound)
    session.receive_data(ENABLE, 0.0)
    assert b"<enabled " in session.data_to_send()


@pytest.mark.parametrize("attributes", ["", " h='0'", " previd='x'", " previd='' h='0'", " previd='x' h='y'"])
def test_a_resume_that_is_none_fails(attributes: str) -> None:
    session = server().authenticated()
    assert session.receive_data(f"<resume xmlns='{NS}'{attributes}/>".encode(), 0.0) == []
    assert session.data_to_send() == BAD
    assert isinstance(session.receive_data(bind("new"), 0.0)[0], Bound)


def test_who_claims_too_much_when_it_resumes_loses_the_stream_and_nothing_else() -> None:
    site = server()
    older, previd = site.managed()
    say(older, "a")
    older.receive_data(b"", 1.0)
    newer, sent = site.resumed(previd, 2)
    assert newer.closing
    assert b"<handled-count-too-high " in sent
    assert older.is_detached
    assert heard(site.resumed(previd)[1]) == ["a"]


def test_identifiers_are_not_used_twice() -> None:
    site = server()
    ids = {site.managed()[1] for _ in range(10)}
    assert len(ids) == 10


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_beyond_the_limit_all_is_dropped_until_it_is_acknowledged() -> None:
    site = server(max_unacknowledged_bytes=20_000)
    older, previd = site.managed()
    say(older, "a" * 9000, "b" * 9000, "c" * 9000, "d")
    older.data_to_send()
    newer, sent = site.resumed(previd, 1)
    assert sent == NOT_FOUND.replace(b"><item", b" h='0'><item"), "c went with a and b"
    assert not older.closing
    older.receive_data(ack(2), 0.0)
    assert site.resumed(previd, 2)[1].startswith(b"<failed ")
    newer, sent = site.resumed(previd, 3)
    assert heard(sent) == ["d"]
    assert not newer.closing


def test_a_connection_that_is_lost_beyond_the_limit_is_the_end() -> None:
    site = server(max_unacknowledged_bytes=20_000)
    session, previd = site.managed()
    say(session, "a" * 20_000)
    assert [type(event) for event in session.receive_data(b"", 0.0)] == [StreamClosed]
    assert site.resumed(previd)[1] == NOT_FOUND


def test_octets_are_counted_not_characters() -> None:
    site = server(max_unacknowledged_bytes=20_000)
    session, _ = site.managed()
    say(session, "\u20ac" * 7000)
    assert [type(event) for event in session.receive_data(b"", 0.0)] == [StreamClosed]


def test_all_together_keep_so_much_and_each_a_little_whatever_the_others_do() -> None:
    site = server(max_unacknowledged_bytes_total=100_000)
    sessions = [site.managed() for _ in range(4)]
    for session, _ in sessions[:3]:
        say(session, "a" * 40_000)
    say(sessions[3][0], "b" * 10_000)
    ends = [type(session.receive_data(b"", 1.0)[0]) for session, _ in sessions]
    assert site.resumptions.octets <= 100_000
    assert ends == [Detached, Detached, Detached, Detached]
    session, _ = site.managed()
    say(session, "c" * 60_000)
    assert [type(event) for event in session.receive_data(b"", 1.0)] == [StreamClosed]
    for session, _ in sessions:
        session.close("conflict")
    assert site.resumptions.octets == 0


@pytest.mark.parametrize("end", [STREAM_END, b"</x>", b""])
def test_whatever_the_end_nothing_is_left_of_it(end: bytes) -> None:
    site = server()
    session, _ = site.managed()
    say(session, "a" * 100_000)
    assert site.resumptions.octets > 80_000
    session.receive_data(end, 1.0)
    session.close("conflict")
    assert site.resumptions.octets == 0


def test_a_new_connection_has_its_own_limits() -> None:
    site = server()
    older, previd = site.managed()
    say(older, "a" * 30_000)
    site.limits = StreamLimits(max_unacknowledged_bytes=20_000)
    newer, sent = site.resumed(previd)
    assert heard(sent) == ["a" * 30_000], "what is kept is kept"
    say(newer, "b")
    assert [type(event) for event in newer.receive_data(b"", 1.0)] == [StreamClosed]
