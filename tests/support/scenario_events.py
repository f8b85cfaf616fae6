"""A list of events from a seed.

Events are plain tuples and mean something in any state (what cannot be done then is skipped), so a failing list can
be cut down and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from routeserver.bgp.iana import VPN_FAMILIES, Family
from routeserver.settings import AtSessionLoss
from tests.support.routes import GRE, UDP
from tests.support.scenario_vpns import random_change
from tests.support.scenario_world import (
    ADDRESSES,
    LONG_LIVED,
    NEIGHBORS,
    NODES,
    PASSING_ON,
    POLICIES,
    PREFIXES,
    RDS,
    SLOTS,
    TARGETS,
)

Event: TypeAlias = tuple[Any, ...]


def events(seed: int, length: int) -> list[Event]:
    """A beginning in which everybody comes up, then `length` random events."""
    random = Random(seed)
    absent = PASSING_ON if random.random() < 0.3 else ()
    at_loss = random.choice(list(AtSessionLoss))
    begin: list[Event] = [("world", random.random() < 0.3, absent, at_loss)]
    begin += [("bind", slot, random.random() < 0.7) for slot in ("h1", "h2", "h3")]
    begin += [("up", name, _restart(random)) for name in NEIGHBORS if random.random() < 0.6]
    begin += [("subscribe", slot, random.choice(NODES), random.choice((None, 1, 2))) for slot in ("h1", "h2", "h3")]
    makers = random.choices(list(_MAKERS), list(_MAKERS.values()), k=length)
    everything = [maker(random) for maker in makers]
    for story in (_restarts, _other_targets, _refreshes, _shares, _provisions, _breaks):
        where = random.randrange(length)
        everything[where:where] = story(random)
    return begin + everything


def _restarts(random: Random) -> list[Event]:
    """A neighbor comes, speaks, and is lost, more than once: what happens at random does so too rarely in order."""
    hero, story = random.choice([*NEIGHBORS, *LONG_LIVED, *LONG_LIVED]), []
    for _ in range(random.randrange(2, 5)):
        story.append(("up", hero, _restart(random)))
        story += [(event[0], hero, *event[2:]) for event in (_announce(random) for _ in range(random.randrange(1, 4)))]
        if random.random() < 0.5:
            story.append(("end of rib", hero, tuple(f for f in Family if random.random() < 0.8)))
        story += [("turn",), ("advance", random.choice((1.0, 15.0, 25.0, 50.0)))]
        story += [("down", hero), ("turn",), ("advance", random.choice((1.0, 5.0, 25.0, 40.0)))]
    return story


def _refreshes(random: Random) -> list[Event]:
    """A neighbor that sends everything again more than once, and not always everything."""
    hero, family = _neighbor(random), random.choice(VPN_FAMILIES)
    story: list[Event] = [("up", hero, None)]
    for _ in range(random.randrange(1, 4)):
        said = [_announce(random) for _ in range(random.randrange(3))]
        story += [("refresh begins", hero, family), *((event[0], hero, *event[2:]) for event in said)]
        story += [("refresh ends", hero, family), ("turn",), ("advance", random.choice((0.0, 0.5, 1.0)))]
    return story


def _other_targets(random: Random) -> list[Event]:
    """A target that nobody imports for a while, and the routes that come with it meanwhile."""
    target, which = random.choice(((1, "blue"), (3, "spoke")))
    others = TARGETS[4]
    story: list[Event] = [("provision", *(("import_rts", node, others) for node in NODES))]
    story += [
        ("announce", *_announce(random)[1:5], target, 1000 * target + 16, "", 100, 0, "198.51.100.1") for _ in "123"
    ]
    return [*story, ("turn",), ("provision", ("import_rts", which, TARGETS[target]))]


def _provisions(random: Random) -> list[Event]:
    """An operator who changes several VPNs at once, more than once, some of it back again."""
    story: list[Event] = []
    for _ in range(random.randrange(1, 4)):
        story.append(("provision", *(random_change(random) for _ in range(random.randrange(1, 5)))))
        story += [("subscribe", _slot(random), random.choice(NODES), None), _publish(random), ("flush", 1)]
    return story


def _shares(random: Random) -> list[Event]:
    """One prefix from several forwarders, mostly worth the same, in the VPN that shows several paths."""
    prefix, story = random.choice(PREFIXES[:2]), []
    for slot in ("h1", "h2", "h3"):
        story += [("subscribe", slot, "red", 1), ("turn",)]
        for _ in range(random.randrange(1, 3)):
            words = 2000 + random.randrange(3), GRE, random.choice((0, 0, 0, 1)), 100
            story.append(("publish", slot, "red", f"{slot}-c", prefix, ADDRESSES[slot][0], *words))
    random.shuffle(story)
    leaves = random.choice(("h1", "h2", "h3"))
    return [*story, ("turn",), ("retract", leaves, "red", f"{leaves}-c"), ("turn",)]


def _breaks(random: Random) -> list[Event]:
    """A forwarder with two sessions, one of which loses its connection and comes back, and what happens between."""
    node, other = random.sample(NODES, 2)
    between: list[Event] = [
        ("end of publish", "h1b"),
        ("subscribe", "h1b", other, 1),
        ("publish", "h1b", node, "h1-c", PREFIXES[1], ADDRESSES["h1"][0], 1000 * (1 + NODES.index(node)), GRE, 2, 100),
        ("retract", "h1b", node, "h1-d"),
        ("advance", 61.0),
        ("bind", "h1", True),
        ("turn",),
    ]
    story: list[Event] = [("bind", "h1", True), ("bind", "h1b", random.random() < 0.5), ("subscribe", "h1", node, 1)]
    for _ in range(random.randrange(1, 4)):
        story += [_publish(random, "h1") for _ in range(random.randrange(1, 4))]
        story += [("turn",), ("detach", "h1", random.choice((0, 1, 5)))]
        story += random.sample(between, random.choice((0, 1, 1, 2)))
        story += [("turn",), ("resume", "h1", 1), ("turn",)]
    return story


def _slot(random: Random) -> str:
    return random.choice(list(SLOTS))


def _neighbor(random: Random) -> str:
    return random.choice(list(NEIGHBORS))


def _publish(random: Random, slot: str = "") -> Event:
    slot, node = slot or _slot(random), random.choice(NODES)
    item_id = random.choice(("a", "b", f"{slot}-c", f"{slot}-d", f"{slot}-e"))
    address = random.choice(ADDRESSES[slot[:2]])
    label = 1000 * (1 + NODES.index(node)) + random.randrange(3)
    words = random.choice((GRE, UDP)), random.choice((0, 0, 1, 2)), random.choice((100, 100, 100, 200))
    return "publish", slot, node, item_id, random.choice(PREFIXES), address, label, *words


def _retract(random: Random) -> Event:
    slot = _slot(random)
    return "retract", slot, random.choice(NODES), random.choice(("a", "b", f"{slot}-c", f"{slot}-d", f"{slot}-e"))


def _announce(random: Random) -> Event:
    targets = random.randrange(len(TARGETS))
    label = 1000 * targets + random.choice((16, 16, 17))
    extras = random.choice(("", "", "", "loop", "reflected", "unknown tunnel", "null label", "not for long"))
    words = random.choice((100, 100, 200)), random.choice((0, 0, 1)), random.choice(("198.51.100.1", "2001:db8::9"))
    where = _neighbor(random), random.choice(RDS), random.choice(PREFIXES), random.choice((0, 1, 2))
    return "announce", *where, targets, label, extras, *words


def _membership(random: Random) -> Event:
    target = random.choice(("64512:100", "64512:200", "64512:1", "64512:2", None))
    origin, bits = random.choice((0, 0, 65001, 65009)), random.choice((64, 64, 64, 0, 32, 48))
    kind, lp = random.choice(("wants", "wants", "wants no more")), random.choice((100, 200))
    return kind, _neighbor(random), target, origin, bits, lp


def _restart(random: Random) -> tuple[Any, ...] | None:
    """What a neighbor says of its restart: time, R and N bits, F bits, and long-lived F bits and times."""
    if random.random() < 0.25:
        return None
    preserved = {family: random.random() < 0.9 for family in Family if random.random() < 0.8}
    long_lived = {f: (random.random() < 0.9, random.choice((20, 90))) for f in VPN_FAMILIES if random.random() < 0.8}
    return random.choice((0, 10, 30)), random.random() < 0.2, random.random() < 0.5, preserved, long_lived


_MAKERS: dict[Callable[[Random], Event], int] = {
    _publish: 14,
    _retract: 5,
    _announce: 10,
    lambda r: ("withdraw", _neighbor(r), r.choice(RDS), r.choice(PREFIXES), r.choice((0, 1, 2))): 4,
    _membership: 8,
    lambda r: ("end of rib", _neighbor(r), tuple(f for f in Family if r.random() < 0.7)): 5,
    lambda r: ("refresh", _neighbor(r), r.choice(list(Family))): 2,
    lambda r: ("refresh begins", _neighbor(r), r.choice(list(Family))): 3,
    lambda r: ("refresh ends", _neighbor(r), r.choice(list(Family))): 3,
    lambda r: ("up", _neighbor(r), _restart(r)): 6,
    lambda r: ("down", _neighbor(r)): 5,
    lambda r: ("notify", _neighbor(r), r.choice(((6, 4), (6, 9), (4, 0))), r.random() < 0.5): 2,
    lambda r: ("policy", _neighbor(r), r.choice(list(POLICIES))): 3,
    lambda r: ("configure", _neighbor(r)): 1,
    lambda r: ("provision", *(random_change(r) for _ in range(r.choice((1, 1, 2))))): 5,
    lambda r: ("bind", _slot(r), r.random() < 0.7): 4,
    lambda r: ("lose", _slot(r)): 3,
    lambda r: ("detach", _slot(r), r.choice((0, 2, 5))): 4,
    lambda r: ("resume", _slot(r), r.choice((0, 2, 5))): 7,
    lambda r: ("subscribe", _slot(r), r.choice(NODES), r.choice((None, 1, 1, 2))): 7,
    lambda r: ("unsubscribe", _slot(r), r.choice(NODES)): 3,
    lambda r: ("end of publish", _slot(r)): 3,
    lambda r: ("writable", r.choice([*SLOTS, *NEIGHBORS]), r.random() < 0.6): 5,
    lambda r: ("advance", r.choice((1.0, 5.0, 10.0, 25.0, 61.0))): 7,
    lambda r: ("flush", r.choice((1, 2, 5))): 8,
    lambda r: ("turn",): 10,
}


def smallest(steps: list[Event], fails: Callable[[list[Event]], bool]) -> list[Event]:
    """The failing list with everything left out that is not needed to fail."""
    size = max(len(steps) // 2, 1)
    while True:
        start = 0
        while start < len(steps):
            shorter = steps[:start] + steps[start + size :]
            if fails(shorter):
                steps = shorter
            else:
                start += size
        if size == 1:
            return steps
        size //= 2
