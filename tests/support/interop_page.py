"""The tables of docs/interop.md: what they have cells for, and what the tests say goes into each.

A test puts what it checks inside `page.cell(...)`.  A cell is green when all that was checked for it held, and at
least one thing was; where the other program cannot do it, the test shows that it cannot and the cell has the letter of
the reason in `LIMITS`.  The page between its two marks is `render`ed from the cells, and `read` gets them back from
it, so that a run can be compared with the page in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

import pytest

DESELECTED = pytest.StashKey[bool]()
"""Whether this run leaves out some interop tests it has found."""
GREEN, FAILED, NOT_RUN = "✅", "failed", "not run"
BEGIN, END = "<!-- The tables begin: `make interop` writes them. -->", "<!-- The tables end. -->"
PEERS = ("GoBGP", "FRR", "BIRD")
SESSIONS = tuple(
    ", ".join(words) + end for *words, end in product(("iBGP", "eBGP"), ("we dial", "they dial"), ("", ", MD5"))
)
ROUTES = ("established", "VPNv4", "VPNv6", "withdraw", "End-of-RIB", "refresh", "our refresh", "clear", "cut")
REFLECTED, REFLECTORS = "Reflection", "Behind their reflector"
ROUTE_TARGETS, CONSTRAINED = "Route targets", ("our memberships", "their memberships", "after a reset")
RESTARTS, STATICS = "Graceful restart", "What they originate, across the border of their AS"
BETWEEN = "Unknown attributes"
BORDERS = ("iBGP", "eBGP")
LIMITS = {
    "a": "GoBGP never asks for a refresh: `softresetin` looks again at what it has.",
    "b": "FRR cannot give a VPN static an Encapsulation community; it relays one.",
    "c": "FRR and BIRD have no RT-Constraint.",
    "d": "BIRD's own VPN statics leave over multihop eBGP with the implicit null label and BIRD as next hop. What it "
    "relays keeps both, so in the tables above its routes come from a PE behind it.",
}


class Cell(NamedTuple):
    table: str
    row: str
    column: str


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def cells(self) -> Iterator[Cell]:
        return (Cell(self.title, row, column) for row in self.rows for column in self.columns)


TABLES = (
    *(Table(f"Sessions with {peer}", SESSIONS, ROUTES) for peer in PEERS),
    Table(
        REFLECTED,
        tuple(f"{first} to {second}" for first, second in permutations(PEERS, 2)),
        ("VPNv4", "VPNv6", "ORIGINATOR_ID, CLUSTER_LIST", "encapsulation", "withdraw"),
    ),
    Table(REFLECTORS, PEERS, ("our routes arrive whole",)),
    Table(ROUTE_TARGETS, PEERS, (*CONSTRAINED, "asked for when imported")),
    Table(
        RESTARTS,
        PEERS,
        (
            "killed: its routes stay",
            "what it has no more is swept",
            "the rest is confirmed",
            "we are killed: it keeps ours",
            "until our End-of-RIB",
        ),
    ),
    Table(STATICS, PEERS, ("VPNv4", "VPNv6")),
    Table(BETWEEN, tuple(row for peer in PEERS for row in (f"we, then {peer}", f"{peer}, then we")), BORDERS),
)


class Page:
    """What has been checked in this run."""

    def __init__(self) -> None:
        self._cells: dict[Cell, set[str]] = {cell: set() for table in TABLES for cell in table.cells()}

    @contextmanager
    def cell(self, table: str, row: str, column: str, limit: str | None = None) -> Iterator[None]:
        """What is checked inside is what the cell says; with `limit`, that the peer cannot do it, by that reason."""
        found = self._cells[Cell(table, row, column)]
        try:
            yield
        except BaseException:
            found.add(FAILED)
            raise
        found.add(GREEN if limit is None else f"({limit})")

    def checked(self) -> dict[Cell, str]:
        """The cells something was checked for."""
        return {cell: _verdict(found) for cell, found in self._cells.items() if found}

    def render(self, versions: Mapping[str, str]) -> str:
        """The part of the page between the marks, marks included."""
        checked = self.checked()
        named = ", ".join(f"{peer} {version}" for peer, version in versions.items())
        lines = [BEGIN, "", f"As last run with {named}.", ""]
        for table in TABLES:
            lines += [f"## {table.title}", "", _row("", table.columns), _row("---", ["---"] * len(table.columns))]
            for row in table.rows:
                lines.append(_row(row, [checked.get(Cell(table.title, row, c), NOT_RUN) for c in table.columns]))
            lines.append("")
        lines += ["## What a peer cannot do", ""]
        lines += [f"- ({letter}) {reason}" for letter, reason in LIMITS.items()]
        return "\n".join([*lines, "", END])


def _verdict(found: set[str]) -> str:
    if FAILED in found:
        return FAILED
    return ", ".join(sorted(found))


def _row(head: str, cells: tuple[str, ...] | list[str]) -> str:
    return f"| {head} | {' | '.join(cells)} |"


def read(page: str) -> dict[Cell, str]:
    """The cells of the tables between the marks of a page, whatever they say."""
    found: dict[Cell, str] = {}
    page = page.partition(BEGIN)[2].partition(END)[0]
    title, columns = "", list[str]()
    for line in page.splitlines():
        if line.startswith("## "):
            title, columns = line[3:], []
        elif line.startswith("|") and not line.startswith("| --- "):
            head, *cells = [text.strip() for text in line.strip("|").split("|")]
            if columns:
                found |= {Cell(title, head, column): text for column, text in zip(columns, cells, strict=True)}
            else:
                columns = cells
    return found


def replaced(page: str, part: str) -> str:
    """The page with another part between its marks."""
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: part, page, flags=re.DOTALL)
