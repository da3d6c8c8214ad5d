r"""Finding matching lines in a whole frame, at the speed of ``bytes.find`` and ``re``.

What matches is defined by the single line (without its newline). To get there without
cutting the frame into lines, three ways, all with the same result:

* a pattern without special characters, or ``-F``: ``bytes.find``;
* a regular expression rewritten so that nothing in it can match a newline (``\s`` becomes
  ``[ \t\r\f\v]``, ``[^x]`` becomes ``[^\nx]``, …): one search over the frame in
  MULTILINE mode gives the same lines as a search in each of them. A hit is checked
  against the line by the original expression all the same;
* an expression for which the rewriting is not sure (inline flags, ``\x0a``, …): line by line.

If the expression must contain a literal, a frame without it is skipped at once.
"""

import re
from collections.abc import Iterator
from typing import Protocol

from jlogd.runtime.errors import UsageError

Span = tuple[int, int]  # a line: from its first byte up to, not including, its newline


class Matcher(Protocol):
    """Finds lines. ``[start, end)`` of ``body`` is whole lines, each ended by a newline."""

    def may_match(self, body: bytes) -> bool:
        """False when no line of ``body`` can match."""
        ...

    def lines(self, body: bytes, start: int, end: int) -> Iterator[Span]:
        """The lines that match, in order."""
        ...

    def matches(self, record: bytes) -> bool:
        """Whether one record matches."""
        ...


def compile_pattern(pattern: bytes, *, ignore_case: bool = False, fixed: bool = False) -> Matcher:
    """The quickest matcher for ``pattern``, a regular expression unless ``fixed``. UsageError when it is none."""
    if fixed or not _SPECIAL.search(pattern):
        return Literal(pattern, ignore_case=ignore_case)
    flags = re.IGNORECASE if ignore_case else 0
    try:
        line = re.compile(pattern, flags)
    except (re.error, OverflowError) as error:
        raise UsageError(f"{pattern.decode(errors='replace')!r} is not a regular expression: {error}") from error
    rewriter = _Rewriter(pattern)
    try:
        across = re.compile(rewriter.rewrite(), flags | re.MULTILINE)
    except (_Unsure, re.error):
        return LineByLine(line)
    return Across(line, across, b"" if ignore_case else rewriter.required())


class Literal:
    """A fixed string."""

    def __init__(self, needle: bytes, *, ignore_case: bool) -> None:
        """``ignore_case`` folds ASCII letters."""
        self._fold = ignore_case and needle.lower() != needle.upper()
        self._needle = needle.lower() if self._fold else needle
        self._folded: tuple[bytes, bytes] = (b"", b"")  # the last body and its lower case

    def may_match(self, body: bytes) -> bool:
        """See ``Matcher``."""
        return self._needle in self._haystack(body)

    def lines(self, body: bytes, start: int, end: int) -> Iterator[Span]:
        """See ``Matcher``."""
        needle, haystack = self._needle, self._haystack(body)
        if b"\n" in needle:
            return
        while start < end and (found := haystack.find(needle, start, end)) >= 0:
            begin = body.rfind(b"\n", start, found) + 1 or start
            stop = body.find(b"\n", found, end)
            yield begin, stop
            start = stop + 1

    def matches(self, record: bytes) -> bool:
        """See ``Matcher``."""
        return self._needle in (record.lower() if self._fold else record)

    def _haystack(self, body: bytes) -> bytes:
        if not self._fold:
            return body
        if self._folded[0] is not body:
            self._folded = (body, body.lower())
        return self._folded[1]


class Across:
    """A regular expression that is searched over many lines at once."""

    def __init__(self, line: re.Pattern[bytes], across: re.Pattern[bytes], required: bytes) -> None:
        """``line`` decides, ``across`` finds where to look, ``required`` stands in every match."""
        self._line = line
        self._across = across
        self._required = required

    def may_match(self, body: bytes) -> bool:
        """See ``Matcher``."""
        return self._required in body

    def lines(self, body: bytes, start: int, end: int) -> Iterator[Span]:
        """See ``Matcher``."""
        if len(self._required) >= _REQUIRED_MIN:
            yield from self._lines_with_required(body, start, end)
            return
        # Up to the last newline, not past it: behind it an empty line would seem to begin.
        while start < end and (found := self._across.search(body, start, end - 1)) is not None:
            begin = body.rfind(b"\n", start, found.start()) + 1 or start
            stop = body.find(b"\n", found.start(), end)
            if self._line.search(body[begin:stop]) is not None:
                yield begin, stop
            start = stop + 1

    def matches(self, record: bytes) -> bool:
        """See ``Matcher``."""
        return self._line.search(record) is not None

    def _lines_with_required(self, body: bytes, start: int, end: int) -> Iterator[Span]:
        required = self._required
        while start < end and (found := body.find(required, start, end)) >= 0:
            begin = body.rfind(b"\n", start, found) + 1 or start
            stop = body.find(b"\n", found, end)
            if self._line.search(body[begin:stop]) is not None:
                yield begin, stop
            start = stop + 1


