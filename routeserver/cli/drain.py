"""`drain`: take a server out of service, by sending its XMPP clients to another host, or put it back."""

from __future__ import annotations

import argparse

from routeserver.cli.client import EXIT_OK, EXIT_USAGE, CommandError, Output, ask
from routeserver.cli.words import duration, print_json

_PATH = "api/v1/drain"


def drain(arguments: argparse.Namespace) -> int:
    """`routeserver drain --to HOST[:PORT] [--over TIME]`, `routeserver drain --cancel`."""
    if arguments.cancel and arguments.over is not None:
        raise CommandError(EXIT_USAGE, "--over goes with --to")
    if arguments.cancel:
        answer = ask(arguments, _PATH, method="DELETE")
    else:
        over = {} if arguments.over is None else {"over": arguments.over}
        answer = ask(arguments, _PATH, {"to": arguments.to, **over})
    if arguments.output is Output.JSON:
        print_json(answer)
    elif answer["draining"]:
        ended, left = answer["sessions-ended"], answer["sessions-left"]
        time = duration(answer["over-seconds"])
        print(f"draining to {answer['to']} over {time}: {ended} sessions ended, {left} to go")
    else:
        print("not draining: clients are let in")
    return EXIT_OK
