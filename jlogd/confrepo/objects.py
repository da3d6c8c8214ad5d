"""Git objects on disk: durable when ``add`` returns, verified whenever they are read.

Invariants:

* a name in the store stands for whole bytes that are on the disk (temporary file, sync, rename, directory sync);
* an object that is read hashes to its id, else DamageError;
* readers may be in any thread, also while the owner adds, packs or drops.

Left to others: which objects are needed (``scope``), where histories begin (``refs``), what trees mean (``trees``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from dulwich.objects import ShaFile

from jlogd.confrepo import model as M  # noqa: N812
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import OS, FileSystem


class MissingError(DamageError):
    """An object that should be here is not."""


class ObjectStore:
    """The ``objects`` directory of a git repository. One owner thread for changes; reads from any thread."""

    path: Path

    @classmethod
    def open(cls, path: Path, *, fs: FileSystem = OS) -> Self:
        """Open ``path``; it is created, durably, when missing. StorageError."""
        raise NotImplementedError

    def add(self, objects: Iterable[ShaFile]) -> None:
        """Store what is not here yet; durable on return. StorageError."""
        raise NotImplementedError

    def receive(self, pieces: Iterable[bytes], *, bytes_max: int) -> list[str]:
        """Store a git pack; durable on return; the ids in it. DamageError for bad bytes, StorageError."""
        raise NotImplementedError

    def read_pack(self, pieces: Iterable[bytes], *, bytes_max: int) -> list[ShaFile]:
        """The objects of a git pack, stored nowhere. ``bytes_max`` bounds the pack and what it inflates to. DamageError."""
        raise NotImplementedError

    def write_pack(self, ids: Sequence[str]) -> Iterator[bytes]:
        """A git pack of these objects, in pieces of at most 1 MiB. MissingError."""
        raise NotImplementedError

    def get(self, object_id: str) -> ShaFile:
        """The object as dulwich sees it. MissingError, DamageError."""
        raise NotImplementedError

    def __contains__(self, object_id: str) -> bool:
        """Whether the object is here."""
        raise NotImplementedError

    def blob(self, object_id: str) -> bytes:
        """Content of a file."""
        raise NotImplementedError

    def commit(self, commit_id: str) -> M.Commit:
        """A revision; ``revision`` is 0 for a commit of a plain git history (``Repository.commit`` numbers it)."""
        raise NotImplementedError

    def signed_content(self, commit_id: str) -> bytes:
        """What the commit's signature covers: its content without the signature."""
        raise NotImplementedError

    def tree(self, tree_id: str) -> Mapping[str, M.Entry]:
        """Name → entry, directories (mode 0o40000) included. Cached; do not change it."""
        raise NotImplementedError

    def maintain(self) -> None:
        """Pack loose objects, and packs, once there are many. Safe to be killed at any point."""
        raise NotImplementedError

    def keep_only(self, ids: Iterable[str]) -> None:
        """Drop every object that is not in ``ids`` (a pack goes, or is written anew, once half of it is not needed)."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of files."""
        raise NotImplementedError
