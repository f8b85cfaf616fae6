"""docs/bgp.md: every example in it is a configuration, and every key there is has its place in it."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import msgspec
import pytest

from routeserver.bgp.fsm import State
from routeserver.bgp.iana import Role
from routeserver.config import bgp as config_bgp
from routeserver.config.file import load
from routeserver.rib.adj_in import Refusal
from routeserver.settings import OnExcess

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "bgp.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HEAD = '[route-server]\nrouter-id = "192.0.2.101"\nas = 64512\n'
LISTEN = '[bgp]\nlisten = ["192.0.2.101:179"]\n'
SECTIONS = {
    "neighbors": config_bgp.Neighbor,
    "dynamic-neighbors": config_bgp.DynamicNeighbors,
    "policies": config_bgp.NamedPolicy,
    "rules": config_bgp.Rule,
    "max-prefixes": config_bgp.MaxPrefixes,
    "graceful-restart": config_bgp.Restart,
    "bgp": config_bgp.Bgp,
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[1].replace('"', ""))
def test_an_example_is_a_configuration(example: str, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "neighbor-21.password").write_text("secret\n")
    file = tmp_path / "rs.toml"
    file.write_text(HEAD + ("" if example.startswith("[bgp]") else LISTEN) + example)
    assert load(file).bgp_listen


@pytest.mark.parametrize(("section", "struct"), SECTIONS.items(), ids=SECTIONS)
def test_every_key_is_documented(section: str, struct: type[msgspec.Struct]) -> None:
    keys = {field.encode_name for field in msgspec.structs.fields(struct)}
    assert {key for key in keys if not re.search(rf"\b{key}\b", PAGE)} == set()


@pytest.mark.parametrize("words", [Refusal, State, OnExcess, Role], ids=lambda words: words.__name__)
def test_every_word_of_an_answer_is_documented(words: type[enum.Enum]) -> None:
    found = {word.label if isinstance(word, Role) else str(word.value) for word in words}
    assert {word for word in found if not re.search(rf"[`\"]{word}[`\"]", PAGE)} == set()
