"""What differs, for people: unified diffs, changed keys of structured files. Secrets are never shown.

An encrypted value is replaced by the first digits of its hash: that it changed is seen, nothing else.
Files are compared as bytes; only text is shown.
"""

import difflib
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from jlogd.confrepo import formats
from jlogd.confrepo import model as m
from jlogd.render import printable

_SECRET = re.compile(re.escape(m.SECRET_PREFIX) + r"[A-Za-z0-9+/=_-]+")
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
KEYS_MAX = 2000  # shown of one file
VALUE_MAX = 200  # characters of one value
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One path on both sides; None: it is not there."""

    path: str
    before: m.File | None
    after: m.File | None

    @property
    def status(self) -> str:
        """added, deleted or modified."""
        return "added" if self.before is None else "deleted" if self.after is None else "modified"


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key whose value differs; JSON texts, None: it is not there."""

    key: str
    before: str | None
    after: str | None


def masked(text: str) -> str:
    """``text`` without encrypted values."""
    return _SECRET.sub(lambda found: f"{m.SECRET_PREFIX}({_digest(found[0])})", text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# ---------------------------------------------------------------------- lines


def unified(difference: Difference, before: str = "a", after: str = "b") -> Iterator[str]:
    """The lines of a unified diff, without newlines; ``before``, ``after`` name the sides."""
    path = printable(difference.path)
    old, new = difference.before, difference.after
    yield f"--- {before}/{path}" if old is not None else "--- /dev/null"
    yield f"+++ {after}/{path}" if new is not None else "+++ /dev/null"
    if old is not None and new is not None and old.mode != new.mode:
        yield f"mode {old.mode:06o} → {new.mode:06o}"
    old_lines, new_lines = _lines(old), _lines(new)
    if old_lines is None or new_lines is None:
        yield f"binary: {_size(old)} → {_size(new)}"
        return
    lines = difflib.unified_diff(old_lines, new_lines, lineterm="", n=3)
    yield from (_escaped(line) for line in itertools.islice(lines, 2, None))  # its own header has no names


def _lines(file: m.File | None) -> list[str] | None:
    """Lines without their ends; a missing end is said. None: not text."""
    if file is None:
        return []
    try:
        text = file.content.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    lines = masked(text).split("\n")
    if lines[-1] == "":
        lines.pop()
    elif lines:
        lines[-1] += " (no newline at the end)"
    return lines


def _escaped(line: str) -> str:
    return "".join(printable(part) if part != "\t" else part for part in re.split("(\t)", line))


def _size(file: m.File | None) -> str:
    return f"{len(file.content)} bytes" if file is not None else "nothing"


def echo_lines(lines: Iterator[str]) -> None:
    """Write a unified diff, in colours on a terminal."""
    colour = sys.stdout.isatty()
    for line in lines:
        bold = line.startswith(("---", "+++"))
        click.echo(click.style(line, fg=None if bold else _COLOURS.get(line[:1]), bold=bold) if colour else line)


# ---------------------------------------------------------------------- keys


def changed_keys(difference: Difference) -> list[ChangedKey] | None:
    """Keys that differ, in the order of the file; None when a side is no TOML, YAML or JSON map."""
    before, after = leaves(difference.path, difference.before), leaves(difference.path, difference.after)
    if before is None or after is None:
        return None
    return [
        ChangedKey(key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ][:KEYS_MAX]


def leaves(path: str, file: m.File | None) -> dict[str, str] | None:
    """Dotted key → value as JSON, of the innermost maps; None when it is no map that can be read."""
    if file is None:
        return {}
    kind = formats.kind_of(path)
    if kind is None or file.mode == m.SYMLINK:
        return None
    try:
        value = formats.parse(kind, file.content)
    except formats.SyntaxFault:
        return None
    return dict(_leaves(value, ())) if isinstance(value, dict) else None


def _leaves(value: object, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*place, str(key)))
    else:
        yield formats.dotted(place), shown(value)


def shown(value: object) -> str:
    """A value as JSON, shortened, secrets masked."""
    text = masked(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 1] + "…"


def key_lines(keys: Sequence[ChangedKey]) -> Iterator[str]:
    """``key: before → after``, one line each."""
    for each in keys:
        before = "(not set)" if each.before is None else each.before
        after = "(not set)" if each.after is None else each.after
        yield printable(f"{each.key}: {before} → {after}")
