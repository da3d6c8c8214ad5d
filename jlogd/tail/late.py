"""The slow look at closed generations: late lines, compressed forms, forgotten files.

Runs every few seconds while the path holds its newest generation. Late lines of the
newest few generations are delivered whenever they come: a writer may keep a renamed
file open for hours.
"""

from contextlib import closing

from jlogd.tail import rotation
from jlogd.tail.book import Book
from jlogd.tail.content import BROKEN
from jlogd.tail.generation import Generation
from jlogd.tail.model import Item
from jlogd.tail.position import HEAD_MAX
from jlogd.tail.proof import resume, starts_like
from jlogd.tail.rotation import FoundFile
from jlogd.tail.sourcefs import SourceFs

FORGET_AFTER_S = 600.0  # a file that is gone this long does not come back under a rotated name
WATCHED = 8  # closed generations that are watched for late lines

Inode = tuple[int, int]


class LateWatch:
    """Watch one path's closed generations; owned by the follower's thread."""

    def __init__(self, book: Book, fs: SourceFs) -> None:
        """``book`` is shared with the follower."""
        self._book, self._fs = book, fs

    def sweep(self, now_s: float, out: list[Item]) -> None:
        """Look once; raises OSError when a directory cannot be listed."""
        closed = [one for _, one in sorted(self._book.generations.items()) if one.content is None]
        if not closed:
            return
        try:
            found = rotation.find(self._fs, self._book.path, None, self._book.other_names)
        except rotation.MovedError:
            return  # the next sweep sees more
        by_inode = {file.inode: file for file in found if file.inode != self._current_inode()}
        unknown = dict(by_inode)
        for one in closed:
            unknown.pop((one.dev, one.ino), None)
        for one in closed[-WATCHED:]:
            file = by_inode.get((one.dev, one.ino))
            if (
                file
                and not one.skipped
                and self._in_order(one, file, found)
                and not file.compression
                and file.status.st_size > max(one.seen, one.position)
            ):
                self._reopen(one, file, now_s)
        for one in closed:
            file = by_inode.get((one.dev, one.ino))
            if file:
                one.absent_since_s, one.location = None, file.path
            elif one.content is None and not self._compressed_form(one, unknown, out):
                self._absent(one, now_s, out, compressed_unknown=any(other.compression for other in unknown.values()))
        self._book.trim(out)

    def _in_order(self, one: Generation, file: FoundFile, found: list[FoundFile]) -> bool:
        """Whether no newer generation stands in an older file: where little is proven, an inode may be reused."""
        if one.position >= HEAD_MAX:
            return True
        older = {other.inode for other in found[found.index(file) + 1 :]}
        return not any((other.dev, other.ino) in older for number, other in self._book.generations.items()
                       if number > one.number)  # fmt: skip

    def _current_inode(self) -> Inode | None:
        if self._book.current is None:
            return None
        generation = self._book.generations[self._book.current]
        return generation.dev, generation.ino

    def _reopen(self, generation: Generation, file: FoundFile, now_s: float) -> None:
        content = rotation.open_content(self._fs, file)
        if content is None:
            return
        cursor = resume(content, generation.state(), generation.position)
        if cursor is None:
            content.close()
            return
        self._book.attach(generation, content, cursor, file.path, current=False, now_s=now_s)

    def _compressed_form(self, one: Generation, unknown: dict[Inode, FoundFile], out: list[Item]) -> bool:
        """A final generation was compressed in place: same slot, same head. Only remembered, never read from."""
        if not one.final or not one.location:
            return False
        for inode, file in unknown.items():
            if file.compression and file.path.startswith(one.location + b".") and self._alike(one, file):
                one.dev, one.ino, one.location = *inode, file.path
                del unknown[inode]
                out.append(one.note())
                return True
        return False

    def _alike(self, one: Generation, file: FoundFile) -> bool:
        try:
            content = rotation.open_content(self._fs, file)
            if content is None:
                return False
            with closing(content):
                return starts_like(content, one.state())
        except (OSError, *BROKEN):
            return False

    def _absent(self, one: Generation, now_s: float, out: list[Item], *, compressed_unknown: bool) -> None:
        if one.absent_since_s is None:
            one.absent_since_s = now_s
        old = now_s - one.absent_since_s >= FORGET_AFTER_S
        if old and one.final and one.number != self._book.newest and not compressed_unknown:
            self._book.forget(one, out)
