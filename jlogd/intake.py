"""From followed files into one journal: one thread, one journal, nothing per record.

Invariant: what the tailer handed out is appended in its order, and ``poll`` is not called again
until the disk has taken what came before. A full disk stops the intake of this journal, says so
once, and goes on by itself when there is space; the files are the buffer meanwhile.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from jlogd.forward.positions import WAITING, Awaited, store
from jlogd.journal import FrameView, Gap, Journal, Run, SourceKey
from jlogd.journal.frame import Body, make_body
from jlogd.journal.metadata import run_length
from jlogd.journal.model import FRAME_METADATA_MAX
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import StorageError
from jlogd.runtime.memory import give_back
from jlogd.runtime.metrics import AGENT, COMMIT_FAILURES, COMMIT_SECONDS, GAPS, READ_BYTES, READ_RECORDS, Metrics
from jlogd.runtime.worker import OnFailure, Worker
from jlogd.tail import Item, Lines, Missing, SourceStatus, Tailer

log = logging.getLogger(__name__)

FRAME_BYTES = 512 << 10  # raw; smaller pieces are gathered up to this, while their commit is not due
COMMIT_BYTES = 4 << 20  # raw; a commit (one sync) at the latest after this much
ASIDE_BYTES = 64 << 10  # raw; smaller bodies are made at once: handing them to a thread costs more
MAKERS = 2  # bodies that are hashed and compressed at the same time, per journal
POLL_BYTES = 1 << 20  # raw, per poll: bounds what is in memory
IDLE_WAIT_S = 5.0  # the slow sweep for what no event tells (NFS)
RETRY_S = 1.0  # after the disk said no
RETAIN_S = 10.0  # how often an idle journal looks for segments that may go


class Intake:
    """Moves lines from a ``Tailer`` into a ``Journal``. ``run`` belongs to one thread, the rest to any."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        tailer: Tailer,
        *,
        commit_delay_s: float,
        metrics: Metrics | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """``commit_delay_s``: how long a line may wait for company before it is synced."""
        self.name = name
        self.error: str | None = None  # why nothing is taken in at the moment
        self.committed = self._positions(journal)  # replaced whole after each commit
        self._journal = journal
        self._tailer = tailer
        self._commit_delay_s = commit_delay_s
        self._clock = clock
        self._metrics = metrics or Metrics(AGENT)
        self._makers = ThreadPoolExecutor(MAKERS, thread_name_prefix=f"body-{name}")
        self._making: deque[tuple[Future[Body], list[Run], list[Run]]] = (
            deque()
        )  # body, runs, notes behind it; in order
        self._gap: Gap | None = None  # waits for the note that moves its position
        self._notes: dict[SourceKey, Run] = {}  # positions without lines, to stand behind the lines held
        self._held: list[Lines] = []
        self._held_bytes = 0
        self._held_runs = 0  # bytes of metadata; hundreds of busy files fill a frame's before its body
        self._appended_bytes = 0  # raw, since the last commit
        self._oldest_s: float | None = None  # when the oldest uncommitted line came
        self._retained_s = clock.monotonic_s()
        self._worked = False  # since memory was given back

    def run(self, stopping: threading.Event) -> None:
        """Until ``stopping``; commits what it has taken before it returns."""
        while not stopping.is_set():
            items = self._tailer.poll(POLL_BYTES)
            for item in items:
                self._take(item)
            if self._commit_due(idle=not items):
                self._commit(stopping)
            if not items:
                self._retain()
                if not stopping.is_set():  # asked again after poll, which may have taken the wake-up call
                    self._tailer.wait(self._wait_s())
        self._commit(stopping)
        self._makers.shutdown()

    def _take(self, item: Item) -> None:
        if self._oldest_s is None:
            self._oldest_s = self._clock.monotonic_s()
        if isinstance(item, Lines):
            self._append_gap([])
            self._notes.pop((item.run.source, item.run.generation), None)  # the run says the same and more
            runs_bytes = run_length(item.run)
            if self._held_bytes + len(item.body) > FRAME_BYTES or self._held_runs + runs_bytes > FRAME_METADATA_MAX:
                self._flush()
            self._held.append(item)
            self._held_bytes += len(item.body)
            self._held_runs += runs_bytes
            if self._held_bytes >= FRAME_BYTES:
                self._flush()
            return
        if isinstance(item, Missing):
            self._append_all()
            self._gap = item.gap
            return
        gap, key = self._gap, (item.run.source, item.run.generation)
        if gap is not None and (gap.source, gap.generation) == key:
            self._append_gap([item.run])  # one frame: a crash cannot come between the gap and its position
        else:
            self._notes[key] = item.run

    def _append_gap(self, runs: list[Run]) -> None:
        gap, self._gap = self._gap, None
        if gap is not None:
            self._journal.append_gap(gap, runs)
            self._metrics.count(GAPS, 1, self.name, gap.kind.value)
            path = gap.source.decode(errors="backslashreplace")
            log.warning(
                "journal %s: %s: bytes %d to %d are missing: %s", self.name, path, gap.first, gap.end, gap.reason
            )

    def _flush(self) -> None:
        """Make one frame of the lines held, and notes behind it; a large body is made aside meanwhile."""
        held, self._held, self._held_bytes, self._held_runs = self._held, [], 0, 0
        notes, self._notes = list(self._notes.values()), {}
        if not held:
            while self._making and notes:
                self._append_made()  # bodies that were given out before these notes
            self._note(notes)
            return
        block = held[0].body if len(held) == 1 else b"".join(lines.body for lines in held)
        runs = [lines.run for lines in held]
        self._metrics.count(READ_RECORDS, sum(run.record_count for run in runs), self.name)
        self._metrics.count(READ_BYTES, sum(run.source_bytes for run in runs), self.name)
        self._appended_bytes += len(block)
        if len(block) < ASIDE_BYTES and not self._making:
            self._journal.append_lines(block, runs)
            self._note(notes)
            return
        self._making.append((self._makers.submit(make_body, block, self._journal.options.codec), runs, notes))
        while len(self._making) > MAKERS:
            self._append_made()

    def _append_made(self) -> None:
        future, runs, notes = self._making.popleft()
        self._journal.append_body(future.result(), runs)
        self._note(notes)

    def _note(self, notes: list[Run]) -> None:
        if notes:
            self._journal.note_sources(notes)

    def _append_all(self) -> None:
        """Append everything held, everything that is being made, and a gap that no note followed."""
        self._flush()
        while self._making:
            self._append_made()
        self._append_gap([])

    def _commit_due(self, *, idle: bool) -> bool:
        if self._oldest_s is None:
            return idle and self._journal.options.sync == "interval"
        waited_s = self._clock.monotonic_s() - self._oldest_s
        return self._appended_bytes >= COMMIT_BYTES or waited_s >= self._commit_delay_s

    def _commit(self, stopping: threading.Event) -> None:
        """Make everything durable; while the disk refuses, keep trying until ``stopping``."""
        self._append_all()
        while True:
            began_s = self._clock.monotonic_s()
            try:
                self._journal.commit()
            except StorageError as error:
                self._metrics.count(COMMIT_FAILURES, 1, self.name)
                if self.error is None:
                    log.warning("journal %s: %s; nothing is lost, waiting for space", self.name, error)
                self.error = str(error)
                if stopping.wait(RETRY_S):
                    return
            else:
                self._metrics.observe(COMMIT_SECONDS, self._clock.monotonic_s() - began_s, self.name)
                break
        if self.error is not None:
            log.warning("journal %s: writing again", self.name)
            self.error = None
        self._worked = self._worked or self._appended_bytes > 0
        self._appended_bytes = 0
        self._oldest_s = None
        self.committed = self._positions(self._journal)

    @staticmethod
    def _positions(journal: Journal) -> dict[SourceKey, int]:
        """What the disk has of each generation; right only when nothing is appended and not committed."""
        return {key: state.position for key, state in journal.sources.items()}

    def _retain(self) -> None:
        """Look after a journal that has nothing to do: at most every ten seconds, and only after it had."""
        now_s = self._clock.monotonic_s()
        if now_s - self._retained_s >= RETAIN_S:
            self._retained_s = now_s
            self._journal.retain()
            if self._worked:
                self._worked = False
                give_back()

    def _wait_s(self) -> float:
        if self._oldest_s is None:
            return IDLE_WAIT_S
        return max(self._oldest_s + self._commit_delay_s - self._clock.monotonic_s(), 0.0)


