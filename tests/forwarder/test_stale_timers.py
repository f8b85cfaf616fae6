"""Which times run for stale entries of a route server, whatever it and another one are doing."""

from __future__ import annotations

from typing import cast

import pytest

from forwarder.config import Identity, RouteServerConfig
from forwarder.conversation import Conversation, Wanted
from forwarder.peers import Peer, running_timers
from forwarder.pubsub import StanzaError, Subscribe
from forwarder.stale import MARKERLESS_SECONDS, STALE_SECONDS
from forwarder.xmpp import Listener, RouteServerClient

LOST, OTHER = "192.0.2.101:5222", "192.0.2.102:5222"
STALE = {LOST: STALE_SECONDS}


def peer(name: str, does: str) -> Peer:
    client = RouteServerClient(
        RouteServerConfig(name.split(":")[0], 5222, "rs.example.net"), cast(Identity, None), cast(Listener, None)
    )
    return Peer(client, conversation(does))


def conversation(does: str) -> Conversation:
    """`away`; `asked` and has not answered; `answered` and owes the marker; `in-sync`; `refused` for good, or for the
    moment, being `busy`; `not-heard`: it was told the instance-id only."""
    talk = Conversation()
    if does == "away":
        return talk
    request = talk.start(Wanted(vpns={"blue": 1}, listens=frozenset() if does == "not-heard" else None))[0]
    assert isinstance(request, Subscribe)
    errors = {"refused": StanzaError("forbidden"), "busy": StanzaError("resource-constraint")}
    if does != "asked":
        talk.answered(request, errors.get(does))
    if does == "in-sync":
        assert talk.marker("blue")
    return talk


@pytest.mark.parametrize(
    ("lost", "other", "running"),
    [
        ("away", "away", {}),
        ("away", "asked", {}),
        ("away", "answered", {OTHER: MARKERLESS_SECONDS}),
        ("away", "in-sync", STALE),
        ("away", "refused", {}),
        ("away", "busy", {}),
        ("away", "not-heard", {}),
        ("asked", "away", {}),
        ("asked", "in-sync", {}),
        ("answered", "away", {LOST: MARKERLESS_SECONDS}),
        ("answered", "answered", {LOST: MARKERLESS_SECONDS, OTHER: MARKERLESS_SECONDS}),
        ("answered", "in-sync", {LOST: MARKERLESS_SECONDS}),
        ("refused", "away", {}),
        ("busy", "away", {}),
        ("busy", "answered", {OTHER: MARKERLESS_SECONDS}),
        ("busy", "in-sync", STALE),
        ("not-heard", "away", {}),
        ("not-heard", "answered", {OTHER: MARKERLESS_SECONDS}),
        ("not-heard", "in-sync", STALE),
    ],
)
def test_time_runs_only_while_another_one_is_there_and_in_sync(
    lost: str, other: str, running: dict[str, float]
) -> None:
    peers = {LOST: peer(LOST, lost), OTHER: peer(OTHER, other)}
    assert running_timers(peers, [(LOST, "blue")]) == {(name, "blue"): time for name, time in running.items()}
    assert running_timers(peers, [(LOST, "red")]).keys() <= {(name, "blue") for name in peers}, "of its own VPN only"
