"""A file system that remembers what was synced, so that a power cut can be played: see ``power_cut``."""

import base64
import contextlib
import itertools
import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from jlogd.runtime.fs import DIR_MODE, FILE_MODE, Buffer, File, FileSystem
from tests.support import power_cut
from tests.support.faulty_fs import link_one_by_one
from tests.support.power_cut import EventLog, inode_of


class PowerCutFile(File):
    """A ``File`` that notes each change before it is made and each sync after it."""

    fs: "PowerCutFs"

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> int:
        """Note what is overwritten, then write."""
        length = sum(memoryview(buffer).nbytes for buffer in buffers)
        self._note("write", position, length, position + length)
        return super().pwrite(buffers, position)

    def truncate(self, length: int) -> None:
        """Note what is cut off, then truncate."""
        self._note("truncate", length, 0, self.size())
        super().truncate(length)

    def datasync(self) -> None:
        """Sync, then note it."""
        before = self.fs.log.count
        super().datasync()
        self.fs.log.add(op="datasync", inode=inode_of(self.fd), before=before)

    def _note(self, op: str, position: int, length: int, last: int) -> None:
        size = self.size()
        old = os.pread(self.fd, max(0, min(last, size) - position), position)
        encoded = base64.b64encode(old).decode()
        self.fs.log.add(op=op, inode=inode_of(self.fd), position=position, length=length, size=size, old=encoded)


class PowerCutFs(FileSystem):
    """The real file system, with notes in ``side`` (on the same file system, owned by one process at a time).

    ``cut(seed)`` plays a power cut once nobody uses the files any more; afterwards make a new ``PowerCutFs``.
    """

    file_class = PowerCutFile

    def __init__(self, side: Path) -> None:
        """Go on with the notes in ``side``."""
        self.side = side
        self.log = EventLog(side)
        self._numbers = itertools.count(self.log.count)
        self._kept: list[tuple[int, str, Path]] = []  # event number, directory, what may be dropped once that is synced

    def cut(self, seed: int) -> list[str]:
        """See ``power_cut.cut``."""
        self.log.close()
        return power_cut.cut(self.side, seed)

    def _own(self, file: File) -> File:
        assert isinstance(file, PowerCutFile)
        file.fs = self
        return file

    def open_read(self, path: Path) -> File:
        """Open."""
        return self._own(super().open_read(path))

    def open_write(self, path: Path) -> File:
        """Open."""
        return self._own(super().open_write(path))

    def create(self, path: Path, mode: int = FILE_MODE) -> File:
        """Note the name, then create."""
        if not path.exists():
            self.log.add(op="create", path=os.path.abspath(path))
        file = self._own(super().create(path, mode))
        self.log.add(op="created", inode=inode_of(file.fd))
        return file

    def make_dirs(self, path: Path) -> None:
        """Note each name, then create it."""
        if path.is_dir():
            return
        self.make_dirs(path.parent)
        self.log.add(op="mkdir", path=os.path.abspath(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIR_MODE)
        self.sync_dir(path.parent)

    def make_dir(self, path: str | Path, mode: int = DIR_MODE) -> None:
        """Note the name, then create it."""
        if not os.path.lexists(path):
            self.log.add(op="mkdir", path=os.path.abspath(path))
        super().make_dir(path, mode)

    def link(self, source: str | Path, target: str | Path) -> None:
        """Note the name, then link."""
        if not os.path.lexists(target):
            self.log.add(op="create", path=os.path.abspath(target))
        super().link(source, target)

    def link_all(self, source: str, target: str, names: Iterable[str], tolerated: Container[int]) -> list[str]:
        """One by one."""
        return link_one_by_one(self, source, target, names, tolerated)

    def symlink(self, target: str | bytes, path: Path) -> None:
        """Note the name, then make it."""
        if not os.path.lexists(path):
            self.log.add(op="create", path=os.path.abspath(path))
        super().symlink(target, path)

    def sync_dir(self, path: Path) -> None:
        """Sync, then note it."""
        before = self.log.count
        super().sync_dir(path)
        self.log.add(op="sync_dir", path=os.path.abspath(path), before=before)
        self._drop(before, os.path.abspath(path))

    def sync_all(self, path: Path) -> None:
        """Sync, then note it."""
        before = self.log.count
        super().sync_all(path)
        self.log.add(op="sync_all", before=before)
        self._drop(before, None)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        """Keep what is replaced, note, rename, sync."""
        self._note_loss("rename", target, inode_of(source), source)
        super().rename(source, target, sync=sync)

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        """Keep what is removed, note, remove."""
        if os.path.lexists(path):
            self._note_loss("unlink", path, inode_of(path), None)
        super().unlink(path, missing_ok=missing_ok)

    def _note_loss(self, op: str, path: Path, inode: str, source: Path | None) -> None:
        event = {"op": op, "path": os.path.abspath(path), "inode": inode}
        if source is not None:
            event["source"] = os.path.abspath(source)
        kept = None
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            kept = self.side / f"kept-{next(self._numbers)}"
            kept.unlink(missing_ok=True)
            os.link(path, kept, follow_symlinks=False)
            event["kept"] = str(kept)
        number = self.log.add(**event)
        if kept is not None:
            self._kept.append((number, os.path.dirname(event["path"]), kept))

    def _drop(self, before: int, directory: str | None) -> None:
        for item in self._kept[:]:
            if item[0] < before and directory in (None, item[1]):
                self._kept.remove(item)
                item[2].unlink(missing_ok=True)


class Killed(BaseException):
    """Not an error: nothing runs after a kill -9."""


class LastWords(PowerCutFs):
    """Dies at its N-th event, and at each later one (clean-up in the same process would not have happened)."""

    def __init__(self, side: Path, events: int = 1 << 30) -> None:
        """``left``: events before it dies."""
        super().__init__(side)
        self.left = events
        add = self.log.add

        def counted(**event: object) -> int:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return add(**event)

        self.log.add = counted  # type: ignore[method-assign]
