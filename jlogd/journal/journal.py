"""The journal: a directory of segments with named subscribers. One writer, any number of readers.

Always true:

* a record is visible to readers only after it was synced (``sync = "batch"``; the weaker settings say so);
* ``end`` only grows while the journal is open, and offsets are dense;
* what ``append`` accepted is either committed, or still in memory for the next ``commit``, or the process died;
* a segment file whose write or sync failed is never trusted again: pending frames go to a new one.

    with Journal.open("/var/spool/app/journal") as journal:
        offset = journal.append(b"a record")
        journal.commit()
        for offset, time_ns, record in journal.read(offset):
            ...

All methods that append or commit belong to one thread. ``end``, ``tip``, ``wait``, ``reader``
and the subscribers may be used from any thread.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from jlogd.journal.checkpoint import Subscriber, SubscriberStore
from jlogd.journal.composer import Composer, Draft
from jlogd.journal.frame import CHAIN_ORIGIN, Body, Buffer, Framing, encode_lengths, make_body
from jlogd.journal.live import LiveSegment, create_segment
from jlogd.journal.mark import CommittedMark, WriterLock, read_committed
from jlogd.journal.metadata import run_length
from jlogd.journal.model import (
    FRAME_METADATA_MAX,
    FRAME_RAW_MAX,
    FRAME_STORED_MAX,
    Base,
    Entry,
    Gap,
    JournalOptions,
    Offset,
    Run,
    SourceKey,
    SourceState,
    Tip,
)
from jlogd.journal.reader import Reader
from jlogd.journal.recovery import History, Loaded, Recovery, load, tip_of
from jlogd.journal.retention import oldest_needed
from jlogd.journal.segment import list_segments, visible_segments
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import StorageError, UsageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.lines import count_lines

LOOSE_BYTES = 256 << 10  # single appends are gathered into a frame of about this size
TERMS_KEPT = 1024  # the part of the history that handshakes compare
GENERATIONS_KEPT = 8  # of each source, in a replica: it never hears of FORGET


class Journal:
    """A writer's journal. Make one with ``Journal.open``."""

    def __init__(
        self, path: Path, options: JournalOptions, fs: FileSystem, clock: Clock, lock: WriterLock, epoch: int,
        journal_id: bytes, loaded: Loaded | None, base: Base | None,
    ) -> None:  # fmt: skip
        """Use ``Journal.open``."""
        self.path = path
        self.id = journal_id
        self.options = options
        self.recovery = loaded.recovery if loaded else Recovery()
        self.listeners: list[Callable[[], None]] = []  # called after each commit that moved ``end``; must not block
        self._fs = fs
        self._clock = clock
        self._lock = lock
        self._epoch = epoch
        self._salt = int.from_bytes(journal_id[:4], "little")
        start = base or Base(Offset(0), CHAIN_ORIGIN, [])
        self._history = loaded.history if loaded else History(start.first, start.chain, start.terms)
        self._first = loaded.first if loaded else self._history.end
        self._previous = loaded.previous if loaded else None
        self._live: LiveSegment | None = None
        self._broken: OSError | None = None
        self._pending: list[Draft] = []
        self._loose: list[bytes] = []
        self._loose_bytes = 0
        self._composer = Composer(self._history, self._salt, clock)
        self._synced_s = clock.monotonic_s()
        self._published = threading.Condition()  # guards _tip
        self._tip = tip_of(self._first, self._history)
        self._store = SubscriberStore(fs, path / "subscribers")
        self._mark = CommittedMark(fs, path / "committed", journal_id)
        self._mark.write(self._tip.end, self._tip.end)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        options: JournalOptions | None = None,
        journal_id: bytes | None = None,
        base: Base | None = None,
        epoch: int = 0,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> "Journal":
        """Open for writing, creating the journal when the directory holds none; recovers first.

        ``journal_id`` (16 bytes, random by default) and ``base`` count only for a new journal.
        ``epoch``: the spool owner's fencing number; new segments carry at least that.
        LockedError, DamageError, FormatError, StorageError.
        """
        directory = Path(path)
        options = options or JournalOptions()
        lock: WriterLock | None = None
        try:
            fs.make_dirs(directory)
            lock = WriterLock(directory / "lock")
            committed = read_committed(fs, directory / "committed")
            loaded = load(fs, directory, committed)
            used = max(epoch, loaded.epoch + 1 if loaded else 1)
            new_id = journal_id or secrets.token_bytes(16)
            journal = cls(
                directory, options, fs, clock, lock, used, loaded.journal_id if loaded else new_id, loaded, base
            )
            if loaded is None:
                journal._start_segment()
            return journal
        except OSError as error:
            _release(lock)
            raise StorageError(f"{directory}: cannot open the journal: {error}") from error
        except BaseException:
            _release(lock)
            raise

    # ------------------------------------------------------------------ what is there

    @property
    def first(self) -> Offset:
        """Oldest offset kept."""
        return self._tip.first

    @property
    def end(self) -> Offset:
        """Committed end: what readers may see."""
        return self._tip.end

    @property
    def append_end(self) -> Offset:
        """End including what is appended and not committed."""
        return Offset(self._composer.end + len(self._loose))

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not committed, held in memory until they are."""
        return self._loose_bytes + sum(len(buffer) for item in self._pending for buffer in item.buffers)

    @property
    def sources(self) -> dict[SourceKey, SourceState]:
        """Committed position of each known generation of each source. For the writer's thread."""
        return self._history.sources

    def tip(self) -> Tip:
        """Committed end with its chain and terms, taken at one moment."""
        return self._tip

    def wait(self, end: int, timeout_s: float) -> bool:
        """Block until the committed end is above ``end``, at most ``timeout_s``; tells whether it is."""
        with self._published:
            return self._published.wait_for(lambda: self._tip.end > end, timeout_s)

    # ------------------------------------------------------------------ append

    def append(self, record: bytes) -> Offset:
        """Take one record of any bytes; it counts after the next ``commit``. UsageError when it is over 4 MiB."""
        _check_size(record)
        offset = self.append_end
        self._loose.append(bytes(record))
        self._loose_bytes += len(record) + 4
        if self._loose_bytes >= LOOSE_BYTES:
            self._flush_loose()
        return offset

    def append_many(self, records: Sequence[bytes]) -> Offset:
        """Take many records; returns the first one's offset."""
        offset = self.append_end
        for record in records:
            self.append(record)
        return offset

    def append_lines(self, block: Buffer, runs: Sequence[Run] = ()) -> Offset:
        """Take a block of whole lines, each ending with a newline, as one frame; returns the first one's offset.

        ``runs`` tell where consecutive lines came from; their lengths must add up to the block (checked),
        and their counts are taken as true: counting a GB again costs a third of a second. UsageError when
        the block does not end with a newline or is over 3 MiB.
        """
        raw = block if isinstance(block, bytes) else bytes(block)
        if not raw.endswith(b"\n") or len(raw) > FRAME_STORED_MAX:
            raise UsageError(f"a block of lines must end with a newline and be at most {FRAME_STORED_MAX} bytes")
        body = make_body(raw, self.options.codec)
        return self.append_body(body, runs or [Run(b"", 0, count_lines(raw), len(raw), 0)])

    def append_body(self, body: Body, runs: Sequence[Run]) -> Offset:
        """Take lines whose body was made by ``make_body``, perhaps in another thread; runs as in ``append_lines``."""
        self._flush_loose()
        if not runs or sum(run.raw_length for run in runs) != body.raw_length:
            raise UsageError("the runs do not add up to the block")
        if sum(map(run_length, runs)) > FRAME_METADATA_MAX:
            raise UsageError(
                f"{len(runs)} runs need more than {FRAME_METADATA_MAX} bytes: append them as several blocks"
            )
        count = sum(run.record_count for run in runs)
        return self._take(self._composer.records(body, count, runs, Framing.LINES))

    def append_gap(self, gap: Gap, runs: Sequence[Run] = ()) -> Offset:
        """Take a gap: kind OFFSETS covers its own range, which must begin at ``append_end``; kind SOURCE one offset.

        ``runs`` (of zero records) move positions in the same frame, so that the gap and its position are one.
        """
        self._flush_loose()
        return self._take(self._composer.gap(gap, runs))

    def note_sources(self, runs: Sequence[Run]) -> None:
        """Remember positions without lines, or forget generations; local, durable with the next commit."""
        self._flush_loose()
        for draft in self._composer.notes(runs):
            self._take(draft)

    def append_frame(self, frame: Buffer) -> None:
        """Take a frame as another journal with the same id wrote it (the replica's way); checked before it counts.

        ConflictError unless it begins at ``append_end``; DamageError, FormatError.
        """
        self._take(self._composer.verbatim(frame))

    # ------------------------------------------------------------------ commit

    def commit(self, *, sync: bool = True) -> Offset:
        """Make everything appended durable and visible; returns the new end.

        ``sync=False``: the caller has synced the whole file system since the last append.
        StorageError: nothing that was appended is lost; call again when the disk takes it.
        """
        self._flush_loose()
        if not self._pending and not self._interval_due():
            return self.end
        if self._broken is None and self._live is not None:
            try:
                self._sync_live(self._live, sync=sync)
            except OSError as error:
                self._break(error)
        if self._broken is not None:
            self._rewrite_pending()
        self._publish()
        self._roll_if_due()
        return self.end

    def drop_pending(self) -> None:
        """Forget what was appended and not committed (a replica whose sender sends it again)."""
        self._loose, self._loose_bytes, self._pending = [], 0, []
        self._composer.reset()
        if self._live is not None and self._live.length != self._live.synced:
            self._break(OSError(0, "pending frames were dropped"))
        self._broken = None

    def _interval_due(self) -> bool:
        """Whether ``sync = "interval"`` asks for a sync of what is visible already."""
        live = self._live
        return live is not None and live.owed and self._sync_due()

    def _sync_due(self) -> bool:
        mode, age_s = self.options.sync, self._clock.monotonic_s() - self._synced_s
        return mode == "batch" or (mode == "interval" and age_s >= self.options.sync_interval_s)

    def _sync_live(self, live: LiveSegment, *, sync: bool) -> None:
        if not sync:
            live.assume_synced()
        elif self._sync_due():
            live.sync()
            self._synced_s = self._clock.monotonic_s()
        else:
            live.assume_synced()
            live.owed = self.options.sync == "interval"

    def _break(self, error: OSError) -> None:
        """Give the live segment up: what it holds beyond the last commit is in doubt."""
        self._broken = error
        self._epoch += 1  # the next segment may have the same first offset
        if self._live is not None:
            live, self._live = self._live, None
            live.abandon()
            self._previous = (live.name.first, live.name.epoch, live.synced)

    def _rewrite_pending(self) -> None:
        try:
            live = self._start_segment()
            for item in self._pending:
                live.append(item.buffers, item.first, item.time_ns)
            live.sync()
        except OSError as error:
            self._break(error)
            raise StorageError(f"{self.path}: cannot write: {error.strerror or error}") from error
        self._broken = None

    def _publish(self) -> None:
        for item in self._pending:
            if item.end > item.first:
                self._history.note_term(*item.term, item.first)
                self._history.chain, self._history.end = item.chain, item.end
            self._history.note_runs(list(item.runs))
        self._pending = []
        del self._history.terms[:-TERMS_KEPT]
        moved = self._history.end > self._tip.end
        tip = tip_of(self._first, self._history) if moved else self._tip
        with self._published:
            self._tip = tip
            self._published.notify_all()
        self._mark.write(tip.end, tip.end if self.options.sync == "batch" else 0)
        if moved:
            for listener in self.listeners:
                listener()

    def _roll_if_due(self) -> None:
        live = self._live
        if live is None:
            return
        age_s = self._clock.monotonic_s() - live.created_s
        if self._history.end == live.name.first or (
            live.length < self.options.segment_bytes and age_s < self.options.segment_age_s
        ):
            return
        previous, self._previous = self._previous, (live.name.first, live.name.epoch, live.length)
        with contextlib.suppress(OSError):
            live.sync()  # sync = "interval" or "os": a sealed segment is durable in every mode
        try:
            self._start_segment()
        except OSError:
            self._live, self._previous = live, previous  # stay on the long segment; the next commit tries again
            return
        live.seal(forget=not self._composer.writes_own)
        self.retain()

    def _start_segment(self) -> LiveSegment:
        """Create the segment that begins at the committed end. OSError."""
        if not self._composer.writes_own:  # a node's own journal forgets only what its tailer tells it to
            self._history.prune(GENERATIONS_KEPT)
        self._live = create_segment(
            self._fs, self.path, tip_of(self._first, self._history), self._epoch,
            journal_id=self.id, salt=self._salt, subcluster=self.options.subcluster,
            sources=self._history.sources, previous=self._previous,
            now=(self._clock.wall_ns(), self._clock.monotonic_s()),
        )  # fmt: skip
        return self._live

    # ------------------------------------------------------------------ drafts

    def _flush_loose(self) -> None:
        if self._loose:
            records, self._loose, self._loose_bytes = self._loose, [], 0
            body = make_body(encode_lengths(records), self.options.codec)
            self._take(self._composer.records(body, len(records), (), Framing.LENGTHS))

    def _take(self, draft: Draft) -> Offset:
        """Remember the frame until it is committed, and write it now if the disk takes it."""
        begins_group = not self._pending
        self._pending.append(draft)
        if self._broken is None:
            try:
                live = self._live or self._start_segment()
                if begins_group:
                    self._mark_if_due(live)
                live.append(draft.buffers, draft.first, draft.time_ns)
            except OSError as error:
                self._break(error)
        return Offset(draft.first)

    def _mark_if_due(self, live: LiveSegment) -> None:
        now_s = self._clock.monotonic_s()
        if self.options.sync == "batch" and live.mark_due(now_s):
            live.mark(self._composer.mark(), now_s)

    # ------------------------------------------------------------------ read

    def reader(self) -> Reader:
        """A reader for one thread of this process; follows ``end`` and never sees uncommitted frames."""
        return Reader(self.path, self._fs, journal_id=self.id, tip=self.tip, live_index=self._live_index)

    def read(self, first: int | None = None, end: int | None = None) -> Iterator[Entry]:
        """Every entry of ``[first, end)``, by default all that is kept. Each unpacks as offset, time_ns, record."""
        with self.reader() as reader:
            yield from reader.read(first, end)

    def _live_index(self) -> tuple[Path, list[tuple[int, int, int]]] | None:
        live = self._live
        return (live.name.path, list(live.index)) if live is not None else None

    # ------------------------------------------------------------------ subscribers

    def subscribers(self) -> list[Subscriber]:
        """Every subscriber, by name."""
        return self._store.all()

    def subscriber(self, name: str) -> Subscriber:
        """The subscriber of that name, added at the oldest kept offset when it does not exist."""
        return self._store.get(name) or self.add_subscriber(name)

    def add_subscriber(self, name: str, at: Offset | Literal["begin", "end"] = "begin") -> Subscriber:
        """A new durable subscriber. ConflictError when it exists, UsageError for a bad name or offset."""
        offset = self.first if at == "begin" else self.end if at == "end" else at
        if not self.first <= offset <= self.end:
            raise UsageError(f"offset {offset} is outside of what is kept, [{self.first}, {self.end}]")
        return self._store.add(name, Offset(offset))

    def remove_subscriber(self, name: str) -> None:
        """Forget a subscriber; what only it still needed may go."""
        self._store.remove(name)

    def retain(self) -> None:
        """Remove the segments that every subscriber is past (see ``retention``). Without subscribers all is kept."""
        checkpoints = [subscriber.checkpoint for subscriber in self._store.all()]
        if not checkpoints:
            return
        try:
            names = list_segments(self._fs, self.path)
            visible = visible_segments(names)
            if not visible:
                return
            oldest = oldest_needed(visible, min(checkpoints), self._clock.wall_ns(), self.options)
        except OSError:  # keeping too much is always right, and a commit that succeeded must not fail here
            return
        self._first = visible[oldest].first
        with self._published:
            self._tip = Tip(Offset(self._first), self._tip.end, self._tip.chain, self._tip.terms)
        for name in names:
            if name not in visible[oldest:] and name.first < self._first:
                with contextlib.suppress(OSError):  # the next call tries again
                    self._fs.unlink(name.path, missing_ok=True)
                    self._fs.unlink(name.index_path, missing_ok=True)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Commit, then close. StorageError when the last commit fails; the journal is closed all the same."""
        try:
            self.commit()
        finally:
            if self._live is not None:
                live, self._live = self._live, None
                live.seal()
            self._store.close()
            self._mark.close()
            self._lock.release()

    def __enter__(self) -> Self:
        """Return the journal itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the journal."""
        self.close()


def _check_size(record: bytes) -> None:
    if len(record) + 4 > FRAME_RAW_MAX // 2:
        raise UsageError(f"a record of {len(record)} bytes is over the limit of {FRAME_RAW_MAX // 2 - 4}")


def _release(lock: WriterLock | None) -> None:
    if lock is not None:
        lock.release()
