"""A bare git repository with linear revisions.

Invariants:

* refs move by compare-and-set, durably, and only to commits whose objects are all on the disk;
* main is a line: each commit's (first) parent is the revision before it; revision N is the N-th from the root;
* one owner thread changes it (``advance``, ``receive``, ``store.add``, ``maintain``); any thread reads.

A plain git history may become main (import): its commits, which carry no number, are numbered by their place on the
line of first parents; what else they merge is kept, and is no revision.
Left to others: who may commit (``access``), what is acceptable (``paths``, ``validate``), merging (``merge``).
"""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from dulwich.objects import ShaFile

from jlogd.confrepo import bundle
from jlogd.confrepo import model as m
from jlogd.confrepo.commits import compose, sealed
from jlogd.confrepo.contents import DIRECTORY
from jlogd.confrepo.line import UNSAVED_MAX, Line
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.refs import Refs, check_name
from jlogd.confrepo.scope import check_present, reachable, scope_objects
from jlogd.confrepo.trees import EMPTY_TREE, Difference, difference, edit, entries_of, find, flatten
from jlogd.runtime.errors import ConflictError, DamageError, RefusedError
from jlogd.runtime.fs import OS, FileSystem

MAIN: Final = "refs/heads/main"
ROLLOUT: Final = "refs/jlogd/rollout"
CONFIRMED: Final = "refs/jlogd/confirmed"
SIDE: Final = "refs/heads/side/"

# Nothing is pushed into it by git: refs have one owner, who keeps them in memory.
_CONFIG: Final = b"""\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[receive]
\thideRefs = refs/
"""
_LINE_FILE: Final = "jlogd-line"
_REV: Final = re.compile(r"r(?P<number>\d{1,9})|HEAD(~(?P<back>\d{1,9}))?|(?P<prefix>[0-9a-f]{4,40})")


@dataclass(frozen=True, slots=True)
class Draft:
    """A revision that is not stored yet: add ``objects`` and the sealed ``content``, then advance the ref."""

    objects: tuple[ShaFile, ...]  # blobs and trees along the changed paths; ``add`` skips what is there
    content: bytes  # of the commit object, unsigned
    tree: m.ObjectId
    parent: m.CommitId | None
    revision: m.Revision
    empty: bool  # the tree is the parent's


