"""Events by name, with keys and values, one line each on standard error.

Knows how a line looks. Must not know what is said: no secret may be handed to it, for it hides none.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

Format = Literal["text", "json"]
_OFF = logging.CRITICAL + 1

_logger = logging.getLogger("p11host")
_logger.addHandler(logging.NullHandler())


def debug(event: str, **fields: object) -> None:
    """Report an event of interest only to somebody who looks for a fault."""
    _emit(logging.DEBUG, event, fields)


def info(event: str, **fields: object) -> None:
    """Report an event of ordinary life."""
    _emit(logging.INFO, event, fields)


def warning(event: str, **fields: object) -> None:
    """Report that a peer or a provider did what it should not."""
    _emit(logging.WARNING, event, fields)


def error(event: str, **fields: object) -> None:
    """Report that something asked for could not be done."""
    _emit(logging.ERROR, event, fields)


def configure(form: Format = "text", level: str = "info") -> None:
    """Send events of `level` and above to standard error, as `key=value` text or as JSON, one a line.

    Levels are debug, info, warning, error, and off.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    _logger.handlers = [handler]
    _logger.setLevel(_OFF if level == "off" else level.upper())
    _logger.propagate = False
    # A log nobody reads any more (a closed pipe) is no reason to print tracebacks into it.
    logging.raiseExceptions = False


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z info helper.ended module=softhsm pid=12`; the journal has its own time."""

    def __init__(self) -> None:
        super().__init__()
        self._timed = "JOURNAL_STREAM" not in os.environ

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of printable characters."""
        words = [record.levelname.lower(), record.getMessage()]
        if self._timed:
            words.insert(0, timestamp(record))
        words += [f"{key}={quote(value)}" for key, value in fields_of(record).items()]
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys `time`, `level` and `event` before the event's own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON in ASCII."""
        head = {"time": timestamp(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(head | dict(fields_of(record)), default=str)


def quote(value: object) -> str:
    """Return `value` bare if it is one plain word, else as a JSON string: no value can forge a line."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(" \"'=\\")
    return text if plain and text else json.dumps(text)


def timestamp(record: logging.LogRecord) -> str:
    """Return when the event happened, in UTC to the millisecond."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """Return the keys and values an event was reported with."""
    fields: Mapping[str, object] = record.__dict__.get("fields", {})
    return fields


def _emit(level: int, event: str, fields: Mapping[str, object]) -> None:
    _logger.log(level, event, extra={"fields": fields})
