"""Layers become a view: file by file, and key by key where files are structured.

    global/app.toml          port = 80, host = "a"
    web/default/app.toml     host = {"$unset" = true}, user = "w"       →  port = 80, user = "w", log.level = 2
    web/web1/app.toml        log.level = 2

Layers always come the least specific first, and paths are those of the view (without the layer's directory).
Invariant: the result depends on the contents and their order only, and no ``$unset`` is left in it. Which layers a node
has, and where the bytes come from, is the caller's. Nothing here raises for what a file contains: what cannot be merged
is replaced whole, and ``file_faults`` tells before it is committed.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jlogd.confrepo import formats
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import KeyPath, Kind, Opaque, SyntaxFault, kind_of
from jlogd.runtime.errors import RefusedError

# Signs that a text may have a key or value that its bytes do not show: \u0024unset, \x24unset, a line continued.
_ESCAPES = re.compile(rb"\\[uUx\r\n]")

Plan = dict[str, tuple[tuple[str, m.Entry], ...]]


@dataclass(frozen=True, slots=True)
class ViewFile:
    """One file of a view. ``layers``: whose bytes are in it. ``secrets``: it has values that are to be decrypted."""

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


# ---------------------------------------------------------------------- which entries make which file


def plan(layers: Sequence[tuple[str, Mapping[str, m.Entry]]]) -> Plan:
    """View path → the entries that it is made of. The same entries always make the same bytes. See ``clashes``."""
    made: Plan = {}
    for layer, entries in layers:
        for path, entry in entries.items():
            below = made.get(path)
            made[path] = ((layer, entry),) if below is None else _onto(path, below, (layer, entry))
    return made


def _onto(
    path: str, below: tuple[tuple[str, m.Entry], ...], above: tuple[str, m.Entry]
) -> tuple[tuple[str, m.Entry], ...]:
    """Symlinks and unstructured files replace and are replaced; whether contents are maps is for ``combine`` to see."""
    merges = kind_of(path) is not None and m.SYMLINK not in {above[1].mode, below[-1][1].mode}
    return (*below, above) if merges else (above,)


def clashes(paths: Iterable[str]) -> list[str]:
    """Paths of files that are directories of other files as well, sorted."""
    files = set(paths)
    directories = {path.rpartition("/")[0] for path in files}
    waiting = list(directories)
    while waiting:
        parent = waiting.pop().rpartition("/")[0]
        if parent not in directories:
            directories.add(parent)
            waiting.append(parent)
    return sorted(files & directories - {""})


def view(
    layers: Sequence[tuple[str, Mapping[str, m.Entry]]], read: Callable[[m.ObjectId], bytes]
) -> Iterator[ViewFile]:
    """Every file of the view, sorted by path, one at a time."""
    for path, entries in sorted(plan(layers).items()):
        yield combine(path, [(layer, m.File(read(entry.id), entry.mode)) for layer, entry in entries])


# ---------------------------------------------------------------------- one file


def combine(path: str, layers: Sequence[tuple[str, m.File]]) -> ViewFile:
    """The file that the layers, of which each has it, make."""
    kind = kind_of(path)
    last = layers[-1][1]
    if kind is None or last.mode == m.SYMLINK:
        return ViewFile(path, last.content, last.mode, (layers[-1][0],), secrets=False)
    maps = _maps(kind, layers)
    content = last.content if len(maps) <= 1 else None
    if len(maps) == 1 and _may_hold(m.UNSET_KEY, last.content) and _has_unset(maps[0][1]):
        content = None
    if content is None:
        content = formats.emit(kind, _merged([value for _, value in maps]))
    names = tuple(layer for layer, _ in maps) or (layers[-1][0],)
    return ViewFile(path, content, last.mode, names, _has_secrets(kind, content))


def explain(path: str, layers: Sequence[tuple[str, m.File]]) -> list[Explained]:
    """The leaves of the result with the layer that each comes from, in the order of the result."""
    kind = kind_of(path)
    name, last = layers[-1]
    maps = _maps(kind, layers, single=True) if kind is not None else []
    if not maps:
        secrets = kind is not None and last.mode != m.SYMLINK and _has_secrets(kind, last.content)
        return [Explained((), None, name, secrets)]
    whole = _merged([_sourced(value, layer) for layer, value in maps])
    return [
        Explained(key, value, _layer_of_map(maps, key) if layer is None else layer, any(secret_values(value)))
        for key, value, layer in _leaves(whole, ())
    ]


def _maps(
    kind: Kind, layers: Sequence[tuple[str, m.File]], *, single: bool = False
) -> list[tuple[str, dict[str, object]]]:
    """The layers that merge with the most specific one, as maps; none when that one is no map, or is alone and plain.

    ``single``: read it although nothing is to be merged.
    """
    if len(layers) == 1 and not single and not _may_hold(m.UNSET_KEY, layers[0][1].content):
        return []
    found: list[tuple[str, dict[str, object]]] = []
    for layer, file in reversed(layers):
        value = _parsed(kind, file.content) if file.mode != m.SYMLINK else None
        if not isinstance(value, dict):
            break
        found.append((layer, value))
    return found[::-1]


def _parsed(kind: Kind, content: bytes) -> object:
    try:
        return formats.parse(kind, content)
    except SyntaxFault:
        return None  # was refused when it was committed; a file of another tool's making is replaced whole


# ---------------------------------------------------------------------- maps


def _merged(maps: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """All of ``maps``, the least specific first."""
    whole: dict[str, object] = {}
    for each in maps:
        whole = _overlay(whole, each)
    return whole


def _overlay(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """``above`` onto ``below``, which has no ``$unset`` any more. A map with ``$unset`` and more begins anew."""
    whole = dict(below)
    for key, value in above.items():
        if key == m.UNSET_KEY:
            continue
        if isinstance(value, dict):
            if value.get(m.UNSET_KEY) is True:
                whole.pop(key, None)
                if len(value) == 1:
                    continue
            inner = whole.get(key)
            whole[key] = _overlay(inner if isinstance(inner, dict) else {}, value)
        else:
            whole[key] = _without_unset(value)
    return whole


def _without_unset(value: object) -> object:
    """A list keeps what is in it, but for ``$unset``, which has nothing to undo there."""
    if isinstance(value, list):
        return [_without_unset(each) for each in value if not _is_unset(each)]
    return _overlay({}, value) if isinstance(value, dict) else value


def _is_unset(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and value.get(m.UNSET_KEY) is True


def _has_unset(value: object) -> bool:
    if isinstance(value, dict) and m.UNSET_KEY in value:
        return True
    return any(_has_unset(inner) for _, inner in formats.children(value))


# ---------------------------------------------------------------------- where values come from


@dataclass(frozen=True, slots=True)
class _Sourced:
    """A leaf and its layer; not a map, so that it replaces and is replaced whole."""

    value: object
    layer: str


def _sourced(value: Mapping[str, object], layer: str) -> dict[str, object]:
    return {
        key: (
            (inner if key == m.UNSET_KEY else _Sourced(_without_unset(inner), layer))
            if not isinstance(inner, dict)
            else _sourced(inner, layer)
        )
        for key, inner in value.items()
    }


def _leaves(
    value: Mapping[str, object], place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], object, str | None]]:
    """Key, value and layer; a map that is empty has none of its own."""
    for key, inner in value.items():
        path = (*place, str(key))
        if isinstance(inner, _Sourced):
            yield path, inner.value, inner.layer
        elif isinstance(inner, dict) and inner:
            yield from _leaves(inner, path)
        else:
            yield path, {}, None


def _layer_of_map(maps: Sequence[tuple[str, dict[str, object]]], key: tuple[str, ...]) -> str:
    """The most specific layer that has a map at ``key``."""
    for layer, value in reversed(maps):
        inner: object = value
        for part in key:
            inner = {str(name): each for name, each in inner.items()}.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and not _is_unset(inner):
            return layer
    return maps[-1][0]


# ---------------------------------------------------------------------- secrets


def secret_values(value: object) -> Iterator[tuple[KeyPath, str]]:
    """Every encrypted value in ``value``, with its key path."""
    if isinstance(value, str):
        if value.startswith(m.SECRET_PREFIX):
            yield (), value
        return
    for key, inner in formats.children(value):
        for place, text in secret_values(inner):
            yield (key, *place), text


def replace_secrets(kind: Kind, content: bytes, decrypt: Callable[[str], str]) -> bytes:
    """``content`` with each encrypted value replaced; the same bytes when there is none.

    A RefusedError of ``decrypt`` is raised with the key, and what to do. Content that is no plain value stays:
    ``file_faults`` refuses secrets there.
    """
    if not _may_hold(m.SECRET_PREFIX, content):
        return content
    value = _parsed(kind, content)
    if not any(secret_values(value)):
        return content
    return formats.emit(kind, _replaced(value, (), decrypt))


def _replaced(value: object, place: KeyPath, decrypt: Callable[[str], str]) -> object:
    if isinstance(value, dict):
        return {key: _replaced(inner, (*place, key), decrypt) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, (*place, number), decrypt) for number, inner in enumerate(value)]
    if not isinstance(value, str) or not value.startswith(m.SECRET_PREFIX):
        return value
    try:
        return decrypt(value)
    except RefusedError as error:
        key = formats.dotted(place)
        raise RefusedError(
            f"{key}: {error}: set it again, eccfg secret set FILE {shlex.quote(key)} with --node, or with --subcluster "
            "for all that belong to it now"
        ) from error


def _has_secrets(kind: Kind, content: bytes) -> bool:
    return _may_hold(m.SECRET_PREFIX, content) and any(secret_values(_parsed(kind, content)))


def _may_hold(word: str, content: bytes) -> bool:
    """Whether ``word`` can be a key or the beginning of a value in ``content``, in some spelling. Quick."""
    return word.encode() in content or _ESCAPES.search(content) is not None


# ---------------------------------------------------------------------- what must not be committed


def unset_faults(value: object) -> list[tuple[KeyPath, str]]:
    """Where ``$unset`` is not ``KEY = {"$unset" = true}``: key path → problem."""
    return list(_unset_faults(value, (), in_list=False))


def _unset_faults(value: object, place: KeyPath, *, in_list: bool) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, dict) and m.UNSET_KEY in value:
        where = (*place, m.UNSET_KEY)
        if not place or in_list:
            yield where, f'{m.UNSET_KEY} stands in a key of a map: KEY = {{"{m.UNSET_KEY}" = true}}'
        elif value[m.UNSET_KEY] is not True:
            yield where, f"{m.UNSET_KEY} is true or not there"
        elif len(value) > 1:
            yield where, f"{m.UNSET_KEY} stands alone: {formats.dotted(place)} has other keys beside it"
    for key, inner in formats.children(value):
        yield from _unset_faults(inner, (*place, key), in_list=in_list or isinstance(value, list))


def file_faults(path: str, file: m.File) -> list[m.Fault]:
    """What is wrong with a structured file: its syntax, its ``$unset``, secrets that nobody would decrypt."""
    kind = kind_of(path)
    if kind is None or file.mode == m.SYMLINK:
        return []
    try:
        value = formats.parse(kind, file.content)
    except SyntaxFault as fault:
        return [m.Fault(path, fault.line, fault.problem)]
    if isinstance(value, Opaque):
        return [m.Fault(path, line, problem) for line, problem in _opaque_faults(file.content, value)]
    found = unset_faults(value)
    if not found:
        return []
    lines = formats.locate(kind, file.content)
    return sorted(m.Fault(path, formats.line_of(lines, key), problem) for key, problem in found)


def _opaque_faults(content: bytes, value: Opaque) -> Iterator[tuple[int, str]]:
    """``$unset`` and secrets do nothing in a file that is not read key by key."""
    for word in (m.UNSET_KEY, m.SECRET_PREFIX):
        at = content.find(word.encode())
        if at >= 0:
            line = content.count(b"\n", 0, at) + 1
            yield line, f"{word} does nothing in a file that is not merged ({value.reason})"
