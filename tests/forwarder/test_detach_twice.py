"""A detach that comes while another one of the same attachment is under way: the last word counts, and is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from forwarder.attachments import parse_attachment
from forwarder.dataplane.values import DataplaneError
from tests.forwarder.test_listening_to_one import Scene, run


def test_what_failed_for_the_first_is_done_by_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        await scene.begin()
        scene.plane.fail_next("detach", "the kernel is busy")
        first, second = await asyncio.gather(
            scene.agent.detach("vm1"), scene.agent.detach("vm1"), return_exceptions=True
        )
        assert isinstance(first, DataplaneError)
        assert second is True
        assert (scene.plane.vifs(), len(scene.agent.vifs), scene.told()) == ([], 0, [])

    run(story, tmp_path, monkeypatch)


def test_a_detach_during_a_move_is_of_what_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        await scene.begin()
        moved = parse_attachment("vm1", vpn="blue", interface="t-2", addresses=["10.0.0.1"])
        results = await asyncio.gather(scene.agent.attach(moved), scene.agent.detach("vm1"))
        assert results[1] is True
        assert (scene.plane.vifs(), len(scene.agent.vifs), scene.told()) == ([], 0, [])

    run(story, tmp_path, monkeypatch)


def test_twice_at_once_is_as_good_as_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        await scene.begin()
        assert await asyncio.gather(scene.agent.detach("vm1"), scene.agent.detach("vm1")) == [True, True]
        assert await scene.agent.detach("vm1") is False

    run(story, tmp_path, monkeypatch)
