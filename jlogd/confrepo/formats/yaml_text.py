"""YAML 1.2 (core schema) from the events of ruamel's parser to plain values, with their lines.

Values are built here, not by the library's constructor: what a scalar is follows the specification's own patterns,
aliases are counted out before they are followed, nothing recurses, and each key has its line. What plain values cannot
hold is still read to its end, so that its faults are seen, and is ``Opaque`` then. Merge keys (``<<``) are followed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from jlogd.confrepo.formats.values import (
    DEPTH_MAX,
    DIGITS_MAX,
    NODES_MAX,
    KeyPath,
    Opaque,
    SyntaxFault,
    WrittenFloat,
    WrittenInt,
    WrittenStr,
    text_problem,
)

YAML_BYTES_MAX: Final = 1 << 20  # the parser reads some 200 kB/s: more would stop a manager for too long
_TAG: Final = "tag:yaml.org,2002:"
_CORE_TAGS: Final = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str"))

# Chapter 10.3.2 of the YAML 1.2.2 specification.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INF_NAN = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# Plain text that YAML 1.1 readers, which are most, take for a bool, number or date.
OTHERWISE_READ = re.compile(r"(?i:y|n|yes|no|on|off)|[-+.]{0,2}[0-9][0-9A-Za-z_:.+ -]*|=")
_BEYOND_UNICODE = re.compile(r"\\U(?!000|0010)[0-9a-fA-F]{8}")

_MERGE: Final = object()  # the key <<
_ODD: Final = object()  # a key that plain values cannot have


@dataclass(slots=True)
class Reading:
    """What a text holds. ``odd``: why its value is ``Opaque``."""

    documents: list[object] = field(default_factory=list)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    odd: str = ""


def parse(text: str) -> object:
    """The value; a text without any is an empty map. SyntaxFault."""
    reading = read(text)
    if len(reading.documents) > 1:
        return Opaque("several YAML documents")
    if reading.odd:
        return Opaque(reading.odd)
    return reading.documents[0] if reading.documents else {}


def locate(text: str) -> dict[KeyPath, int]:
    """Key path → line, in the first document."""
    return read(text).lines


def read(text: str) -> Reading:
    """Every document of ``text``. SyntaxFault."""
    builder = _Builder()
    try:
        for event in _events(text):
            builder.take(event)
    except _EndsTooEarly as fault:
        raise SyntaxFault(builder.open_line() or fault.line, fault.problem) from None
    return builder.reading


class _EndsTooEarly(SyntaxFault):
    """Something is never closed; it is wrong where it begins, not at the end of the file."""


def _events(text: str) -> Iterator[Any]:
    from ruamel.yaml import YAML  # noqa: PLC0415 - 5 MB that most nodes never need
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415 - as above
    from ruamel.yaml.reader import ReaderError  # noqa: PLC0415 - as above

    if len(text) > YAML_BYTES_MAX:
        raise SyntaxFault(0, f"YAML of more than {YAML_BYTES_MAX >> 20} MiB is not read: split the file, or use JSON")
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        raise _marked(error) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SyntaxFault(line, f"the character U+{int(error.character):04X} is not allowed in YAML") from None
    except (ValueError, OverflowError):  # the library asks for a character that there is not
        found = _BEYOND_UNICODE.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else 0
        raise SyntaxFault(line, "an escape beyond U+10FFFF") from None
    except YAMLError as error:
        raise SyntaxFault(0, str(error).partition("\n")[0]) from None


def _marked(error: Any) -> SyntaxFault:
    """The library's error, a mark of which counts lines from 0."""
    problem = _problem(error)
    began, met = (mark.line + 1 if mark is not None else 0 for mark in (error.context_mark, error.problem_mark))
    if "end of stream" not in problem and "stream end" not in problem:
        return SyntaxFault(met or began, problem)
    return SyntaxFault(began, problem) if 0 < began < met else _EndsTooEarly(met or began, problem)


def _problem(error: Any) -> str:
    return " ".join(" ".join(str(part) for part in (error.problem, error.context) if part).split())


# ---------------------------------------------------------------------- events to values


