"""What a route server is told: everything in a new session, differences afterwards, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from forwarder.conversation import Conversation, Wanted
from forwarder.pubsub import EndOfPublish, Publish, Request, Retract, StanzaError, Subscribe, Unsubscribe
from forwarder.stale import StaleTimers
from schema.items import RouteItem
from schema.values import NextHop


def item(label: int) -> RouteItem:
    return RouteItem(ip_network("10.1.0.1/32"), (NextHop(ip_address("192.0.2.1"), label),))


ONE = Wanted({("blue", "a"): item(16)}, {"blue": 1})
TWO = Wanted({("blue", "a"): item(16), ("red", "b"): item(17)}, {"blue": 1, "red": 2})
FORBIDDEN = StanzaError("forbidden", "no")


def started(wanted: Wanted) -> Conversation:
    conversation = Conversation()
    conversation.start(wanted)
    return conversation


def test_a_new_session_subscribes_then_publishes_then_says_that_was_all() -> None:
    conversation = Conversation()
    assert conversation.difference(TWO) == []
    everything: list[Request] = [
        Subscribe("blue", 1),
        Subscribe("red", 2),
        Publish("blue", "a", item(16)),
        Publish("red", "b", item(17)),
        EndOfPublish(),
    ]
    assert conversation.start(TWO) == everything
    assert conversation.difference(TWO) == []
    conversation.stop()
    assert conversation.difference(TWO) == []
    assert conversation.start(TWO) == everything


def test_only_differences_are_said() -> None:
    conversation = started(ONE)
    assert conversation.difference(TWO) == [Subscribe("red", 2), Publish("red", "b", item(17))]
    changed = Wanted({("blue", "a"): item(18), ("red", "b"): item(17)}, TWO.vpns)
    assert conversation.difference(changed) == [Publish("blue", "a", item(18))]


def test_the_last_interface_of_a_vpn_is_retracted_before_it_is_unsubscribed() -> None:
    assert started(TWO).difference(ONE) == [Retract("red", "b"), Unsubscribe("red")]


def test_a_refusal_is_kept_and_not_asked_about_again_until_something_changes() -> None:
    conversation = started(ONE)
    publish = Publish("blue", "a", conversation.said["blue", "a"].item)
    assert conversation.answered(publish, FORBIDDEN)
    assert conversation.said["blue", "a"].error == FORBIDDEN
    assert conversation.difference(ONE) == []
    changed = Wanted({("blue", "a"): item(18)}, ONE.vpns)
    assert conversation.difference(changed) == [Publish("blue", "a", item(18))]
    assert conversation.said["blue", "a"].error is None
    conversation.answered(publish, FORBIDDEN)
    assert conversation.said["blue", "a"].error is None, "the answer to the older publish came late"


@pytest.mark.parametrize(
    ("request_value", "condition", "told"),
    [
        (Retract("blue", "a"), "item-not-found", False),
        (Retract("blue", "a"), "forbidden", True),
        (Unsubscribe("blue"), "unexpected-request", False),
        (Unsubscribe("blue"), "item-not-found", False),
        (EndOfPublish(), "service-unavailable", False),
        (EndOfPublish(), "internal-server-error", True),
        (Publish("blue", "a", item(16)), "item-not-found", True),
        (Subscribe("blue", 1), "not-allowed", True),
    ],
)
def test_which_refusals_a_person_should_hear_of(request_value: Request, condition: str, told: bool) -> None:
    conversation = started(ONE)
    assert conversation.answered(request_value, StanzaError(condition)) is told
    assert conversation.answered(request_value, None) is False


def test_a_marker_counts_only_after_the_result_of_the_latest_subscribe() -> None:
    conversation = Conversation()
    requests = conversation.start(ONE)
    first = requests[1]
    assert not conversation.marker("blue")
    conversation.difference(Wanted())
    (again,) = [r for r in conversation.difference(ONE) if isinstance(r, Subscribe)]
    conversation.answered(first, None)
    assert not conversation.marker("blue"), "the answer was to the subscribe before"
    assert not conversation.is_subscribed("blue"), "what comes is what that one brought, and nobody will retract it"
    conversation.answered(again, None)
    assert conversation.is_subscribed("blue")
    assert conversation.marker("blue")
    assert conversation.is_in_sync("blue")
    assert not conversation.marker("red")


def test_a_refused_or_ended_subscription_is_not_in_sync_and_not_unsubscribed() -> None:
    conversation = Conversation()
    subscribe = conversation.start(ONE)[0]
    conversation.answered(subscribe, FORBIDDEN)
    assert not conversation.marker("blue")
    assert conversation.difference(Wanted()) == [Retract("blue", "a")]

    ended = Conversation()
    ended.answered(ended.start(ONE)[0], None)
    ended.marker("blue")
    ended.subscription_ended("blue")
    ended.subscription_ended("red")
    assert not ended.is_subscribed("blue")
    assert not ended.is_in_sync("blue")
    assert ended.difference(ONE) == []


def refused_at(conversation: Conversation, now: float, error: StanzaError | None = FORBIDDEN) -> bool:
    """The one subscribe that is sent at this time and not a moment earlier is answered so; whether a person hears."""
    assert conversation.ask_again(now - 1, 1.0) == []
    (request,) = conversation.ask_again(now, 1.0)
    assert request == Subscribe("blue", 1)
    assert conversation.ask_again(now + 1000, 1.0) == [], "it is not answered yet"
    told = conversation.answered(request, error)
    assert conversation.ask_again(now, 1.0) == []
    return told


def test_a_vpn_that_is_refused_is_asked_for_again_ever_more_rarely_and_told_of_once() -> None:
    conversation = Conversation()
    subscribe = conversation.start(ONE)[0]
    assert conversation.ask_again(0.0, 1.0) == [], "it is not answered yet"
    assert conversation.answered(subscribe, FORBIDDEN)
    assert conversation.ask_again(0.0, 1.0) == []
    times = [30.0, 90.0, 210.0, 450.0, 930.0, 1530.0, 2130.0]
    assert [refused_at(conversation, now) for now in times] == [False] * len(times)
    assert refused_at(conversation, 2730.0, StanzaError("item-not-found")), "another reason"
    conversation.difference(Wanted())
    assert conversation.ask_again(10_000.0, 1.0) == [], "nobody here is in it any more"


def test_less_than_the_whole_delay_is_waited() -> None:
    conversation = Conversation()
    conversation.answered(conversation.start(ONE)[0], FORBIDDEN)
    assert conversation.ask_again(0.0, 0.5) == []
    assert conversation.ask_again(14.0, 0.5) == []
    assert conversation.ask_again(15.0, 0.5) == [Subscribe("blue", 1)]


def test_a_vpn_that_was_taken_away_is_published_to_again_when_it_is_back() -> None:
    conversation = Conversation()
    subscribe, _, publish, other, _ = conversation.start(TWO)
    for request in (subscribe, publish, other):
        assert not conversation.answered(request, None)
    conversation.subscription_ended("blue")
    assert conversation.said["blue", "a"].error == StanzaError("gone", "the route server ended the subscription")
    assert conversation.ask_again(0.0, 1.0) == []
    assert refused_at(conversation, 30.0)
    assert not conversation.is_behind
    assert conversation.difference(TWO) == []
    assert not refused_at(conversation, 90.0, None)
    assert conversation.is_behind
    assert conversation.difference(TWO) == [Publish("blue", "a", item(16))]
    assert not conversation.is_behind
    assert conversation.marker("blue")

    conversation.subscription_ended("blue")
    assert conversation.ask_again(100.0, 1.0) == []
    assert not refused_at(conversation, 130.0, None), "it begins anew after it was there"


def test_a_vpn_that_ends_while_it_is_subscribed_to_is_published_to_again_when_it_is_back() -> None:
    conversation = Conversation()
    for request in conversation.start(replace(ONE, listens=frozenset())):
        conversation.answered(request, None)
    assert conversation.said["blue", "a"].error is None
    (subscribe,) = conversation.difference(ONE)
    conversation.answered(subscribe, StanzaError("item-not-found"))
    assert conversation.said["blue", "a"].error == StanzaError("item-not-found")
    assert conversation.ask_again(0.0, 1.0) == []
    refused_at(conversation, 30.0, None)
    assert conversation.difference(ONE) == [Publish("blue", "a", item(16))]


def test_a_vpn_that_was_taken_away_and_is_listened_to_when_it_is_back_is_published_to_again() -> None:
    conversation = Conversation()
    for request in conversation.start(replace(ONE, listens=frozenset())):
        conversation.answered(request, None)
    conversation.subscription_ended("blue")
    (subscribe,) = conversation.difference(ONE)
    conversation.answered(subscribe, None)
    assert conversation.is_behind
    assert conversation.difference(ONE) == [Publish("blue", "a", item(16))]


def test_what_was_refused_before_a_vpn_was_given_is_published_then() -> None:
    conversation = Conversation()
    for request in conversation.start(ONE)[:2]:
        conversation.answered(request, FORBIDDEN)
    assert conversation.ask_again(0.0, 1.0) == []
    refused_at(conversation, 30.0, None)
    assert conversation.difference(ONE) == [Publish("blue", "a", item(16))]


def test_stale_time_runs_only_while_it_may_and_starts_anew_after_a_pause() -> None:
    timers, pair = StaleTimers(), ("rs1", "blue")
    assert timers.due({pair: 60.0}, 0.0) == []
    assert timers.due({pair: 60.0}, 59.0) == []
    assert timers.due({}, 60.0) == []
    assert timers.due({pair: 60.0}, 100.0) == []
    assert timers.due({pair: 60.0}, 160.0) == [pair]
    assert timers.due({pair: 60.0}, 161.0) == []
