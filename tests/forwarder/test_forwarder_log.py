"""One record, two forms: words on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from forwarder.log import JsonFormatter, TextFormatter


def entry(message: str, level: int = logging.INFO, **attributes: object) -> logging.LogRecord:
    made = logging.LogRecord("forwarder", level, __file__, 1, message, (), None)
    vars(made).update(attributes)
    return made


def test_keys_are_written_with_hyphens_and_values_with_spaces_in_quotes() -> None:
    made = entry(
        "vif.failed", logging.ERROR, event_keys={"route_server": "192.0.2.9:5222", "reason": "not here", "n": 1}
    )
    text = TextFormatter().format(made).split(" ", 1)[1]
    assert text == 'error vif.failed route-server=192.0.2.9:5222 reason="not here" n=1'
    line = json.loads(JsonFormatter().format(made))
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "error", "event": "vif.failed", "route-server": "192.0.2.9:5222", "reason": "not here", "n": 1,
    }  # fmt: skip


def test_a_librarys_sentence_and_a_traceback() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        made = entry("something happened", exc_info=sys.exc_info())
    line = json.loads(JsonFormatter().format(made))
    assert (line["event"], line["message"]) == ("forwarder", "something happened")
    assert "ValueError: wrong" in line["traceback"]
    first, *traceback = TextFormatter().format(made).splitlines()
    assert first.endswith('info forwarder message="something happened"')
    assert traceback[-1] == "ValueError: wrong"


@pytest.mark.parametrize(
    ("said", "told"),
    [("münchen", "münchen"), ("a=b", '"a=b"'), ("\x1b[2J", '"\\u001b[2J"'), ("ü\x9b2J", '"\\u00fc\\u009b2J"')],
)
def test_no_word_from_outside_is_obeyed_by_a_terminal(said: str, told: str) -> None:
    made = entry("vif.failed", event_keys={"reason": said})
    assert TextFormatter().format(made).endswith(f"info vif.failed reason={told}")
    line = JsonFormatter().format(made)
    assert line.isprintable()
    assert json.loads(line)["reason"] == said
