"""One generation of a followed path: its bytes become blocks of lines.

Invariant: the cursor stands after the last byte that was given out. Every read
begins at the bytes just before it and compares them; what differs raises
``ContentChanged`` and gives nothing out. No Python runs per line.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jlogd.journal.model import Run, RunFlags
from jlogd.runtime.clock import Clock
from jlogd.runtime.lines import count_lines
from jlogd.tail.content import Content, PlainContent
from jlogd.tail.model import LINES_MAX, Lines, Note
from jlogd.tail.position import HEAD_MAX, TAIL_MAX, Cursor, Ladder, PositionState, StateFlags

BUFFER_BYTES = TAIL_MAX + LINES_MAX
# Kernels stamp files in steps of up to 10 ms: content that changed that soon after a look may carry the same stamp
# (git calls such entries racy). A stamp is trusted when the content was compared again this long after its first sight.
RACY_S = 0.03


Confirm = Callable[["Generation"], bool]


class ContentChanged(Exception):
    """The bytes before the position are not the ones that were read: truncated or rewritten."""


@dataclass(slots=True)
class Generation:
    """A generation that is open (``content``) or only remembered (``saved``)."""

    source: bytes
    number: int
    piece_max: int
    dev: int = 0
    ino: int = 0
    flags: StateFlags = StateFlags.NONE
    saved: PositionState | None = None  # as last given out or recovered
    saved_position: int = 0
    ladder: Ladder = field(default_factory=Ladder)
    cursor: Cursor | None = None
    content: Content | None = None
    location: bytes = b""
    seen: int = 0
    partial: bytes = b""  # read, but its newline is not there yet
    checked: tuple[int, int] = (-1, -1)  # size and mtime when there was nothing more to read
    checked_s: float = 0.0  # when ``checked`` was first seen
    trusted: bool = False  # nothing can have changed under ``checked`` since
    rotated: bool = False  # the path holds something else now
    quiet_since_s: float = 0.0
    absent_since_s: float | None = None  # not among the siblings since

    @property
    def position(self) -> int:
        """Next byte to read."""
        return self.cursor.position if self.cursor else self.saved_position

    @property
    def final(self) -> bool:
        """Nothing more is expected."""
        return bool(self.flags & StateFlags.FINAL)

    @property
    def skipped(self) -> bool:
        """Never delivered."""
        return bool(self.flags & StateFlags.SKIPPED)

    def state(self) -> PositionState:
        """The proof of the position, as stored."""
        if self.cursor is None:
            saved = self.saved or PositionState(self.flags, self.dev, self.ino, 0, 0, 0, 0, 0, 0, 0, 0, 0)
            return replace(saved, flags=self.flags, dev=self.dev, ino=self.ino, seen=max(saved.seen, self.seen))
        return self.cursor.state(self.flags, self.dev, self.ino, self.seen)

    def attach(self, content: Content, cursor: Cursor, location: bytes) -> None:
        """Read on in ``content``."""
        if self.content is not None and self.content is not content:
            self.content.close()
        self.content, self.cursor, self.location = content, cursor, location
        self.dev, self.ino = content.dev, content.ino
        self.checked, self.trusted = (-1, -1), False

    def release(self) -> None:
        """Close the descriptor, keep the memory of it, and of what waits without a newline."""
        if self.content is not None:
            self.content.close()
            self.content = None
        if self.cursor is None:
            return
        if self.saved is not None:
            self.saved, self.saved_position = self.state(), self.position
        if not self.partial:
            self.saved_position, self.cursor = self.position, None

    def unchanged(self) -> bool:
        """Whether size and mtime prove that there is nothing more to read (one fstat)."""
        if not self.trusted or not isinstance(self.content, PlainContent):
            return False
        status = self.content.status()
        return (status.st_size, status.st_mtime_ns) == self.checked

    def age_s(self, wall_ns: int) -> float:
        """Seconds since the file was written, by its stamp; 0 when that says nothing (the future, compressed)."""
        if not isinstance(self.content, PlainContent):
            return 0.0
        return max(0.0, (wall_ns - self.content.status().st_mtime_ns) / 1e9)

    def read_block(self, buffer: bytearray, clock: Clock, confirm: Confirm) -> Lines | None:
        """The next complete lines or piece of a long line; None when there is nothing complete.

        ``buffer`` is scratch of ``BUFFER_BYTES``. ``confirm`` is asked, after the read, when
        the bytes before prove little. Raises ``ContentChanged`` and what ``content`` and
        ``confirm`` raise; then nothing was taken.
        """
        content, cursor = self.content, self.cursor
        assert content is not None
        assert cursor is not None
        mark, began_s = (-1, -1), clock.monotonic_s()
        if isinstance(content, PlainContent):
            status = content.status()
            mark = (status.st_size, status.st_mtime_ns)
            if status.st_size < cursor.position:
                raise ContentChanged
        before = b"" if content.compressed else cursor.tail
        view = memoryview(buffer)
        got = content.read_into(view[: len(before) + LINES_MAX], cursor.position - len(before))
        if got < len(before) + len(self.partial) or not buffer.startswith(before):
            raise ContentChanged
        if self.partial and not buffer.startswith(self.partial, len(before)):
            raise ContentChanged
        proven = len(before) + len(self.partial)
        if 0 < proven < HEAD_MAX and got > proven and not confirm(self):
            raise ContentChanged
        self.seen = max(self.seen, mark[0], cursor.position - len(before) + got)
        length, flags = _cut(buffer, len(before), got, self.piece_max)
        if not length:
            self.partial = bytes(view[len(before) : got])
            self._check(mark, began_s, clock)
            return None
        self.partial = b""
        taken = view[len(before) : len(before) + length]
        return self._give(taken, flags)

    def _check(self, mark: tuple[int, int], began_s: float, clock: Clock) -> None:
        """There was nothing more to read in a file that looked like ``mark`` at ``began_s``."""
        if mark != self.checked:
            self.checked, self.checked_s, self.trusted = mark, clock.monotonic_s(), False
        elif began_s - self.checked_s >= RACY_S:
            self.trusted = True

    def finish(self) -> Lines | Note:
        """The generation is final: give out what waits without a newline, or just say so."""
        self.flags |= StateFlags.FINAL
        return self.rest() or self.note()

    def rest(self) -> Lines | None:
        """What was read and waits without a newline, as a record."""
        if not self.partial or self.cursor is None:
            return None
        waiting, self.partial = self.partial, b""
        return self._give(memoryview(waiting), RunFlags.NO_NEWLINE)

    def note(self, flags: RunFlags = RunFlags.NONE) -> Note:
        """The position without records."""
        self.saved, self.saved_position = self.state(), self.position
        state, ladder = self.saved.encode(), self.ladder.encode()
        return Note(Run(self.source, self.number, 0, 0, self.position, flags, state, ladder))

    def _give(self, taken: memoryview, flags: RunFlags) -> Lines:
        assert self.cursor is not None
        self.cursor.advance(taken)
        ladder = b""
        if self.ladder.due(self.position):
            self.ladder.add(self.position, self.cursor.hash.prefix)
            ladder = self.ladder.encode()
        body = bytes(taken) + b"\n" if flags else bytes(taken)
        self.saved, self.saved_position = self.state(), self.position
        count = 1 if flags else count_lines(body)
        run = Run(self.source, self.number, count, len(body), self.position, flags, self.saved.encode(), ladder)
        return Lines(body, run)


def _cut(buffer: bytearray, start: int, end: int, piece_max: int) -> tuple[int, RunFlags]:
    """How many bytes from ``start`` make whole lines of at most ``piece_max``, or one piece of a longer line.

    A block that is no longer than a line may be needs one look for its last newline;
    only longer blocks are stepped through, a line's allowance at a time.
    """
    lines_end = buffer.rfind(b"\n", start, end) + 1
    if lines_end - start <= piece_max + 1:
        if lines_end > start:
            return lines_end - start, RunFlags.NONE
        return (piece_max, RunFlags.CONTINUED) if end - start > piece_max else (0, RunFlags.NONE)
    at = start
    while lines_end - at > piece_max + 1:
        found = buffer.rfind(b"\n", at, at + piece_max + 1)
        if found < 0:
            return (at - start, RunFlags.NONE) if at > start else (piece_max, RunFlags.CONTINUED)
        at = found + 1
    return lines_end - start, RunFlags.NONE
