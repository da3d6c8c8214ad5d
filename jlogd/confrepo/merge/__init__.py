"""Three-way merge of files: per key where they are structured, else per line.

Invariant: a change that only one side made is in the result, a change that both made differently is a conflict; nothing
is lost silently but comments and layout, where no text of both sides' lines has both sides' keys. A side is a base that
somebody changed; which base, and what becomes of conflicts, is the caller's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jlogd.confrepo import formats
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import Kind, SyntaxFault, dotted, kind_of
from jlogd.confrepo.merge.keys import ABSENT, diff_keys, merge_maps
from jlogd.confrepo.merge.lines import merge_text

__all__ = ["ABSENT", "Lookup", "Merged", "diff_keys", "merge_changes", "merge_file"]

Lookup = Callable[[str], m.File | None]  # path → file


@dataclass(frozen=True, slots=True)
class Merged:
    """The result, None = deleted; or the conflict, and then ``file`` is theirs."""

    file: m.File | None
    conflict: m.Conflict | None


class _Conflict(Exception):
    """Both sides changed these keys; none: the file as a whole."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.keys = keys


# ---------------------------------------------------------------------- one file


def merge_file(path: str, base: m.File | None, mine: m.File | None, theirs: m.File | None) -> Merged:
    """One file. None = it is not there."""
    if mine in (theirs, base):
        return Merged(theirs, None)
    if theirs == base:
        return Merged(mine, None)
    try:
        return Merged(_merged(path, base, mine, theirs), None)
    except _Conflict as conflict:
        return Merged(theirs, _conflict(path, conflict.keys, base, mine, theirs))


def _conflict(
    path: str, keys: tuple[str, ...], base: m.File | None, mine: m.File | None, theirs: m.File | None
) -> m.Conflict:
    contents = [file.content if file is not None else None for file in (base, mine, theirs)]
    return m.Conflict(path, keys, *contents)


def _merged(path: str, base: m.File | None, mine: m.File | None, theirs: m.File | None) -> m.File:
    """Both sides changed the file, not in the same way."""
    if mine is None or theirs is None:
        raise _Conflict  # deleted and changed
    if m.SYMLINK in {file.mode for file in (base, mine, theirs) if file is not None}:
        raise _Conflict
    mode = _merged_mode(base, mine.mode, theirs.mode)
    return m.File(_merged_content(path, base.content if base is not None else None, mine.content, theirs.content), mode)


def _merged_mode(base: m.File | None, mine: int, theirs: int) -> int:
    if base is None and mine != theirs:
        raise _Conflict
    return theirs if base is None or mine == base.mode else mine


def _merged_content(path: str, base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
    if mine in (theirs, base):
        return theirs
    if theirs == base:
        return mine
    kind = kind_of(path)
    if kind is not None:
        values = [{} if content is None else _parsed(kind, content) for content in (base, mine, theirs)]
        if all(isinstance(value, dict) for value in values):
            return _merged_keys(kind, values, base or b"", mine, theirs)
    text = _merged_text(base, mine, theirs)
    if text is None:
        raise _Conflict
    return text


def _merged_text(base: bytes | None, mine: bytes, theirs: bytes) -> bytes | None:
    if base is None or not all(map(_is_text, (base, mine, theirs))):
        return None
    return merge_text(base, mine, theirs)


def _merged_keys(kind: Kind, values: list[object], base: bytes, mine: bytes, theirs: bytes) -> bytes:
    """A text that has the merged keys, if possible one that has both sides' comments."""
    whole, conflicts = merge_maps(*values)  # type: ignore[arg-type] # three dicts
    if conflicts:
        raise _Conflict(tuple(dotted(key) for key in conflicts))
    for content in _candidates(base, mine, theirs):
        if content is not None and formats.same(_parsed(kind, content), whole):
            return content
    return formats.emit(kind, whole)


def _candidates(base: bytes, mine: bytes, theirs: bytes) -> Iterator[bytes | None]:
    yield merge_text(base, mine, theirs)
    yield merge_text(base, mine, theirs, loose=True)
    yield theirs  # has all of mine
    yield mine


def _parsed(kind: Kind, content: bytes) -> object:
    try:
        return formats.parse(kind, content)
    except SyntaxFault:
        return None


def _is_text(content: bytes) -> bool:
    if b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---------------------------------------------------------------------- many


def merge_changes(
    mine: m.Changes, base: Lookup, theirs: Lookup, below: Callable[[str], Iterable[str]] | None = None
) -> tuple[dict[str, m.File | None], list[m.Conflict]]:
    """What is to be changed in theirs so that it has the changes ``mine`` of base; and what cannot be merged.

    A path in conflict is not in the changes. ``below``: theirs' files at and below a path; without it a file that mine
    puts where theirs has a directory is not noticed here.
    """
    changes: dict[str, m.File | None] = {}
    conflicts: dict[str, m.Conflict] = {}
    there_is: dict[str, bool] = {}
    for path, file in mine.items():
        there = theirs(path)
        there_is[path] = there is not None
        merged = merge_file(path, base(path), file, there)
        if merged.conflict is not None:
            conflicts[path] = merged.conflict
        elif merged.file != there:
            changes[path] = merged.file
    for path in _clashing(changes, there_is, theirs, below):
        changes.pop(path)
        conflicts[path] = _conflict(path, (), base(path), mine[path], theirs(path))
    return changes, [conflicts[path] for path in sorted(conflicts)]


def _clashing(
    changes: m.Changes,
    there_is: dict[str, bool],
    theirs: Lookup,
    below: Callable[[str], Iterable[str]] | None,
) -> set[str]:
    """Changes that would make a path both a file and a directory, and the deletions that were to make room for them.

    ``there_is``: whether theirs has a file at a path, as far as it is known; what else is asked for is added.
    """
    found: set[str] = set()
    for path, file in changes.items():
        if file is None:
            continue
        for parent in _parents(path):
            if parent not in there_is:
                there_is[parent] = theirs(parent) is not None
            if changes[parent] is not None if parent in changes else there_is[parent]:
                found.add(path)
        if below is None or there_is[path]:
            continue
        inner = [each for each in below(path) if each.startswith(path + "/")]
        if any(changes.get(each, file) is not None for each in inner):
            found.add(path)
            found.update(each for each in inner if each in changes)
    return found


def _parents(path: str) -> Iterator[str]:
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)
