"""A tree laid out in a directory, for programs to look at. From one tree to the next only what differs is written.

What programs changed in it is noticed, and the whole is laid out anew. Nothing in it is durable: it lies in a directory
for temporary files, made when first needed, and other users cannot look into it.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jlogd.confrepo.model import EXECUTABLE, SYMLINK, Entry, File
from jlogd.runtime.errors import StorageError
from managerd.ecconfigd.candidate import Candidate

Stamp = tuple[int, int, int, int, int]  # mode, size, inode, times of change of content and of the rest


class Checkout:
    """See the module. Owned by one thread at a time."""

    def __init__(self, parent: Path | None = None, *, group: int | None = None) -> None:
        """``parent``: where its directory is made. ``group``: who may read it beside us."""
        self._parent = parent
        self._group = group
        self._root: Path | None = None
        self._laid: dict[str, Entry] = {}
        self._stamps: dict[str, Stamp] = {}

    def lay_out(self, candidate: Candidate) -> Path:
        """The directory that holds the tree as ``candidate`` has it. StorageError."""
        try:
            wanted = candidate.repository.files(candidate.commit)
            for path in candidate.changes:
                entry = candidate.entry(path)
                if entry is not None:
                    wanted[path] = entry
                else:
                    wanted.pop(path, None)
            tree = self._begin()
            if self._laid and dict(_stamps(tree)) != self._stamps:
                self.close()
                tree = self._begin()
            self._update(tree, wanted, candidate)
        except OSError as error:
            self.close()
            raise StorageError(f"the tree cannot be laid out for the checks: {error}") from error
        return tree

    def close(self) -> None:
        """Remove the directory."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._root, self._laid, self._stamps = None, {}, {}

    def _begin(self) -> Path:
        if self._root is None or not self._root.is_dir():
            self._laid, self._stamps = {}, {}
            self._root = Path(tempfile.mkdtemp(prefix="jlogd-check-", dir=self._parent))
            if self._group is not None:
                os.chown(self._root, -1, self._group)
                self._root.chmod(0o750)
        tree = self._root / "tree"
        if not tree.is_dir():
            self._laid, self._stamps = {}, {}
            tree.mkdir()
            tree.chmod(0o755)
        return tree

    def _update(self, tree: Path, wanted: dict[str, Entry], candidate: Candidate) -> None:
        laid, self._laid = self._laid, {}  # a failure in between leaves nothing that counts as laid out
        for path in laid.keys() - wanted.keys():
            (tree / path).unlink()
            self._stamps.pop(path, None)
            _remove_empty(tree, path)
        for path, entry in wanted.items():
            if laid.get(path) != entry:
                file = candidate.file(path)
                assert file is not None
                _write(tree, path, file)
                self._stamps[path] = _stamp((tree / path).lstat())
        self._laid = wanted


def _write(tree: Path, path: str, file: File) -> None:
    place = tree / path
    _make_directories(tree, place.parent)
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    if file.mode == SYMLINK:
        place.symlink_to(os.fsdecode(file.content))
        return
    place.write_bytes(file.content)
    place.chmod(0o755 if file.mode == EXECUTABLE else 0o644)


def _make_directories(tree: Path, directory: Path) -> None:
    """With modes that do not depend on the umask."""
    if directory == tree or directory.is_dir():
        return
    _make_directories(tree, directory.parent)
    directory.mkdir()
    directory.chmod(0o755)


def _remove_empty(tree: Path, path: str) -> None:
    for parent in (tree / path).parents:
        if parent == tree:
            return
        try:
            parent.rmdir()
        except OSError:  # something else is in it
            return


def _stamps(directory: Path, prefix: str = "") -> Iterator[tuple[str, Stamp]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _stamps(Path(entry.path), path + "/")
            else:
                yield path, _stamp(entry.stat(follow_symlinks=False))


def _stamp(found: os.stat_result) -> Stamp:
    return stat.S_IMODE(found.st_mode), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