@dataclass(slots=True)
class _Frame:
    """A map or list that is open."""

    path: KeyPath
    is_map: bool
    anchor: str | None
    nodes_before: int
    line: int
    items: list[object] = field(default_factory=list)  # of a list
    pairs: dict[Any, object] = field(default_factory=dict)
    merged: list[tuple[int, dict[Any, object]]] = field(default_factory=list)  # line of <<, map
    key: object = None
    key_line: int = 0
    has_key: bool = False
    height: int = 1  # levels of maps and lists, with this one


class _Builder:
    """Takes events in their order; ``reading`` is whole after the last one."""

    def __init__(self) -> None:
        self.reading = Reading()
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[object, int, int] | None] = {}  # value, nodes, height; None: still open
        self._nodes = 0

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if kind == "ScalarEvent":
            self._count(1, line)
            value = {} if not self._frames and _is_nothing(event) else self._scalar(event, line)
            self._anchor(event.anchor, value, 1, 0)
            self._place(value, line, 0, _is_merge(event))
        elif kind in {"MappingStartEvent", "SequenceStartEvent"}:
            self._open(event, line, is_map=kind == "MappingStartEvent")
        elif kind in {"MappingEndEvent", "SequenceEndEvent"}:
            self._close()
        elif kind == "AliasEvent":
            self._alias(event.anchor, line)
        elif kind == "DocumentStartEvent":
            self._anchors.clear()
            if event.version or event.tags:
                self.reading.odd = "a %YAML or %TAG directive"

    def open_line(self) -> int:
        """Where the innermost map or list begins that is still open; 0: none is."""
        return self._frames[-1].line if self._frames else 0

    def _open(self, event: Any, line: int, *, is_map: bool) -> None:
        if event.tag is not None and event.tag not in {"!", _TAG + ("map" if is_map else "seq")}:
            self.reading.odd = f"the tag {event.tag}"
        if len(self._frames) >= DEPTH_MAX:
            raise SyntaxFault(line, f"nested more than {DEPTH_MAX} deep")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._frames.append(_Frame(self._next_path(line), is_map, event.anchor, self._nodes, line))
        self._count(1, line)

    def _close(self) -> None:
        frame = self._frames.pop()
        value = self._map(frame) if frame.is_map else frame.items
        self._anchor(frame.anchor, value, self._nodes - frame.nodes_before, frame.height)
        self._place(value, frame.line, frame.height, is_merge=False)

    def _alias(self, name: str, line: int) -> None:
        if name not in self._anchors:
            raise SyntaxFault(line, f"the alias *{name} has no anchor before it")
        known = self._anchors[name]
        if known is None:
            raise SyntaxFault(line, f"the alias *{name} stands inside its own anchor")
        value, nodes, height = known
        self._count(nodes, line)
        if len(self._frames) + height > DEPTH_MAX:
            raise SyntaxFault(line, f"nested more than {DEPTH_MAX} deep")
        self._place(value, line, height, is_merge=False)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise SyntaxFault(line, f"more than {NODES_MAX:,} values, aliases counted out")

    def _anchor(self, name: str | None, value: object, nodes: int, height: int) -> None:
        if name is not None:
            self._anchors[name] = value, nodes, height

    # ------------------------------------------------------------------ into the map or list around it

    def _next_path(self, line: int) -> KeyPath:
        """Where the value that begins here goes."""
        if not self._frames:
            return ()
        frame = self._frames[-1]
        if not frame.is_map:
            path = (*frame.path, len(frame.items))
            self._note(path, line)
            return path
        return (*frame.path, frame.key) if frame.has_key and isinstance(frame.key, str | int) else frame.path

    def _note(self, path: KeyPath, line: int) -> None:
        if not self.reading.documents:
            self.reading.lines.setdefault(path, line)

    def _place(self, value: object, line: int, height: int, is_merge: bool) -> None:
        if not self._frames:
            self.reading.documents.append(value)
            return
        frame = self._frames[-1]
        frame.height = max(frame.height, height + 1)
        if not frame.is_map:
            self._next_path(line)
            frame.items.append(value)
        elif not frame.has_key:
            self._key(frame, value, line, is_merge)
        else:
            self._value(frame, value)

    def _key(self, frame: _Frame, value: object, line: int, is_merge: bool) -> None:
        frame.has_key, frame.key_line, frame.key = True, line, value
        if is_merge:
            frame.key = _MERGE
        elif not isinstance(value, str | int) or isinstance(value, bool):
            frame.key = _ODD
            self.reading.odd = "a key that is not text or a whole number"
        elif value in frame.pairs:
            raise SyntaxFault(line, f"the key {value} is there twice")
        else:
            self._note((*frame.path, value), line)

    def _value(self, frame: _Frame, value: object) -> None:
        frame.has_key = False
        if frame.key is _MERGE:
            found = value if isinstance(value, list) else [value]
            for each in found:
                if not isinstance(each, dict):
                    raise SyntaxFault(frame.key_line, "<< takes a map, or a list of maps")
                frame.merged.append((frame.key_line, each))
        else:
            frame.pairs[frame.key] = value

    def _map(self, frame: _Frame) -> dict[Any, object]:
        """Own keys win over merged ones, and of those the first."""
        if not frame.merged:
            return frame.pairs
        whole: dict[Any, object] = {}
        for line, each in frame.merged:
            for key, value in each.items():
                whole.setdefault(key, value)
                if isinstance(key, str | int):
                    self._note((*frame.path, key), line)
        return whole | frame.pairs

    # ------------------------------------------------------------------ scalars

    def _scalar(self, event: Any, line: int) -> object:
        text = str(event.value)
        if (problem := text_problem(text)) is not None:
            raise SyntaxFault(line, problem)
        if event.tag is not None and event.tag != "!":
            return self._tagged(event.tag, text, line)
        return _plain(text, line) if event.implicit[0] else text

    def _tagged(self, tag: str, text: str, line: int) -> object:
        if tag == _TAG + "str":
            return text
        if tag not in _CORE_TAGS:
            self.reading.odd = f"the tag {tag}"
            return text
        value = _plain(text, line)
        if type_tag(value) != tag:
            self.reading.odd = f"the tag {tag} on other text"
        return value


