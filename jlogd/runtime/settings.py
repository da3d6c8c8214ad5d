"""Settings files: typed sections, and every fault of a file at once with its line.

A settings model is a tree of frozen ``Section``s. ``load`` reads TOML, validates it
and raises one ``SettingsError`` with all faults as ``file:line: section.key: problem``.
Relative paths become absolute, from the file's directory. Defaults live in the
models and nowhere else; ``docs/settings.md`` is generated from them.

Documents that are made of several files go through ``read`` and ``build``, with a ``Where`` that finds the file of
each fault; what another machine will run goes through ``check``, which looks at no file of this one.
"""

import copy
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails, core_schema

from jlogd.runtime import toml
from jlogd.runtime.errors import SettingsError
from jlogd.runtime.names import NAME_RULE, is_name

Fault = tuple[toml.Path, str]
Where: TypeAlias = Callable[[toml.Path], tuple[str, int, toml.Path]]  # file, line, and the place as that file has it

_UNITS_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_size(value: object) -> int:
    """Bytes of an integer or of ``"64MiB"`` (B, KiB, MiB, GiB, TiB). ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS_BYTES:
        raise ValueError(f'not a size: {value!r}; give bytes or a text such as "64MiB" (B, KiB, MiB, GiB, TiB)')
    size = float(match[1]) * _UNITS_BYTES[match[2]]
    if not size.is_integer():
        raise ValueError(f"not a whole number of bytes: {value!r}")
    return int(size)


def format_size(size: int) -> str:
    """The shortest exact text that ``parse_size`` reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _UNITS_BYTES[unit] == 0:
            return f"{size // _UNITS_BYTES[unit]}{unit}"
    return f"{size}B"


def parse_duration(value: object) -> float:
    """Seconds of a number or of ``"10s"`` (ms, s, m, h, d). ``ValueError``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS_S:
        raise ValueError(f'not a duration: {value!r}; give seconds or a text such as "10s" (ms, s, m, h, d)')
    return float(match[1]) * _UNITS_S[match[2]]


def format_duration(seconds: float) -> str:
    """A short text that ``parse_duration`` reads back."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{int(seconds / _UNITS_S[unit])}{unit}"
    return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".") + "ms" if seconds else "0s"


def check_name(value: str) -> str:
    """``value`` if it is a node, journal, manager, subscriber or subcluster name. ``ValueError``."""
    if not is_name(value):
        raise ValueError(f"not a name: {value!r}; {NAME_RULE}")
    return value


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Pydantic annotation: a size with inclusive limits."""

    least: int = 0
    most: int = 1 << 62

    def parse(self, value: object) -> int:
        """Bytes of ``value``, within the limits."""
        size = parse_size(value)
        if not self.least <= size <= self.most:
            raise ValueError(f"must be {format_size(self.least)} to {format_size(self.most)}, not {value!r}")
        return size

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))


@dataclass(frozen=True, slots=True)
class DurationRange:
    """Pydantic annotation: a duration with inclusive limits in seconds."""

    least_s: float = 0.0
    most_s: float = 3660 * 86400.0

    def parse(self, value: object) -> float:
        """Seconds of ``value``, within the limits."""
        seconds = parse_duration(value)
        if not self.least_s <= seconds <= self.most_s:
            raise ValueError(
                f"must be {format_duration(self.least_s)} to {format_duration(self.most_s)}, not {value!r}"
            )
        return seconds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _resolve(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"not a path: {value!r}")
    directory = value.directory if isinstance(value, Placed) else (info.context or {}).get("directory", Path.cwd())
    return Path(os.path.normpath(directory / value))


def looks_at_files(info: ValidationInfo) -> bool:
    """Whether files of this machine count; not when the settings are for another one (``check``)."""
    return bool((info.context or {}).get("look", True))


def _resolve_readable(value: object, info: ValidationInfo) -> Path:
    path = _resolve(value, info)
    if not looks_at_files(info):
        return path
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path


def resolve_pattern(value: object, info: ValidationInfo) -> str:
    """``value``, a path with or without wildcards, made absolute from the settings file's directory. ``ValueError``."""
    return str(_resolve(value, info))


