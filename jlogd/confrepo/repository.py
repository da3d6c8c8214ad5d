"""A bare git repository with linear revisions.

Invariants:

* refs move by compare-and-set, durably, and only to commits whose objects are all on the disk;
* main is a line: each commit's (first) parent is the revision before it; revision N is the N-th from the root;
* one owner thread changes it (``advance``, ``receive``, ``store.add``, ``maintain``); any thread reads.

Left to others: who may commit (``access``), what is acceptable (``paths``, ``validate``), merging (``merge``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from dulwich.objects import ShaFile

from jlogd.confrepo import model as M  # noqa: N812
from jlogd.confrepo.objects import ObjectStore
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.fs import OS, FileSystem

MAIN: Final = "refs/heads/main"
ROLLOUT: Final = "refs/jlogd/rollout"
CONFIRMED: Final = "refs/jlogd/confirmed"
SIDE: Final = "refs/heads/side/"


@dataclass(frozen=True, slots=True)
class Draft:
    """A revision that is not stored yet: add ``objects`` and the sealed ``content``, then advance the ref."""

    objects: tuple[ShaFile, ...]  # blobs and trees that the store does not have
    content: bytes  # of the commit object, unsigned
    tree: M.ObjectId
    parent: M.CommitId | None
    revision: M.Revision
    empty: bool  # the tree is the parent's


class Repository:
    """See the module."""

    path: Path
    store: ObjectStore

    @classmethod
    def open(cls, path: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> Self:
        """Open the repository; it is created, durably, when missing. StorageError, DamageError."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of files."""
        raise NotImplementedError

    # ---------------------------------------------------------------- refs and revisions

    def refs(self) -> dict[str, M.CommitId]:
        """Every ref."""
        raise NotImplementedError

    def ref(self, name: str) -> M.CommitId | None:
        """What a ref points to."""
        raise NotImplementedError

    def head(self) -> M.Commit | None:
        """The newest revision; None while there is none."""
        raise NotImplementedError

    def root(self) -> M.CommitId | None:
        """Id of revision 1: tells one repository from another."""
        raise NotImplementedError

    def commit(self, commit_id: M.CommitId) -> M.Commit:
        """Any commit that is here, numbered. RefusedError when it is not here."""
        raise NotImplementedError

    def on_main(self, commit_id: M.CommitId) -> bool:
        """Whether it is a revision of the present main line."""
        raise NotImplementedError

    def at(self, revision: M.Revision) -> M.Commit:
        """Revision N of main. RefusedError."""
        raise NotImplementedError

    def resolve(self, rev: str) -> M.Commit:
        """``rN``, ``HEAD``, ``HEAD~N``, a unique prefix (4 digits or more) of an id; empty = HEAD. RefusedError."""
        raise NotImplementedError

    def log(self, path: str = "", until: M.CommitId | None = None) -> Iterator[M.Commit]:
        """Revisions, newest first, from ``until`` (HEAD) back; only those that changed ``path``."""
        raise NotImplementedError

    # ---------------------------------------------------------------- trees

    def files(self, commit: M.Commit | None, prefix: str = "") -> dict[str, M.Entry]:
        """Every file, or those below the directory ``prefix``: full path → entry. None: of the empty tree."""
        raise NotImplementedError

    def entry(self, commit: M.Commit | None, path: str) -> M.Entry | None:
        """The file (not a directory) at ``path``."""
        raise NotImplementedError

    def content(self, entry: M.Entry | M.ObjectId) -> bytes:
        """A file's content."""
        raise NotImplementedError

    def file(self, commit: M.Commit | None, path: str) -> M.File | None:
        """The file at ``path`` with its content."""
        raise NotImplementedError

    def names(self, commit: M.Commit | None, directory: str = "") -> dict[str, bool]:
        """Names in a directory → whether it is a directory; empty when there is none."""
        raise NotImplementedError

    def diff(self, a: M.Commit | None, b: M.Commit | None) -> Iterator[tuple[str, M.Entry | None, M.Entry | None]]:
        """Files that differ, in the order of their paths: path, in ``a``, in ``b``."""
        raise NotImplementedError

    # ---------------------------------------------------------------- changing

    def draft(self, parent: M.Commit | None, changes: M.Changes, *, author: str, message: str, time_s: int) -> Draft:
        """The revision after ``parent`` with the changes made; nothing is stored. RefusedError."""
        raise NotImplementedError

    @staticmethod
    def seal(content: bytes, signature: bytes = b"") -> tuple[M.CommitId, ShaFile]:
        """The commit object, signed when there is a signature, and its id. RefusedError."""
        raise NotImplementedError

    def advance(self, updates: Mapping[str, tuple[M.CommitId | None, M.CommitId | None]]) -> None:
        """Ref → (expected, new), None = there is none. Durable on return. ConflictError, DamageError, StorageError.

        All are compared before any is changed. They are changed in the given order: a crash leaves a prefix.
        """
        raise NotImplementedError

    def maintain(self) -> None:
        """See ``ObjectStore.maintain``."""
        raise NotImplementedError

    # ---------------------------------------------------------------- between repositories

    def receive(self, pieces: Iterable[bytes], *, bytes_max: int) -> list[str]:
        """Store a pack, durably; the ids in it. DamageError, StorageError."""
        raise NotImplementedError

    def pack(
        self, want: Sequence[M.CommitId], have: Sequence[M.CommitId], scope: M.Scope | None = None
    ) -> Iterator[bytes]:
        """A pack of what ``want`` needs and ``have`` does not bring, pieces of at most 1 MiB. RefusedError."""
        raise NotImplementedError

    def bundle(self, rev: str = "") -> Iterator[bytes]:
        """The history up to ``rev`` as a git bundle (v2) of main."""
        raise NotImplementedError

    def read_bundle(self, pieces: Iterable[bytes], *, bytes_max: int) -> M.CommitId:
        """Store the objects of a bundle, durably; its main (or only) commit. No ref of ours moves. DamageError."""
        raise NotImplementedError
