"""Stories of the whole that went wrong once, or nearly: everybody holds what the model says.

Each folder has a list of events, one to a line as a failing scenario prints them, and a `why.txt`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.world import World

STORIES = sorted(Path(__file__).parent.glob("*/events.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.parent.name)
def test_a_story_ends_as_the_model_says(story: Path) -> None:
    World().run([ast.literal_eval(line) for line in story.read_text().splitlines()])


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.parent.name)
def test_a_story_says_why_it_is_here(story: Path) -> None:
    text = (story.parent / "why.txt").read_text()
    assert "\nIn: " in text
    assert "\nWhy: " in text


def test_there_are_stories() -> None:
    assert len(STORIES) >= 11
