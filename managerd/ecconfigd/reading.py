"""Files of a revision, and of the view that a node gets. In the store's reader threads.

A view is made of several layers: whoever reads a file of it must be allowed to read it in each layer that has it, for
the result tells their values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jlogd.confrepo import layering
from jlogd.confrepo.formats import kind_of
from jlogd.confrepo.model import SYMLINK, Commit, Entry, File, Scope
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.rights import Gate
from managerd.ecconfigd.wire import PIECE_BYTES

HIDDEN = "(secret)"  # what stands for an encrypted value in a view that is shown
BATCH_FILES = 1000  # of one turn in a reader thread

Plan = Mapping[str, tuple[tuple[str, Entry], ...]]


@dataclass(frozen=True, slots=True)
class Changed:
    """A file to send. ``entry`` None: it is not there any more. ``content`` None: it was not asked for."""

    path: str
    entry: Entry | None
    size: int
    content: bytes | None


# ---------------------------------------------------------------------- the repository's files


def changed_paths(
    repository: Repository, commit: Commit, since: Commit | None, gate: Gate, path: str
) -> list[tuple[str, Entry | None]]:
    """What differs between ``since`` (None: the empty tree) and ``commit`` at or below ``path``, if it may be read."""
    below = path.strip("/")
    return [
        (name, after)
        for name, _, after in repository.diff(since, commit)
        if (not below or name == below or name.startswith(below + "/")) and (gate.everything or gate.may_read(name))
    ]


def batch(
    repository: Repository, found: Sequence[tuple[str, Entry | None]], first: int, *, names_only: bool
) -> list[Changed]:
    """The files from ``first`` on, as many as make about one message's worth. Without contents sizes are not known."""
    if names_only:
        return [Changed(path, entry, 0, None) for path, entry in found[first : first + BATCH_FILES]]
    files: list[Changed] = []
    size = 0
    for path, entry in found[first : first + BATCH_FILES]:
        content = repository.content(entry) if entry is not None else b""
        files.append(Changed(path, entry, len(content), content))
        size += len(content)
        if size >= PIECE_BYTES:
            break
    return files


def read_file(repository: Repository, commit: Commit, gate: Gate, path: str) -> File:
    """One file of the repository. RefusedError, NotPermittedError."""
    gate.require_read(path)
    found = repository.file(commit, path)
    if found is None:
        what = "a directory" if repository.names(commit, path) else "not there"
        raise RefusedError(f"{path} is {what} in r{commit.revision}")
    return found


# ---------------------------------------------------------------------- a node's view


def plan_of(repository: Repository, commit: Commit, scope: Scope) -> Plan:
    """What each file of the node's view is made of."""
    return layering.plan([(layer, _below(repository, commit, layer)) for layer in scope.layers])


def _below(repository: Repository, commit: Commit, layer: str) -> dict[str, Entry]:
    """A layer's files by their paths in the view."""
    cut = len(layer) + 1
    return {path[cut:]: entry for path, entry in repository.files(commit, layer).items()}


def layers_of(repository: Repository, commit: Commit, gate: Gate, scope: Scope, path: str) -> list[tuple[str, File]]:
    """The file in each layer that has it, the least specific first. RefusedError when none has, NotPermittedError."""
    found: list[tuple[str, File]] = []
    for layer in scope.layers:
        file = repository.file(commit, f"{layer}/{path}")
        if file is not None:
            gate.require_read(f"{layer}/{path}")
            found.append((layer, file))
    if not found:
        raise RefusedError(f"{path} is not in the view of node {scope.node} at r{commit.revision}")
    return found


def view_file(repository: Repository, commit: Commit, gate: Gate, scope: Scope, path: str) -> layering.ViewFile:
    """One file as the node gets it, encrypted values as they are stored."""
    return layering.combine(path, layers_of(repository, commit, gate, scope, path))


def view_files(
    repository: Repository, gate: Gate, plan: Plan, paths: Sequence[str], first: int
) -> list[layering.ViewFile]:
    """The view's files from ``first`` on, as many as make about one message's worth; encrypted values hidden."""
    files: list[layering.ViewFile] = []
    size = 0
    for path in paths[first : first + BATCH_FILES]:
        for layer, _ in plan[path]:
            gate.require_read(f"{layer}/{path}")
        sources = [(layer, File(repository.content(entry), entry.mode)) for layer, entry in plan[path]]
        file = hidden(layering.combine(path, sources))
        files.append(file)
        size += len(file.content)
        if size >= PIECE_BYTES:
            break
    return files


def hidden(file: layering.ViewFile) -> layering.ViewFile:
    """The file with a word instead of each encrypted value."""
    kind = kind_of(file.path)
    if not file.secrets or kind is None or file.mode == SYMLINK:
        return file
    content = layering.replace_secrets(kind, file.content, lambda _: HIDDEN)
    return layering.ViewFile(file.path, content, file.mode, file.layers, file.secrets)
