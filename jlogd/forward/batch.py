"""From journals into ``frames`` messages: all ready frames of all journals, round-robin, nothing copied twice.

For one thread. A message is sent as soon as there is anything to send and grows to about
``BATCH_BYTES`` when there is more; the bytes of a frame are those on disk.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jlogd.forward.history import Source
from jlogd.forward.messages import FRAMES_MAX, ProtocolError
from jlogd.forward.wire import ENTRY
from jlogd.journal import FrameView, Offset, Reader
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import Buffer

log = logging.getLogger(__name__)

BATCH_BYTES = 512 << 10  # measured: below 256 KiB each message's fixed cost shows, above 1 MiB nothing is won
TURN_BYTES = 256 << 10  # how much one journal may put into a message before the next one has its turn


@dataclass(slots=True)
class Batch:
    """One message: buffers in order, their length, and where each journal stands after it."""

    buffers: list[Buffer] = field(default_factory=list)
    length: int = 0
    ends: dict[int, Offset] = field(default_factory=dict)


class _Lane:
    """One journal's place in the stream."""

    def __init__(self, source: Source, start: Offset) -> None:
        self.source = source
        self.reader: Reader = source.journal.reader()
        self.position = start
        self.failed = False
        self._frames: Iterator[FrameView] | None = None
        self._held: FrameView | None = None
        self._named = 0  # of the reader's damage

    @property
    def ready(self) -> bool:
        return not self.failed and self.source.journal.end > self.position

    def peek(self) -> FrameView | None:
        """The next frame; None when there is none now."""
        if self._held is None:
            if self._frames is None:
                self._frames = self.reader.frames(self.position)
            self._held = next(self._frames, None)
            self._name_damage()
            if self._held is None:
                self._frames = None
            elif self._held.header.first_offset != self.position:
                raise ProtocolError(
                    f"frame begins at {self._held.header.first_offset}, {self.position} is needed: "
                    f"the replica's end is not a border of frames here"
                )
        return self._held

    def _name_damage(self) -> None:
        """What the reader stepped over, once for each session."""
        for damage in self.reader.damage[self._named :]:
            self._named += 1
            log.error(
                "journal %s: %s at byte %d: %s: offsets %d to %d cannot be read, the manager gets a gap in their place",
                self.source.name, damage.file, damage.position, damage.reason, damage.first, damage.end,
            )  # fmt: skip

    def take(self, view: FrameView) -> None:
        """``view`` is in a message."""
        self.position = Offset(view.header.end)
        self._held = None


class Batcher:
    """Builds messages. A journal that cannot be read is left out, with one line, until the next session."""

    def __init__(self, sources: Sequence[Source], starts: Sequence[Offset]) -> None:
        """Each journal from its start on."""
        self._lanes = [_Lane(source, start) for source, start in zip(sources, starts, strict=True)]
        self._turn = 0
        self.errors: dict[str, str] = {}  # journal name → why it is left out

    def ready(self) -> bool:
        """Whether there is anything to send. Any thread."""
        return any(lane.ready for lane in self._lanes)

    def build(self) -> Batch | None:
        """The next message; None when nothing is there after all."""
        batch = Batch()
        count = len(self._lanes)
        idle = 0
        while idle < count and batch.length < BATCH_BYTES:
            index = self._turn % count
            self._turn += 1
            try:
                took = self._fill(batch, index)
            except (OSError, DamageError) as error:
                self._leave_out(index, error)
                took = False
            idle = 0 if took else idle + 1
        return batch if batch.length else None

    def close(self) -> None:
        """Close the readers."""
        for lane in self._lanes:
            lane.reader.close()

    def _fill(self, batch: Batch, index: int) -> bool:
        lane = self._lanes[index]
        limit = min(batch.length + TURN_BYTES, BATCH_BYTES)
        before = batch.length
        while batch.length < limit and lane.ready:
            view = lane.peek()
            if view is None or batch.length + ENTRY.size + len(view.frame) > FRAMES_MAX:
                break
            batch.buffers += (ENTRY.pack(index, len(view.frame)), view.frame)
            batch.length += ENTRY.size + len(view.frame)
            lane.take(view)
            batch.ends[index] = lane.position
        return batch.length > before

    def _leave_out(self, index: int, error: Exception) -> None:
        lane = self._lanes[index]
        lane.failed = True
        self.errors[lane.source.name] = str(error)
        log.error("journal %s cannot be read at offset %d: %s", lane.source.name, lane.position, error)
