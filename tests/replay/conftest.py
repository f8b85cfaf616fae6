"""`pytest tests/replay --accept` writes what sessions make of the traces now in the place of what they made then."""

from __future__ import annotations

import pytest

ACCEPT = "--accept"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(ACCEPT, action="store_true", help="rewrite the events of tests/replay/*/trace.jsonl")
