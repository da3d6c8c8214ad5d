"""What a commit asks for, and what that makes of a tree. Nothing is stored: a ``Candidate`` is changed.

    put PATH          the file as given
    delete PATH       the file, or the directory with everything in it
    copy SRC DST      DST becomes SRC; with ``overlay`` what is only in DST stays
    revert REV        the inverse of what REV changed, three-way: what came later in other keys stays
    rollback REV      the tree as it was at REV

Edits apply one after the other, each to what the ones before it left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jlogd.confrepo.merge import merge_changes
from jlogd.confrepo.model import CHANGED_FILES_MAX, Conflict, Fault, File
from jlogd.confrepo.paths import check_path
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.candidate import Candidate


@dataclass(frozen=True, slots=True)
class Put:
    """A file as it should be."""

    path: str
    file: File


@dataclass(frozen=True, slots=True)
class Delete:
    """A file, or a directory with everything in it."""

    path: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A file or directory. ``overlay``: keep what is only in the target."""

    source: str
    target: str
    overlay: bool = False


@dataclass(frozen=True, slots=True)
class Revert:
    """Undo that revision (a REV text)."""

    revision: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """The tree as it was at that revision (a REV text)."""

    revision: str


Edit: TypeAlias = Put | Delete | Copy | Revert | Rollback


@dataclass(frozen=True, slots=True)
class Edited:
    """What applying edits met. ``read``: the paths whose contents were copied elsewhere."""

    faults: tuple[Fault, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    read: tuple[str, ...] = ()


def apply(edits: Sequence[Edit], candidate: Candidate) -> Edited:
    """Change ``candidate`` by ``edits``. RefusedError for a revision that is not there, and for too much."""
    faults: list[Fault] = []
    conflicts: list[Conflict] = []
    read: list[str] = []
    for edit in edits:
        match edit:
            case Put():
                faults += _put(edit, candidate)
            case Delete():
                faults += _delete(edit, candidate)
            case Copy():
                faults += _copy(edit, candidate, read)
            case Revert():
                conflicts += _revert(edit, candidate)
            case Rollback():
                _rollback(edit, candidate)
        if len(candidate) > CHANGED_FILES_MAX:
            raise RefusedError(f"more than {CHANGED_FILES_MAX} files in one commit: make several")
    return Edited(tuple(faults), tuple(conflicts), tuple(read))


def _put(edit: Put, candidate: Candidate) -> list[Fault]:
    problem = check_path(edit.path)
    if problem is not None:
        return [Fault(edit.path, 0, problem)]
    candidate.put(edit.path, edit.file)
    return []


def _delete(edit: Delete, candidate: Candidate) -> list[Fault]:
    found = candidate.below(edit.path) if check_path(edit.path) is None else {}
    for path in found:
        candidate.put(path, None)
    return [] if found else [Fault(edit.path, 0, "is not there: nothing to delete")]


def _copy(edit: Copy, candidate: Candidate, read: list[str]) -> list[Fault]:
    found = candidate.below(edit.source) if check_path(edit.source) is None else {}
    if not found:
        return [Fault(edit.source, 0, "is not there: nothing to copy")]
    problem = check_path(edit.target)
    if problem is not None:
        return [Fault(edit.target, 0, problem)]
    single = edit.source in found
    if single and candidate.is_directory(edit.target):
        return [Fault(edit.target, 0, "is a directory: name the file that the copy should be")]
    if not single and candidate.entry(edit.target) is not None:
        return [Fault(edit.target, 0, f"is a file, and {edit.source} a directory")]
    files = {path.removeprefix(edit.source): candidate.file(path) for path in found}
    read.extend(found)
    if not edit.overlay:
        for path in candidate.below(edit.target):
            candidate.put(path, None)
    for rest, file in files.items():
        candidate.put(edit.target + rest, file)
    return []


def _revert(edit: Revert, candidate: Candidate) -> list[Conflict]:
    """What was before the revision, against the revision: three-way onto what is there now."""
    repository = candidate.repository
    undone = repository.resolve(edit.revision)
    before = repository.commit(undone.parent) if undone.parent is not None else None
    inverse = {path: repository.file(before, path) for path, _, _ in repository.diff(before, undone)}
    changes, conflicts = merge_changes(
        inverse, lambda path: repository.file(undone, path), candidate.file, candidate.below
    )
    for path, file in changes.items():
        candidate.put(path, file)
    return conflicts


def _rollback(edit: Rollback, candidate: Candidate) -> None:
    repository = candidate.repository
    wanted = repository.resolve(edit.revision)
    paths = {path for path, _, _ in repository.diff(candidate.commit, wanted)} | candidate.changes.keys()
    for path in paths:
        candidate.put(path, repository.file(wanted, path))
