"""The files that may hold generations of one path: the path itself and its rotated siblings.

Looks at names and status only, opens nothing. Newest first, the path itself
before all others; a compressed file beside its plain form does not count (it is
being written, or the plain form is about to go).
"""

import contextlib
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass

from jlogd.tail.content import CompressedContent, Content, PlainContent
from jlogd.tail.siblings import Compression, RotatedName, newest_first, reading_of
from jlogd.tail.sourcefs import SourceFs, refusal


class MovedError(Exception):
    """Files were renamed while we looked: what was seen is not one moment's truth."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file as the directory shows it."""

    path: bytes
    status: os.stat_result
    compression: Compression | None
    current: bool

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode."""
        return self.status.st_dev, self.status.st_ino


def inode_of(status: os.stat_result) -> tuple[int, int]:
    """Device and inode."""
    return status.st_dev, status.st_ino


def places(path: bytes) -> list[tuple[bytes, bytes]]:
    """Directories and base names under which siblings of ``path`` may stand: its own, and its link target's."""
    found = [os.path.split(path)]
    real = os.path.split(os.path.realpath(path))
    return found if real == found[0] else [*found, real]


def find(fs: SourceFs, path: bytes, current: os.stat_result | None, extra: list[bytes]) -> list[FoundFile]:
    """The path itself (if ``current``), then its siblings newest first, then ``extra`` paths (other names of a file).

    Raises ``MovedError`` when a listed sibling is not there any more, OSError when a
    directory cannot be listed: then nothing can be said.
    """
    files = [FoundFile(path, current, None, current=True)] if current else []
    named: list[tuple[RotatedName, FoundFile]] = []
    for directory, base in places(path):
        stem = os.path.splitext(base)[0]
        for name in fs.names(directory):
            reading = reading_of(name, base) if name.startswith(stem) and name != base else None
            if not reading:
                continue
            try:
                found = _file(fs, os.path.join(directory, name), reading.compression)
            except FileNotFoundError as error:
                if os.path.islink(os.path.join(directory, name)):
                    continue  # a link to nothing
                raise MovedError from error
            if found:
                named.append((reading, found))
    plain = {(os.path.dirname(file.path), name.slot) for name, file in named if not name.compression}
    counted = [
        (name, file)
        for name, file in named
        if not name.compression or (os.path.dirname(file.path), name.slot) not in plain
    ]
    order = newest_first([(name, file.status.st_mtime_ns) for name, file in counted])
    others = [counted[index][1] for index in order]
    for name in extra:
        with contextlib.suppress(FileNotFoundError):
            if file := _file(fs, name, None):
                others.append(file)
    seen = {file.inode for file in files}
    for file in others:
        if file.inode not in seen:
            seen.add(file.inode)
            files.append(file)
    return files


def _file(fs: SourceFs, path: bytes, compression: Compression | None) -> FoundFile | None:
    status = fs.stat(path)
    if refusal(status.st_mode):
        return None
    return FoundFile(path, status, compression, current=False)


def open_content(fs: SourceFs, file: FoundFile) -> Content | None:
    """Open what was found; None when another file stands there by now. Raises OSError."""
    fd = fs.open(file.path)
    try:
        status = fs.fstat(fd)
        if inode_of(status) != file.inode or refusal(status.st_mode):
            os.close(fd)
            return None
    except BaseException:
        os.close(fd)
        raise
    return CompressedContent(fd, status, file.compression) if file.compression else PlainContent(fd, status)


class FoundFiles:
    """The found files and their contents, opened when first asked for."""

    def __init__(self, fs: SourceFs, found: list[FoundFile], stack: ExitStack) -> None:
        """``stack`` closes the contents."""
        self.found = found
        self._fs, self._stack = fs, stack
        self._contents: dict[int, Content] = {}
        self.problems: dict[int, str] = {}

    def content(self, index: int) -> Content:
        """Raises ``MovedError``, and OSError when the file cannot be opened."""
        if index not in self._contents:
            try:
                content = open_content(self._fs, self.found[index])
            except FileNotFoundError as error:
                raise MovedError from error
            except OSError as error:
                self.problems[index] = error.strerror or str(error)
                raise
            if content is None:
                raise MovedError
            self._contents[index] = self._stack.enter_context(closing(content))
        return self._contents[index]

    def take(self, index: int) -> Content:
        """An own, newly opened content for a generation to keep."""
        self.content(index)
        content = open_content(self._fs, self.found[index])
        if content is None:
            raise MovedError
        return content
