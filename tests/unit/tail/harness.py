"""A journal in miniature for followers: items in order, commit, crash, restart.

What the tests compare is ``text``: for each generation of a source, the bytes that
its lines stand for. Positions must fit together, or the item is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.journal.model import Gap, Run, RunFlags, SourceKey, SourceState
from jlogd.runtime.clock import ManualClock
from jlogd.tail import Item, Lines, Missing, Note, SourceStatus, Tailer, TailSpec
from jlogd.tail.model import LINES_MAX
from jlogd.tail.proof import source_bytes
from jlogd.tail.sourcefs import SOURCE_FS, SourceFs

ROTATE_WAIT_S = 5.0


@dataclass
class Collector:
    """Everything a journal would hold; also the tailer's ``History``."""

    items: list[Item] = field(default_factory=list)
    committed: int = 0

    def append(self, item: Item) -> None:
        """Take one item; a run whose bytes do not follow on its generation's last position is a fault."""
        if isinstance(item, Lines):
            run = item.run
            assert item.body.endswith(b"\n")
            assert len(item.body) == run.raw_length <= LINES_MAX
            assert item.body.count(b"\n") == run.record_count
            before = [one.run for one in self.items if not isinstance(one, Missing) and key(one.run) == key(run)]
            if before:
                assert run.position - run.source_bytes == before[-1].position
        self.items.append(item)

    def commit(self) -> None:
        """All so far is on disk."""
        self.committed = len(self.items)

    def crash(self) -> None:
        """What was not committed is gone."""
        del self.items[self.committed :]

    def sources(self) -> dict[SourceKey, SourceState]:
        """Positions as the journal would hand them to a new tailer."""
        found: dict[SourceKey, SourceState] = {}
        for item in self.items:
            if isinstance(item, Missing):
                continue
            run = item.run
            if run.flags & RunFlags.FORGET:
                found.pop(key(run), None)
                continue
            before = found.get(key(run))
            ladder = run.ladder or (before.ladder if before else b"")
            found[key(run)] = SourceState(run.position, run.state, ladder)
        return found

    def runs(self, source: bytes, generation: int, from_position: int) -> Iterator[tuple[Run, Callable[[], bytes]]]:
        """See ``History``."""
        for item in self.items:
            if isinstance(item, Lines) and key(item.run) == (source, generation) and item.run.position > from_position:
                body = item.body
                yield item.run, lambda body=body: body  # type: ignore[misc]

    def text(self, path: Path | None = None) -> dict[int, bytes]:
        """Generation → the bytes delivered, of one path (or of the only one)."""
        found: dict[int, bytes] = {}
        for item in self.items:
            if isinstance(item, Lines) and (path is None or item.run.source == str(path).encode()):
                number = item.run.generation
                found[number] = found.get(number, b"") + source_bytes(item.run, item.body)
        return found

    def all_text(self, path: Path | None = None) -> bytes:
        """All generations one after the other."""
        return b"".join(content for _, content in sorted(self.text(path).items()))

    def gaps(self) -> list[Gap]:
        """In order."""
        return [item.gap for item in self.items if isinstance(item, Missing)]

    def notes(self) -> list[Note]:
        """In order."""
        return [item for item in self.items if isinstance(item, Note)]

    def records(self) -> list[bytes]:
        """Record bytes as readers would see them."""
        return [one for item in self.items if isinstance(item, Lines) for one in item.body.split(b"\n")[:-1]]


def key(run: Run) -> SourceKey:
    """What a position belongs to."""
    return run.source, run.generation


class Follow:
    """A tailer with its collector and a clock that tests move."""

    def __init__(self, *paths: object, fs: SourceFs = SOURCE_FS, **settings: object) -> None:
        """``paths``: globs; ``settings``: the rest of the ``TailSpec``."""
        defaults = {"rotate_wait_s": ROTATE_WAIT_S}
        self.spec = TailSpec(tuple(str(path) for path in paths), **{**defaults, **settings})  # type: ignore[arg-type]
        self.fs = fs
        self.clock = ManualClock()
        self.journal = Collector()
        self.tailer = self._start()

    def _start(self) -> Tailer:
        sources = self.journal.sources()
        return Tailer([self.spec], sources, self.journal, fs=self.fs, clock=self.clock, events=False)

    def poll(self, bytes_max: int = 8 << 20) -> int:
        """Once; items are appended and committed."""
        items = self.tailer.poll(bytes_max)
        for item in items:
            self.journal.append(item)
        self.journal.commit()
        return len(items)

    def settle(self, seconds: float = 20.0) -> None:
        """Poll while time goes by, until every wait and retry is over."""
        step_s = 0.5
        for _ in range(int(seconds / step_s)):
            while self.poll():
                pass
            self.clock.advance(step_s)

    def stop(self) -> None:
        """End the tailer; the collector stays."""
        self.tailer.close()

    def start(self) -> None:
        """A new tailer from what is committed."""
        self.tailer = self._start()

    def restart(self) -> None:
        """Stop and start with nothing in between."""
        self.stop()
        self.start()

    def status(self, path: Path | None = None) -> SourceStatus:
        """Of one path, or of the only source."""
        found = [one for one in self.tailer.status() if path is None or one.path == str(path).encode()]
        assert len(found) == 1
        return found[0]


def append(path: Path, content: bytes) -> None:
    """As a writer with O_APPEND."""
    with path.open("ab") as file:
        file.write(content)


def numbered(first: int, end: int, word: str = "line") -> bytes:
    """Lines that tell their number."""
    return b"".join(f"{word} {number:06d} of the log\n".encode() for number in range(first, end))
