"""A tree as it would be: a revision and what is to change in it. Nothing is flattened or copied that is not asked for.

Owned by one thread. Paths are the repository's.
"""

import hashlib
from collections.abc import Iterator

from jlogd.confrepo.model import Changes, Commit, Entry, File, ObjectId
from jlogd.confrepo.repository import Repository


class Candidate:
    """See the module."""

    def __init__(self, repository: Repository, commit: Commit | None, changes: Changes | None = None) -> None:
        """``commit`` None: the empty tree."""
        self.repository = repository
        self.commit = commit
        self._files: dict[str, File | None] = dict(changes or {})
        self._entries: dict[str, Entry | None] = {}  # of _files, hashed once
        self._touched: dict[str, set[str]] = {}  # directory → names in it that may differ
        self._changes: dict[str, File | None] | None = None
        for path in self._files:
            self._touch(path)

    @property
    def changes(self) -> Changes:
        """What differs from the revision, by path."""
        if self._changes is None:
            self._changes = {path: file for path, file in sorted(self._files.items()) if self._differs(path)}
        return self._changes

    def put(self, path: str, file: File | None) -> None:
        """Set the file at ``path``; None removes it."""
        self._files[path] = file
        self._entries.pop(path, None)
        self._changes = None
        self._touch(path)

    def __len__(self) -> int:
        """How many paths were set."""
        return len(self._files)

    # ------------------------------------------------------------------ what is there then

    def file(self, path: str) -> File | None:
        """The file at ``path``."""
        return self._files[path] if path in self._files else self.before(path)

    def before(self, path: str) -> File | None:
        """The file at ``path`` of the revision."""
        return self.repository.file(self.commit, path)

    def entry(self, path: str) -> Entry | None:
        """``file`` by reference."""
        if path not in self._files:
            return self.repository.entry(self.commit, path)
        if path not in self._entries:
            file = self._files[path]
            self._entries[path] = Entry(file.mode, blob_id(file.content)) if file is not None else None
        return self._entries[path]

    def below(self, path: str) -> dict[str, Entry]:
        """Every file at ``path`` or below it."""
        found = dict(self.repository.files(self.commit, path))
        for at in {path, *self._set_below(path)}:
            entry = self.entry(at)
            if entry is not None:
                found[at] = entry
            else:
                found.pop(at, None)
        return found

    def names(self, directory: str = "") -> dict[str, bool]:
        """What is in a directory: name → whether it is a directory; "" = the top. Empty when there is none."""
        found = self.repository.names(self.commit, directory)
        touched = self._touched.get(directory)
        if touched is None:
            return found
        found = dict(found)
        for name in touched:
            path = f"{directory}/{name}" if directory else name
            if self.entry(path) is not None:
                found[name] = False
            elif self.names(path):
                found[name] = True
            else:
                found.pop(name, None)
        return found

    def is_directory(self, path: str) -> bool:
        """Whether something is below ``path``."""
        return bool(self.names(path))

    def clashes(self) -> Iterator[tuple[str, str]]:
        """Pairs of a path that is a file and one below it that would be as well."""
        for path, file in self.changes.items():
            if file is None:
                continue
            if self.is_directory(path):
                yield path, min(self.below(path).keys() - {path})
            parts = path.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                if parent not in self.changes and self.entry(parent) is not None:
                    yield parent, path

    def _differs(self, path: str) -> bool:
        return self.entry(path) != self.repository.entry(self.commit, path)

    def _touch(self, path: str) -> None:
        while path:
            directory, _, name = path.rpartition("/")
            names = self._touched.setdefault(directory, set())
            if name in names:
                return
            names.add(name)
            path = directory

    def _set_below(self, path: str) -> Iterator[str]:
        """Every path at or below ``path`` that was set."""
        if path in self._files:
            yield path
        for name in self._touched.get(path, ()):
            yield from self._set_below(f"{path}/{name}")


def blob_id(content: bytes) -> ObjectId:
    """The id that git gives a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return ObjectId(digest.hexdigest())
