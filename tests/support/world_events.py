"""A list of events for a world, from a seed.

An event is a tuple: the seconds that pass after it, its name, its words.  Each means something in any state (what
cannot be done is skipped), so a failing list can be cut down and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from tests.support import world_cast as cast

Event: TypeAlias = tuple[Any, ...]
_VMS = [f"v{number}" for number in range(1, 9)]
_WAITS = (0.0, 0.0, 0.004, 0.01, 0.01, 0.03, 0.03, 0.1, 0.1, 1.0, 5.0)
_LONG_WAITS = (10.0, 40.0, 70.0, 130.0)


def events(seed: int, length: int) -> list[Event]:
    """A beginning in which everybody comes up, then `length` random events."""
    random = Random(seed)
    servers, reflectors, hosts = random.choice((1, 2, 2, 2, 3)), random.choice((0, 1, 2)), random.choice((2, 3, 4))
    ways = random.random() < 0.5, random.choice(("keep", "keep", "depreference"))
    begin: list[Event] = [(0.0, "world", seed, servers, reflectors, hosts, *ways)]
    begin += [(0.0, *_attach(random)) for _ in range(3)]
    begin.append((0.0, "settle"))
    everything: list[Event] = []
    while len(everything) < length:
        story = random.choices(list(_STORIES), list(_STORIES.values()))[0](random)
        everything += [(_wait(random), *event) for event in story]
    return begin + everything[:length]


def _wait(random: Random) -> float:
    return random.choice(_LONG_WAITS) if random.random() < 0.04 else random.choice(_WAITS)


def _attach(random: Random) -> Event:
    prefix = random.choice((*cast.PREFIXES, *cast.PREFIXES, None))
    lp = random.choice((100, 100, 100, 200))
    host, vm, node = random.choice(cast.HOSTS), random.choice(_VMS), random.choice(cast.NODES)
    return "attach", host, vm, node, prefix, random.choice((0, 0, 1, 2)), lp


def _move(random: Random) -> list[Event]:
    """A VM goes from one host to another, and the old one hears of it sooner or later than the new one."""
    vm, node, prefix = random.choice(_VMS), random.choice(cast.NODES), random.choice(cast.PREFIXES)
    one, other = random.sample(cast.HOSTS[:3], 2)
    number = random.choice((0, 1, 3))
    story: list[Event] = [("attach", one, vm, node, prefix, number, 100)]
    comes: Event = ("attach", other, vm, node, prefix, number + 1, 100)
    goes: Event = ("detach", one, vm)
    between = _one(random) if random.random() < 0.5 else []
    return story + ([comes, *between, goes] if random.random() < 0.7 else [goes, *between, comes])


def _lowering(random: Random) -> list[Event]:
    """What everybody has is worth less all of a sudden."""
    host, vm, node = random.choice(cast.HOSTS), random.choice(_VMS), random.choice(cast.NODES)
    story: list[Event] = [("attach", host, vm, node, random.choice(cast.PREFIXES), 2, 200), ("settle",)]
    return [*story, ("change", host, vm, *random.choice(((2, 100), (1, 200), (0, 100))))]


def _one(random: Random) -> list[Event]:
    return [random.choices(list(_MAKERS), list(_MAKERS.values()))[0](random)]


def _outage(random: Random) -> list[Event]:
    """Something goes, something else happens, and it comes again."""
    goes, comes = random.choice((_server_dies, _host_dies, _link_goes, _link_goes, _bgp_goes, _stops_reading))(random)
    between = [event for _ in range(random.randrange(4)) for event in _one(random)]
    return [goes, *between, comes]


def _server_dies(random: Random) -> tuple[Event, Event]:
    name = random.choice((*cast.SERVERS, *cast.SERVERS, *cast.REFLECTORS))
    return ("kill server", name), ("start server", name)


def _host_dies(random: Random) -> tuple[Event, Event]:
    name = random.choice(cast.HOSTS)
    return ("kill host", name), ("start host", name)


def _session(random: Random) -> tuple[str, str]:
    return random.choice(cast.HOSTS), random.choice(cast.SERVERS)


def _peering(random: Random) -> tuple[str, str]:
    near = random.choice((*cast.SERVERS, cast.PE))
    return near, random.choice([name for name in (*cast.SERVERS, *cast.REFLECTORS) if name != near])


def _link_goes(random: Random) -> tuple[Event, Event]:
    where = _session(random)
    return (random.choice(("cut", "cut", "silence")), *where), ("mend", *where)


def _bgp_goes(random: Random) -> tuple[Event, Event]:
    where = _peering(random)
    return (random.choice(("cut", "cut", "silence")), *where), ("mend", *where)


def _stops_reading(random: Random) -> tuple[Event, Event]:
    where = random.choice((_session, _peering))(random)
    where = where if random.random() < 0.7 else where[::-1]
    return ("hold", *where), ("read on", *where)


def _announce(random: Random) -> Event:
    targets = random.choice(cast.PE_TARGETS)
    words = random.choice((0, 0, 1)), random.choice((100, 100, 200))
    return "announce", random.choice(cast.PE_PREFIXES), cast.pe_label(targets), targets, *words


def _want(random: Random) -> Event:
    return random.choice(("want", "want", "want no more")), random.choice(("64512:100", "64512:200", "64512:1"))


def _order(random: Random) -> tuple[tuple[int, ...], float]:
    """In which order route servers follow a change, and how far apart."""
    return tuple(random.sample(range(3), 3)), random.choice((0.0, 0.01, 2.0))


_MAKERS: dict[Callable[[Random], Event], int] = {
    _attach: 16,
    lambda r: ("detach", r.choice(cast.HOSTS), r.choice(_VMS)): 14,
    lambda r: ("change", r.choice(cast.HOSTS), r.choice(_VMS), r.choice((0, 1, 2, 3)), r.choice((100, 100, 200))): 6,
    _announce: 5,
    lambda r: ("withdraw", r.choice(cast.PE_PREFIXES)): 2,
    _want: 3,
    lambda r: ("imports", r.choice(cast.NODES), r.choice(cast.IMPORTS), *_order(r)): 2,
    lambda r: ("exports", r.choice(cast.NODES), r.choice(cast.EXPORTS), *_order(r)): 2,
    lambda r: ("recreate", r.choice(cast.NODES), *_order(r)): 1,
    lambda r: ("reset", *_session(r)): 3,
    lambda r: ("reset", *_peering(r)): 2,
    lambda r: ("mend", *_session(r)): 1,
    lambda r: ("settle",): 2,
}
_STORIES: dict[Callable[[Random], list[Event]], int] = {
    _one: 12,
    _lowering: 1,
    _move: 2,
    _outage: 2,
}
