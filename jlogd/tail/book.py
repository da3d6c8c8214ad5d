"""The generations of one path: which are known, which are open, which one the path holds.

Invariant: ``active`` lists exactly the generations with an open descriptor, in the
order in which they are read; ``current`` is one of them or None.
"""

from collections.abc import Mapping

from jlogd.journal.model import Gap, GapKind, RunFlags, SourceState
from jlogd.tail.content import Content
from jlogd.tail.generation import Generation
from jlogd.tail.model import Item, Lines, Missing
from jlogd.tail.position import Cursor, Ladder, PositionState

GENERATIONS_MAX = 64  # remembered per path; an older one is recognised by its age alone


class Book:
    """Generations by number, from 1; one owner thread."""

    def __init__(self, path: bytes, piece_max: int, saved: Mapping[int, SourceState]) -> None:
        """``saved``: generation → what the journal holds; empty for a path never seen before."""
        self.path = path
        self._piece_max = piece_max
        self.generations: dict[int, Generation] = {}
        self.active: list[int] = []
        self.current: int | None = None
        self.other_names: list[bytes] = []  # foreign names under which a generation stands (hard link, odd rename)
        for number, state in sorted(saved.items()):
            self._recover(number, state)

    def _recover(self, number: int, state: SourceState) -> None:
        generation = self.generations[number] = Generation(self.path, number, self._piece_max)
        generation.saved_position, generation.ladder = state.position, Ladder(state.ladder)
        if decoded := PositionState.decode(state.state):
            generation.saved, generation.flags, generation.seen = decoded, decoded.flags, decoded.seen
            generation.dev, generation.ino = decoded.dev, decoded.ino

    @property
    def newest(self) -> int:
        """The highest number in use, 0 for none."""
        return max(self.generations, default=0)

    def begin(self) -> Generation:
        """A new generation, newer than all others."""
        generation = Generation(self.path, self.newest + 1, self._piece_max)
        self.generations[generation.number] = generation
        return generation

    def attach(
        self, generation: Generation, content: Content, cursor: Cursor, path: bytes, *, current: bool, now_s: float
    ) -> None:
        """Read ``generation`` on in ``content``."""
        generation.attach(content, cursor, path)
        generation.rotated, generation.quiet_since_s = not current, now_s
        generation.absent_since_s = None
        if generation.number not in self.active:
            self.active = sorted([*self.active, generation.number])
        if current:
            self.current = generation.number

    def lose(self, generation: Generation) -> None:
        """Its file no longer holds its content."""
        generation.release()
        if generation.number in self.active:
            self.active.remove(generation.number)
        if self.current == generation.number:
            self.current = None
        if generation.saved is None and not generation.partial:
            self.generations.pop(generation.number, None)  # nothing of it was read: nobody needs to know

    def finish(self, generation: Generation, out: list[Item]) -> None:
        """Nothing more is expected: give out a last line without newline, remember, close."""
        known = generation.saved is not None or generation.partial
        if known and (not generation.final or generation.partial):
            out.append(generation.finish())
        self.lose(generation)

    def missing(self, generation: Generation, reason: str, out: list[Item]) -> None:
        """The content is nowhere: what was read without newline is given out, what was only seen becomes a gap."""
        if generation.final:
            return
        if generation.seen > generation.position + len(generation.partial):
            rest: Lines | None = generation.rest()
            if rest:
                out.append(rest)
            first, end = generation.position, generation.seen
            gap = Gap(GapKind.SOURCE, first, end, reason, None, end - first, self.path, generation.number)
            out.append(Missing(gap))
            out.append(generation.finish())
        self.finish(generation, out)

    def ambiguous(self, generation: Generation, out: list[Item]) -> None:
        """Either it goes on in its file, or a successor there began with the same bytes, which then are missing."""
        end = generation.position + len(generation.partial)
        gap = Gap(GapKind.SOURCE, 0, end, "ambiguous", None, end, self.path, generation.number)
        out.append(Missing(gap))

    def forget(self, generation: Generation, out: list[Item]) -> None:
        """Drop the memory of a generation, durably."""
        out.append(generation.note(RunFlags.FORGET))
        self.lose(generation)
        del self.generations[generation.number]

    def trim(self, out: list[Item]) -> None:
        """Keep at most ``GENERATIONS_MAX`` generations."""
        idle = [number for number in sorted(self.generations) if number not in self.active]
        for number in idle[: max(0, len(self.generations) - GENERATIONS_MAX)]:
            generation = self.generations[number]
            if generation.final and number != self.newest:
                self.forget(generation, out)

    def close(self) -> None:
        """Release every descriptor."""
        for number in list(self.active):
            self.generations[number].release()
        self.active, self.current = [], None
