"""Where each key of a TOML document stands: path → line.

``tomllib`` gives values without places. This module gives places without values,
for documents that ``tomllib`` has already accepted; it checks nothing itself.

    [[tail]]             ("tail", 0) → 1
    paths = [            ("tail", 0, "paths") → 2
      "/var/log/*.log",  ("tail", 0, "paths", 0) → 3
    ]
"""

import re
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_VOID = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\", "e": "\x1b"}


def locate(text: str) -> dict[Path, int]:
    """Map each table, array element and key of ``text`` to its line, counted from 1.

    A table opened by its header stands at the header, one implied by a longer header
    or a dotted key at its first mention.
    """
    return _Locator(text.replace("\r\n", "\n")).run()


class _Locator:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # arrays of tables: how many elements so far
        self._headed: set[Path] = set()

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_VOID)
        while self._at < len(self._text):
            table = self._header() if self._text[self._at] == "[" else self._pair(table)
            self._skip(_VOID)
        return self._lines

    def _header(self) -> Path:
        array = self._text.startswith("[[", self._at)
        self._take(2 if array else 1)
        self._skip(_BLANK)
        keys = self._keys()
        self._take(2 if array else 1)
        path: Path = ()
        for number, key in enumerate(keys):
            path = (*path, key)
            last = number == len(keys) - 1
            if last and array:
                self._mention(path)
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
            self._mention(path)
        if path not in self._headed:
            self._headed.add(path)
            self._lines[path] = self._line  # the header itself wins over an earlier mention
        return path

    def _pair(self, table: Path) -> Path:
        path = table
        for key in self._keys():
            path = (*path, key)
            self._mention(path)
        self._take(1)  # =
        self._skip(_BLANK)
        self._value(path)
        return table

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self._take(1)
        self._skip(_VOID)
        number = 0
        while self._text[self._at] != "]":
            element = (*path, number)
            self._mention(element)
            self._value(element)
            number += 1
            self._separator()
        self._take(1)

    def _inline_table(self, path: Path) -> None:
        self._take(1)
        self._skip(_VOID)
        while self._text[self._at] != "}":
            self._pair(path)
            self._separator()
        self._take(1)

    def _separator(self) -> None:
        self._skip(_VOID)
        if self._text[self._at] == ",":
            self._take(1)
            self._skip(_VOID)

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._text[self._at] == ".":
            self._take(1)
            self._skip(_BLANK)
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        if self._text[self._at] in "\"'":
            key = self._string()
        else:
            match = _BARE.match(self._text, self._at)
            if match is None:
                raise ValueError(f"line {self._line}: not a key; give documents that tomllib accepts")
            key = match.group()
            self._at = match.end()
        self._skip(_BLANK)
        return key

    def _string(self) -> str:
        quote = self._text[self._at]
        if self._text.startswith(quote * 3, self._at):
            self._long_string(quote * 3)
            return ""  # never a key
        end = self._at + 1
        while self._text[end] != quote:
            end += 2 if quote == '"' and self._text[end] == "\\" else 1
        content = self._text[self._at + 1 : end]
        self._at = end + 1
        return _ESCAPE.sub(_unescape, content) if quote == '"' else content

    def _long_string(self, quotes: str) -> None:
        end = self._at + 3
        while not self._text.startswith(quotes, end):
            end += 2 if quotes == '"""' and self._text[end] == "\\" else 1
        end += 3
        while (
            end < len(self._text) and self._text[end] == quotes[0]
        ):  # up to two quotes may stand before the closing ones
            end += 1
        self._take(end - self._at)

    def _mention(self, path: Path) -> None:
        self._lines.setdefault(path, self._line)

    def _take(self, count: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self._text, self._at):
            self._take(match.end() - self._at)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1) or match.group(2)
    return chr(int(code, 16)) if code else _ESCAPED[match.group(3)]
