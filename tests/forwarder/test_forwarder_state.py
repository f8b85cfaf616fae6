"""The state file comes back as it was written, and a broken one is kept and never in the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forwarder.attachments import parse_attachment
from forwarder.state import Record, State, StateError, StateFile

ATTACHMENT = parse_attachment(
    "vm1",
    vpn="blue",
    interface="t-a",
    addresses=["10.1.0.1/32", "fd00::1/128"],
    mac="52:54:00:aa:bb:01",
    rate="100mbit",
    prefixes=["10.2.0.0/24"],
    sequence_number=4,
    local_preference=50,
)
STATE = State(
    attachments=[Record.of(ATTACHMENT, 16, {"10.1.0.1/32": 4})],
    instance_ids={"blue": 1, "red": 2},
    resting_labels=[(17, 1000.5)],
    next_label=18,
    draining=True,
)
OF_VERSION_1 = b"""{
 "version": 1,
 "attachments": [
  {"id": "vm1", "vpn": "blue", "interface": "t-a", "addresses": ["10.1.0.1/32", "fd00::1/128"], "label": 16,
   "mac": "52:54:00:aa:bb:01", "rate": "100mbit", "mode": "point-to-point", "sequence-numbers": {"10.1.0.1/32": 4}}
 ],
 "instance-ids": {"blue": 1, "red": 2},
 "resting-labels": [[17, 1000.5]],
 "next-label": 18
}"""
"""As it was written."""


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "new" / "directory")
    assert file.load() == (State(), None)
    file.save(STATE)
    assert file.load() == (STATE, None)
    assert STATE.attachments[0].attachment() == ATTACHMENT
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["state.json", "state.json.copy"]
    file.remove()
    assert list(file.path.parent.iterdir()) == []


def test_a_file_of_version_1_is_read_and_written_as_ours(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.path.write_bytes(OF_VERSION_1)
    state, broken = file.load()
    assert broken is None
    attachment = replace(ATTACHMENT, prefixes=(), sequence_number=None, local_preference=100)
    assert [record.attachment() for record in state.attachments] == [attachment]
    assert (state.attachments[0].label, state.attachments[0].sequence_numbers) == (16, {"10.1.0.1/32": 4})
    rest = (state.version, state.instance_ids, state.resting_labels, state.next_label, state.draining)
    assert rest == (2, {"blue": 1, "red": 2}, [(17, 1000.5)], 18, False)
    file.save(state)
    assert file.load() == (state, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.json.copy"]


def test_wherever_the_file_is_torn_the_copy_takes_its_place(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(STATE)
    whole = file.path.read_bytes()
    for length in range(len(whole)):
        file.path.write_bytes(whole[:length])
        state, told = file.load()
        assert state == STATE
        assert told is not None
        assert f"{file.path} is unusable" in told
        assert told.endswith(f"{file.path}.copy is taken instead")
        assert file.load() == (STATE, None), "it is whole again"
        (kept,) = tmp_path.glob("state.json.broken-*")
        assert kept.read_bytes() == whole[:length]
        kept.unlink()


def test_a_file_that_is_gone_is_taken_from_the_copy(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(STATE)
    file.path.unlink()
    assert file.load() == (STATE, f"{file.path} is gone; {file.path}.copy is taken instead")
    assert file.load() == (STATE, None)


def test_a_torn_copy_is_in_nobodys_way(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(STATE)
    copy = tmp_path / "state.json.copy"
    copy.write_bytes(b"{")
    assert file.load() == (STATE, None)
    file.save(STATE)
    assert copy.read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize("name", ["state.json", "state.json.copy"])
def test_what_could_not_be_saved_is_not_there_after_a_restart(tmp_path: Path, name: str) -> None:
    file, obstacle = StateFile(tmp_path), tmp_path / name
    file.save(State())
    kept = obstacle.read_bytes()
    obstacle.unlink()
    obstacle.mkdir()
    with pytest.raises(StateError, match=name):
        file.save(STATE)
    obstacle.rmdir()
    obstacle.write_bytes(kept)
    assert file.load() == (State(), None)
    file.save(STATE)
    assert file.load() == (STATE, None)


def test_if_both_are_torn_both_are_put_aside_and_the_forwarder_starts_empty(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(STATE)
    whole = file.path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        torn = {file.path: whole[:length], tmp_path / "state.json.copy": whole[: length // 2]}
        for path, text in torn.items():
            path.write_bytes(text)
        state, told = file.load()
        assert state == State()
        assert told is not None
        assert all(f"{path} is unusable" in told for path in torn)
        kept = sorted(tmp_path.iterdir())
        assert [path.name for path in kept] == ["state.json.broken-1", "state.json.broken-2"]
        assert [path.read_bytes() for path in kept] == list(torn.values())
        for path in kept:
            path.unlink()


def changed(**values: Any) -> dict[str, Any]:
    record = {"id": "vm1", "vpn": "blue", "interface": "t-a", "addresses": ["10.1.0.1/32"], "label": 16}
    return {"version": 1, "attachments": [record], "instance-ids": {}, "resting-labels": [], **values}


RECORD = changed()["attachments"][0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (changed(version=3), "version 3, this program writes 2"),
        (changed(version=0), "version 0, this program writes 2"),
        (changed(attachments=[{**RECORD, "prefixes": ["10.2.0.1/24"]}]), "bits set beyond its length"),
        (changed(attachments=[{**RECORD, "local-preference": -1}]), "local-preference: -1 is outside"),
        (changed(vifs=[]), "unknown field `vifs`"),
        (changed(attachments=[RECORD, {**RECORD, "interface": "t-b", "label": 17}]), "the same attachment id twice"),
        (changed(attachments=[RECORD, {**RECORD, "id": "vm2", "label": 17}]), "the same interface twice"),
        (changed(attachments=[RECORD, {**RECORD, "id": "vm2", "interface": "t-b"}]), "the same label twice"),
        (changed(attachments=[{**RECORD, "addresses": ["10.1.0.0/24"]}]), "host addresses"),
        (changed(**{"instance-ids": {"blue": 1, "red": 1}}), "the same instance-id twice"),
        (changed(attachments=[RECORD, {**RECORD, "id": "vm2", "interface": "t-b", "label": 17}]), "address in one VPN"),
        (changed(attachments=[{**RECORD, "label": 15}]), "label 15 is outside"),
        (changed(attachments=[{**RECORD, "sequence-numbers": {"10.1.0.1": -1}}]), "sequence number -1 is outside"),
        (changed(attachments=[{**RECORD, "sequence-numbers": {"vm": 1}}]), "does not appear to be"),
        (changed(**{"instance-ids": {"blue": 0}}), "instance-id 0 is outside"),
        (changed(**{"next-label": 1_048_575}), "next label 1048575 is outside"),
        ([], "Expected `object`"),
    ],
)
def test_a_file_that_contradicts_itself_is_put_aside_with_the_reason(
    tmp_path: Path, content: object, reason: str
) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(json.dumps(content))
    state, broken = file.load()
    assert state == State()
    assert broken is not None
    assert reason in broken
    assert "broken-1" in broken


def test_a_directory_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = StateFile(tmp_path / "file")
    with pytest.raises(StateError, match=r"file/state\.json: "):
        file.load()
    with pytest.raises(StateError, match=r"file/state\.json\.copy: "):
        file.save(STATE)
