"""Refs: names of commits. One file each, or a line of ``packed-refs`` (somebody ran ``git gc``).

A ref changes as git changes it: the new value in ``NAME.lock``, synced, renamed over ``NAME``, the directory synced.
So it is the old or the new value, never a part of one, and git's own tools keep off meanwhile.
"""

import re
from pathlib import Path
from typing import Final

from jlogd.confrepo.model import CommitId, is_commit_id
from jlogd.runtime.errors import DamageError, RefusedError, StorageError
from jlogd.runtime.fs import FileSystem

_PART: Final = r"(?!\.)(?!.*\.\.)[A-Za-z0-9._-]{1,200}(?<!\.)(?<!\.lock)"
_NAME: Final = re.compile(rf"refs(/{_PART}){{2,6}}")
_LOCK: Final = ".lock"
_PACKED: Final = "packed-refs"
_DEPTH_MAX: Final = 8
_REF_BYTES_MAX: Final = 4096
_PACKED_BYTES_MAX: Final = 64 << 20


def check_name(name: str) -> None:
    """RefusedError for a name that git would not take, or that leaves its directory."""
    if not _NAME.fullmatch(name):
        raise RefusedError(f"{name!r} cannot be the name of a ref")


class Refs:
    """The refs below one repository. One owner. Errors are ``OSError`` but for bad bytes and locks."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        """``path`` is the repository."""
        self._path = path
        self._fs = fs
        self._left: set[Path] = set()  # our own locks that could not be removed
        self._unsynced: set[Path] = set()  # directories with new directories that may not be durable

    def sweep(self) -> None:
        """Remove locks that a killed process left. Only for the owner's start."""
        self._fs.unlink(self._path / (_PACKED + _LOCK), missing_ok=True)
        self._sweep(self._path / "refs", 0)

    def _sweep(self, directory: Path, depth: int) -> None:
        for name in self._fs.list_dir(directory):
            path = directory / name
            if path.is_dir() and depth < _DEPTH_MAX:
                self._sweep(path, depth + 1)
            elif name.endswith(_LOCK):
                self._fs.unlink(path, missing_ok=True)

    def read(self) -> dict[str, CommitId]:
        """Every ref. DamageError."""
        found = self._read_packed()
        self._collect("refs", found, 0)
        return found

    def _collect(self, name: str, found: dict[str, CommitId], depth: int) -> None:
        for part in self._fs.list_dir(self._path / name):
            path = self._path / name / part
            if path.is_dir() and depth < _DEPTH_MAX:
                self._collect(f"{name}/{part}", found, depth + 1)
            elif not part.endswith(_LOCK):
                found[f"{name}/{part}"] = self._read_loose(path)

    def _read_loose(self, path: Path) -> CommitId:
        with self._fs.open_read(path) as file:
            text = file.pread(_REF_BYTES_MAX, 0).decode(errors="replace").rstrip("\n")
        if not is_commit_id(text):
            raise DamageError(f"{path}: not a ref: it should hold the id of a commit")
        return CommitId(text)

    def _read_packed(self) -> dict[str, CommitId]:
        path = self._path / _PACKED
        try:
            with self._fs.open_read(path) as file:
                text = file.pread(_PACKED_BYTES_MAX, 0).decode(errors="replace")
        except FileNotFoundError:
            return {}
        found: dict[str, CommitId] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith(("#", "^")):  # the header; what a tag stands for
                continue
            commit_id, _, name = line.partition(" ")
            if not is_commit_id(commit_id) or not name:
                raise DamageError(f"{path}:{number}: not a line of packed refs")
            found[name] = CommitId(commit_id)
        return found

    def write(self, name: str, commit_id: CommitId) -> None:
        """Point ``name`` to a commit; durable on return."""
        path = self._path / name
        if not path.parent.exists():
            self._unsynced.update(above for above in path.parents if above.is_relative_to(self._path))
            self._fs.make_dirs(path.parent)
        for directory in sorted(self._unsynced):
            if directory.is_dir():
                self._fs.sync_dir(directory)
            self._unsynced.discard(directory)
        self._replace(path, commit_id.encode() + b"\n")

    def delete(self, name: str) -> None:
        """Forget ``name``; durable on return. The packed value goes first: it would show again."""
        packed = self._read_packed()
        if packed.pop(name, None) is not None:
            lines = [f"{commit_id} {ref}\n" for ref, commit_id in sorted(packed.items())]
            header = "# pack-refs with: sorted \n"
            self._replace(self._path / _PACKED, (header + "".join(lines)).encode())
        path = self._path / name
        if path.parent.is_dir():
            self._fs.unlink(path, missing_ok=True)
            self._fs.sync_dir(path.parent)

    def _replace(self, path: Path, content: bytes) -> None:
        lock = path.with_name(path.name + _LOCK)
        if lock in self._left:
            self._fs.unlink(lock, missing_ok=True)
            self._left.discard(lock)
        try:
            file = self._fs.create(lock)
        except FileExistsError as error:
            raise StorageError(f"{lock}: another program changes the ref: end it, or remove the file") from error
        try:
            with file:
                file.pwrite([content], 0)
                file.datasync()
            self._fs.rename(lock, path)
        except OSError:
            self._left.add(lock)
            self._discard(lock)
            raise

    def _discard(self, lock: Path) -> None:
        try:
            self._fs.unlink(lock, missing_ok=True)
            self._left.discard(lock)
        except OSError:  # the disk fails; ``sweep`` comes by at the next start
            return
