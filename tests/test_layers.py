"""Who may import whom.

The packages are layers: `__main__` -> `io`, `api` -> core -> `bgp`, `xmpp`, `rib` -> `schema`.  All but the rim is
pure: bytes, events and `now` go in, events and bytes come out, and nothing there knows a socket, a clock or a
file.  A module not named here is pure by default, so a new one at the rim has to be entered below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("routeserver", "forwarder")

RIM = (
    "routeserver.__main__",
    "routeserver.api",
    "routeserver.cli",
    "routeserver.config",
    "routeserver.io",
    "routeserver.log",
    "routeserver.pki",
    "forwarder.__main__",
    "forwarder.agent",
    "forwarder.answers",
    "forwarder.departures",
    "forwarder.draining",
    "forwarder.external",
    "forwarder.guarded",
    "forwarder.installer",
    "forwarder.peers",
    "forwarder.purge",
    "forwarder.serving",
    "forwarder.api",
    "forwarder.cli",
    "forwarder.config",
    "forwarder.dataplane",
    "forwarder.firsthop.responder",
    "forwarder.log",
    "forwarder.state",
    "forwarder.unclaimed",
    "forwarder.watch",
    "forwarder.uplink",
    "forwarder.xmpp",
)
"""A name stands for the module, for all below it, and for those that go on after an underscore."""
PURE_AT_THE_RIM = (
    "forwarder.dataplane.admission",
    "forwarder.dataplane.contract",
    "forwarder.dataplane.fake",
    "forwarder.dataplane.traced",
    "forwarder.dataplane.values",
    *(f"forwarder.external.{name}" for name in ("membership", "queries")),
    *(f"forwarder.dataplane.linux.{name}" for name in ("facts", "names", "plan", "underlay_facts", "vif_facts")),
    *(f"forwarder.dataplane.linux.{name}" for name in ("drop_reasons", "guard_rules", "guard_elements")),
    "forwarder.state.Record",
    "forwarder.state.State",
)

# fmt: off
IMPURE = frozenset({
    "aiohttp", "asyncio", "concurrent", "cryptography", "datetime", "fcntl", "http", "io", "msgspec",
    "multiprocessing", "os", "pathlib", "pyroute2", "queue", "random", "secrets", "select", "selectors", "shutil",
    "signal", "slixmpp", "socket", "socketserver", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib", "uuid", "uvloop",
})
# fmt: on
IMPURE_CALLS = frozenset({"open", "print", "input", "breakpoint"})

BGP_VALUES = tuple(
    f"routeserver.bgp.{name}"
    for name in ("iana", "communities", "nlri", "attributes", "as_path", "tunnel_encapsulation")
)

ALLOWED: dict[str, tuple[str, ...]] = {
    "schema": ("schema",),
    "routeserver.bgp": ("routeserver.bgp", "routeserver.settings", "schema"),
    "routeserver.xmpp": ("routeserver.xmpp", "schema"),
    "routeserver.rib": ("routeserver.rib", *BGP_VALUES, "routeserver.settings", "schema"),
    "routeserver.nodes": (
        *("routeserver.nodes", "routeserver.xmpp", "routeserver.rib", *BGP_VALUES),
        *("routeserver.notices", "routeserver.settings", "schema"),
    ),
    "routeserver.speaker": (
        *("routeserver.speaker", "routeserver.bgp", "routeserver.rib"),
        *("routeserver.notices", "routeserver.settings", "schema"),
    ),
    "routeserver.settings": ("routeserver.bgp.iana", "schema"),
    "routeserver": ("routeserver", "schema"),
    "forwarder": ("forwarder", "schema"),
    "forwarder.external": (
        *("forwarder", "routeserver.xmpp", "routeserver.io", "routeserver.config"),
        *("routeserver.core", "routeserver.nodes.refusals", "routeserver.notices", "schema"),
    ),
}
"""What of ours a layer may import; the longest key that fits counts."""


@dataclass(frozen=True)
class Import:
    """One import statement's target, with the module it stands in."""

    importer: str
    line: int
    target: str


def is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_at_the_rim(module: str) -> bool:
    if any(is_below(module, name) for name in PURE_AT_THE_RIM):
        return False
    return any(is_below(module, name) or module.startswith(f"{name}_") for name in RIM)


