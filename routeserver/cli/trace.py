"""`trace`: have the server record a neighbor, and print such a record decoded.

    10:00:01.250  1 <  UPDATE  97 octets
                       RoutesReceived l3vpn-ipv4-unicast 64512:7 10.1.2.0/24 label 300 with next-hop=192.0.2.1 …
                       ffffffffffffffffffffffffffffffff0061020000…

`<` is what the neighbor said, `>` what the server did, `-` what happened without a message.  Times are UTC.  The
number tells connections apart.
"""

from __future__ import annotations

import argparse
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import TextWrapper

from routeserver.bgp.decoded_trace import HERE, IN, OUT, Entry, decoded
from routeserver.bgp.replay import TraceError, read_trace
from routeserver.cli.client import EXIT_ERROR, EXIT_OK, CommandError, Output, ask
from routeserver.cli.words import print_json

_SIGNS = {IN: "<", OUT: ">", HERE: "-"}
_INDENT = " " * 19
_WORDS = TextWrapper(
    110, initial_indent=_INDENT, subsequent_indent=f"{_INDENT}  ", break_long_words=False, break_on_hyphens=False
)
_SHOWN_IN_HEX = ("UPDATE", "no message")


def switch(arguments: argparse.Namespace) -> int:
    """`routeserver trace on ADDRESS`, `routeserver trace off ADDRESS`."""
    path = f"api/v1/bgp/neighbors/{urllib.parse.quote(arguments.address, safe='')}/trace"
    answer = ask(arguments, path, {"enabled": arguments.enabled})
    if arguments.output is Output.JSON:
        print_json(answer)
    else:
        print(f"trace of {arguments.address}: {answer['file'] or 'off'}")
    return EXIT_OK


def show(arguments: argparse.Namespace) -> int:
    """`routeserver trace show FILE`."""
    file: Path = arguments.file
    try:
        for line in _lines(file):
            print(line)
    except OSError as error:
        raise CommandError(EXIT_ERROR, f"{file}: {error.strerror}") from None
    except (TraceError, UnicodeDecodeError) as error:
        raise CommandError(EXIT_ERROR, f"{file}: {error}") from None
    return EXIT_OK


def _lines(file: Path) -> Iterator[str]:
    lines = read_trace(file.read_text())
    head = lines[0]
    begun = datetime.fromisoformat(head["time"]).astimezone(UTC) - timedelta(seconds=head["at"])
    yield f"trace of {head['neighbor']}, begun {head['time']}"
    for entry in decoded(lines):
        yield from _entry(begun + timedelta(seconds=entry.at), entry)


def _entry(time: datetime, entry: Entry) -> Iterator[str]:
    size = f"  {len(entry.octets)} octets" if entry.octets else ""
    clock = f"{time:%H:%M:%S}.{time.microsecond // 1000:03d}"
    yield f"{clock}  {entry.session} {_SIGNS[entry.direction]}  {entry.kind}{size}"
    for words in entry.says:
        yield from _WORDS.wrap(words)
    if entry.kind in _SHOWN_IN_HEX:
        yield f"{_INDENT}{entry.octets.hex()}"
