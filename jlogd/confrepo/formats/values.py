"""Plain values, their limits, and their key paths; what no text of any kind is needed for.

A value is made of dict, list, str, int, float, bool, None and (TOML) dates and times. Keys are str, in YAML also int.
YAML scalars that other readers take for something else (``0644``, ``yes``, ``12:30``) remember how they were written.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from jlogd.runtime.errors import UsageError

KeyPath: TypeAlias = tuple[str | int, ...]

DEPTH_MAX: Final = 64  # what a person can follow; far below what recursion over a value can bear
NODES_MAX: Final = 200_000  # of one document, aliases counted out: what can be merged in about a second
DIGITS_MAX: Final = 1000  # of one number: Python itself refuses to write more than 4,300

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r'([A-Za-z0-9_-]+)|("(?:[^"\\]|\\.)*")')
_INTEGER_MAX: Final = 10**DIGITS_MAX


class SyntaxFault(Exception):
    """The content cannot be read. ``line`` from 1; 0 = the whole file."""

    def __init__(self, line: int, problem: str) -> None:
        """``problem`` is for people, without file and line."""
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Opaque:
    """A sound document that plain values cannot hold (several documents, tags, …): never merged, replaced whole."""

    reason: str


class Written:
    """A scalar that is emitted as it was written, unquoted: another form of it means another thing to some reader."""

    text: str


class WrittenStr(str, Written):
    """Text to YAML 1.2, and something else to YAML 1.1: ``yes``, ``12:30``, ``2026-11-21``."""

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        """The text is the value."""
        made = super().__new__(cls, text)
        made.text = text
        return made


class WrittenInt(int, Written):
    """``0644`` is 644 to YAML 1.2 and 420 to YAML 1.1."""

    def __new__(cls, value: int, text: str) -> Self:
        """``text`` stands for ``value``."""
        made = super().__new__(cls, value)
        made.text = text
        return made


class WrittenFloat(float, Written):
    """``1.10``, where the zero may be what somebody reads."""

    def __new__(cls, value: float, text: str) -> Self:
        """``text`` stands for ``value``."""
        made = super().__new__(cls, value)
        made.text = text
        return made


# ---------------------------------------------------------------------- comparing


def same(one: object, other: object) -> bool:
    """Whether two values are the same to every reader: 1, 1.0 and true differ; the order of keys does not count."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, Written) and isinstance(other, Written):
        return one.text == other.text
    return one == other if isinstance(one, str) else repr(one) == repr(other)  # repr: nan, -0.0, zones of times


# ---------------------------------------------------------------------- limits


def excess(value: object) -> tuple[KeyPath, str] | None:
    """Where ``value`` goes beyond the limits, and how; None when it does not."""
    count = 0
    waiting: list[tuple[KeyPath, object]] = [((), value)]
    while waiting:
        place, each = waiting.pop()
        count += 1
        if count > NODES_MAX:
            return (), f"more than {NODES_MAX:,} values"
        problem = _scalar_problem(each)
        if problem is not None:
            return place, problem
        if isinstance(each, dict | list) and each:
            if len(place) >= DEPTH_MAX:
                return place, f"nested more than {DEPTH_MAX} deep"
            keys_problem = next(filter(None, map(_scalar_problem, each)), None) if isinstance(each, dict) else None
            if keys_problem is not None:
                return place, keys_problem
            waiting.extend(((*place, key), inner) for key, inner in children(each))
    return None


def children(value: object) -> Iterator[tuple[str | int, object]]:
    """Keys or indices of a map or list, with what is there; nothing for a scalar."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _scalar_problem(value: object) -> str | None:
    if isinstance(value, str):
        return text_problem(value)
    if isinstance(value, int) and not -_INTEGER_MAX < value < _INTEGER_MAX:
        return f"a number of more than {DIGITS_MAX:,} digits"
    return None


def text_problem(text: str) -> str | None:
    """Half of a surrogate pair is no character: it cannot be written as UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair is no character"
    return None


# ---------------------------------------------------------------------- key paths


def line_of(lines: Mapping[KeyPath, int], key: KeyPath) -> int:
    """The line of ``key``, or of the innermost value around it that has one; 0 when there is none."""
    return next((lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in lines), 0)


def dotted(key: KeyPath) -> str:
    """``server."a.b".port``: as in TOML, a part that is not bare is quoted."""
    return ".".join(text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False) for text in map(str, key))


def split_key(text: str) -> tuple[str, ...]:
    """The inverse of ``dotted``; "" = (). UsageError."""
    parts: list[str] = []
    at = 0
    while text and at <= len(text):  # a dot at the end leaves an empty part to refuse
        match = _PART.match(text, at)
        if match is None or (match.end() < len(text) and text[match.end()] != "."):
            raise UsageError(f'{text}: not a key; write it as in TOML: server.port, server."a.b".port')
        parts.append(match[1] or _unquoted(match[2], text))
        at = match.end() + 1
    return tuple(parts)


def _unquoted(part: str, text: str) -> str:
    try:
        return str(json.loads(part, strict=False))
    except ValueError:
        raise UsageError(f"{text}: {part} is not a quoted key as in TOML or JSON") from None
