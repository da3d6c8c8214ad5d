"""Three small files beside the segments: the lock, the committed mark, and each segment's index.

* ``lock``: flock held by the writer; its text names the holder for messages.
* ``committed``: journal id, visible end and synced end, written after each commit and never synced
  itself. Readers in other processes stop at the visible end while a writer lives; records below the
  synced end were on the disk once, which tells damage from a torn tail.
* ``<segment>.idx``: (offset, position, time) about every 256 KiB of a sealed segment, checksummed
  and rebuildable: losing it costs a longer walk, nothing else.
"""

import contextlib
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

import portalocker

from jlogd.journal.frame import crc32c
from jlogd.runtime.errors import LockedError
from jlogd.runtime.fs import FILE_MODE, File, FileSystem

_COMMITTED = struct.Struct("<8s16sQQI")
_COMMITTED_MAGIC = b"JLC1\0\0\0\0"
_PROBE_S = 0.5  # a reader's probe holds the lock for microseconds: a writer tries again for this long

_INDEX_HEAD = struct.Struct("<4sI")
_INDEX_ENTRY = struct.Struct("<QQq")
_INDEX_MAGIC = b"JLX1"
INDEX_DISTANCE = 256 << 10  # bytes of a segment between two entries


class IndexEntry(NamedTuple):
    """A frame begins at ``position`` with ``offset``; everything before it was read before ``time_ns``."""

    offset: int
    position: int
    time_ns: int


class WriterLock:
    """The flock of the one writer. Freed by the kernel when the process dies."""

    def __init__(self, path: Path) -> None:
        """Take the lock or raise LockedError naming the holder."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        deadline = time.monotonic() + _PROBE_S
        while True:
            try:
                portalocker.lock(self._fd, portalocker.LOCK_EX | portalocker.LOCK_NB)
            except portalocker.LockException as error:
                if time.monotonic() < deadline and not _holder(self._fd):
                    time.sleep(0.01)  # held without a name: a reader's probe, or a writer about to sign
                    continue
                holder = _holder(self._fd) or "another process"
                os.close(self._fd)
                raise LockedError(f"{path.parent} is in use by {holder}") from error
            break
        text = f"pid {os.getpid()}\n".encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self) -> None:
        """Free the lock; further calls do nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.ftruncate(fd, 0)
            os.close(fd)


def _holder(fd: int) -> str:
    text = os.pread(fd, 100, 0).decode(errors="replace").strip()
    pid = text.removeprefix("pid ")
    return text if pid.isdigit() and Path(f"/proc/{pid}").exists() else ""


def is_locked(path: Path) -> bool:
    """Whether a writer holds the lock now (seen from any process with read permission)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        portalocker.lock(fd, portalocker.LOCK_SH | portalocker.LOCK_NB)
    except portalocker.LockException:
        return True
    finally:
        os.close(fd)
    return False


class Committed(NamedTuple):
    """The content of the ``committed`` file."""

    journal_id: bytes
    end: int  # visible
    synced: int  # everything below was synced


class CommittedMark:
    """The writer's handle of the ``committed`` file."""

    def __init__(self, fs: FileSystem, path: Path, journal_id: bytes) -> None:
        """Create the file when it is missing."""
        self._id = journal_id
        try:
            self._file = fs.open_write(path)
        except FileNotFoundError:
            self._file = fs.create(path)

    def write(self, end: int, synced: int) -> None:
        """Publish both ends. Best effort: a reader falls back to walking the segment."""
        body = _COMMITTED.pack(_COMMITTED_MAGIC, self._id, end, synced, 0)[:-4]
        with contextlib.suppress(OSError):
            self._file.pwrite([body + struct.pack("<I", crc32c(body))], 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_committed(fs: FileSystem, path: Path) -> Committed | None:
    """The mark, when it is there and sound."""
    try:
        with fs.open_read(path) as file:
            content = file.pread(_COMMITTED.size, 0)
    except OSError:
        return None
    if len(content) < _COMMITTED.size:
        return None
    magic, journal_id, end, synced, crc = _COMMITTED.unpack(content)
    if magic != _COMMITTED_MAGIC or crc32c(content[:-4]) != crc:
        return None
    return Committed(journal_id, end, synced)


def write_index(fs: FileSystem, path: Path, entries: list[IndexEntry]) -> None:
    """Store the index of a sealed segment. Best effort: it can be rebuilt by walking."""
    content = _INDEX_HEAD.pack(_INDEX_MAGIC, len(entries)) + b"".join(_INDEX_ENTRY.pack(*entry) for entry in entries)
    with contextlib.suppress(OSError):
        fs.unlink(path, missing_ok=True)
        with fs.create(path) as file:
            file.pwrite([content, struct.pack("<I", crc32c(content))], 0)


def read_index(fs: FileSystem, path: Path) -> list[IndexEntry]:
    """The index of a sealed segment; empty when it is missing or not sound."""
    try:
        with fs.open_read(path) as file:
            content = _whole(file)
    except OSError:
        return []
    if len(content) < _INDEX_HEAD.size + 4:
        return []
    magic, count = _INDEX_HEAD.unpack_from(content)
    body = content[:-4]
    if magic != _INDEX_MAGIC or len(body) != _INDEX_HEAD.size + count * _INDEX_ENTRY.size:
        return []
    if struct.pack("<I", crc32c(body)) != content[-4:]:
        return []
    return [IndexEntry(*fields) for fields in _INDEX_ENTRY.iter_unpack(body[_INDEX_HEAD.size :])]


def _whole(file: File) -> bytes:
    return file.pread(file.size(), 0)
