"""One source: a path and all generations of content that it has had.

Data walks: look at the path → drain what is open, oldest generation first → when
the path no longer holds the newest generation, resolve (which file is which) →
drain again → finish generations that stayed quiet.

Invariants: lines of one generation are given out in order, once; a newer
generation is not begun before the older ones were read to their end; no verdict
"gone" falls while a file could not be looked at.

Owned by one thread. Errors of the source become its status, they are never raised.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from jlogd.journal.model import SourceState
from jlogd.runtime.clock import Clock
from jlogd.tail.book import Book
from jlogd.tail.content import BROKEN
from jlogd.tail.generation import ContentChanged, Generation
from jlogd.tail.late import LateWatch
from jlogd.tail.model import FollowState, History, Item, Lines, SourceStatus, TailSpec
from jlogd.tail.resolver import Resolver
from jlogd.tail.rotation import MovedError, inode_of
from jlogd.tail.sourcefs import SourceFs, refusal

ACTIVE_S = 1.0  # a source that gave something this recently is looked at again soon
KEPT_OPEN_MAX = 8  # rotated generations that are held open for late lines
RETRY_S = (0.1, 5.0)  # back-off of a source that cannot be read
MISSING_PATH_LOOK_S = 1.0  # while nothing stands at the path, siblings are looked at this often
RESOLVE_ROUNDS = 4  # resolve and drain alternate at most this often in one poll


@dataclass(slots=True)
class Budget:
    """Bytes that one poll may still give out."""

    left: int


class Follower:
    """Follow one path."""

    def __init__(
        self,
        path: bytes,
        spec: TailSpec,
        saved: Mapping[int, SourceState],
        history: History | None,
        fs: SourceFs,
        clock: Clock,
        *,
        from_end: bool = False,
    ) -> None:
        """``saved``: generation → what the journal holds; empty for a path never seen before."""
        self.path, self.spec = path, spec
        self.book = Book(path, spec.piece_max, saved)
        self.last_growth_s = -1e9
        self.due_s = 0.0  # earliest next look that is needed whatever events say
        self.sweep_due = False  # look at closed generations too, at the next poll
        self._fs, self._clock = fs, clock
        self._last_read_ns: int | None = None
        self._state: FollowState = "waiting"
        self._error: str | None = None
        self._path_inode: tuple[int, int] | None = None
        self._resolve_at_s = 0.0
        self._blocked_until_s = 0.0
        self._retry_s = RETRY_S[0]
        self.status = self._status()  # any thread may look; replaced whole after each poll
        self._resolver = Resolver(self.book, spec, history, fs, from_end=from_end)
        self._late = LateWatch(self.book, fs)

    # -- one poll -------------------------------------------------------------------------------------------------

    def poll(self, budget: Budget, buffer: bytearray, out: list[Item]) -> bool:
        """Append what is there to ``out``; True when there is more than ``budget`` allowed."""
        now_s = self._clock.monotonic_s()
        if now_s < self._blocked_until_s:
            return False
        more = False
        try:
            more = self._poll(now_s, budget, buffer, out)
            self._plan_next(now_s)
        except OSError as error:
            self._blocked(now_s, error)
        self.status = self._status()
        return more

    def _poll(self, now_s: float, budget: Budget, buffer: bytearray, out: list[Item]) -> bool:
        exists = self._look(now_s)
        for _ in range(RESOLVE_ROUNDS):
            if self._drain(now_s, budget, buffer, out):
                return True
            if self.book.current is not None or now_s < self._resolve_at_s:
                break
            if not self._resolve(now_s, out, exists=exists):
                break
        self._finish_quiet(now_s, out)
        if self.sweep_due and self.book.current is not None:
            self.sweep_due = False
            self._late.sweep(now_s, out)
            return self._drain(now_s, budget, buffer, out)
        return False

    def _look(self, now_s: float) -> bool:
        """Compare the path with the generation that stood there; whether a file with content is there.

        An empty file is nobody's generation yet: it may be filled, copied and truncated
        again before we look, and then nothing of it could be recognised.
        """
        inode, size, problem = None, 0, None
        try:
            status = self._fs.stat(self.path)
        except FileNotFoundError:
            self._state = "gone" if self.book.newest and self._last_read_ns else "waiting"
        else:
            problem = refusal(status.st_mode)
            if problem:
                self._state = "unreadable"
            else:
                inode, size = inode_of(status), status.st_size
        if self._state != "unreadable" or inode is None:
            self._error = problem
        if inode is not None and (self.book.current is not None or not size):
            self._state = "following"
        filled = inode if size else None
        if filled != self._path_inode:
            self._resolve_at_s = now_s
        self._path_inode = filled
        if self.book.current is not None:
            generation = self.book.generations[self.book.current]
            if inode != (generation.dev, generation.ino):
                self._rotated(generation, now_s)
            elif size < generation.position + len(generation.partial):
                self._lost(generation, now_s)
        return filled is not None

    def _rotated(self, generation: Generation, now_s: float) -> None:
        generation.rotated, generation.quiet_since_s = True, now_s
        self.book.current, self._resolve_at_s = None, now_s

    def _lost(self, generation: Generation, now_s: float) -> None:
        """The file no longer holds this generation's content."""
        self.book.lose(generation)
        self._resolve_at_s = now_s

    def _drain(self, now_s: float, budget: Budget, buffer: bytearray, out: list[Item]) -> bool:
        """Read open generations to their ends, oldest first; True when the budget is used up."""

        def confirm(one: Generation) -> bool:
            return self._resolver.confirm(one, out)

        for number in list(self.book.active):
            generation = self.book.generations[number]
            if generation.unchanged():
                self._introduce(generation, now_s, out)
                continue
            waiting = len(generation.partial)
            try:
                while block := generation.read_block(buffer, self._clock, confirm):
                    self._gave(block, now_s, generation, out)
                    budget.left -= len(block.body)
                    if budget.left <= 0:
                        return True
            except MovedError:
                self.due_s = now_s  # names are moving: look again at once
                continue
            except (ContentChanged, *BROKEN):
                self._lost(generation, now_s)
                continue
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                self._lost(generation, now_s)
                continue
            if len(generation.partial) != waiting:
                self.last_growth_s, generation.quiet_since_s = now_s, self._written_s(generation, now_s)
            self._introduce(generation, now_s, out)
        return False

    def _introduce(self, generation: Generation, now_s: float, out: list[Item]) -> None:
        """The journal must know of a generation before it knows of a newer one: a begun line alone does not wait."""
        if generation.rotated and generation.saved is None and (begun := generation.rest()):
            self._gave(begun, now_s, generation, out)

    def _gave(self, block: Lines, now_s: float, generation: Generation, out: list[Item]) -> None:
        out.append(block)
        self.last_growth_s, generation.quiet_since_s = now_s, self._written_s(generation, now_s)
        self._last_read_ns = self._clock.wall_ns()

    def _written_s(self, generation: Generation, now_s: float) -> float:
        """When the bytes just read came: for a rotated file its stamp tells, also of the time before this process.

        Otherwise an agent that is killed again and again within ``rotate_wait_s`` never comes to the last line.
        """
        return now_s - generation.age_s(self._clock.wall_ns()) if generation.rotated else now_s

    # -- rotation -------------------------------------------------------------------------------------------------

    def _resolve(self, now_s: float, out: list[Item], *, exists: bool) -> bool:
        """Find out which file is which; True when something can be read now that could not before."""
        outcome = self._resolver.resolve(now_s, out)
        if outcome.retry_s is not None:
            self._resolve_at_s = now_s + outcome.retry_s
        elif not exists:
            self._resolve_at_s = now_s + MISSING_PATH_LOOK_S
        if outcome.problem or (exists and self.book.current is not None):
            self._error = outcome.problem
        if outcome.unreadable:
            self._state = "unreadable"
        elif exists and self.book.current is not None:
            self._state = "following"
        self._retry_s = RETRY_S[0]
        return outcome.progress

    def _finish_quiet(self, now_s: float, out: list[Item]) -> None:
        """Rotated generations that gave nothing for ``rotate_wait_s``, and all but the newest few, are final."""
        rotated = [number for number in self.book.active if self.book.generations[number].rotated]
        for place, number in enumerate(rotated):
            generation = self.book.generations[number]
            whole = generation.content is not None and generation.content.compressed
            quiet = now_s - generation.quiet_since_s >= self.spec.rotate_wait_s
            if whole or quiet or len(rotated) - place > KEPT_OPEN_MAX:
                self.book.finish(generation, out)

    # -- what others see ------------------------------------------------------------------------------------------

    def _blocked(self, now_s: float, error: OSError) -> None:
        self._state, self._error = "unreadable", error.strerror or str(error)
        self._blocked_until_s = self.due_s = now_s + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_S[1])

    def _plan_next(self, now_s: float) -> None:
        """The next moment at which something is due without any event."""
        moments = [
            self.book.generations[number].quiet_since_s + self.spec.rotate_wait_s
            for number in self.book.active
            if self.book.generations[number].rotated
        ]
        if self.book.current is None:
            moments.append(self._resolve_at_s)
        self.due_s = max(min(moments, default=float("inf")), now_s)

    def is_active(self, now_s: float) -> bool:
        """Whether bytes came so recently that more are likely."""
        return now_s - self.last_growth_s < ACTIVE_S

    def holds(self, path: bytes, inode: tuple[int, int]) -> bool:
        """Whether the file at ``path`` is another name of one of our generations; remembered as such."""
        for one in self.book.generations.values():
            if (one.dev, one.ino) == inode and (one.content is not None or self._resolver.begins_like(one, path)):
                if path not in self.book.other_names:
                    self.book.other_names.append(path)
                return True
        return False

    def _status(self) -> SourceStatus:
        number = self.book.current or max(self.book.generations, default=0)
        generation = self.book.generations.get(number)
        position = generation.position if generation else 0
        lag = sum(
            max(0, self.book.generations[one].seen - self.book.generations[one].position) for one in self.book.active
        )
        return SourceStatus(
            self.path,
            number,
            position,
            max(position, generation.seen if generation else 0),
            lag,
            self._last_read_ns,
            self._state,
            self._error,
        )

    def close(self) -> None:
        """Release every descriptor."""
        self.book.close()
