"""`routeserver account`: from a password to the table that lets its owner log in (`[[xmpp.accounts]]`).

The password comes from the terminal, twice and without echo, or as the first line of stdin.  What is printed does not
contain it and is of no use to log in with, but whoever has it can try passwords at leisure, so it belongs where only
the server reads it.
"""

from __future__ import annotations

import argparse
import getpass
import json
import secrets
import sys

from routeserver.cli.client import EXIT_OK, EXIT_USAGE, CommandError
from routeserver.config import values
from routeserver.xmpp.scram import ITERATIONS, ITERATIONS_MAX, ITERATIONS_MIN, ScramKeys, prepared_password

_SALT = 16


def add_account(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("jid", metavar="JID", help="the client's, such as host1.example.net")
    parser.add_argument(
        "--iterations", metavar="N", type=int, default=ITERATIONS,
        help=f"what each guess, and each login, costs (default {ITERATIONS})",
    )  # fmt: skip
    parser.set_defaults(command=_account)


def _account(arguments: argparse.Namespace) -> int:
    try:
        jid = values.at("JID", values.bare_jid, arguments.jid)
        iterations = values.at("--iterations", values.within(ITERATIONS_MIN, ITERATIONS_MAX), arguments.iterations)
        password = _password()
    except (values.ConfigKeyError, ValueError) as error:
        raise CommandError(EXIT_USAGE, str(error)) from None
    keys = ScramKeys.derive(password, secrets.token_bytes(_SALT), iterations)
    print(f'[[xmpp.accounts]]\njid = {json.dumps(jid, ensure_ascii=False)}\nscram-sha-256 = "{keys}"')
    return EXIT_OK


def _password() -> str:
    """Prepared. Raises ValueError, whose words do not quote it."""
    if sys.stdin.isatty():
        try:
            password, again = getpass.getpass(), getpass.getpass("Again: ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)  # the cursor is behind the question still
            raise ValueError("no password was given") from None
        if password != again:
            raise ValueError("the two passwords differ")
    else:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    try:
        return prepared_password(password)
    except ValueError as error:
        raise ValueError(f"the password: {error}") from None
