"""docs/vpns.md: every example in it is a configuration, and every key there is has its place in it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from routeserver.bgp.communities import parse_route_target
from routeserver.config import file as config
from routeserver.config.file import ConfigError, load
from routeserver.settings import VpnOverride, VpnSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "vpns.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HEAD = '[route-server]\nrouter-id = "192.0.2.101"\nas = 64512\n'
ONE, TWO = (frozenset((parse_route_target(f"64512:{number}"),)) for number in (1, 2))


def vpns(directory: Path, text: str) -> tuple[VpnSettings, ...]:
    file = directory / "rs.toml"
    file.write_text(HEAD + text)
    return load(file).settings.vpns


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[1].replace('"', ""))
def test_an_example_is_a_configuration(example: str, tmp_path: Path) -> None:
    assert [vpn.name for vpn in vpns(tmp_path, example)] == re.findall(r'^name = "(.*)"$', example, re.MULTILINE)


@pytest.mark.parametrize("struct", [config._Vpn, config._Override], ids=["vpns", "overrides"])
def test_every_key_is_documented(struct: type[msgspec.Struct]) -> None:
    keys = {field.encode_name for field in msgspec.structs.fields(struct)}
    assert {key for key in keys if not re.search(rf"\b{key}\b", PAGE)} == set()


BRANCHES = '[[vpns]]\nname = "a"\nimport-route-target = ["64512:2"]\nexport-route-target = ["64512:1"]\n'
OVERRIDE = '[[vpns.overrides]]\nmembers = ["h?.example.net"]\n'
IMPORTS, EXPORTS = 'import-route-target = ["64512:1"]\n', 'export-route-target = ["64512:2"]\n'


@pytest.mark.parametrize(
    ("text", "imports", "exports"),
    [(IMPORTS + EXPORTS, ONE, TWO), (IMPORTS, ONE, ONE), (EXPORTS, TWO, TWO), ("import-route-target = []\n", (), ONE)],
    ids=["both", "imports", "exports", "none at all"],
)
def test_a_list_that_is_missing_is_the_vpns(
    text: str, imports: frozenset[bytes], exports: frozenset[bytes], tmp_path: Path
) -> None:
    (vpn,) = vpns(tmp_path, BRANCHES + OVERRIDE + text)
    assert vpn.overrides == (VpnOverride(("h?.example.net",), frozenset(imports), exports),)
    assert (vpn.import_rts, vpn.export_rts) == (TWO, ONE)


REFUSED = [
    (OVERRIDE, "vpns[0].overrides[0]: neither import-route-target nor export-route-target: nothing is overridden"),
    ("[[vpns.overrides]]\nmembers = []\n" + IMPORTS, "vpns[0].overrides[0].members: empty: it would be nobody's"),
    ("[[vpns.overrides]]\n" + IMPORTS, "vpns[0].overrides[0].members: required, but missing"),
    ((OVERRIDE + IMPORTS) * 2, "vpns[0].overrides[1].members: the same as vpns[0].overrides[0].members"),
    (
        OVERRIDE + IMPORTS.replace("64512:1", "x"),
        "vpns[0].overrides[0].import-route-target[0]: route target 'x' is not AS:number or IPv4-address:number",
    ),
    (OVERRIDE + IMPORTS + 'prefixes = ["10.0.0.0/8"]\n', "vpns[0].overrides[0].prefixes: unknown key"),
    (
        OVERRIDE.replace("h?.example.net", "@example.net") + IMPORTS,
        'vpns[0].overrides[0].members[0]: \'@example.net\' is not a pattern like "*.example.net" or "*@example.net"',
    ),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"rs.toml: {reason}") + "$"):
        vpns(tmp_path, BRANCHES + text)
