"""Loose objects, ``objects/ab/cdef…``: zlib of type, size, NUL and content, one file each.

A batch is written in four steps, each complete before the next: temporary files, their syncs, renames, syncs of the
directories. So a name never stands for a part of an object. A directory whose sync failed is synced again before the
next batch counts: its names are visible already, and that batch may build on them.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from jlogd.confrepo.model import TREE_BYTES_MAX
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import FileSystem

TEMPORARY: Final = "tmp_obj_jlogd_"  # git and its fsck leave names that begin with tmp_obj_ alone
TYPES: Final[Mapping[bytes, int]] = {b"commit": 1, b"tree": 2, b"blob": 3, b"tag": 4}
TYPE_NAMES: Final = {number: name for name, number in TYPES.items()}
_FAN_OUT: Final = re.compile(r"[0-9a-f]{2}")
_REST: Final = re.compile(r"[0-9a-f]{38}")
_HEADER_MAX: Final = 32  # "commit 536870912\0" and room

Raw = tuple[int, bytes]  # git's number of the type, content


class LooseObjects:
    """The fan-out directories. One owner for changes, any thread reads. Errors are ``OSError`` but for bad bytes."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        """``path`` is the ``objects`` directory."""
        self._path = path
        self._fs = fs
        self._unsynced: set[Path] = set()  # owner only: directories with names that may not be durable

    def sweep(self) -> None:
        """Remove what a killed process left half written."""
        for directory in self._directories():
            for name in self._fs.list_dir(directory):
                if name.startswith(TEMPORARY):
                    self._fs.unlink(directory / name, missing_ok=True)

    def ids(self) -> Iterator[str]:
        """Every loose object."""
        for directory in self._directories():
            for name in self._fs.list_dir(directory):
                if _REST.fullmatch(name):
                    yield directory.name + name

    def __contains__(self, object_id: str) -> bool:
        """Whether the object is loose."""
        return self._file(object_id).exists()

    def read(self, object_id: str) -> Raw | None:
        """Type and content, not hashed; None when it is not here. DamageError."""
        path = self._file(object_id)
        try:
            with self._fs.open_read(path) as file:
                packed = file.pread(file.size(), 0)
        except FileNotFoundError:
            return None
        try:
            return inflate(packed)
        except (zlib.error, ValueError) as error:
            raise DamageError(f"{path}: not a git object: {error}") from error

    def write(self, objects: Iterable[tuple[str, int, bytes]]) -> None:
        """Store id, type, content of each; durable on return."""
        done: list[tuple[Path, Path]] = []
        try:
            for object_id, kind, content in objects:
                target = self._file(object_id)
                if not target.parent.exists():
                    self._unsynced.add(self._path)
                    self._fs.make_dirs(target.parent)
                beside = target.with_name(TEMPORARY + target.name)
                done.append((beside, target))
                self._write_one(beside, kind, content)
            for beside, target in done:
                self._unsynced.add(target.parent)
                self._fs.rename(beside, target, sync=False)
        except BaseException:
            self._discard(beside for beside, _ in done)
            raise
        self.sync()

    def sync(self) -> None:
        """Names that an earlier batch could not make durable are durable on return."""
        for directory in sorted(self._unsynced):
            self._fs.sync_dir(directory)
            self._unsynced.discard(directory)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget objects; one that comes back after a power cut is harmless."""
        for object_id in ids:
            self._fs.unlink(self._file(object_id), missing_ok=True)

    def _write_one(self, beside: Path, kind: int, content: bytes) -> None:
        self._fs.unlink(beside, missing_ok=True)
        packed = zlib.compress(TYPE_NAMES[kind] + b" %d\0" % len(content) + content)
        with self._fs.create(beside) as file:
            file.pwrite([packed], 0)
            file.datasync()

    def _discard(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                self._fs.unlink(path, missing_ok=True)
            except OSError:  # the disk fails; ``sweep`` comes by at the next start
                return

    def _directories(self) -> Iterator[Path]:
        return (self._path / name for name in self._fs.list_dir(self._path) if _FAN_OUT.fullmatch(name))

    def _file(self, object_id: str) -> Path:
        return self._path / object_id[:2] / object_id[2:]


def inflate(packed: bytes) -> Raw:
    """Type and content of a loose object's file. zlib.error, ValueError."""
    machine = zlib.decompressobj()
    begin = machine.decompress(packed, _HEADER_MAX)
    header, nul, rest = begin.partition(b"\0")
    kind, _, size_text = header.partition(b" ")
    if not nul or kind not in TYPES or not size_text.isdigit() or int(size_text) > TREE_BYTES_MAX:
        raise ValueError("no header")
    size = int(size_text)
    content = rest + machine.decompress(machine.unconsumed_tail, max(1, size + 1 - len(rest)))
    if len(content) != size or not machine.eof:
        raise ValueError("its length is not what its header says")
    return TYPES[kind], content
