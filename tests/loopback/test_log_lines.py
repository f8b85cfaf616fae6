"""What clients say is in the log and in tables of the command line, and no terminal obeys it."""

from __future__ import annotations

import json
import logging

import pytest

from routeserver.cli_words import cell
from routeserver.log import JsonFormatter, TextFormatter

SAID = [
    ("münchen", "münchen"),
    ("\x1b[2J", '"\\u001b[2J"'),
    ("ü\x9b2J", '"\\u00fc\\u009b2J"'),
    ("a\u202eb", '"a\\u202eb"'),
]


@pytest.mark.parametrize(("said", "told"), [*SAID, ("", '""'), ("a b", '"a b"'), ("a=b", '"a=b"')])
def test_a_line_of_log(said: str, told: str) -> None:
    made = logging.LogRecord("routeserver", logging.INFO, __file__, 1, "xmpp.login.failed", (), None)
    vars(made)["event_keys"] = {"jid": said}
    assert TextFormatter().format(made).endswith(f"info xmpp.login.failed jid={told}")
    line = JsonFormatter().format(made)
    assert line.isprintable()
    assert json.loads(line)["jid"] == said


@pytest.mark.parametrize(("said", "told"), [*SAID, ("", "-"), ("a b", "a b")])
def test_a_cell_of_a_table(said: str, told: str) -> None:
    assert cell(said) == told
    assert cell([said, 1]) == f"{told},1"