Size = Annotated[int, SizeRange()]
Duration = Annotated[float, DurationRange()]
Name = Annotated[str, AfterValidator(check_name)]
DirPath = Annotated[Path, BeforeValidator(_resolve)]
ReadableFile = Annotated[Path, BeforeValidator(_resolve_readable)]
Pattern = Annotated[str, BeforeValidator(resolve_pattern)]

ListOf = BeforeValidator(_as_tuple)  # tuple[...] fields: TOML arrays come as lists, which strict tuples refuse


class Section(BaseModel):
    """One table of a settings file: frozen, strict, no unknown keys.

    ``unavailable`` names keys that are documented for later versions: they get an
    error of their own instead of "unknown key".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    unavailable: ClassVar[frozenset[str]] = frozenset()


class Document(Section):
    """A whole settings file."""

    def faults(self) -> Iterator[Fault]:
        """Faults between sections, once each section is sound: (path, problem)."""
        yield from ()


_Model = TypeVar("_Model", bound=Document)


class Placed(str):  # noqa: SLOT000 - a str cannot have slots of its own
    """A text of a file that is not the document's own: a relative path in it is relative to that file's directory."""

    directory: Path

    @classmethod
    def all(cls, value: Any, directory: Path) -> Any:
        """``value`` with every text in it placed."""
        if isinstance(value, str):
            placed = cls(value)
            placed.directory = directory
            return placed
        if isinstance(value, dict):
            return {key: cls.all(each, directory) for key, each in value.items()}
        return [cls.all(each, directory) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Parsed:
    """A TOML document: its name for messages, its values, the line of each key."""

    name: str
    tables: dict[str, Any]
    lines: Mapping[toml.Path, int]

    def where(self, place: toml.Path) -> tuple[str, int, toml.Path]:
        """``Where`` of a document that is one file."""
        return self.name, _line(self.lines, place), place


def load(model: type[_Model], path: Path) -> _Model:
    """Read the TOML file ``path`` as ``model``. ``SettingsError`` has every fault, in the file's order."""
    parsed = read(path)
    return build(model, parsed.tables, parsed.where, path.absolute().parent)


def read(path: Path) -> Parsed:
    """The TOML file ``path``, not looked at any closer. ``SettingsError``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError([f"{path}:1: file: cannot be read: {error.strerror}"]) from None
    found = _parse(content)
    if isinstance(found, tuple):
        raise SettingsError([f"{path}:{found[0]}: file: {found[1]}"])
    return Parsed(str(path), found, toml.locate(content.decode()))


def build(model: type[_Model], tables: dict[str, Any], where: Where, directory: Path) -> _Model:
    """``tables`` as ``model``; relative paths from ``directory``. ``SettingsError`` has every fault."""
    settings, faults = _validate(model, tables, {"directory": directory})
    if settings is None or faults:
        found = [(*where(place), problem) for place, problem in faults]
        rows = sorted((file, line, _text(place), problem) for file, line, place, problem in found)
        raise SettingsError(
            [f"{file}:{line}: {place}: {problem}" for file, line, place, problem in dict.fromkeys(rows)]
        )
    return settings


def check(model: type[_Model], content: bytes) -> list[tuple[int, str]]:
    """What is wrong with a document for another machine: line and problem; types and keys only.

    No file of this machine is looked at, and nothing is said about rules between sections: the other machine
    may bring the rest of them.
    """
    found = _parse(content)
    if isinstance(found, tuple):
        return [found]
    lines = toml.locate(content.decode())
    try:
        model.model_validate(found, context={"directory": Path("/"), "look": False})
    except ValidationError as error:
        places = [(_place(detail, found), _problem(model, detail)) for detail in error.errors(include_url=False)]
        rows = sorted((_line(lines, place), f"{_text(place)}: {problem}") for place, problem in places)
        return list(dict.fromkeys(rows))
    return []


def _validate(
    model: type[_Model], tables: dict[str, Any], context: Mapping[str, Any]
) -> tuple[_Model | None, list[Fault]]:
    try:
        settings = model.model_validate(tables, context=dict(context))
    except ValidationError as error:
        details = error.errors(include_url=False)
        faults = [(_place(detail, tables), _problem(model, detail)) for detail in details]
        faults.extend(_faults_of_the_rest(model, tables, [place for place, _ in faults], context))
        return None, faults
    return settings, list(settings.faults())


def _parse(content: bytes) -> dict[str, Any] | tuple[int, str]:
    """The tables, or the line and what is wrong there."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return error.object[: error.start].count(b"\n") + 1, "not UTF-8"
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"at line (\d+)", str(error))
        line = int(match[1]) if match else text.rstrip("\n").count("\n") + 1
        return line, f"not TOML: {error}"
    except RecursionError:
        return 1, "not TOML: nested too deeply"


