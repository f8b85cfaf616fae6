"""The route server as a program in a network namespace, forked (`forked`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import routeserver.cli.program
from tests.support.namespaces import Namespace
from tests.support.routeserver import RouteServerProcess

SLOW = 200.0
"""Starting Python in an emulated machine takes many times what it takes outside."""


class RouteServerInside(RouteServerProcess):
    """`routeserver run` in a namespace that has its address. Further arguments are those of `RouteServerProcess`."""

    def __init__(self, directory: Path, namespace: Namespace, address: str, **settings: Any) -> None:
        super().__init__(directory, 64512, address=address, **settings)
        self._namespace = namespace

    def spawn(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.fork(routeserver.cli.program.main, command[command.index("run") :], self._namespace)

    def wait_ready(self, ready: Callable[[], object], within: float) -> None:
        super().wait_ready(ready, SLOW)
