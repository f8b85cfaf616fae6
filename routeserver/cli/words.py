"""How the command line writes things: tables in aligned columns, fields under a heading, times and durations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def print_json(value: Any) -> None:
    """The API's own object."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Row], indent: str = "") -> None:
    """Rows under the names of their columns in capitals."""
    table = [[column.upper() for column in columns], *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for line in table:
        print(indent + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_fields(heading: str, fields: Row) -> None:
    """Names and values under a heading."""
    print(heading)
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print(f"  {name.ljust(width)}  {cell(value)}")


def cell(value: Any) -> str:
    """A value of the API's in a table; what is absent or empty is `-`, and what a terminal could obey is escaped."""
    if value is None or value in ([], {}, ""):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(map(cell, value))
        case dict():
            return ",".join(f"{key}={cell(item)}" for key, item in value.items())
    text = str(value)
    return text if text.isprintable() else json.dumps(text)


def duration(seconds: float | None) -> str | None:
    """`45s`, `5m12s`, `1h02m`, `3d04h`."""
    if seconds is None:
        return None
    whole = int(seconds)
    for unit, name, below, below_name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "m"), (_MINUTE, "m", 1, "s")):
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // below:02d}{below_name}"
    return f"{whole}s"


def cut(text: str | None, width: int) -> str | None:
    """The text, or as much of it as fits, with a sign that it goes on."""
    return text if text is None or len(text) <= width else f"{text[: width - 1]}…"
