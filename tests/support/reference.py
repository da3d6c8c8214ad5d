"""Writes docs/settings.md from the settings models: ``make settings-reference``. A test fails when the two differ."""

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from jlogd.runtime.addresses import Address
from jlogd.runtime.settings import DurationRange, Section, SizeRange, format_duration, format_size
from jlogd.settings import AgentSettings
from managerd.settings import ManagerSettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """\
<!-- written by `make settings-reference`; change the models in jlogd/settings.py and managerd/settings.py -->
# Settings

Sizes are bytes or texts such as `"64MiB"` (B, KiB, MiB, GiB, TiB). Durations are seconds or texts such as `"10s"`
(ms, s, m, h, d).
Names are 1 to 63 of `a-z 0-9 . _ -` and begin with a letter or digit. Relative paths are relative to the settings file.
`jlogd check -c FILE` and `managerd check -c FILE` name every fault of a file at once. SIGHUP reads the file again.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, model in (("jlogd.toml", AgentSettings), ("managerd.toml", ManagerSettings)):
        parts.append(f"\n## {title}\n")
        for name, field in model.model_fields.items():
            parts.extend(_section(name, field))
    return "".join(parts)


def _section(name: str, field: FieldInfo) -> Iterator[str]:
    section = next(kind for kind in _kinds(field.annotation) if issubclass(kind, Section))
    origin = typing.get_origin(field.annotation)
    header = {tuple: f"[[{name}]]", dict: f"[{name}.NAME]"}.get(origin or section, f"[{name}]")
    yield f"\n### `{header}`\n\n"
    if origin is dict:
        yield f"The same keys as `[{name.removesuffix('s')}]`, for one of them.\n"
        return
    yield f"{(section.__doc__ or '').partition(chr(10))[0]}\n\n| key | value | default | |\n|---|---|---|---|\n"
    for key, inner in section.model_fields.items():
        yield f"| `{key}` | {_value(inner)} | {_default(inner)} | {inner.description} |\n"


def _kinds(annotation: Any) -> Iterator[type[Any]]:
    """Every class in ``annotation``, whatever it is wrapped in."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _kinds(inner)


def _value(field: FieldInfo) -> str:
    for limits in field.metadata:
        if isinstance(limits, SizeRange):
            return f"size, {format_size(limits.least)} to {format_size(limits.most)}"
        if isinstance(limits, DurationRange):
            return f"duration, {format_duration(limits.least_s)} to {format_duration(limits.most_s)}"
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{word}`" for word in typing.get_args(annotation))
    kinds = [kind for kind in _kinds(annotation) if kind is not types.NoneType]
    word = {bool: "`true`, `false`", int: "number", Path: "path", Address: "HOST:PORT", str: "text"}[kinds[0]]
    return "list of texts" if typing.get_origin(annotation) is tuple else word


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default is None:
        return ""
    for limits in field.metadata:
        if isinstance(limits, SizeRange):
            return f"`{format_size(field.default)}`"
        if isinstance(limits, DurationRange):
            return f"`{format_duration(field.default)}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default}`" if field.default != () else "none"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
