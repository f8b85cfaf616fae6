"""The scripts of tests/corpus/xmpp/conversations, fed whole, octet by octet and in odd pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.xmpp_script import CONVERSATIONS, play


@pytest.mark.parametrize("size", [None, 1, 7], ids=["whole", "octets", "sevens"])
@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: path.stem)
def test_conversation(path: Path, size: int | None) -> None:
    play(path, size)


def test_there_are_conversations() -> None:
    assert {"login", "draft_05", "draft_06"} <= {path.stem for path in CONVERSATIONS}
