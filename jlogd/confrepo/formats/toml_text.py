"""TOML by the standard library, written by tomli_w. What the library does not bound is bounded here."""

import re
import tomllib

from jlogd.confrepo.formats.values import DEPTH_MAX, DIGITS_MAX, KeyPath, SyntaxFault
from jlogd.runtime import toml

# The library takes time that grows with the square of a dotted key's parts: this is looked for before it runs.
_DOTS_MAX = 100
_MANY_DOTS = re.compile(
    rf"(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|\"[^\"\n]*+\"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DOTS_MAX}}}"
)
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_LONG_NUMBER = re.compile(rf"[0-9_]{{{DIGITS_MAX},}}")
_BRACKETS = re.compile(
    r"\"\"\"(?:[^\\]|\\.)*?\"{3,5}|'''.*?'{3,5}|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|\#[^\n]*|[\[{]|[\]}]", re.DOTALL
)
_TOO_DEEP = f"nested more than {DEPTH_MAX} deep"
_LOOK_BACK_LINES = 200  # for the beginning of a statement
_LOOK_BACK_CHARS = 4 << 20  # read again for it, in sum


def parse(text: str) -> dict[str, object]:
    """The value. SyntaxFault."""
    _check_dots(text)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _fault(text, str(error)) from None
    except RecursionError:
        raise SyntaxFault(_deep_line(text), _TOO_DEEP) from None
    except ValueError:  # an integer that Python refuses to read
        found = _LONG_NUMBER.search(text)
        line = _line_at(text, found.start()) if found else 0
        raise SyntaxFault(line, f"a number of more than {DIGITS_MAX:,} digits") from None


def emit(value: object) -> bytes:
    """Plain values of a table first, then its tables, else in their order."""
    import tomli_w  # noqa: PLC0415 - a node that merges nothing does not need it

    if not isinstance(value, dict):
        raise TypeError("a TOML document is a map")
    return tomli_w.dumps(value).encode()


def locate(text: str) -> dict[KeyPath, int]:
    """Key path → line, of a text that ``parse`` takes."""
    return toml.locate(text)


def _check_dots(text: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") >= _DOTS_MAX and _MANY_DOTS.search(line):
            raise SyntaxFault(number, _TOO_DEEP)


def _fault(text: str, message: str) -> SyntaxFault:
    place = _PLACE.search(message)
    problem = message[: place.start()] if place else message
    last = text.rstrip("\n").count("\n") + 1
    told = int(place[1]) if place and place[1] else 0
    line = min(told or last, last)
    if not told or problem == "Cannot overwrite a value":  # behind a value that may have many lines, or is not closed
        line = _statement_line(text, line)
    return SyntaxFault(line, problem)


def _statement_line(text: str, end: int) -> int:
    """The line where the statement begins that ends in line ``end``: all before it is a document."""
    lines = text.split("\n")
    tries = min(_LOOK_BACK_LINES, _LOOK_BACK_CHARS // (len(text) + 1))
    for number in range(end, max(0, end - tries), -1):
        try:
            tomllib.loads("\n".join(lines[: number - 1]))
        except tomllib.TOMLDecodeError:
            continue
        return number
    return end


def _deep_line(text: str) -> int:
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += (match[0] in {"[", "{"}) - (match[0] in {"]", "}"})
        if depth > DEPTH_MAX:
            return _line_at(text, match.start())
    return 0


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
