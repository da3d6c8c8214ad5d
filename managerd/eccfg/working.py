"""A working copy: what differs from its base revision, what is staged, and how a commit moves the base on.

    file in base, not staged:   unchanged | modified | missing (vanished) | deleted (staged by rm)
    file not in base:           unknown | added (staged by add)
    FIFO, socket, device:       special, never committed, in base or not
    and any of them may be conflicted, until ``resolve``

Commands that change it hold its lock. Taking in what others committed is in ``pulling``.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from jlogd.confrepo import model as m
from jlogd.confrepo.paths import check_path, layer_of
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError, UsageError
from jlogd.runtime.fs import OS, FileSystem
from managerd.eccfg.client import Edit, Streamed
from managerd.eccfg.difference import Difference
from managerd.eccfg.files import Scan, Seen, WorkingFiles
from managerd.eccfg.index import RACY_NS, Entry, Index, Metadata, blob_id, open_metadata
from managerd.v1 import config_pb2 as pb


class Remote(Protocol):
    """What a working copy needs of a manager; ``client.Client`` is one."""

    def tree(self, revision: str = "", *, since: str = "", names_only: bool = False, path: str = "") -> Streamed:
        """Files of a revision, or what changed since another."""

    def commit(
        self, edits: Sequence[Edit], message: str, *, base: str = "", sign: bool = True, dry_run: bool = False
    ) -> pb.CommitResponse:
        """One revision, or why not."""


class Kind(StrEnum):
    """How a file differs from the base revision."""

    MODIFIED = "modified"
    ADDED = "added"
    DELETED = "deleted"
    MISSING = "missing"
    UNKNOWN = "unknown"
    SPECIAL = "special"


COMMITTABLE = "only regular files, directories and symlinks can be committed"


@dataclass(frozen=True, slots=True)
class Local:
    """One file that differs. ``mode`` of what is there now, 0 = nothing that could be committed; ``special``: that."""

    path: str
    kind: Kind
    mode: int = 0
    special: str = ""

    @property
    def staged(self) -> bool:
        """Whether a plain commit takes it."""
        return self.kind in {Kind.MODIFIED, Kind.ADDED, Kind.DELETED}


class WorkingCopy:
    """See the module. Reads the index when it is made; one owner, under the lock when it changes anything."""

    def __init__(self, metadata: Metadata, *, fs: FileSystem = OS) -> None:
        """DamageError when the index cannot be read."""
        self.metadata = metadata
        self.root = metadata.root
        self.files = WorkingFiles(metadata.root, fs=fs)
        self.index: Index = metadata.read()

    @classmethod
    def open(cls, directory: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> "WorkingCopy":
        """The one that ``directory`` is in. UsageError, DamageError."""
        return cls(open_metadata(directory, fs=fs, clock=clock), fs=fs)

    # ------------------------------------------------------------------ what differs

    def changes(self, scan: Scan | None = None) -> list[Local]:
        """Every file that differs from the base, by path."""
        seen = (scan or self.files.scan()).files
        beside = {name for names in self.index.conflicts.values() for name in names}
        found = [*self._of_base(seen), *(each for each in self._beyond_base(seen) if each.path not in beside)]
        return sorted(found, key=lambda each: each.path)

    def _of_base(self, seen: dict[str, Seen]) -> Iterator[Local]:
        for path, entry in self.index.entries.items():
            here = seen.get(path)
            if path in self.index.removed:
                yield Local(path, Kind.DELETED)
            elif here is None:
                yield Local(path, Kind.MISSING)
            elif here.mode == 0:
                yield Local(path, Kind.SPECIAL, special=here.special)
            elif self._differs(path, entry, here):
                yield Local(path, Kind.MODIFIED, here.mode)

    def _beyond_base(self, seen: dict[str, Seen]) -> Iterator[Local]:
        for path, here in seen.items():
            if path in self.index.entries and path not in self.index.removed:
                continue
            if here.mode == 0:
                yield Local(path, Kind.SPECIAL, special=here.special)
            else:
                yield Local(path, Kind.ADDED if path in self.index.added else Kind.UNKNOWN, here.mode)
        yield from (Local(path, Kind.MISSING) for path in self.index.added - seen.keys())

    def _differs(self, path: str, entry: Entry, here: Seen) -> bool:
        if here.mode != entry.mode:
            return True
        looks = (here.size, here.mtime_ns, here.ctime_ns) == (entry.size, entry.mtime_ns, entry.ctime_ns)
        if looks and max(here.mtime_ns, here.ctime_ns) < self.index.written_ns - RACY_NS:
            return False
        file = self.files.read(path)
        return file is None or blob_id(file.content) != entry.id

    def base_file(self, path: str) -> m.File | None:
        """A file as it is in the base revision."""
        entry = self.index.entries.get(path)
        return m.File(self.metadata.content(entry.id), entry.mode) if entry is not None else None

    def local_file(self, path: str) -> m.File | None:
        """A file as it is here."""
        return self.files.read(path)

    def differences(self, paths: Sequence[str] = ()) -> Iterator[Difference]:
        """Local changes with their contents; unknown files are not among them."""
        for each in self.changes():
            unknown = each.kind in {Kind.UNKNOWN, Kind.SPECIAL} and each.path not in self.index.entries
            if unknown or not _among(each.path, paths):
                continue
            gone = each.kind in {Kind.DELETED, Kind.MISSING}
            yield Difference(each.path, self.base_file(each.path), None if gone else self.local_file(each.path))

    def local_paths(self, words: Sequence[str], directory: Path) -> list[str]:
        """What people type, relative to ``directory`` → paths here ("" = everything). UsageError outside."""
        return [self._local_path(word, directory) for word in words]

    def _local_path(self, word: str, directory: Path) -> str:
        place = Path(os.path.normpath(directory / word))
        parent = place.parent.resolve() if place != self.root else place
        for root in (self.root, self.root.resolve()):
            for candidate in (place, parent / place.name):
                if candidate == root:
                    return ""
                if candidate.is_relative_to(root):
                    return candidate.relative_to(root).as_posix()
        raise UsageError(f"{word} is outside of the working copy {self.root}")

    # ------------------------------------------------------------------ staging

    def add(self, paths: Sequence[str]) -> list[str]:
        """Stage files, and everything unknown below directories; returns what is new. RefusedError, UsageError."""
        unknown = {each.path: each for each in self.changes() if each.kind in {Kind.UNKNOWN, Kind.SPECIAL}}
        chosen: list[Local] = []
        for path in paths:
            found = [each for name, each in unknown.items() if _among(name, [path])]
            if not found and self.files.look(path) is None and path:
                raise UsageError(f"{path} is not there: nothing to add")
            chosen += found
        for each in chosen:
            _check_addable(each)
        self.index.added |= {each.path for each in chosen if each.path not in self.index.removed}
        self.index.removed -= {each.path for each in chosen}
        self.metadata.write(self.index)
        return sorted({each.path for each in chosen})

    def remove(self, paths: Sequence[str], *, force: bool = False) -> list[str]:
        """Remove files here and stage that; refuses to throw local changes away unless ``force``. RefusedError."""
        changes = {each.path: each.kind for each in self.changes()}
        chosen = self._tracked(paths)
        lost = [path for path in chosen if changes.get(path) in {Kind.MODIFIED, Kind.ADDED}]
        if lost and not force:
            raise RefusedError(
                f"{_some(lost)} changed here: 'eccfg restore' it first, or use --force to lose the changes"
            )
        self.index.removed |= {path for path in chosen if path in self.index.entries}
        self.index.added -= set(chosen)
        self.files.apply(dict.fromkeys(chosen))
        self.metadata.write(self.index)
        return chosen

    def restore(self, paths: Sequence[str]) -> list[str]:
        """Undo local edits and deletions; files that were added stay, unknown. Returns what is as in the base again."""
        changed = {each.path for each in self.changes() if each.kind is not Kind.UNKNOWN}
        chosen = [path for path in self._tracked(paths) if path in changed or path in self.index.conflicts]
        contents = {path: self.base_file(path) for path in chosen if path in self.index.entries}
        beside = {name: None for path in chosen for name in self.index.conflicts.get(path, ())}
        self.files.apply({**beside, **contents})
        for path in chosen:
            self.index.removed.discard(path)
            self.index.added.discard(path)
            self.index.conflicts.pop(path, None)
            self.refresh(path)
        self.metadata.write(self.index)
        return chosen

    def _tracked(self, paths: Sequence[str]) -> list[str]:
        """Files of the base or staged ones, at or below ``paths``. UsageError for a path without any."""
        known = self.index.entries.keys() | self.index.added
        for path in paths:
            if not any(_among(name, [path]) for name in known):
                raise UsageError(f"{path or 'the working copy'} has no file that is tracked; see 'eccfg status'")
        return sorted(name for name in known if _among(name, paths))

    def refresh(self, path: str) -> None:
        """Note how an unchanged file looks now, so that status need not read it."""
        entry, here = self.index.entries.get(path), self.files.look(path)
        if entry is not None and here is not None and here.mode == entry.mode:
            self.index.entries[path] = here.entry(entry.id)

    # ------------------------------------------------------------------ committing

    def prepare(self, *, everything: bool) -> "Prepared":
        """What a commit takes, its contents kept in the base. RefusedError while conflicts remain."""
        if self.index.conflicts:
            names = _some(sorted(self.index.conflicts))
            raise RefusedError(f"{names} in conflict: edit, then 'eccfg resolve' it; or 'eccfg restore' it")
        taken: list[Local] = []
        left: list[Local] = []
        changes = self.changes()
        if everything:
            _refuse_special(changes)
        for each in changes:
            take = each.staged or (everything and not self._never_there(each))
            (taken if take else left).append(each)
        puts: dict[str, Entry] = {}
        contents: dict[m.ObjectId, bytes] = {}
        for each in taken:
            if each.mode == 0:
                continue
            if each.kind is Kind.UNKNOWN:
                _check_addable(each)
            here, file = self.files.look(each.path), self.files.read(each.path)
            if here is None or file is None:
                raise RefusedError(f"{each.path} went away meanwhile: try again")
            puts[each.path] = replace(here.entry(blob_id(file.content)), mode=file.mode)
            contents[puts[each.path].id] = file.content
        self.metadata.keep(contents)
        return Prepared(puts, [e.path for e in taken if e.mode == 0 and e.path not in puts], left)

    def _never_there(self, each: Local) -> bool:
        """Added and gone again before any commit."""
        return each.kind is Kind.MISSING and each.path not in self.index.entries

    def edits(self, prepared: "Prepared") -> list[Edit]:
        """Deletions first, so that a directory may take a file's place."""
        deletes = [Edit.delete(path) for path in prepared.deletes]
        return deletes + [
            Edit.put_later(path, entry.mode, entry.size, lambda blob=entry.id: self.metadata.content(blob))  # type: ignore[misc]
            for path, entry in prepared.puts.items()
        ]

    def moved_on(self, prepared: "Prepared", revision: m.Revision, commit_id: str) -> None:
        """The commit is in: the base is that revision, which differs from the old base in what was committed only."""
        index = self.index
        index.revision, index.id = revision, commit_id
        index.entries.update(prepared.puts)
        for path in prepared.deletes:
            index.entries.pop(path, None)
        index.added -= prepared.puts.keys()
        index.removed -= {*prepared.deletes, *prepared.puts}
        self.metadata.write(index)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A commit's content. ``left``: what it leaves out, because nobody staged it."""

    puts: dict[str, Entry]
    deletes: list[str]
    left: list[Local]

    @property
    def empty(self) -> bool:
        """Nothing to commit."""
        return not self.puts and not self.deletes


def _among(path: str, directories: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``directories`` or below one; no directory at all means everything."""
    wanted = list(directories)
    return not wanted or any(each in {"", path} or path.startswith(each + "/") for each in wanted)


def _check_addable(each: Local) -> None:
    problem = check_path(each.path)
    _refuse_special([each])
    top = "/" not in each.path
    if problem is None and layer_of(each.path) is None and not (top and each.path.startswith(("README", "."))):
        problem = "in no layer: put it below global/, SUBCLUSTER/default/, SUBCLUSTER/NODE/ or schemas/"
    if problem is not None:
        raise RefusedError(f"{each.path}: {problem}")


def _refuse_special(changes: Sequence[Local]) -> None:
    special = [f"{each.path} is {each.special}" for each in changes if each.kind is Kind.SPECIAL]
    if special:
        raise RefusedError(f"{_some(special)}: {COMMITTABLE}; move that away")


def _some(paths: Sequence[str], most: int = 5) -> str:
    """A few names for a message."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
