"""What is wrong with the contents of a tree that a commit would make.

1. each changed file: syntax, ``$unset``, secrets that nobody would decrypt; rules of access and rollouts
2. each added file: ``clashes`` with other layers
3. what results for nodes, as far as a change affects it: JSON Schema ``schemas/<view path>.json``, and the
   settings of our own daemons, ``jlogd.toml`` and ``managerd.toml``

A fault names the layer's file and line that the value comes from. Later stages see only what passed the earlier ones.
Nothing is decrypted, nothing is fetched.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

import jlogd.settings
import managerd.settings
from jlogd.confrepo import formats, layering
from jlogd.confrepo.formats import KeyPath, Opaque
from jlogd.confrepo.model import (
    ACCESS_FILE,
    DEFAULT,
    GLOBAL,
    RESERVED,
    ROLLOUT_FILE,
    RUNNING,
    SCHEMAS,
    SECRET_PREFIX,
    SYMLINK,
    Entry,
    Fault,
    File,
    Scope,
)
from jlogd.confrepo.paths import in_view, layer_of
from jlogd.runtime.clock import SYSTEM, Clock
from managerd.ecconfigd.access import Rules
from managerd.ecconfigd.candidate import Candidate
from managerd.ecconfigd.clashes import clashes, subclusters
from managerd.ecconfigd.origin import Origin
from managerd.ecconfigd.rollout import parse_policy
from managerd.ecconfigd.schema import REQUEST_S, SchemaChecks

FAULTS_MAX: Final = 100  # of one commit: nobody reads more
NOBODY: Final = "-"  # no node and no subcluster can be called so
VALIDATE_S: Final = 30.0  # a commit that takes longer to judge is refused

_AGE_HEADER: Final = b"age-encryption.org/v1\n"  # https://age-encryption.org/v1
_SETTINGS: Final = {"jlogd.toml": jlogd.settings.check_overlay, "managerd.toml": managerd.settings.check_document}

Nodes = Callable[[], Sequence[Scope]]
Layers = Sequence[tuple[str, Entry]]  # of one file of a view: layer, entry; the least specific first


class Validation:
    """See the module. Any thread may ask; ``close`` once."""

    def __init__(self, *, schema_s: float = REQUEST_S, clock: Clock = SYSTEM) -> None:
        """``schema_s``: what one schema may take for one file."""
        self._schemas = SchemaChecks(schema_s)
        self._clock = clock

    def close(self) -> None:
        """End the process that applies schemas."""
        self._schemas.close()

    def faults(self, candidate: Candidate, nodes: Nodes = tuple) -> list[Fault]:
        """Faults by path and line, at most ``FAULTS_MAX``. ``nodes``: those that are known beside the tree's."""
        stages: tuple[Callable[[], Iterable[Fault | None]], ...] = (
            lambda: own_faults(candidate),
            lambda: clashes(candidate),
            lambda: self._effective(candidate, nodes),
        )
        for stage in stages:
            found = self._bounded(stage())
            if found:
                return sorted(found)[:FAULTS_MAX]
        return []

    def _bounded(self, faults: Iterable[Fault | None]) -> set[Fault]:
        """The first distinct ones; None only says that time went by."""
        end_s = self._clock.monotonic_s() + VALIDATE_S
        found: set[Fault] = set()
        for fault in faults:
            if fault is not None:
                found.add(fault)
            if len(found) >= FAULTS_MAX:
                break
            if self._clock.monotonic_s() > end_s:
                found.add(Fault("", 0, f"it takes longer than {VALIDATE_S:g} s to validate: make smaller commits"))
                break
        return found

    # ------------------------------------------------------------------ what results for nodes

    def _effective(self, candidate: Candidate, nodes: Nodes) -> Iterator[Fault | None]:
        schemas = _Schemas(candidate)
        unsound = list(self._unsound(schemas))
        if unsound:
            yield from unsound
            return
        for path, scopes in _affected(candidate, nodes, schemas).items():
            for scope, layers in _distinct(candidate, path, scopes):
                yield None
                quotes = tuple(f"{layer}/{path}" for layer, _ in layers)
                found = self._view_faults(candidate, path, scope, layers, schemas)
                yield from (replace(fault, quotes=quotes) for fault in found)

    def _unsound(self, schemas: "_Schemas") -> Iterator[Fault]:
        """Changed schemas that are none, whether they govern a file or not."""
        for path in schemas.changed:
            for misfit in self._schemas.check(schemas.value(path), None, errors_max=1):
                if misfit.of_schema:
                    yield Fault(path, schemas.line(path, misfit.key), f"is not a JSON Schema: {misfit.problem}")

    def _view_faults(
        self, candidate: Candidate, path: str, scope: Scope, layers: Layers, schemas: "_Schemas"
    ) -> Iterator[Fault]:
        sources = [(layer, _file(candidate, f"{layer}/{path}")) for layer, _ in layers]
        made = layering.combine(path, sources)
        if made.mode == SYMLINK:
            return
        place = Origin(path, sources, made)
        where = f" (as {_whose(scope)})" if len(sources) > 1 else ""
        if path in _SETTINGS:
            for line, problem in _SETTINGS[path](made.content):
                yield place.fault(place.key_at(line), problem + where)
        schema = f"{SCHEMAS}/{path}.json"
        if not schemas.has(schema):
            return
        kind = formats.kind_of(path)
        value = formats.parse(kind, made.content) if kind is not None else Opaque("it is not TOML, YAML or JSON")
        if isinstance(value, Opaque):
            yield place.fault((), f"{schema} cannot be applied: {value.reason}")
            return
        for misfit in self._schemas.check(schemas.value(schema), value, errors_max=FAULTS_MAX):
            if misfit.missing and scope.node == NOBODY:
                continue
            if misfit.of_schema:
                yield Fault(schema, schemas.line(schema, misfit.key), misfit.problem)
            else:
                name = f"{formats.dotted(misfit.key)}: " if misfit.key else ""
                yield place.fault(misfit.key, f"{name}{misfit.problem}, says {schema}{where}")


