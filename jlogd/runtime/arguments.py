"""What people type: names, offsets, times, ranges of them; and how a time is written back.

TIME is RFC 3339 (no zone = local) or a duration ago (``10m``); a bare integer is
always an OFFSET. All ranges are half-open. Errors are ``UsageError``, one line each.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from jlogd.runtime.errors import UsageError
from jlogd.runtime.names import NAME_RULE, is_name
from jlogd.runtime.settings import parse_duration

_Command = TypeVar("_Command", bound=Callable[..., Any])

OFFSET_END = 1 << 64
TIMEOUT_S_MAX = 3660 * 86_400.0  # ten years; also the most that a settings file may say

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_UNIT_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9})\d*)?\s?([Zz]|[+-]\d{2}:\d{2})?)?", re.ASCII
)


def check_name(what: str, name: str) -> str:
    """``name`` itself when it may be a node, journal, manager or subscriber name; ``what`` is for the message."""
    if not is_name(name):
        raise UsageError(f"{what} name {name!r} is not allowed: {NAME_RULE}")
    return name


def is_offset(text: str) -> bool:
    """True for a bare integer, which is an offset wherever a time could stand as well."""
    return text.isascii() and text.isdigit()


def parse_timeout_s(text: str) -> float:
    """A duration in seconds, as in settings files: ``10s``, ``5m``, or a bare number of seconds."""
    number = _SECONDS.fullmatch(text)
    try:
        seconds = parse_duration(float(text) if number else text)
    except ValueError:
        seconds = float("inf")
    if seconds > TIMEOUT_S_MAX:
        raise UsageError(f"{text!r} is not a duration: write seconds, or 500ms, 10s, 5m, 2h")
    return seconds


def parse_offset(text: str) -> int:
    """An offset: 0 ≤ offset < 2**64."""
    if not is_offset(text) or len(text.lstrip("0")) > len(str(OFFSET_END)) or int(text) >= OFFSET_END:
        raise UsageError(f"{text!r} is not an offset: write a whole number, 0 or more")
    return int(text)


def parse_time_ns(text: str, now_ns: int) -> int:
    """A time in nanoseconds since 1970 UTC; a duration counts back from ``now_ns``."""
    if text.isdigit():
        raise UsageError(f"{text!r} is an offset, not a time: use --from or --to, or write {text}s for seconds ago")
    if ago := _DURATION.fullmatch(text):
        try:
            return now_ns - int(float(ago[1]) * _UNIT_NS[ago[2]])
        except OverflowError:
            raise UsageError(f"{text[:40]!r} is not a time: no clock goes back so far") from None
    found = _RFC3339.fullmatch(text)
    if found:
        day, clock, fraction, zone = found.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{(zone or '').upper()}")
            return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))
        except (ValueError, OverflowError) as error:
            raise UsageError(f"{text!r} is not a time: {error}") from error
    raise UsageError(f"{text!r} is not a time: write 2026-11-21T08:30:00Z, 2026-11-21 08:30 (local), or 10m (ago)")


def format_time(time_ns: int | None) -> str | None:
    """RFC 3339 in UTC with microseconds and ``Z``; None stays None, and so does a time no calendar has."""
    if time_ns is None:
        return None
    try:
        seconds, rest_ns = divmod(time_ns, 10**9)
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


@dataclass(frozen=True, slots=True)
class RecordRange:
    """Which records are wanted; None is "no bound". Both bounds of a kind are half-open: ``[first, end)``."""

    first: int | None = None
    end: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    source: bytes | None = None  # only records of this source path

    @classmethod
    def parse(
        cls, first: str | None, end: str | None, since: str | None, until: str | None, source: str | None = None
    ) -> "RecordRange":
        """From the command line's words; a range that ends before it begins is a mistake, not an empty answer."""
        now_ns = time.time_ns()
        wanted = cls(
            None if first is None else parse_offset(first),
            None if end is None else parse_offset(end),
            None if since is None else parse_time_ns(since, now_ns),
            None if until is None else parse_time_ns(until, now_ns),
            None if source is None else source.encode(errors="surrogateescape"),
        )
        if wanted.first is not None and wanted.end is not None and wanted.end < wanted.first:
            raise UsageError(f"--to {end} is before --from {first}")
        if wanted.since_ns is not None and wanted.until_ns is not None and wanted.until_ns < wanted.since_ns:
            raise UsageError(f"--until {until} is before --since {since}")
        return wanted

    def has_time(self, time_ns: int) -> bool:
        """True when ``time_ns`` is inside the time bounds."""
        return (self.since_ns is None or time_ns >= self.since_ns) and (
            self.until_ns is None or time_ns < self.until_ns
        )


def range_options(command: _Command) -> _Command:
    """Add ``--from --to --since --until`` (as ``first end since until``) to a click command."""
    for names, metavar, text in reversed(
        (
            (("--from", "first"), "OFFSET", "First offset."),
            (("--to", "end"), "OFFSET", "Stop before this offset."),
            (
                ("--since",),
                "TIME",
                "Records read at or after TIME (RFC 3339, no zone = local; or 10m = ten minutes ago).",
            ),
            (("--until",), "TIME", "Records read before TIME."),
        )
    ):
        command = click.option(*names, metavar=metavar, help=text)(command)
    return command