def _is_nothing(event: Any) -> bool:
    """No text at all where a value could be."""
    return not event.value and bool(event.implicit[0]) and event.tag is None


def _is_merge(event: Any) -> bool:
    return event.value == "<<" and bool(event.implicit[0]) and event.tag is None


def type_tag(value: object) -> str:
    """The core schema's tag of a scalar."""
    if value is None:
        return _TAG + "null"
    kinds = ((bool, "bool"), (int, "int"), (float, "float"))
    return _TAG + next((name for kind, name in kinds if isinstance(value, kind)), "str")


def _plain(text: str, line: int = 0) -> object:
    """A plain scalar's value by the core schema."""
    if _NULL.fullmatch(text):
        return None
    if found := _BOOL.fullmatch(text):
        return found[1] is not None
    if _INT.fullmatch(text) or _OCTAL_HEX.fullmatch(text):
        if len(text) > DIGITS_MAX:
            raise SyntaxFault(line, f"a number of more than {DIGITS_MAX:,} digits")
        return integer(text)
    if _FLOAT.fullmatch(text):
        return floating(float(text), text)
    if found := _INF_NAN.fullmatch(text):
        return floating(float("nan" if found[1] is None else f"{found[1]}inf"), text)
    return WrittenStr(text) if OTHERWISE_READ.fullmatch(text) else text


def integer(text: str) -> int:
    """Remembers the text when it is not the usual one."""
    value = int(text) if _INT.fullmatch(text) else int(text, 0)
    return value if str(value) == text else WrittenInt(value, text)


def floating(value: float, text: str) -> float:
    """As ``integer``."""
    return value if float_text(value) == text else WrittenFloat(value, text)


def float_text(value: float) -> str:
    """The usual text: with a point, which YAML 1.1 wants."""
    text = repr(value)
    if text in {"inf", "-inf", "nan"}:
        return text.replace("inf", ".inf").replace("nan", ".nan")
    return text if "." in text else text.replace("e", ".0e")
