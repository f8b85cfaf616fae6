"""Questions to the HTTP API of a running server, for the commands that ask them.

Answers come as the JSON they are.  What goes wrong is a `CommandError` with the exit code of its kind: 3 for what the
server does not have, 4 for a server that cannot be asked.  With `-o json` the API's problem object is printed first.
"""

from __future__ import annotations

import argparse
import enum
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from routeserver.cli.words import print_json

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_DEGRADED = range(6)
TIMEOUT = 10.0

# Proxies of the environment are for the world outside; the API is on this host or close by.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Output(enum.StrEnum):
    """The values of `-o`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class CommandError(Exception):
    """A command failed; the text, if there is one, is for stderr."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def ask(arguments: argparse.Namespace, path: str, body: object = None, method: str | None = None) -> Any:
    """The JSON at `path`, or what another method than GET gives: PUT if there is a body. Raises CommandError."""
    url = f"{arguments.api.rstrip('/')}/{path}"
    try:
        request = urllib.request.Request(url, method=method or ("GET" if body is None else "PUT"))
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with _OPENER.open(request, timeout=TIMEOUT) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 503:  # not ready, said in the same words as ready
            return json.load(error)
        raise _refusal(arguments, url, error) from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        advice = "--api or ROUTESERVER_API says where the API is"
        raise CommandError(EXIT_UNREACHABLE, f"{url}: {reason}; {advice}") from None


def ask_list(arguments: argparse.Namespace, path: str, query: Mapping[str, str | None] | None = None) -> Any:
    """The whole list at `path`, all its pages as one. Raises CommandError."""
    wanted = {name: value for name, value in (query or {}).items() if value is not None}
    items: list[Any] = []
    while True:
        answer = ask(arguments, f"{path}?{urllib.parse.urlencode(wanted)}" if wanted else path)
        items += answer["items"]
        if answer["next-cursor"] is None:
            return {**answer, "items": items}
        wanted["cursor"] = answer["next-cursor"]


def _refusal(arguments: argparse.Namespace, url: str, error: urllib.error.HTTPError) -> CommandError:
    code = EXIT_NOT_FOUND if error.code == 404 else EXIT_ERROR
    if error.headers.get_content_type() != "application/problem+json":
        return CommandError(code, f"{url}: {error.code} {error.reason}; is that the API of a route server?")
    problem = json.load(error)
    if arguments.output is Output.JSON:
        print_json(problem)
        return CommandError(code, "")
    return CommandError(code, problem["detail"])
