"""Refusals with their answers: stanza errors that fail one request, stream errors that end the stream.

The rows of XEP-0060's error tables are constructors here, so that a refusal in the core is one word and the
condition, type and pub-sub child cannot drift apart.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ErrorType(enum.StrEnum):
    """RFC 6120 section 8.3.2."""

    AUTH = "auth"
    CANCEL = "cancel"
    MODIFY = "modify"
    WAIT = "wait"


class Cause(enum.StrEnum):
    """What a refusal is for, in fewer words than there are texts: the record counts by these."""

    NOT_A_MEMBER = "not-a-member"
    UNKNOWN_NODE = "unknown-node"
    NEXT_HOP = "foreign-next-hop"
    PREFIX = "foreign-prefix"
    ITEM = "foreign-item"
    JID = "foreign-jid"
    SESSION = "foreign-session"
    QUOTA = "quota"
    MALFORMED = "malformed"
    NOT_OFFERED = "not-offered"
    OTHER = "other"


@dataclass(unsafe_hash=True)
class StanzaError(Exception):
    """A refusal of one iq (RFC 6120 section 8.3): condition, type, pub-sub child, and a text saying why."""

    type: ErrorType
    condition: str
    text: str = ""
    pubsub: str | None = None
    """Local name of the child in the pub-sub errors namespace (XEP-0060), if the row has one."""
    feature: str | None = None
    """The `feature` attribute of an `unsupported` child."""
    withheld: str = ""
    """What the requester is not to know: the log has it in place of `text`."""
    cause: Cause = Cause.OTHER

    @property
    def reason(self) -> str:
        """For the log."""
        return self.withheld or self.text


@dataclass(unsafe_hash=True)
class StreamError(Exception):
    """A fault that ends the stream (RFC 6120 section 4.9)."""

    condition: str
    text: str = ""
    content: str = ""
    """Character data of the condition, where it has any: the other host of `see-other-host`."""
    detail: str = ""
    """The application-specific condition (section 4.9.4), finished XML."""


class Attempt(enum.Enum):
    """What is refused: one request, one try to log in, or the whole stream."""

    REQUEST = enum.auto()
    LOGIN = enum.auto()
    STREAM = enum.auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """One attempt that failed, for the record; the client has its answer already."""

    attempt: Attempt
    condition: str
    reason: str
    cause: str
    """Of a request its `Cause`, else the condition: one of few words, whatever a client sends."""
    node: str = ""
    """What the request named, in the client's words."""
    user_name: str = ""
    """Who logs in with a password, in the client's words."""


def node_unknown(node: str, withheld: str = "") -> StanzaError:
    cause = Cause.NOT_A_MEMBER if withheld else Cause.UNKNOWN_NODE
    return StanzaError(ErrorType.CANCEL, "item-not-found", f"no VPN {node!r} here", withheld=withheld, cause=cause)


def item_unknown(item_id: str) -> StanzaError:
    return StanzaError(ErrorType.CANCEL, "item-not-found", f"no item {item_id!r} of yours in this VPN")


def page_unknown(item_id: str) -> StanzaError:
    return StanzaError(ErrorType.CANCEL, "item-not-found", f"no item {item_id!r} to count a page from")


def forbidden(text: str, cause: Cause) -> StanzaError:
    return StanzaError(ErrorType.AUTH, "forbidden", text, cause=cause)


def not_subscribed(text: str) -> StanzaError:
    return StanzaError(ErrorType.CANCEL, "unexpected-request", text, "not-subscribed")


def no_options(text: str) -> StanzaError:
    """Like `not_subscribed`, of another type where options are asked for (XEP-0060 section 6.3.4.2)."""
    return StanzaError(ErrorType.MODIFY, "unexpected-request", text, "not-subscribed")


def node_full(text: str) -> StanzaError:
    return StanzaError(ErrorType.CANCEL, "conflict", text, "node-full", cause=Cause.QUOTA)


def invalid_payload(text: str) -> StanzaError:
    return StanzaError(ErrorType.MODIFY, "bad-request", text, "invalid-payload", cause=Cause.MALFORMED)


def payload_too_big(text: str) -> StanzaError:
    return StanzaError(ErrorType.MODIFY, "not-acceptable", text, "payload-too-big", cause=Cause.MALFORMED)


def invalid_jid(text: str, cause: Cause = Cause.MALFORMED) -> StanzaError:
    return StanzaError(ErrorType.MODIFY, "bad-request", text, "invalid-jid", cause=cause)


def invalid_options(text: str) -> StanzaError:
    return StanzaError(ErrorType.MODIFY, "bad-request", text, "invalid-options", cause=Cause.MALFORMED)


def max_items_exceeded(limit: int) -> StanzaError:
    text = f"at most {limit} items in one request"
    return StanzaError(ErrorType.CANCEL, "not-allowed", text, "max-items-exceeded", cause=Cause.MALFORMED)


def bad_request(text: str, pubsub: str | None = None) -> StanzaError:
    return StanzaError(ErrorType.MODIFY, "bad-request", text, pubsub, cause=Cause.MALFORMED)


def unsupported(feature: str) -> StanzaError:
    text = f"{feature} is not offered here"
    return StanzaError(
        ErrorType.CANCEL, "feature-not-implemented", text, "unsupported", feature, cause=Cause.NOT_OFFERED
    )


def service_unavailable(text: str) -> StanzaError:
    return StanzaError(ErrorType.CANCEL, "service-unavailable", text, cause=Cause.NOT_OFFERED)


def resource_constraint(text: str) -> StanzaError:
    return StanzaError(ErrorType.WAIT, "resource-constraint", text, cause=Cause.QUOTA)


def jid_malformed(text: str) -> StanzaError:
    return StanzaError(ErrorType.MODIFY, "jid-malformed", text, cause=Cause.MALFORMED)


def already_bound() -> StanzaError:
    return StanzaError(ErrorType.CANCEL, "not-allowed", "this stream has its resource already")