def _faults_of_the_rest(
    model: type[_Model], tables: Mapping[str, Any], places: list[toml.Path], context: Mapping[str, Any]
) -> list[Fault]:
    """Faults between sections, found with the bad keys taken out; none from sections that are bad themselves."""
    rest = copy.deepcopy(dict(tables))
    for place in sorted(places, key=_depth_first, reverse=True):
        _remove(rest, place)
    try:
        settings = model.model_validate(rest, context=context)
    except ValidationError:  # a required key is missing
        return []
    bad = {place[:1] for place in places}
    return [(place, problem) for place, problem in settings.faults() if place[:1] not in bad]


def _depth_first(place: toml.Path) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in place)


def _remove(tables: Any, place: toml.Path) -> None:
    for part in place[:-1]:
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(tables, dict):
        tables.pop(place[-1], None)
    elif isinstance(tables, list) and isinstance(place[-1], int) and place[-1] < len(tables):
        del tables[place[-1]]


def _place(detail: ErrorDetails, tables: Mapping[str, Any]) -> toml.Path:
    """The part of pydantic's path that names keys of the file, and a key that is missing."""
    place = tuple(part for part in detail["loc"] if part != "[key]")
    known: Any = tables
    for depth, part in enumerate(place):
        present = (
            part in known
            if isinstance(known, dict)
            else isinstance(known, list) and isinstance(part, int) and part < len(known)
        )
        if not present:
            return place[: depth + (detail["type"] == "missing")]
        known = known[part]
    return place


def _problem(model: type[Section], detail: ErrorDetails) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown_key(_section_at(model, detail["loc"][:-1]), str(detail["loc"][-1]))
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    if kind == "literal_error":
        return f"must be {context['expected']}, not {given!r}"
    if kind in {"model_type", "dict_type"}:
        return f"must be a table, not {given!r}"
    if kind in {"tuple_type", "list_type"}:
        return f"must be an array, not {given!r}"
    message = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"must be {message[:1].lower()}{message[1:]}, not {given!r}"


def _unknown_key(section: type[Section] | None, key: str) -> str:
    if section is None:
        return "unknown key"
    if key in section.unavailable:
        return "is not available in this version"
    near = difflib.get_close_matches(key, section.model_fields, n=1)
    return f"unknown key (did you mean {near[0]!r}?)" if near else "unknown key"


def _section_at(model: type[Section], place: tuple[str | int, ...]) -> type[Section] | None:
    current: Any = model
    for part in place:
        if isinstance(current, type) and issubclass(current, Section):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:
            inner = [each for each in typing.get_args(current) if each is not Ellipsis]
            current = inner[-1] if inner else None
        current = _without_none(current)
    return current if isinstance(current, type) and issubclass(current, Section) else None


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return next(each for each in typing.get_args(annotation) if each is not type(None))
    return annotation


def _line(lines: Mapping[toml.Path, int], place: toml.Path) -> int:
    return next((lines[place[:depth]] for depth in range(len(place), 0, -1) if place[:depth] in lines), 1)


def _text(place: toml.Path) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "file"