@dataclass(slots=True)
class JournalParts:
    """One journal and what fills it.

    ``begin`` makes tailer and intake from the journal's positions: at once, or, while positions
    are ``awaited`` from a manager, in the worker's thread once they are stored.
    """

    name: str
    journal: Journal
    begin: Callable[[], tuple[Tailer, Intake]]
    awaited: Awaited | None
    on_failure: OnFailure
    filling: tuple[Tailer, Intake] | None = None
    problem: str | None = None  # why the positions that came back are not stored yet
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        """Make the worker, not started; begin at once when nothing is awaited."""
        self.worker = Worker(f"intake-{self.name}", lambda worker: self.run(worker.stopping), self.on_failure)
        if self.awaited is None:
            self.filling = self.begin()

    @property
    def error(self) -> str | None:
        """Why nothing is taken in at the moment."""
        if self.filling is not None:
            return self.filling[1].error
        return self.problem or (WAITING if self.awaited is not None else None)

    @property
    def committed(self) -> dict[SourceKey, int]:
        """What the disk has of each generation."""
        return self.filling[1].committed if self.filling is not None else {}

    def sources(self) -> list[SourceStatus]:
        """What the tailer sees, by path; none before it exists."""
        return self.filling[0].status() if self.filling is not None else []

    def run(self, stopping: threading.Event) -> None:
        """The worker: wait for positions where they are awaited, then take lines in, until ``stopping``."""
        if self.filling is None:
            if not self._restore(stopping):
                return
            self.filling = self.begin()
        self.filling[1].run(stopping)

    def _restore(self, stopping: threading.Event) -> bool:
        """Store what a manager gives back, before anything is read; False when ``stopping`` came first."""
        given = self.awaited.wait(stopping) if self.awaited is not None else ()
        if given is None:
            return False
        if given or self.journal.sources:
            store(self.journal, given)
        while True:
            try:
                self.journal.commit()
            except StorageError as error:
                if self.problem is None:
                    log.warning("journal %s: %s; waiting for space", self.name, error)
                self.problem = str(error)
                if stopping.wait(RETRY_S):
                    return False
            else:
                return True

    def wake(self) -> None:
        """Make ``run`` look at ``stopping``."""
        if self.awaited is not None:
            self.awaited.wake()
        if self.filling is not None:
            self.filling[0].wake()

    def close(self) -> None:
        """Release descriptors, close the journal."""
        if self.filling is not None:
            self.filling[0].close()
        self.journal.close()


class JournalHistory:
    """A journal's own records as the tailer's ``History``: to prove where a source was cut."""

    def __init__(self, journal: Journal) -> None:
        """Reads what is committed and still kept."""
        self._journal = journal

    def runs(self, source: bytes, generation: int, from_position: int) -> Iterator[tuple[Run, Callable[[], bytes]]]:
        """Runs of one generation that end above ``from_position``, oldest first, each with its raw body."""
        with self._journal.reader() as reader:
            for view in reader.frames(reader.first):
                start = 0
                for run in view.runs():
                    end = start + run.raw_length
                    if run.source == source and run.generation == generation and run.position > from_position:
                        yield run, partial(_slice, view, start, end)
                    start = end


def _slice(view: FrameView, start: int, end: int) -> bytes:
    return view.body()[start:end]