# ---------------------------------------------------------------------- each file by itself


def own_faults(candidate: Candidate) -> Iterator[Fault | None]:
    """Stage 1."""
    for path, file in candidate.changes.items():
        yield None
        layer = layer_of(path)
        if file is None or layer is None or layer.partition("/")[0] == RUNNING:
            continue  # what nodes saved of what they run is kept as it is
        faults = layering.file_faults(path, file)
        yield from faults or (*_secret_faults(path, file), *_policy_faults(path, file))


def _secret_faults(path: str, file: File) -> Iterator[Fault]:
    """Values that look encrypted, and that no node could decrypt."""
    kind = formats.kind_of(path)
    if kind is None or file.mode == SYMLINK or SECRET_PREFIX.encode() not in file.content:
        return
    for key, text in layering.secret_values(formats.parse(kind, file.content)):
        if not _is_age(text):
            line = formats.line_of(formats.locate(kind, file.content), key)
            yield Fault(path, line, f"{formats.dotted(key)}: is no encrypted value: set it by 'eccfg secret set'")


def _is_age(text: str) -> bool:
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True).startswith(_AGE_HEADER)
    except ValueError:
        return False


def _policy_faults(path: str, file: File) -> Iterator[Fault]:
    if path not in {ACCESS_FILE, ROLLOUT_FILE}:
        return
    if file.mode == SYMLINK:
        yield Fault(path, 0, "must be a file, not a symlink")
        return
    found = Rules.parse(file.content).faults if path == ACCESS_FILE else parse_policy(file.content)[1]
    yield from (Fault(path, line, problem) for line, problem in found)


# ---------------------------------------------------------------------- what is affected


