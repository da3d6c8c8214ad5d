"""TOML, YAML and JSON: bytes to plain values and back, and where each key stands.

A value is made of dict, list, str, int, float, bool, None and (TOML) dates and times. Keys are str, in YAML also int.
Invariant: ``parse(kind, emit(kind, value))`` is ``value``, and the same value always gives the same bytes. Nothing that
is read here can use more than a bounded amount of memory or time, however it is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind = Literal["toml", "yaml", "json"]
KeyPath: TypeAlias = tuple[str | int, ...]

DEPTH_MAX: Final = 64
NODES_MAX: Final = 200_000
YAML_BYTES_MAX: Final = 1 << 20


class SyntaxFault(Exception):
    """The content cannot be read. ``line`` from 1; 0 = the whole file."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"{line}: {problem}" if line else problem)
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Opaque:
    """A sound document that plain values cannot hold (several YAML documents, tags, …): never merged, replaced whole."""

    reason: str


def kind_of(path: str) -> Kind | None:
    """By the name's ending: ``.toml``, ``.yaml``, ``.yml``, ``.json``."""
    raise NotImplementedError


def parse(kind: Kind, content: bytes) -> object:
    """The value of ``content``; an ``Opaque`` when it has none. SyntaxFault."""
    raise NotImplementedError


def emit(kind: Kind, value: object) -> bytes:
    """``value`` anew. TOML: a dict. In TOML the plain values of a table come before its tables; else the order is kept."""
    raise NotImplementedError


def locate(kind: Kind, content: bytes) -> Mapping[KeyPath, int]:
    """Key path → line from 1. SyntaxFault."""
    raise NotImplementedError


def line_of(lines: Mapping[KeyPath, int], key: KeyPath) -> int:
    """The line of ``key``, or of the innermost map around it that has one; 0 when there is none."""
    raise NotImplementedError


def same(one: object, other: object) -> bool:
    """Whether two values are the same to every reader: 1, 1.0 and true differ, nan is nan, the order of keys does not count."""
    raise NotImplementedError


def dotted(key: KeyPath) -> str:
    """``server."a.b".port``: as in TOML, a part that is not bare is quoted."""
    raise NotImplementedError


def split_key(text: str) -> tuple[str, ...]:
    """The inverse of ``dotted``; UsageError."""
    raise NotImplementedError
