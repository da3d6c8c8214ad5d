"""The daemon's own log: lines on stderr, plain text or JSON.

Text: ``2026-01-31T08:00:00.123Z INFO jlogd.tail: message``. One event, one line; only
the traceback of an unexpected exception takes more. Messages name files, peers and
counts; never keys, never the content of what is delivered.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal, TextIO

Format = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")


def setup(level: str = "info", log_format: Format = "text", stream: TextIO | None = None) -> None:
    """Send what is at or above ``level`` (one of ``LEVELS``) to ``stream`` (default stderr), and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("watchdog").setLevel(logging.WARNING)  # logs every event at debug
    logging.raiseExceptions = False  # a full disk below stderr must not stop the work


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(message: str) -> str:
    """File names may hold anything; a line stays a line."""
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in message)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {_one_line(record.getMessage())}"
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(event)
