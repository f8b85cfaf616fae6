"""Who goes when, while a server is drained, and what it may be drained to."""

from __future__ import annotations

import pytest

from routeserver.draining import Drain, other_host


def ends(drain: Drain[str], times: list[float]) -> dict[float, list[str]]:
    """Who ends when it is looked at these times."""
    return {time: taken for time in times if (taken := drain.take(time))}


def test_sessions_end_in_the_order_they_came_and_evenly_spread() -> None:
    drain = Drain("h", 60.0, ["a", "b", "c", "d"], 100.0)
    found: dict[float, list[str]] = {}
    while (time := drain.next_time()) is not None:
        assert drain.take(time - 0.001) == []
        found[time] = drain.take(time)
    assert found == {100.0: ["a"], 115.0: ["b"], 130.0: ["c"], 145.0: ["d"]}
    assert drain.take(1000.0) == []


@pytest.mark.parametrize(
    ("over", "times", "expected"),
    [
        (60.0, [100.0, 131.0, 160.0], {100.0: ["a"], 131.0: ["b", "c"], 160.0: ["d"]}),
        (60.0, [99.0], {}),
        (60.0, [1000.0], {1000.0: ["a", "b", "c", "d"]}),
        (0.0, [100.0, 101.0], {100.0: ["a", "b", "c", "d"]}),
    ],
    ids=["late", "early", "very late", "no time"],
)
def test_a_clock_that_is_looked_at_late(over: float, times: list[float], expected: dict[float, list[str]]) -> None:
    assert ends(Drain("h", over, ["a", "b", "c", "d"], 100.0), times) == expected


def test_nobody_to_drain() -> None:
    drain: Drain[str] = Drain("h", 60.0, [], 100.0)
    assert (drain.next_time(), drain.take(1000.0)) == (None, [])


@pytest.mark.parametrize("count", [1, 2, 30, 1000])
def test_the_last_one_ends_within_the_time(count: int) -> None:
    drain = Drain("h", 30.0, range(count), 0.0)
    times: list[float] = []
    while (time := drain.next_time()) is not None:
        times += [time] * len(drain.take(time))
    assert len(times) == count
    assert times[0] == 0.0
    assert times[-1] < 30.0
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("rs2.example.net", "rs2.example.net"),
        ("rs2.example.net:5223", "rs2.example.net:5223"),
        ("rs2", "rs2"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:5222", "192.0.2.1:5222"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:DB8:0::1]:5222", "[2001:db8::1]:5222"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert other_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "", ":5222", "rs2:", "rs2:0", "rs2:65536", "rs2:x", "rs2:+1", "rs2:5222:1", "2001:db8::1", "[2001:db8::1",
        "[2001:db8::1]5222", "[2001:db8::1]:", "[rs2]", "[fe80::1%eth0]", "[192.0.2.1]", "192.0.2", "192.0.2.300",
        "rs 2", "rs2/x", "a@rs2", "-rs2", "rs2-", "rs..2", "<rs2>", "rs2\n", "x" * 64, "x." * 127 + "x",
        "rs2:5222222222222",
    ],
)  # fmt: skip
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        other_host(text)
