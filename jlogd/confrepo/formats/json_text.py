"""JSON by the standard library, which tells no lines of keys, and takes what is no JSON: NaN, duplicate keys.

A scanner over symbols finds the lines; it runs over what the library has read, or to find where that failed.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jlogd.confrepo.formats.values import DEPTH_MAX, DIGITS_MAX, KeyPath, SyntaxFault

_SYMBOL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)


class _Odd(Exception):
    """The library has met something that we refuse: the symbol, and why."""

    def __init__(self, symbol: str, problem: str) -> None:
        super().__init__(problem)
        self.symbol = symbol


class _Duplicate(Exception):
    """A map has a key twice."""


def parse(text: str) -> object:
    """The value. SyntaxFault."""
    try:
        return json.loads(
            text, object_pairs_hook=_map, parse_constant=_constant, parse_float=_float, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise SyntaxFault(error.lineno, error.msg) from None
    except _Odd as odd:
        refused = odd.symbol
        raise SyntaxFault(_line(text, lambda symbol, _: symbol == refused), str(odd)) from None
    except _Duplicate:
        line, key = scan(text).duplicates[0]
        raise SyntaxFault(line, f"the key {json.dumps(key, ensure_ascii=False)} is there twice") from None
    except RecursionError:
        line = _line(text, lambda _, depth: depth > DEPTH_MAX)
        raise SyntaxFault(line, f"nested more than {DEPTH_MAX} deep") from None


def emit(value: object) -> bytes:
    """Indented by two, a newline at the end."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"


def locate(text: str) -> dict[KeyPath, int]:
    """Key path → line, of a text that ``parse`` takes."""
    return scan(text).lines


# ---------------------------------------------------------------------- refusals


def _map(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Duplicate
    return made


def _constant(symbol: str) -> Any:
    raise _Odd(symbol, f"{symbol} is no JSON")


def _float(symbol: str) -> float:
    value = float(symbol)
    if math.isinf(value):
        raise _Odd(symbol, "a number beyond what a double holds")
    return value


def _integer(symbol: str) -> int:
    if len(symbol) > DIGITS_MAX:
        raise _Odd(symbol, f"a number of more than {DIGITS_MAX:,} digits")
    return int(symbol)


# ---------------------------------------------------------------------- the scanner


@dataclass(slots=True)
class _Frame:
    """A map or list that is open."""

    path: KeyPath
    keys: set[str] | None  # None: a list
    wants_key: bool
    index: int = 0


@dataclass(slots=True)
class Scan:
    """Where keys and elements stand, and those that a map has twice."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    duplicates: list[tuple[int, str]] = field(default_factory=list)


def scan(text: str) -> Scan:
    """See ``Scan``. Checks nothing else."""
    found = Scan()
    frames: list[_Frame] = []
    key: KeyPath = ()
    for symbol, line in _symbols(text):
        frame = frames[-1] if frames else None
        if frame is not None and symbol == ",":
            frame.wants_key = frame.keys is not None
            frame.index += 1
        elif frame is not None and symbol in {"]", "}"}:
            frames.pop()
        elif symbol == ":":
            continue
        elif frame is not None and frame.keys is not None and frame.wants_key:
            key = _key(frame, symbol, line, found)
        else:
            if frame is not None and frame.keys is None:
                key = (*frame.path, frame.index)
                found.lines[key] = line
            if symbol in {"[", "{"}:
                frames.append(_Frame(key if frame else (), set() if symbol == "{" else None, symbol == "{"))
    return found


def _key(frame: _Frame, symbol: str, line: int, found: Scan) -> KeyPath:
    name = str(json.loads(symbol))
    keys = frame.keys if frame.keys is not None else set()
    if name in keys:
        found.duplicates.append((line, name))
    keys.add(name)
    frame.wants_key = False
    path = (*frame.path, name)
    found.lines.setdefault(path, line)
    return path


def _symbols(text: str) -> Iterator[tuple[str, int]]:
    line, at = 1, 0
    for match in _SYMBOL.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        yield match[0], line


def _line(text: str, wanted: Callable[[str, int], bool]) -> int:
    """The line of the first symbol that ``wanted`` takes, with the depth behind it; 0 when there is none."""
    depth = 0
    for symbol, line in _symbols(text):
        depth += (symbol in {"[", "{"}) - (symbol in {"]", "}"})
        if wanted(symbol, depth):
            return line
    return 0
