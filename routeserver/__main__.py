"""`routeserver`: the command line, and `run`, which builds, wires, runs and stops the server."""

from __future__ import annotations

import sys

from routeserver.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
