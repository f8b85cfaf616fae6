"""A trace for people: what was said, message by message, and what else happened to the sessions.

Octets are cut into messages here, and each that came in is given to a replayed session, so that the words beside it
are what a session makes of just that message.  Messages that went out are read the way the neighbor reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from routeserver.bgp.attribute_codec import AttributeContext
from routeserver.bgp.errors import NotificationError
from routeserver.bgp.event_text import event_text, record_line
from routeserver.bgp.events import BgpEvent
from routeserver.bgp.iana import Family
from routeserver.bgp.messages import decode_notification, decode_open, decode_route_refresh
from routeserver.bgp.negotiation import Negotiated
from routeserver.bgp.replay import ReplayedSession, TraceError
from routeserver.bgp.session import BgpSession
from routeserver.bgp.trace import Line
from routeserver.bgp.update import UpdateDecoder
from routeserver.bgp.wire import MessageReader, MessageType

IN, OUT, HERE = "in", "out", "here"
_WITH_EVENTS_OF_THEIR_OWN = (MessageType.UPDATE, MessageType.ROUTE_REFRESH)


@dataclass(frozen=True, slots=True)
class Entry:
    """One message, or one thing that happened at this end.

    `at` is on the clock of the trace, `direction` IN, OUT or HERE, `kind` the message type in capitals or what
    happened, `says` its words, one thing each; `octets` are those of a message.
    """

    at: float
    session: int
    direction: str
    kind: str
    says: tuple[str, ...] = ()
    octets: bytes = b""


def decoded(lines: Sequence[Line]) -> Iterator[Entry]:
    """What a trace says, in its order. Raises TraceError for lines that are not as this version writes them."""
    sessions: dict[int, _Session] = {}
    for number, line in enumerate(lines, 1):
        try:
            if "settings" in line:
                sessions[line["session"]] = _Session(line)
                yield _beginning(line)
            elif "session" in line:
                yield from sessions[line["session"]].read(line)
        except (KeyError, ValueError, TypeError) as error:
            raise TraceError(f"line {number}: {error!r}") from error


def _beginning(line: Line) -> Entry:
    settings, resumed = line["settings"], line.get("resumed")
    words = [f"AS {line['local-as']} at {line['local-address']} with AS {settings['peer-as']} at {settings['address']}"]
    if resumed is not None:
        words.append(f"in the middle: {resumed['state']}")
    return Entry(line["at"], line["session"], HERE, "connection", tuple(words))


class _Session:
    """One session of the trace: its octets both ways as messages, and what they mean."""

    def __init__(self, line: Line) -> None:
        self._number: int = line["session"]
        self._readers = {IN: MessageReader(), OUT: MessageReader()}
        if "resumed" in line:  # the session gets whole messages, so the beginning of one waits here
            self._readers[IN].feed(bytes.fromhex(line["resumed"]["unread"]))
            self._readers[IN].next_message()
            line = {**line, "resumed": {**line["resumed"], "unread": ""}}
        self._replayed = ReplayedSession(line)
        self._sent: UpdateDecoder | None = None
        self._agree()

    @property
    def _session(self) -> BgpSession:
        return self._replayed.session

    def read(self, line: Line) -> Iterator[Entry]:
        at: float = line["at"]
        if OUT in line:
            for message in self._messages(OUT, line):
                yield self._entry(at, OUT, message, self._told(message))
        if IN in line:
            yield from self._received(at, line)
        elif "event" not in line:
            happened = tuple(self._replayed.take(line))
            if happened:
                kind = line.get("end", "timer")
                yield Entry(at, self._number, HERE, kind, happened)

    def _received(self, at: float, line: Line) -> Iterator[Entry]:
        if not line[IN]:
            yield Entry(at, self._number, IN, "end of connection", tuple(self._replayed.take(line)))
            return
        left = self._readers[IN].unread + bytes.fromhex(line[IN])
        try:
            for message in self._messages(IN, line):
                left = left[len(message) :]
                events = self._replayed.take({"at": at, "in": message.hex()})
                yield self._entry(at, IN, message, self._said(message, events))
        except NotificationError:
            events = self._replayed.take({"at": at, "in": left.hex()})
            yield Entry(at, self._number, IN, "no message", tuple(events), left)

    def _messages(self, direction: str, line: Line) -> Iterator[bytes]:
        reader = self._readers[direction]
        reader.feed(bytes.fromhex(line[direction]))
        while (message := reader.next_message()) is not None:
            yield message
            self._agree()

    def _agree(self) -> None:
        """Once the terms are known: longer messages may come, and what we send can be read."""
        terms = self._session.negotiated
        if terms is None or self._sent is not None:
            return
        if terms.extended_messages:
            for reader in self._readers.values():
                reader.accept_extended()
        self._sent = _their_decoder(self._session, terms)

    def _entry(self, at: float, direction: str, message: bytes, says: tuple[str, ...]) -> Entry:
        kind = MessageType(message[18]).name.replace("_", "-")
        return Entry(at, self._number, direction, kind, says, message)

    def _said(self, message: bytes, events: list[str]) -> tuple[str, ...]:
        """What the neighbor says in a message, and the events of the session it led to."""
        if message[18] in _WITH_EVENTS_OF_THEIR_OWN:
            return tuple(events)
        return (*_plain_words(message), *events)

    def _told(self, message: bytes) -> tuple[str, ...]:
        """What we say in a message."""
        if message[18] != MessageType.UPDATE:
            return _plain_words(message)
        terms = self._session.negotiated
        if self._sent is None or terms is None:
            return ()
        try:
            return tuple(_told_text(event, terms.paths_out) for event in self._sent.decode(message))
        except NotificationError as error:
            return (str(error),)


def _their_decoder(session: BgpSession, terms: Negotiated) -> UpdateDecoder:
    context = AttributeContext(
        session.local_as,
        external=terms.peer_as != session.local_as,
        four_octet_as=terms.four_octet_as,
        on_loopback=session.local_address.is_loopback,
    )
    return UpdateDecoder(context, terms.families, terms.paths_out, terms.ipv6_next_hops)


_TOLD = {"RoutesReceived": "announces", "RoutesWithdrawn": "withdraws", "EndOfRib": "End-of-RIB"}


def _told_text(event: BgpEvent, paths_out: frozenset[Family]) -> str:
    """What the neighbor makes of an UPDATE of ours, as something we say."""
    name, _, rest = event_text(event, paths_out).partition(" ")
    return f"{_TOLD.get(name, name)} {rest}"


def _plain_words(message: bytes) -> tuple[str, ...]:
    """A message whose words need no terms."""
    try:
        match message[18]:
            case MessageType.OPEN:
                said = decode_open(message)
                return (f"AS {said.peer_as}, hold time {said.hold_time} s, identifier {said.identifier}",
                        record_line(said.capabilities))  # fmt: skip
            case MessageType.NOTIFICATION:
                notification = decode_notification(message)
                data = notification.data.hex()
                return (str(notification).removeprefix("NOTIFICATION "), *([f"data {data}"] if data else []))
            case MessageType.ROUTE_REFRESH:
                family, kind = decode_route_refresh(message, enhanced=True) or (None, None)
                what = "other" if kind is None else kind.name.lower()
                return (f"{what} {'of another family' if family is None else family.label}",)
    except NotificationError as error:
        return (str(error),)
    return ()
