"""Log records: one event with a stable dotted name and keys, as text for people and as JSON for machines.

    record(logging.INFO, "bgp.session.up", peer="127.0.2.11", peer_as=64512)

On a terminal that is `10:00:00 info bgp.session.up peer=127.0.2.11 peer-as=64512`; elsewhere it is one JSON object a
line with `ts`, `level`, `event` and the keys.  Keys are written with hyphens, like every other outside name.  A
record made by a library has no keys: its logger becomes the event and its sentence the `message`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

LOGGER = logging.getLogger("routeserver")
_KEYS = "event_keys"


def record(level: int, event: str, /, **keys: object) -> None:
    """Log `event`."""
    LOGGER.log(level, event, extra={_KEYS: keys})


def record_exception(event: str, /, **keys: object) -> None:
    """Log `event` as an error, with the traceback of the exception being handled."""
    LOGGER.error(event, exc_info=True, extra={_KEYS: keys})


def setup(stream: TextIO | None = None) -> None:
    """Send everything of level INFO and above to `stream`, which is standard error if none is given."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _parts(entry: logging.LogRecord) -> tuple[str, dict[str, object]]:
    keys: dict[str, object] | None = getattr(entry, _KEYS, None)
    if keys is None:
        return entry.name, {"message": entry.getMessage()}
    return entry.msg, {name.replace("_", "-"): value for name, value in keys.items()}


class TextFormatter(logging.Formatter):
    """`time level event key=value …`, values with spaces in quotes, a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        event, keys = _parts(record)
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        words = [time, record.levelname.lower(), event, *(f"{name}={_quoted(v)}" for name, v in keys.items())]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a traceback is one string in `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        event, keys = _parts(record)
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"ts": ts, "level": record.levelname.lower(), "event": event, **keys}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _json(line)


def _quoted(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and text and not any(c in text for c in ' "=') else _json(text)


def _json(value: object) -> str:
    """Control characters are escaped, those beyond ASCII too: strangers have their words in here."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value, default=str)
