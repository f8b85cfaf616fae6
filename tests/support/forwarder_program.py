"""The forwarder as a process of its own, the way an operator starts it, and its command line.

`python -m forwarder run --config F`; in a network namespace it is forked instead (`forked`), with the `linux` data
plane.  The command line is run in the test's own process: it is the same code, and starting Python takes long in an
emulated machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forwarder.__main__ import main
from tests.support.forwarder import Address, write_config
from tests.support.namespaces import Namespace
from tests.support.pki import Pki
from tests.support.process import Daemon
from tests.support.waiting import eventually

_ROOT = Path(__file__).resolve().parents[2]


class ForwarderProgram(Daemon):
    """`start` returns once it has said that it is ready. Its state survives in the PKI's directory."""

    def __init__(
        self,
        pki: Pki,
        jid: str,
        address: str,
        servers: Sequence[Address],
        namespace: Namespace | None = None,
        within: float = 30.0,
    ) -> None:
        super().__init__(f"forwarder {jid}", pki.directory / f"{jid}.d")
        self.jid = jid
        self._config = write_config(pki, jid, address, servers)
        self._socket = pki.directory / f"{jid}.sock"
        self._namespace = namespace
        self._within = within
        if namespace is not None:
            self._config.write_text(self._config.read_text().replace('backend = "fake"', 'backend = "linux"'))

    def encapsulates(self, *encapsulations: str) -> None:
        """What its configuration says from the next start on, best first."""
        text = self._config.read_text()
        self._config.write_text(text.replace("[forwarder]", f"[forwarder]\nencapsulations = {list(encapsulations)}"))

    def start(self) -> None:
        self.launch()
        self.wait_started()

    def launch(self) -> None:
        """Start without waiting, for several to start at once."""
        self._before = self.log().count('"forwarder.ready"')
        words = ["run", "--config", str(self._config)]
        if self._namespace is not None:
            self.fork(main, words, self._namespace)
        else:
            command = [sys.executable, "-m", "forwarder", *words]
            self.spawn(command, {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"})

    def wait_started(self) -> None:
        self.wait_ready(lambda: self.log().count('"forwarder.ready"') > self._before, self._within)

    def attach(self, vif: str, vpn: str, *addresses: str, interface: str = "", behind: Sequence[str] = ()) -> int:
        """Attach an interface, named after the id unless told otherwise, with prefixes behind it; its label."""
        named = [word for address in addresses for word in ("--address", address)]
        named += [word for prefix in behind for word in ("--prefix", prefix)]
        return int(self._command("attach", vif, "--vpn", vpn, "--interface", interface or f"t-{vif}", *named)["label"])

    def detach(self, vif: str) -> None:
        self._command("detach", vif)

    def status(self) -> Any:
        return self._command("status", codes=(0, 5))

    def vifs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._command("get", "vifs")["items"]
        return found

    def routes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The one next hop of each route, by interface and prefix."""
        found = self._command("get", "routes")["items"]
        return {(route["vif"], route["prefix"]): route["next-hops"][0] for route in found}

    def until_routes(self, *wanted: tuple[str, str]) -> None:
        """These routes are there, and no others."""
        eventually(lambda: self.routes().keys() == set(wanted), self._within, lambda: f"{self.name}: {self.routes()}")

    def _command(self, *words: str, codes: tuple[int, ...] = (0,)) -> Any:
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            code = main([*words, "--api", str(self._socket), "-o", "json"])
        assert code in codes, f"{words}: {code}\n{self.log_tail()}"
        return json.loads(told.getvalue())
