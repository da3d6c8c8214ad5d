"""Layers become a view: file by file, and key by key where files are structured.

Layers always come the least specific first, and paths are those of the view (without the layer's directory).
Invariant: the result depends on the contents and their order only, and no ``$unset`` is left in it. Which layers a node has,
and where the bytes come from, is the caller's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jlogd.confrepo import formats
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import KeyPath


@dataclass(frozen=True, slots=True)
class ViewFile:
    """One file of a view. ``layers``: those whose bytes are in it. ``secrets``: it holds values that are to be decrypted."""

    path: str
    content: bytes
    mode: int
    layers: tuple[str, ...]
    secrets: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """Which layer gives a key its value. ``key`` () and ``value`` None: the file as a whole."""

    key: tuple[str, ...]
    value: object
    layer: str
    secret: bool


Plan = dict[str, tuple[tuple[str, m.Entry], ...]]


def plan(layers: Sequence[tuple[str, Mapping[str, m.Entry]]]) -> Plan:
    """View path → the entries that it is made of. The same entries always make the same bytes. Clashes: ``clashes``."""
    raise NotImplementedError


def clashes(paths: Iterable[str]) -> list[str]:
    """Paths of files that are directories of other files as well, sorted."""
    raise NotImplementedError


def combine(path: str, layers: Sequence[tuple[str, m.File]]) -> ViewFile:
    """The file that the layers, of which each has it, make."""
    raise NotImplementedError


def view(
    layers: Sequence[tuple[str, Mapping[str, m.Entry]]], read: Callable[[m.ObjectId], bytes]
) -> Iterator[ViewFile]:
    """Every file of the view, sorted by path, one at a time."""
    raise NotImplementedError


def explain(path: str, layers: Sequence[tuple[str, m.File]]) -> list[Explained]:
    """The leaves of the result with the layer that each comes from, in the order of the result."""
    raise NotImplementedError


def unset_faults(value: object) -> list[tuple[KeyPath, str]]:
    """Where ``$unset`` is not ``KEY = {"$unset" = true}``: key path → problem."""
    raise NotImplementedError


def file_faults(path: str, file: m.File) -> list[m.Fault]:
    """What is wrong with a structured file of the repository: its syntax, its ``$unset``, secrets that nobody would decrypt."""
    raise NotImplementedError


def secret_values(value: object) -> Iterator[tuple[KeyPath, str]]:
    """Every encrypted value in ``value``, with its key path."""
    raise NotImplementedError


def replace_secrets(kind: formats.Kind, content: bytes, decrypt: Callable[[str], str]) -> bytes:
    """``content`` with each encrypted value replaced; the same bytes when there is none. What ``decrypt`` raises passes through."""
    raise NotImplementedError