class Repository:
    """See the module."""

    def __init__(self, path: Path, store: ObjectStore, fs: FileSystem) -> None:
        """Use ``open``."""
        self.path = path
        self.store = store
        self._fs = fs
        self._on_disk = Refs(path, fs)
        self._advancing = threading.Lock()  # one advance at a time, whoever the owner is
        self._refs: Mapping[str, m.CommitId] = {}  # replaced, never changed
        self._line = Line()  # of MAIN in _refs

    @classmethod
    def open(cls, path: Path, *, fs: FileSystem = OS) -> Self:
        """Open the repository; it is created, durably, when missing. StorageError, DamageError."""
        repo = cls(path, ObjectStore.open(path / "objects", fs=fs), fs)
        with repo.store.storing():
            repo._create()
            repo._on_disk.sweep()
            repo._refs = repo._on_disk.read()
            repo._check_main()
            line = Line.load(path / _LINE_FILE, fs)
        repo._line = line.grown(*line.beyond(repo.store, repo._refs.get(MAIN)))
        return repo

    def _check_main(self) -> None:
        """The head is there; a history that was confirmed, and has none any more, is no new repository."""
        main, confirmed = self._refs.get(MAIN), self._refs.get(CONFIRMED)
        if main is not None and main not in self.store:
            raise DamageError(f"{self.path / MAIN} names commit {main}, which is not in {self.path / 'objects'}")
        if confirmed is not None and main is None:
            raise DamageError(
                f"{self.path / MAIN} is gone, {CONFIRMED} is there: 'git update-ref {MAIN} {confirmed}' in "
                f"{self.path} brings back what was confirmed"
            )

    def _create(self) -> None:
        for part in ("refs/heads", "refs/tags"):
            self._fs.make_dirs(self.path / part)
        for name, content in (
            ("config", _CONFIG),
            ("HEAD", b"ref: %b\n" % MAIN.encode()),
        ):  # HEAD makes it a repository
            if not (self.path / name).exists():
                self._fs.replace_bytes(self.path / name, content)

    def close(self) -> None:
        """Let go of memory and files."""
        self._save_line(0)
        self.store.close()

    # ---------------------------------------------------------------- refs and revisions

    def refs(self) -> dict[str, m.CommitId]:
        """Every ref."""
        return dict(self._refs)

    def ref(self, name: str) -> m.CommitId | None:
        """What a ref points to."""
        return self._refs.get(name)

    def head(self) -> m.Commit | None:
        """The newest revision; None while there is none."""
        head = self._refs.get(MAIN)
        return None if head is None else self.commit(head)

    def root(self) -> m.CommitId | None:
        """Id of revision 1: tells one repository from another."""
        return self._line.at(1)

    def commit(self, commit_id: m.CommitId) -> m.Commit:
        """Any commit that is here, numbered. RefusedError when it is not here, DamageError."""
        if not m.is_commit_id(commit_id) or commit_id not in self.store:
            raise RefusedError(f"no revision {commit_id!r}")
        commit = self.store.commit(commit_id)
        return commit if commit.revision else replace(commit, revision=self._number(commit))

    def _number(self, commit: m.Commit) -> m.Revision:
        """For one of a plain git history: its place on its line of first parents."""
        after, here = 0, commit
        while not here.revision and here.id not in self._line.numbers:
            after += 1
            if here.parent is None:
                return m.Revision(after)
            here = self.store.commit(here.parent)
        return m.Revision((here.revision or self._line.numbers[here.id]) + after)

    def on_main(self, commit_id: m.CommitId) -> bool:
        """Whether it is a revision of the present main line."""
        return commit_id in self._line.numbers

    def at(self, revision: m.Revision) -> m.Commit:
        """Revision N of main. RefusedError."""
        commit_id = self._line.at(revision)
        if commit_id is None:
            raise RefusedError(f"no revision r{revision}: the newest is r{len(self._line.ids)}")
        return self.commit(commit_id)

    def resolve(self, rev: str) -> m.Commit:
        """``rN``, ``HEAD``, ``HEAD~N``, a unique prefix (4 digits or more) of an id; empty = HEAD. RefusedError."""
        found = _REV.fullmatch(rev or "HEAD")
        if found is None:
            raise RefusedError(f"no revision {rev!r}: write rN, HEAD, HEAD~N, or 4 digits or more of an id")
        if found["prefix"]:
            return self._by_prefix(found["prefix"])
        number = int(found["number"]) if found["number"] else len(self._line.ids) - int(found["back"] or 0)
        if not self._line.ids:
            raise RefusedError("no revision yet: the repository is empty")
        if self._line.at(number) is None:
            raise RefusedError(f"no revision {rev}: there are r1 to r{len(self._line.ids)}")
        return self.at(m.Revision(number))

    def _by_prefix(self, prefix: str) -> m.Commit:
        if len(prefix) == 40:
            return self.commit(m.CommitId(prefix))
        known = dict.fromkeys([*self._line.ids, *self._refs.values()])
        matching = [commit_id for commit_id in known if commit_id.startswith(prefix)]
        if len(matching) != 1:
            raise RefusedError(
                f"{prefix} begins the ids of {len(matching)} revisions" if matching else f"no revision {prefix}"
            )
        return self.commit(matching[0])

    def log(self, path: str = "", until: m.CommitId | None = None) -> Iterator[m.Commit]:
        """Revisions, newest first, from ``until`` (HEAD) back; only those that changed ``path``."""
        here = self.head() if until is None else self.commit(until)
        while here is not None:
            parent = None if here.parent is None else self.commit(here.parent)
            if not path or self._found(here, path) != self._found(parent, path):
                yield here
            here = parent

    # ---------------------------------------------------------------- trees

    def _found(self, commit: m.Commit | None, path: str) -> m.Entry | None:
        return None if commit is None else find(self.store, commit.tree, path.rstrip("/"))

    def files(self, commit: m.Commit | None, prefix: str = "") -> dict[str, m.Entry]:
        """Every file, or those below the directory ``prefix``: full path → entry. None: of the empty tree."""
        directory = self._found(commit, prefix)
        if directory is None or directory.mode != DIRECTORY:
            return {}
        below = prefix.rstrip("/")
        return flatten(self.store, directory.id, f"{below}/" if below else "")

    def entry(self, commit: m.Commit | None, path: str) -> m.Entry | None:
        """The file (not a directory) at ``path``."""
        found = self._found(commit, path)
        return None if found is None or found.mode == DIRECTORY else found

    def content(self, entry: m.Entry | m.ObjectId) -> bytes:
        """A file's content. MissingError, DamageError."""
        return self.store.blob(entry.id if isinstance(entry, m.Entry) else entry)

    def file(self, commit: m.Commit | None, path: str) -> m.File | None:
        """The file at ``path`` with its content."""
        entry = self.entry(commit, path)
        return None if entry is None else m.File(self.content(entry), entry.mode)

    def names(self, commit: m.Commit | None, directory: str = "") -> dict[str, bool]:
        """Names in a directory → whether it is a directory; empty when there is none."""
        found = self._found(commit, directory)
        if found is None or found.mode != DIRECTORY:
            return {}
        return {name: entry.mode == DIRECTORY for name, entry in entries_of(self.store, found.id).items()}

    def diff(self, a: m.Commit | None, b: m.Commit | None) -> Iterator[Difference]:
        """Files that differ, in the order of their paths: path, in ``a``, in ``b``."""
        return difference(self.store, a.tree if a else None, b.tree if b else None)

    # ---------------------------------------------------------------- changing: the owner

    def draft(self, parent: m.Commit | None, changes: m.Changes, *, author: str, message: str, time_s: int) -> Draft:
        """The revision after ``parent`` with the changes made; nothing is stored. RefusedError."""
        tree, objects = edit(self.store, parent.tree if parent else None, changes)
        content = compose(tree, parent, author, time_s, message)
        return Draft(
            objects=tuple(objects),
            content=content,
            tree=tree,
            parent=parent.id if parent else None,
            revision=m.Revision(parent.revision + 1 if parent else 1),
            empty=tree == (parent.tree if parent else EMPTY_TREE),
        )

    @staticmethod
    def seal(content: bytes, signature: bytes = b"") -> tuple[m.CommitId, ShaFile]:
        """The commit object, signed when there is a signature, and its id. RefusedError."""
        return sealed(content, signature)

    def advance(self, updates: Mapping[str, tuple[m.CommitId | None, m.CommitId | None]]) -> None:
        """Ref → (expected, new), None = there is none. Durable on return. ConflictError, DamageError, StorageError.

        All are compared before any is changed. They are changed in the given order: a crash or a full disk leaves
        a prefix. Readers here see all or, after an error, those that are on the disk.
        """
        with self._advancing:
            self.store.refresh()
            for name, (expected, new) in updates.items():
                self._check(name, expected, new)
            main = updates[MAIN][1] if MAIN in updates else self._refs.get(MAIN)
            beyond = self._line.beyond(self.store, main)
            after = dict(self._refs)
            try:
                with self.store.storing():
                    for name, (_, new) in updates.items():
                        self._move(after, name, new)
            finally:
                if after.get(MAIN) == main:
                    self._line = self._line.grown(*beyond)
                self._refs = after
        self._save_line(UNSAVED_MAX)

    def _check(self, name: str, expected: m.CommitId | None, new: m.CommitId | None) -> None:
        check_name(name)
        present = self._refs.get(name)
        if present != expected:
            raise ConflictError(f"{name} is {present or 'not there'}, not {expected or 'missing'}: read again")
        if new is not None and new != present:
            if new not in self.store:
                raise DamageError(f"{name} cannot be moved: commit {new} is not here")
            check_present(self.store, new, list(self._refs.values()))

    def _move(self, refs: dict[str, m.CommitId], name: str, new: m.CommitId | None) -> None:
        if new is None:
            self._on_disk.delete(name)
            refs.pop(name, None)
        else:
            self._on_disk.write(name, new)
            refs[name] = new

    def _save_line(self, unsaved_max: int) -> None:
        if len(self._line.ids) - self._line.saved > unsaved_max:
            self._line.save(self.path / _LINE_FILE, self._fs)

    def maintain(self) -> None:
        """See ``ObjectStore.maintain``."""
        self.store.maintain()

    # ---------------------------------------------------------------- between repositories

    def receive(self, pieces: Iterable[bytes], *, bytes_max: int) -> list[str]:
        """Store a pack, durably; the ids in it. DamageError, StorageError."""
        return self.store.receive(pieces, bytes_max=bytes_max)

    def pack(
        self, want: Sequence[m.CommitId], have: Sequence[m.CommitId], scope: m.Scope | None = None
    ) -> Iterator[bytes]:
        """A pack of what ``want`` needs and ``have`` does not bring, pieces of at most 1 MiB. RefusedError."""
        for commit_id in want:
            self.commit(commit_id)
        if scope is None:
            return self.store.write_pack(reachable(self.store, want, have))
        needed = (name for commit_id in want for name in scope_objects(self.store, commit_id, scope, have))
        return self.store.write_pack(list(dict.fromkeys(needed)))

    def bundle(self, rev: str = "") -> Iterator[bytes]:
        """The history up to ``rev`` as a git bundle (v2) of main. RefusedError."""
        commit = self.resolve(rev)
        return bundle.pieces({MAIN: commit.id}, self.pack([commit.id], []))

    def read_bundle(self, pieces: Iterable[bytes], *, bytes_max: int) -> m.CommitId:
        """Store the objects of a bundle, durably; its main (or only) commit. No ref of ours moves. DamageError."""
        refs, needs, pack = bundle.opened(pieces)
        for commit_id in needs:
            if commit_id not in self.store:
                raise RefusedError(f"the bundle continues commit {commit_id}, which is not here: export all of it")
        head = bundle.main_of(refs)
        self.receive(pack, bytes_max=bytes_max)
        if head not in self.store:
            raise DamageError(f"the bundle names commit {head}, and does not bring it")
        return head