class LineByLine:
    """A regular expression that is tried on every line."""

    def __init__(self, line: re.Pattern[bytes]) -> None:
        """``line`` is searched in each line."""
        self._line = line

    def may_match(self, body: bytes) -> bool:  # noqa: ARG002 - the interface
        """See ``Matcher``."""
        return True

    def lines(self, body: bytes, start: int, end: int) -> Iterator[Span]:
        """See ``Matcher``."""
        search = self._line.search
        while start < end:
            stop = body.find(b"\n", start, end)
            if search(body[start:stop]) is not None:
                yield start, stop
            start = stop + 1

    def matches(self, record: bytes) -> bool:
        """See ``Matcher``."""
        return self._line.search(record) is not None


_SPECIAL = re.compile(rb"[\\.^$*+?{}\[\]|()\n]")
_REQUIRED_MIN = 3  # shorter literals stand in too many lines to be worth a look at each
_CLASSES = {ord("s"): rb"[ \t\r\f\v]", ord("W"): rb"[^\w\n]", ord("D"): rb"[^\d\n]", ord("A"): rb"^", ord("Z"): rb"$"}
_PLAIN_ESCAPES = frozenset(b"SwdbBtrfva")
_REPEAT = re.compile(rb"\{\d*,?\d*\}")
_FLAGS = re.compile(rb"\(\?[aiLmsux-]*[sxL-]|\(\?#")


class _Unsure(Exception):
    """The expression has something whose rewriting is not proven."""


class _Rewriter:
    """One pass over a regular expression: newline-free form, and the longest literal that every match contains."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self._at = 0
        self._out = bytearray()
        self._depth = 0
        self._run = bytearray()
        self._longest = b""

    def rewrite(self) -> bytes:
        """The newline-free form, for MULTILINE. Raises ``_Unsure``."""
        if _FLAGS.search(self._pattern):
            raise _Unsure
        while self._at < len(self._pattern):
            char = self._pattern[self._at]
            if char == ord("\\"):
                self._escape()
            elif char == ord("["):
                self._end_run()
                self._set()
            elif char == ord("\n"):
                raise _Unsure
            elif repeat := _REPEAT.match(self._pattern, self._at):
                self._out += repeat[0]
                self._at = repeat.end()
                self._literal(ord("{"))
            else:
                self._out.append(char)
                self._at += 1
                self._literal(char)
        self._end_run()
        return bytes(self._out)

    def required(self) -> bytes:
        """A literal of every match, as far as this pass can tell; often empty."""
        return b"" if b"|" in self._pattern or b"(?" in self._pattern else self._longest

    def _literal(self, char: int) -> None:
        if char in b"*?{":
            del self._run[-1:]  # what it repeats may be absent
        if char in b".^$*+?{}()|":
            self._end_run()
            self._depth += (char == ord("(")) - (char == ord(")"))
        elif self._depth == 0:
            self._run.append(char)

    def _end_run(self) -> None:
        self._longest = max(self._longest, bytes(self._run), key=len)
        self._run.clear()

    def _escape(self) -> None:
        following = self._pattern[self._at + 1]
        self._at += 2
        if following in _CLASSES:
            self._end_run()
            self._out += _CLASSES[following]
        elif following in _PLAIN_ESCAPES:
            self._end_run()
            self._out += bytes((ord("\\"), following))
        elif bytes((following,)).isalnum() or following == ord("\n"):
            raise _Unsure  # numbers, code points, names
        else:
            self._out += bytes((ord("\\"), following))
            if self._depth == 0:
                self._run.append(following)

    def _set(self) -> None:
        """A ``[...]``: negated ones get the newline, the others must not hold it."""
        start = self._at + 1
        negated = self._pattern[start : start + 1] == b"^"
        start += negated
        end = start + 1 if self._pattern[start : start + 1] != b"\\" else start + 2
        while self._pattern[end] != ord("]"):
            end += 2 if self._pattern[end] == ord("\\") else 1
        content = self._pattern[start:end]
        if content.startswith(b"]"):
            content = b"\\" + content
        if not negated:
            content = self._without_newline(content)
        self._out += b"[" + (rb"^\n" if negated else b"") + content + b"]"
        self._at = end + 1

    @staticmethod
    def _without_newline(content: bytes) -> bytes:
        """The members of a set, none of which matches a newline. Raises ``_Unsure``."""
        if min(content) <= ord("\n") or re.search(rb"\\(?:[WDnxuUN0-7]|[\\\]tab]-)", content):
            raise _Unsure
        return re.sub(rb"\\(.)", lambda escape: rb" \t\r\f\v" if escape[1] == b"s" else escape[0], content)
