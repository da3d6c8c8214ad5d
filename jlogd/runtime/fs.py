"""The only place that opens for writing, syncs, renames and unlinks.

Everything durable goes through a ``FileSystem``. Tests subclass it to fail or
tear the N-th operation, and to forget what was never synced (a power cut).
What POSIX does and does not promise, and what we rely on:

* bytes are durable after ``datasync`` of their file returned, never before;
* a name is durable after ``sync_dir`` of its directory returned;
* ``replace`` is atomic: after a crash the old or the new content, whole;
* a failed ``datasync`` leaves the file's pages in an unknown state: the caller
  writes the same bytes elsewhere, it never calls ``datasync`` again on them.

Thread-safe as far as the kernel is: a ``File`` has one owner for writes.
"""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

_libc = ctypes.CDLL(None, use_errno=True)

FILE_MODE = 0o640  # logs are for the owner and its group (adm), never for the world
DIR_MODE = 0o750


class File:
    """One open file: positioned reads and writes, explicit syncs. Errors are ``OSError``."""

    def __init__(self, fd: int, path: Path) -> None:
        """Own ``fd``; ``path`` is for messages."""
        self.fd = fd
        self.path = path

    def pread(self, length: int, position: int) -> bytes:
        """Up to ``length`` bytes from ``position``; fewer only at the end of the file."""
        first = os.pread(self.fd, length, position)
        if len(first) == length or not first:
            return first
        pieces = [first]
        got = len(first)
        while got < length and (piece := os.pread(self.fd, length - got, position + got)):
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> int:
        """Write all ``buffers`` one after the other at ``position``; returns the bytes written."""
        views = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
        total = sum(view.nbytes for view in views)
        done = 0
        while done < total:
            count = os.pwritev(self.fd, views[:512], position + done)  # 512 < IOV_MAX (1024)
            done += count
            while views and count >= views[0].nbytes:
                count -= views.pop(0).nbytes
            if count:
                views[0] = views[0][count:]
        return total

    def size(self) -> int:
        """Length in bytes."""
        return os.fstat(self.fd).st_size

    def truncate(self, length: int) -> None:
        """Cut or extend to ``length`` bytes."""
        os.ftruncate(self.fd, length)

    def set_mode(self, mode: int) -> None:
        """Permissions, whatever the umask. Not synced: a power cut may bring the old ones back."""
        os.fchmod(self.fd, mode)

    def datasync(self) -> None:
        """Bytes and length are on the disk when this returns."""
        os.fdatasync(self.fd)

    def forget_cache(self) -> None:
        """Synced bytes need not stay in the page cache. Advice only: never fails."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close once; further calls do nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the file."""
        self.close()


class FileSystem:
    """The machine's file system. Subclass to inject faults."""

    file_class = File

    def open_read(self, path: Path) -> File:
        """Open an existing file for reading."""
        return self.file_class(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)

    def open_write(self, path: Path) -> File:
        """Open an existing file for reading and writing."""
        return self.file_class(os.open(path, os.O_RDWR | os.O_CLOEXEC), path)

    def create(self, path: Path, mode: int = FILE_MODE) -> File:
        """Create a new file; ``FileExistsError`` if the name is taken."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return self.file_class(os.open(path, flags, mode), path)

    def make_dirs(self, path: Path) -> None:
        """Create ``path`` and its missing parents; every new name is durable afterwards."""
        if path.is_dir():
            return
        self.make_dirs(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIR_MODE)
        self.sync_dir(path.parent)

    def make_dir(self, path: str | Path, mode: int = DIR_MODE) -> None:
        """One directory; ``FileExistsError`` if the name is taken. Not synced; the umask counts."""
        os.mkdir(path, mode)

    def sync_dir(self, path: Path) -> None:
        """The names in ``path`` are durable when this returns."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self, path: Path) -> None:
        """Everything on the file system that holds ``path`` is durable when this returns (syncfs(2))."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(path))
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        """Rename inside one directory, durably unless ``sync`` is off: then the caller syncs the directory itself."""
        os.rename(source, target)
        if sync:
            self.sync_dir(target.parent)

    def symlink(self, target: str | bytes, path: Path) -> None:
        """Make ``path`` a symlink; ``FileExistsError`` if the name is taken. Not synced."""
        os.symlink(target, os.fsencode(path) if isinstance(target, bytes) else path)

    def link(self, source: str | Path, target: str | Path) -> None:
        """A second name for the same file (a symlink itself, not what it points to). Not synced."""
        os.link(source, target, follow_symlinks=False)

    def link_all(self, source: str, target: str, names: Iterable[str], tolerated: Container[int]) -> list[str]:
        """``link`` for names of the directory ``source`` into the directory ``target``, paths looked up once.

        Those are returned that fail with one of the ``tolerated`` errors. Not synced.
        """
        failed = []
        try:
            source_fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in tolerated:
                raise
            return list(names)
        try:
            target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name in names:
                    try:
                        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
                    except OSError as error:
                        if error.errno not in tolerated:
                            raise
                        failed.append(name)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)
        return failed

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with everything below it. Not synced: coming back, whole or in part, must be harmless.

        Symlinks are removed, never followed.
        """
        shutil.rmtree(path)

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        """Remove a name. Not synced: coming back after a power cut must be harmless."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def list_dir(self, path: Path) -> list[str]:
        """The names in ``path``, sorted; none when it does not exist."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def replace_bytes(self, path: Path, content: bytes, mode: int = FILE_MODE, *, sync: bool = True) -> None:
        """Put ``content`` at ``path`` atomically and durably (write beside, sync, rename, sync the directory).

        Without ``sync`` the caller syncs the directory: until then a crash leaves the old or the new content.
        """
        beside = path.with_name(f".{path.name}.new")
        self.unlink(beside, missing_ok=True)
        with self.create(beside, mode) as file:
            file.pwrite([content], 0)
            file.datasync()
        self.rename(beside, path, sync=sync)


OS = FileSystem()


@contextlib.contextmanager
def closing_on_error(file: File) -> Iterator[File]:
    """Close ``file`` only when the block fails; the block takes over ownership otherwise."""
    try:
        yield file
    except BaseException:
        file.close()
        raise