def imports_of(module: str, tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield Import(module, node.lineno, "." * node.level + (node.module or ""))
                continue
            # `from package import name` may mean a module or a thing in it; the longer name fits a rule for either.
            yield from (Import(module, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def faults(module: str, source: str) -> list[str]:
    """What a module does that its layer forbids, one line each."""
    tree = ast.parse(source)
    pure = not is_at_the_rim(module)
    found = [fault for one in imports_of(module, tree) for fault in _import_faults(one, pure)]
    if pure:
        found += [
            f"{module}:{node.lineno}: {node.func.id}() in a pure module"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
        ]
    return found


def _import_faults(one: Import, pure: bool) -> Iterator[str]:
    where = f"{one.importer}:{one.line}: imports {one.target}"
    top = one.target.split(".")[0]
    if one.target.startswith("."):
        yield f"{where}: relative imports hide the direction"
    if pure and top in IMPURE:
        yield f"{where}: the module is pure"
    if top not in (*PROGRAMS, "schema"):
        return
    layer = max((name for name in ALLOWED if is_below(one.importer, name)), key=len)
    if not any(is_below(one.target, allowed) for allowed in ALLOWED[layer]):
        yield f"{where}: {layer} may import only {', '.join(ALLOWED[layer])}"
    if is_at_the_rim(one.target) and not _may_reach_rim(one):
        yield f"{where}: the rim imports the core, not the other way round"


def _may_reach_rim(one: Import) -> bool:
    """`__main__` is imported by nobody, the rest of the rim by the rim."""
    return ".__main__" not in one.target and is_at_the_rim(one.importer)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in (*PROGRAMS, "schema"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_keep_to_the_layers(module: str, path: Path) -> None:
    assert faults(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("routeserver.bgp.session", "import asyncio", "the module is pure"),
        ("routeserver.core", "def f():\n    from time import monotonic", "the module is pure"),
        ("routeserver.core", "import os.path", "the module is pure"),
        ("schema.items", "import datetime", "the module is pure"),
        ("forwarder.plan", "from pyroute2 import IPRoute", "the module is pure"),
        ("forwarder.dataplane.contract", "import socket", "the module is pure"),
        ("routeserver.rib.table", "print('here')", r"print\(\) in a pure module"),
        ("routeserver.bgp.session", "from routeserver.xmpp import jid", "routeserver.bgp may import only"),
        ("routeserver.bgp.session", "from routeserver.rib.path import Path", "routeserver.bgp may import only"),
        ("routeserver.xmpp.session", "import routeserver.bgp.iana", "routeserver.xmpp may import only"),
        ("routeserver.rib.table", "from routeserver.bgp.session import BgpSession", "routeserver.rib may import only"),
        ("routeserver.rib.vrf", "from routeserver import core", "routeserver.rib may import only"),
        ("routeserver.settings", "from routeserver import core", "routeserver.settings may import only"),
        ("schema.items", "from routeserver.bgp.iana import Family", "schema may import only"),
        ("routeserver.__main__", "import forwarder.labels", "routeserver may import only"),
        ("forwarder.agent", "from routeserver.bgp import nlri", "forwarder may import only"),
        ("routeserver.core", "from routeserver.io.driver import Driver", "the rim imports the core"),
        ("routeserver.core", "from routeserver import config", "the rim imports the core"),
        ("routeserver.io.driver", "from routeserver import __main__", "the rim imports the core"),
        ("forwarder.plan", "from forwarder.dataplane.linux_routes import send", "the rim imports the core"),
        ("routeserver.core", "from .bgp import session", "relative imports"),
    ],
)
def test_a_violation_is_found(module: str, source: str, reason: str) -> None:
    assert re.search(reason, "\n".join(faults(module, source)))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("routeserver.rib.table", "from routeserver.bgp.nlri import VpnNlri"),
        ("routeserver.core", "from routeserver.xmpp.session import XmppSession"),
        ("routeserver.io.driver", "import asyncio\nfrom routeserver.core import RouteServer"),
        ("routeserver.__main__", "from routeserver.io.listen import serve\nfrom routeserver.api import Api"),
        ("forwarder.dataplane.linux_routes", "import socket"),
        ("forwarder.agent", "import asyncio\nfrom forwarder import plan"),
        ("forwarder.plan", "from forwarder.dataplane.contract import Fib"),
    ],
)
def test_what_the_layers_allow_is_not_found(module: str, source: str) -> None:
    assert faults(module, source) == []