class _Schemas:
    """The schemas of a tree."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._values: dict[str, object] = {}
        self._there: dict[str, bool] = {}
        schemas = (path for path, file in candidate.changes.items() if file is not None)
        self.changed = [path for path in schemas if path.startswith(SCHEMAS + "/") and path.endswith(".json")]

    def has(self, path: str) -> bool:
        if path not in self._there:
            entry = self._candidate.entry(path)
            self._there[path] = entry is not None and entry.mode != SYMLINK
        return self._there[path]

    def governed(self, view_path: str) -> bool:
        """Whether anything is said about that file of a view."""
        return view_path in _SETTINGS or self.has(f"{SCHEMAS}/{view_path}.json")

    def all_governed(self) -> list[str]:
        found = self._candidate.below(SCHEMAS)
        cut = len(SCHEMAS) + 1
        return [*_SETTINGS, *(path[cut:-5] for path in found if path.endswith(".json"))]

    def value(self, path: str) -> object:
        if path not in self._values:
            self._values[path] = formats.parse("json", _file(self._candidate, path).content)
        return self._values[path]

    def line(self, path: str, key: KeyPath) -> int:
        return formats.line_of(formats.locate("json", _file(self._candidate, path).content), key)


def _affected(candidate: Candidate, nodes: Nodes, schemas: _Schemas) -> dict[str, list[Scope]]:
    """Governed paths of views that a change may affect → the nodes whose views those are."""
    wanted: dict[str, set[str]] = {}  # view path → "" (everybody's), subcluster, or subcluster/node
    for path in candidate.changes:
        layer = layer_of(path)
        if layer == SCHEMAS and path.endswith(".json"):
            wanted.setdefault(path[len(SCHEMAS) + 1 : -5], set()).add("")
        elif layer is not None and layer.partition("/")[0] not in {SCHEMAS, RUNNING}:
            whose = "" if layer == GLOBAL else layer.removesuffix(f"/{DEFAULT}")
            if schemas.governed(in_view(path)):
                wanted.setdefault(in_view(path), set()).add(whose)
    for layer in _new_nodes(candidate):  # of theirs nothing was validated before
        for path in schemas.all_governed():
            wanted.setdefault(path, set()).add(layer)
    if not wanted:
        return {}
    everybody = list(dict.fromkeys([*_nodes_of(candidate), *nodes()]))
    everybody += _to_come(candidate, {scope.subcluster for scope in everybody})
    return {
        path: [s for s in everybody if whose & {"", s.subcluster, f"{s.subcluster}/{s.node}"}]
        for path, whose in sorted(wanted.items())
    }


def _new_nodes(candidate: Candidate) -> set[str]:
    layers = {layer_of(path) for path, file in candidate.changes.items() if file is not None}
    found = {
        layer for layer in layers if layer is not None and "/" in layer and layer.partition("/")[0] not in RESERVED
    }
    return {layer for layer in found if not candidate.repository.names(candidate.commit, layer)}


def _nodes_of(candidate: Candidate) -> Iterator[Scope]:
    for subcluster in subclusters(candidate.names("")):
        for name, directory in candidate.names(subcluster).items():
            if directory and name != DEFAULT:
                yield Scope(subcluster, name)


def _to_come(candidate: Candidate, inhabited: AbstractSet[str]) -> list[Scope]:
    """What a node would get whose subcluster has none yet: what is wrong in that is wrong already."""
    empty = [name for name in subclusters(candidate.names("")) if name not in inhabited]
    return [Scope(name, NOBODY) for name in (empty if empty or inhabited else [NOBODY])]


def _whose(scope: Scope) -> str:
    if scope.node != NOBODY:
        return f"{scope.subcluster}/{scope.node} gets it"
    return f"a node of {scope.subcluster} would get it"


def _distinct(candidate: Candidate, path: str, scopes: Iterable[Scope]) -> Iterator[tuple[Scope, Layers]]:
    """The different files that the nodes get at ``path``, each with the first node that gets it."""
    seen: set[tuple[tuple[str, Entry], ...]] = set()
    for scope in scopes:
        found = ((layer, candidate.entry(f"{layer}/{path}")) for layer in scope.layers)
        layers = tuple((layer, entry) for layer, entry in found if entry is not None)
        if layers and layers not in seen:
            seen.add(layers)
            yield scope, layers


def _file(candidate: Candidate, path: str) -> File:
    file = candidate.file(path)
    assert file is not None
    return file
