"""What one client may cost (RFC 6120 section 13.12): up to the limit it is served, beyond it the stream ends."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from routeserver.xmpp.errors import StreamError
from routeserver.xmpp.events import Bound, StreamClosed, XmppEvent
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.session import XmppSession
from routeserver.xmpp.stream import StreamLimits, StreamReader, Unfinished
from tests.support.xmpp_script import (
    CONVERSATIONS,
    HEADER,
    authenticated,
    bind,
    bound,
    feed,
    new_session,
    read_script,
    stanzas,
)

PING = b"<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"


def attributes(count: int) -> bytes:
    return b"<message " + b"".join(b"a%d='' " % n for n in range(count)) + b"/>"


def namespaces(count: int) -> bytes:
    return b"<message " + b"".join(b"xmlns:a%d='u' " % n for n in range(count)) + b"/>"


def nested(count: int) -> bytes:
    """Elements inside one another, the stream counted."""
    return b"<message>" + b"<a>" * (count - 2) + b"</a>" * (count - 2) + b"</message>"


def elements(count: int) -> bytes:
    return b"<message>" + b"<a/>" * (count - 1) + b"</message>"


def text(octets: int) -> bytes:
    """So many octets from the first tag to the end of the second one."""
    return b"<message><b>" + b"x" * (octets - len(b"</b>")) + b"</b></message>"


SHAPES = [
    (StreamLimits(max_attributes=20), attributes(20), attributes(21)),
    (StreamLimits(max_attributes=20), namespaces(20), namespaces(21)),
    (StreamLimits(max_depth=20), nested(20), nested(21)),
    (StreamLimits(max_elements=20), elements(20), elements(21)),
]


def ended(session: XmppSession, condition: str) -> bool:
    return session.closing and f"<stream:error><{condition} ".encode() in session.data_to_send()


@pytest.mark.parametrize(("limits", "most", "more"), SHAPES, ids=["attributes", "namespaces", "depth", "elements"])
@pytest.mark.parametrize("size", [None, 1, 7])
def test_the_shape_of_a_stanza(limits: StreamLimits, most: bytes, more: bytes, size: int | None) -> None:
    session = bound(limits=limits)
    assert feed(session, most * 3, size) == []
    assert [type(event) for event in feed(session, more, size)] == [StreamClosed]
    assert ended(session, "policy-violation")


def test_what_is_between_two_tags() -> None:
    limits = StreamLimits(max_tag_bytes=4096)
    session = bound(limits=limits)
    assert feed(session, text(4097) * 3, 1) == []
    assert [type(event) for event in feed(session, text(4098), 1)] == [StreamClosed]
    assert ended(session, "policy-violation")


@pytest.mark.parametrize("stage", [new_session, authenticated])
def test_little_is_needed_to_log_in(stage: object) -> None:
    """Many elements or attributes are refused before anybody is known; afterwards the limits are the others."""
    session = new_session() if stage is new_session else authenticated()
    feed(session, HEADER) if stage is new_session else None
    session.data_to_send()
    assert [type(event) for event in feed(session, attributes(40))] == [StreamClosed]
    sent = session.data_to_send()
    assert (b"policy-violation" in sent) == (stage is new_session)
    assert (b"not-authorized" in sent) == (stage is authenticated)


# --- Pace -----------------------------------------------------------------------------------------------------------


def test_stanzas_a_second_over_ten_seconds() -> None:
    session = bound(limits=StreamLimits(max_stanza_rate=5))
    spent = 5 * 10 - 3  # to log in takes three elements
    assert session.receive_data(PING * spent, 0.0) == []
    assert session.receive_data(PING * 10, 2.0) == []
    assert len(stanzas(session.data_to_send())) == spent + 10
    assert [type(event) for event in session.receive_data(PING, 2.1)] == [StreamClosed]
    assert ended(session, "policy-violation")


def test_a_pause_earns_no_more_than_ten_seconds() -> None:
    session = bound(limits=StreamLimits(max_stanza_rate=5))
    session.receive_data(b" ", 1000.0)
    assert session.receive_data(PING * 50, 1000.0) == []
    assert [type(event) for event in session.receive_data(PING, 1000.0)] == [StreamClosed]


def test_white_space_is_no_stanza() -> None:
    session = bound(limits=StreamLimits(max_stanza_rate=1))
    assert feed(session, b" \n" * 1000, 1) == []
    assert not session.closing


def test_a_stanza_has_to_end_in_time() -> None:
    session = bound(limits=StreamLimits(stanza_timeout=10.0))
    start, middle = PING[:20], b" "
    assert session.receive_data(start, 0.0) == []
    assert session.receive_data(middle, 10.0) == []
    assert [type(event) for event in session.receive_data(middle, 10.1)] == [StreamClosed]
    assert ended(session, "policy-violation")


def test_one_that_is_always_in_the_middle_of_another_stanza_is_not_slow() -> None:
    session = bound(limits=StreamLimits(stanza_timeout=10.0))
    rest, start = PING[20:], PING[:20]
    session.receive_data(start, 0.0)
    for second in range(1, 40):
        assert session.receive_data(rest + start, float(second)) == []
    assert not session.closing


# --- What all hold together -----------------------------------------------------------------------------------------


def test_unfinished_stanzas_are_bounded_over_all_streams() -> None:
    shared, limits = Unfinished(), StreamLimits(max_unfinished_bytes=100_000)
    readers = [StreamReader(limits, shared) for _ in range(3)]
    unfinished = b"<message>" + b"<a/>" * 200
    for reader in readers[:2]:
        list(reader.feed(HEADER))
        list(reader.feed(unfinished))
    held = shared.octets
    assert 0 < held < 100_000
    list(readers[2].feed(HEADER))
    with pytest.raises(StreamError, match="resource-constraint"):
        list(readers[2].feed(unfinished))
    readers[2].close()
    assert shared.octets == held
    list(readers[0].feed(b"</message>"))
    assert shared.octets == held / 2
    readers[1].close()
    assert shared.octets == 0


def test_a_small_stanza_is_never_refused_for_what_others_hold() -> None:
    shared = Unfinished(octets=1 << 30)
    reader = StreamReader(StreamLimits(), shared)
    units = [unit for size in (HEADER, PING[:30], PING[30:]) for unit in reader.feed(size)]
    assert len(units) == 2


def test_a_session_that_ends_holds_nothing() -> None:
    shared = Unfinished()
    session = bound(unfinished=shared)
    session.receive_data(b"<message>" + b"<a/>" * 1000, 0.0)
    assert shared.octets > 0
    session.receive_data(b"", 0.0)
    assert shared.octets == 0


# --- Names ----------------------------------------------------------------------------------------------------------


def teach(session: XmppSession, prefix: str, count: int) -> list[XmppEvent]:
    """Say words nobody has said before, a hundred octets each."""
    return feed(session, b"".join(f"<message {prefix}{n:090}='' />".encode() for n in range(count)))


NUMBERS = itertools.count(1)


def word() -> str:
    return f"w{next(NUMBERS)}-{'x' * 40}"


def blanks() -> str:
    """White space nobody has said before; in pieces it is not kept as one."""
    return f"{next(NUMBERS):059b}".translate({ord("0"): " ", ord("1"): "\t"})


UNHEARD = [
    *(
        (form, word, size)
        for form in ("<{}/>", "<x {}=''/>", "<x xmlns='{}'/>", "<x xmlns:{}='u'/>")
        for size in (0, 1, 7)
    ),
    ("<x>{}</x>", blanks, 0),
]


@pytest.mark.parametrize(("form", "make", "size"), UNHEARD)
def test_names_that_are_new_are_counted_over_all_streams(form: str, make: Callable[[], str], size: int) -> None:
    """The parser keeps them for ever; what was said before, or belongs to the protocol, may be said again."""
    shared, limits = Unfinished(), StreamLimits(max_names_bytes=20_000)
    teacher, other, last = (bound(limits=limits, unfinished=shared) for _ in range(3))
    assert shared.names.octets == 0
    first, second = (f"<message>{form.format(make())}</message>".encode() for _ in range(2))
    assert feed(other, first, size) == []
    assert 40 < shared.names.octets < 2 * len(first) + 300
    assert [type(event) for event in teach(teacher, word(), 200)] == [StreamClosed]
    assert ended(teacher, "resource-constraint")
    assert feed(other, first + PING, size) == []
    assert len(stanzas(other.data_to_send())) == 1
    assert [type(event) for event in feed(last, second, size)] == [StreamClosed]
    assert ended(last, "resource-constraint")


def test_strangers_may_bring_fewer_names() -> None:
    shared, limits = Unfinished(), StreamLimits(max_names_bytes=20_000)
    member = bound(limits=limits, unfinished=shared)
    assert teach(member, word(), 40) == []
    stranger = new_session(limits=limits, unfinished=shared)
    assert [type(event) for event in feed(stranger, HEADER[:-1] + b" never-heard-of=''>")] == [StreamClosed]
    assert ended(stranger, "resource-constraint")
    assert feed(bound(limits=limits, unfinished=shared), PING) == []
    assert teach(member, word(), 40) == []


SAY = """
import sys
from routeserver.xmpp.stream import StreamLimits, StreamReader
from routeserver.xmpp.vocabulary import names_known
known = names_known()
for text in sys.argv[1:]:
    list(StreamReader(StreamLimits()).feed(text.encode()))
    assert names_known() == known, text
"""


def test_the_protocol_has_no_new_names() -> None:
    """Whoever comes first after a start must not need what others have used up. A process where nobody spoke yet."""
    said = [line.text for path in CONVERSATIONS for line in read_script(path) if line.verb == "C"]
    stanzas_said = [re.sub(r">\s+<", "><", text) for text in said if "<stream:stream" not in text]
    texts = [HEADER.decode() + text for text in stanzas_said]
    subprocess.run([sys.executable, "-c", SAY, *texts], check=True, cwd=Path(__file__).parents[2])


# --- How many -------------------------------------------------------------------------------------------------------


def test_a_session_too_many_of_one_jid_may_not_bind() -> None:
    session = authenticated()
    asked: list[Jid] = []
    session.has_room = lambda jid: bool(asked.append(jid)) or len(asked) > 1
    assert session.receive_data(bind("vpn"), 0.0) == []
    (answer,) = stanzas(session.data_to_send())
    assert answer.find("{*}error[@type='wait']/{*}resource-constraint") is not None
    (event,) = session.receive_data(bind("vpn"), 0.0)
    assert isinstance(event, Bound)
    assert asked == [event.jid, event.jid]
