"""Items on request: by id, the latest, page by page; and no answer larger than it may be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lxml import etree

from routeserver.nodes.retrieval import ANSWER_MAX
from schema.names import NS_PUBSUB, NS_RSM
from tests.support.conversation import Answer, Conversation, Forwarder
from tests.support.routes import hop, item, vpn

_RSM = f"{{{NS_RSM}}}"


def _talk(count: int = 10) -> Forwarder:
    """A publisher of i0, i1, …, whose prefixes are in that order; it published them in the opposite one."""
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    for n in reversed(range(count)):
        forwarder.publish("blue", (f"i{n}", item(f"10.0.0.{n}/32")))
    return forwarder


def _ask(forwarder: Forwarder, page: str | None = None, attributes: str = "", ids: tuple[str, ...] = ()) -> Answer:
    wanted = "".join(f"<item id='{item_id}'/>" for item_id in ids)
    rsm = "" if page is None else f"<set xmlns='{NS_RSM}'>{page}</set>"
    items = f"<items node='blue'{attributes}>{wanted}</items>"
    return forwarder.ask(f"<pubsub xmlns='{NS_PUBSUB}'>{items}{rsm}</pubsub>", "get")


def _ids(answer: Answer) -> list[str]:
    assert answer.is_result, answer.condition
    return [item.get("id", "") for item in answer.element[0][0]]


def _set(answer: Answer) -> dict[str, str | None]:
    """The `<set/>` of an answer, which is the sibling behind the items; empty if there is none."""
    others = answer.element[0][1:]
    if not len(others):
        return {}
    (result_set,) = others
    assert result_set.tag == f"{_RSM}set"
    found = {etree.QName(child).localname: child.text for child in result_set}
    first = result_set.find(f"{_RSM}first")
    return found if first is None else found | {"index": first.get("index")}


def _names(*numbers: int) -> list[str]:
    return [f"i{n}" for n in numbers]


def test_everything_comes_in_the_order_of_prefixes_and_without_a_set() -> None:
    answer = _ask(_talk())
    assert _ids(answer) == _names(*range(10))
    assert _set(answer) == {}


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (("i2", "i1", "unknown"), _names(1, 2)),
        (("i2", "i2"), _names(2)),
        (("unknown",), []),
        (("192.0.2.1:1:10.0.0.3/32",), []),
    ],
)
def test_items_by_id(ids: tuple[str, ...], found: list[str]) -> None:
    answer = _ask(_talk(), ids=ids)
    assert _ids(answer) == found
    assert _set(answer) == {}


def test_max_items_are_the_latest() -> None:
    forwarder = _talk()
    assert _ids(_ask(forwarder, attributes=" max_items='3'")) == _names(0, 1, 2)
    forwarder.publish("blue", ("i7", item("10.0.0.7/32", hop(label=77))))
    assert _ids(_ask(forwarder, attributes=" max_items='3'")) == _names(0, 1, 7)
    assert _ids(_ask(forwarder, attributes=" max_items='999'")) == _names(*range(10))


def test_what_is_published_again_unchanged_is_no_later_than_it_was() -> None:
    forwarder = _talk()
    forwarder.publish("blue", ("i7", item("10.0.0.7/32")))
    assert _ids(_ask(forwarder, attributes=" max_items='1'")) == _names(0)


@pytest.mark.parametrize(
    ("page", "found", "index"),
    [
        ("<max>4</max>", (0, 1, 2, 3), 0),
        ("<max>4</max><after>i3</after>", (4, 5, 6, 7), 4),
        ("<max>4</max><after>i7</after>", (8, 9), 8),
        ("<after>i7</after>", (8, 9), 8),
        ("<max>4</max><before/>", (6, 7, 8, 9), 6),
        ("<max>4</max><before>i6</before>", (2, 3, 4, 5), 2),
        ("<max>4</max><before>i2</before>", (0, 1), 0),
        ("<before>i2</before>", (0, 1), 0),
        ("<max>4</max><index>3</index>", (3, 4, 5, 6), 3),
        ("<max>4</max><index>8</index>", (8, 9), 8),
        ("", tuple(range(10)), 0),
        pytest.param("<max>2</max><after>1.2.3.4:5:10.0.0.4/32</after>", (5, 6), 5, id="an id that tells its place"),
        pytest.param("<max>2</max><before>1.2.3.4:5:10.0.0.4/32</before>", (2, 3), 2, id="the same, backwards"),
        pytest.param("<max>2</max><before>1.2.3.4:5:fd00::/64</before>", (8, 9), 8, id="IPv6 comes later"),
    ],
)
def test_a_page(page: str, found: tuple[int, ...], index: int) -> None:
    answer = _ask(_talk(), page)
    names = _names(*found)
    assert _ids(answer) == names
    assert _set(answer) == {"first": names[0], "last": names[-1], "index": str(index), "count": "10"}


@pytest.mark.parametrize(
    "page",
    [
        "<max>0</max>",
        "<max>4</max><after>i9</after>",
        "<max>4</max><before>i0</before>",
        "<index>10</index>",
        "<max>2</max><index>9999999999</index>",
    ],
)
def test_an_empty_page_still_counts(page: str) -> None:
    answer = _ask(_talk(), page)
    assert _ids(answer) == []
    assert _set(answer) == {"count": "10"}


@pytest.mark.parametrize("page", ["<after>nobody</after>", "<before>nobody</before>"])
def test_a_page_from_an_item_that_is_gone_without_a_trace(page: str) -> None:
    answer = _ask(_talk(), page)
    assert answer.condition == "item-not-found"


def test_a_page_of_some_items() -> None:
    answer = _ask(_talk(), "<max>1</max>", ids=("i2", "i5", "unknown"))
    assert _ids(answer) == _names(2)
    assert _set(answer) == {"first": "i2", "last": "i2", "index": "0", "count": "2"}
    latest = _ask(_talk(), "<max>1</max><before/>", attributes=" max_items='3'")
    assert _ids(latest) == _names(2)


def _pages(forwarder: Forwarder, size: int) -> Iterator[list[str]]:
    place = ""
    while ids := _ids(_ask(forwarder, f"<max>{size}</max>{place}")):
        yield ids
        place = f"<after>{ids[-1]}</after>"


def test_who_is_there_all_the_while_is_in_exactly_one_page() -> None:
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    stay = [f"1.1.1.1:1:10.0.{n}.0/24" for n in range(60)]
    forwarder.publish("blue", *((name, item(name.split(":")[-1])) for name in stay))
    seen: list[str] = []
    for number, ids in enumerate(_pages(forwarder, 7)):
        seen += ids
        if number < 5:
            forwarder.publish("blue", (f"before{number}", item(f"9.0.{number}.0/24")))
            forwarder.publish("blue", (f"behind{number}", item(f"10.0.{number}.128/25")))
        if ids[-1] in stay:  # the place where the next page begins goes away
            stay.remove(ids[-1])
            forwarder.retract("blue", ids[-1])
            seen.remove(ids[-1])
    assert [name for name in seen if name in stay] == stay
    assert len(seen) == len(set(seen))
    assert {name for name in seen if name not in stay} == {f"behind{number}" for number in range(5)}


def _large(count: int) -> Forwarder:
    talk = Conversation(vpn("blue", ["64512:100"]))
    forwarder = talk.forwarder("h1.example.net")
    long = "-" * 900
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        forwarder.publish("blue", *((f"{n}{long}", item(f"10.1.{n >> 8}.{n & 255}/32")) for n in numbers))
    return forwarder


def test_an_answer_is_bounded_and_says_where_it_ends() -> None:
    forwarder = _large(1000)
    place, seen, pages = None, list[str](), 0
    while len(seen) < 1000:
        answer = _ask(forwarder, place)
        ids = _ids(answer)
        assert ids
        assert len(etree.tostring(answer.element)) < ANSWER_MAX + 4096
        told = _set(answer)
        assert (told["first"], told["last"], told["index"]) == (ids[0], ids[-1], str(len(seen)))
        assert told["count"] == "1000"
        seen += ids
        pages += 1
        place = f"<after>{ids[-1]}</after>"
    assert pages > 1
    assert len(set(seen)) == 1000


def test_a_bounded_page_adjoins_the_item_it_was_asked_from() -> None:
    forwarder = _large(1000)
    everything = [name for page in _pages(forwarder, 100) for name in page]
    backwards = _ids(_ask(forwarder, f"<before>{everything[900]}</before>"))
    assert 0 < len(backwards) < 900
    assert backwards == everything[900 - len(backwards) : 900]
