"""TOML, YAML and JSON: bytes to plain values and back, and where each key stands.

Invariant: ``parse(kind, emit(kind, value))`` is ``value``, and the same value always gives the same bytes. Nothing
that is read here can use more than a bounded amount of memory or time, however it is made. What values are: ``values``.
What they mean to whoever reads them is not known here.
"""

from collections.abc import Mapping
from typing import Literal

from jlogd.confrepo.formats import json_text, toml_text, yaml_emit, yaml_text
from jlogd.confrepo.formats.values import (
    DEPTH_MAX,
    NODES_MAX,
    KeyPath,
    Opaque,
    SyntaxFault,
    children,
    dotted,
    excess,
    line_of,
    same,
    split_key,
)

__all__ = [
    "DEPTH_MAX",
    "NODES_MAX",
    "KeyPath",
    "Kind",
    "Opaque",
    "SyntaxFault",
    "children",
    "dotted",
    "emit",
    "kind_of",
    "line_of",
    "locate",
    "parse",
    "same",
    "split_key",
]

Kind = Literal["toml", "yaml", "json"]

_KINDS: Mapping[str, Kind] = {"toml": "toml", "yaml": "yaml", "yml": "yaml", "json": "json"}
_MARK = "\ufeff"


def kind_of(path: str) -> Kind | None:
    """By the name's ending: ``.toml``, ``.yaml``, ``.yml``, ``.json``; a name that is nothing else is none."""
    name = path.rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    return _KINDS.get(ending) if stem else None


def parse(kind: Kind, content: bytes) -> object:
    """The value of ``content``; an ``Opaque`` when plain values cannot hold it. SyntaxFault."""
    text = _decode(kind, content)
    if kind == "yaml":
        return yaml_text.parse(text)  # has its limits while it reads
    module = toml_text if kind == "toml" else json_text
    value: object = module.parse(text)
    found = excess(value)
    if found is not None:
        key, problem = found
        raise SyntaxFault(line_of(module.locate(text), key) if key else 0, problem)
    return value


def emit(kind: Kind, value: object) -> bytes:
    """``value`` anew, without comments. Keys keep their order; in TOML plain values come before tables."""
    if kind == "yaml":
        return yaml_emit.emit(value)
    return toml_text.emit(value) if kind == "toml" else json_text.emit(value)


def locate(kind: Kind, content: bytes) -> Mapping[KeyPath, int]:
    """Key path → line from 1, of content that ``parse`` takes, else SyntaxFault. Behind aliases: ``line_of``."""
    text = _decode(kind, content)
    if kind == "yaml":
        return yaml_text.locate(text)
    if kind == "toml":
        toml_text.parse(text)  # the locators check nothing
        return toml_text.locate(text)
    json_text.parse(text)
    return json_text.locate(text)


def _decode(kind: Kind, content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise SyntaxFault(content.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    if not text.startswith(_MARK):
        return text
    if kind == "yaml":
        return text[1:]
    raise SyntaxFault(1, "begins with a byte order mark: save it as UTF-8 without one")
