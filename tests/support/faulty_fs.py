"""A file system whose N-th mutating operation fails or tears.

Counted, from 1: create, pwrite, truncate, datasync, make_dirs (when it makes one),
sync_dir, sync_all, rename, symlink, unlink. Opening and reading are not counted. Run once
without ``fail_at`` to learn how many ``operations`` there are, then once for each N.
"""

import errno
import os
import threading
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from jlogd.runtime.fs import DIR_MODE, FILE_MODE, Buffer, File, FileSystem


class FaultyFile(File):
    """A ``File`` that asks its file system before each mutating operation."""

    fs: "FaultyFs"

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> int:
        """Write all, or fail having written the first part (``torn``)."""
        if self.fs.count("pwrite", self.path):
            joined = b"".join(bytes(buffer) for buffer in buffers)
            super().pwrite([joined[: int(len(joined) * self.fs.torn)]], position)
            raise self.fs.failure(self.path)
        return super().pwrite(buffers, position)

    def truncate(self, length: int) -> None:
        """Fail or truncate."""
        self.fs.check("truncate", self.path)
        super().truncate(length)

    def set_mode(self, mode: int) -> None:
        """Fail or set it."""
        self.fs.check("set_mode", self.path)
        super().set_mode(mode)

    def datasync(self) -> None:
        """Fail or sync."""
        self.fs.check("datasync", self.path)
        super().datasync()


class FaultyFs(FileSystem):
    """Fails operation number ``fail_at`` (from 1; 0 = none) with ``error``; thread-safe.

    ``torn``: the share (0.0-1.0) of a failing ``pwrite`` that reaches the file.
    ``sticky``: every later operation fails as well, as on a disk that is gone.
    ``only``: fail (and count) these operations only, such as ``{"datasync"}``.
    ``log``: every counted operation as ``"verb name"``.
    """

    file_class = FaultyFile

    def __init__(
        self,
        fail_at: int = 0,
        *,
        error: int = errno.ENOSPC,
        torn: float = 0.0,
        sticky: bool = False,
        only: frozenset[str] | set[str] | None = None,
    ) -> None:
        """See the class."""
        self.fail_at = fail_at
        self.error = error
        self.torn = torn
        self.sticky = sticky
        self.only = only
        self.operations = 0
        self.log: list[str] = []
        self._lock = threading.Lock()  # guards operations and log

    def count(self, verb: str, path: Path) -> bool:
        """Count one operation; True when it must fail."""
        if self.only is not None and verb not in self.only:
            return False
        with self._lock:
            self.operations += 1
            self.log.append(f"{verb} {path.name}")
            number = self.operations
        return self.fail_at > 0 and (number == self.fail_at or (self.sticky and number > self.fail_at))

    def failure(self, path: Path) -> OSError:
        """The error to raise."""
        return OSError(self.error, os.strerror(self.error), str(path))

    def check(self, verb: str, path: Path) -> None:
        """Count one operation and fail when it is its turn."""
        if self.count(verb, path):
            raise self.failure(path)

    def heal(self) -> None:
        """No operation fails any more."""
        self.fail_at = 0

    def _own(self, file: File) -> File:
        assert isinstance(file, FaultyFile)
        file.fs = self
        return file

    def open_read(self, path: Path) -> File:
        """Not counted."""
        return self._own(super().open_read(path))

    def open_write(self, path: Path) -> File:
        """Not counted; writes to the file are."""
        return self._own(super().open_write(path))

    def create(self, path: Path, mode: int = FILE_MODE) -> File:
        """Fail or create."""
        self.check("create", path)
        return self._own(super().create(path, mode))

    def make_dirs(self, path: Path) -> None:
        """Fail or create, one count for each missing directory."""
        if path.is_dir():
            return
        self.make_dirs(path.parent)
        self.check("make_dirs", path)
        if not path.is_dir():
            os.mkdir(path, DIR_MODE)
        self.sync_dir(path.parent)

    def make_dir(self, path: str | Path, mode: int = DIR_MODE) -> None:
        """Fail or create."""
        self.check("make_dir", Path(path))
        super().make_dir(path, mode)

    def sync_dir(self, path: Path) -> None:
        """Fail or sync."""
        self.check("sync_dir", path)
        super().sync_dir(path)

    def sync_all(self, path: Path) -> None:
        """Fail or sync."""
        self.check("sync_all", path)
        super().sync_all(path)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        """Fail before renaming, or rename; the directory's sync is counted on its own."""
        self.check("rename", target)
        super().rename(source, target, sync=sync)

    def symlink(self, target: str | bytes, path: Path) -> None:
        """Fail or make it."""
        self.check("symlink", path)
        super().symlink(target, path)

    def link(self, source: str | Path, target: str | Path) -> None:
        """Fail or link."""
        self.check("link", Path(target))
        super().link(source, target)

    def link_all(self, source: str, target: str, names: Iterable[str], tolerated: Container[int]) -> list[str]:
        """One by one."""
        return link_one_by_one(self, source, target, names, tolerated)

    def remove_tree(self, path: Path) -> None:
        """Fail having removed a part, or remove it."""
        if self.count("remove_tree", path):
            for child in sorted(path.rglob("*"))[::2]:
                if child.is_symlink() or not child.is_dir():
                    child.unlink()
            raise self.failure(path)
        super().remove_tree(path)

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        """Fail or remove."""
        self.check("unlink", path)
        super().unlink(path, missing_ok=missing_ok)


def link_one_by_one(
    fs: FileSystem, source: str, target: str, names: Iterable[str], tolerated: Container[int]
) -> list[str]:
    """``link_all`` by ``link``, for a file system that looks at each."""
    failed = []
    for name in names:
        try:
            fs.link(f"{source}/{name}", f"{target}/{name}")
        except OSError as error:
            if error.errno not in tolerated:
                raise
            failed.append(name)
    return failed
