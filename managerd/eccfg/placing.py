"""One value into a structured file, touching as little of its text as possible.

In TOML and YAML a line is changed or added and the result is parsed again: only when it says exactly
what it should is it taken, comments and all. Else the file is written anew, without its comments.
"""

import json
import re
from collections.abc import Iterator

from jlogd.confrepo.formats import KeyPath, Kind, SyntaxFault, dotted, emit, locate, parse, same
from jlogd.runtime.errors import RefusedError

_VALUE = {"toml": re.compile(r"^(?P<head>\s*[^=#]+?=\s*)"), "yaml": re.compile(r"^(?P<head>\s*[^:#]+?:\s+)")}


def place(kind: Kind, content: bytes, key: KeyPath, text: str) -> tuple[bytes, bool]:
    """``content`` with ``key`` = ``text``, and whether comments may have been lost. SyntaxFault, RefusedError."""
    value = parse(kind, content) if content.strip() else {}
    wanted = _with(value, key, text)
    if content.strip() and kind in _VALUE:
        for candidate in _candidates(kind, content, key, text):
            if _says(kind, candidate, wanted):
                return candidate, False
    return emit(kind, wanted), b"#" in content


def _with(value: object, key: KeyPath, text: str) -> object:
    """A copy of ``value`` with ``key`` set; maps on the way are made."""
    if not key:
        return text
    if not isinstance(value, dict):
        raise RefusedError(f"there is no map to put {dotted(key)} into")
    first, rest = key[0], key[1:]
    inner = value.get(first, {}) if rest else None
    return {**value, first: _with(inner, rest, text)}


def _says(kind: Kind, candidate: bytes, wanted: object) -> bool:
    try:
        return same(parse(kind, candidate), wanted)
    except SyntaxFault:
        return False


def _candidates(kind: Kind, content: bytes, key: KeyPath, text: str) -> Iterator[bytes]:
    lines = content.decode().splitlines(keepends=True)
    places = locate(kind, content)
    literal = json.dumps(text, ensure_ascii=False)  # a string of JSON is one of TOML and YAML as well
    if key in places:
        number = places[key] - 1
        found = _VALUE[kind].match(lines[number])
        if found:
            yield _joined([*lines[:number], f"{found['head']}{literal}\n", *lines[number + 1 :]])
    if kind == "toml":
        line = f"{dotted(key[-1:])} = {literal}\n"
        at = places.get(key[:-1], 0)  # after the table's header, or before every table
        yield _joined([*lines[:at], line, *lines[at:]])
    elif len(key) == 1:
        yield _joined([*lines, "" if content.endswith(b"\n") else "\n", f"{key[0]}: {literal}\n"])


def _joined(lines: list[str]) -> bytes:
    return "".join(lines).encode()
