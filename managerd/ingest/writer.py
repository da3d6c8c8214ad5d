"""The thread that owns all replicas: appends what sessions received, commits, then tells them.

Natural group commit: while one sync runs, more messages queue, and the next round takes
them all. Invariants:

* nothing is reported as committed before the archive's commit returned;
* jobs run in the order they were given, and a call sees everything before it committed;
* after the first bad frame of a feed nothing more of that feed is appended;
* what a disk refused is dropped from memory and its sessions end: nodes send it again.

What waits here is bounded by the sessions' credit and the budget (``managerd.ingest.budget``).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jlogd.forward.messages import ProtocolError, Reason
from jlogd.forward.wire import split_frames
from jlogd.journal import Offset
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import ConflictError, DamageError, JlogdError, StorageError, UnavailableError
from jlogd.runtime.metrics import (
    ARCHIVE_COMMIT_FAILURES,
    ARCHIVE_COMMIT_SECONDS,
    ARCHIVED_RECORDS,
    RECEIVED_BYTES,
    RECEIVED_FRAMES,
    Metrics,
)
from jlogd.runtime.worker import OnFailure, Worker
from managerd.archive import Archive, Replica

log = logging.getLogger(__name__)

ROUND_BYTES = 8 << 20  # one commit at the latest after this much: bounds how long an Ack can take

T = TypeVar("T")
OnCommitted = Callable[[tuple[tuple[int, Offset], ...], int], None]  # (journal index, end) …, bytes freed
OnFailed = Callable[[str, str], None]  # reason, message


@dataclass(slots=True, eq=False)
class Feed:
    """One session as the writer sees it. Callbacks are called in the writer's thread and must not block."""

    name: str
    replicas: Sequence[Replica]
    on_committed: OnCommitted
    on_failed: OnFailed
    failed: bool = False


@dataclass(slots=True)
class _Progress:
    touched: set[int] = field(default_factory=set)
    freed: int = 0
    failure: tuple[str, str] | None = None


_Job = tuple[Feed, memoryview] | tuple[Callable[[], Any], "Future[Any]"]


class Writer:
    """``append`` and ``call`` from any thread; start and stop once."""

    def __init__(
        self, archive: Archive, on_failure: OnFailure, *, metrics: Metrics | None = None, clock: Clock = SYSTEM
    ) -> None:
        """From ``start`` to the end of ``stop`` the archive belongs to the writer's thread."""
        self._archive = archive
        self._metrics = metrics
        self._clock = clock
        self._worker = Worker("writer", self._run, on_failure)
        self._changed = threading.Condition()  # guards _jobs, _closed
        self._jobs: deque[_Job] = deque()
        self._closed = False
        self._dirty: dict[int, Replica] = {}  # by id(): a replica is one object as long as it is current
        self._progress: dict[Feed, _Progress] = {}
        self._records = 0

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def stop(self, deadline_s: float) -> bool:
        """Finish every job given so far, then end; True when it ended in time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        return self._worker.join(deadline_s)

    def append(self, feed: Feed, message: memoryview) -> None:
        """Queue one `frames` message."""
        self._put((feed, message))

    def call(self, action: Callable[[], T]) -> "Future[T]":
        """Run ``action`` in the writer's thread, after everything queued before it is on disk."""
        future: Future[T] = Future()
        self._put((action, future))
        return future

    def _put(self, job: _Job) -> None:
        with self._changed:
            if self._closed:
                raise UnavailableError("the manager is stopping")
            self._jobs.append(job)
            self._changed.notify()

    # ------------------------------------------------------------------ the writer's thread

    def _run(self, worker: Worker) -> None:
        del worker  # ends by ``stop``, after the last job
        while jobs := self._take():
            for job in jobs:
                first, second = job
                if isinstance(first, Feed) and isinstance(second, memoryview):
                    self._append(first, second)
                elif isinstance(second, Future) and not isinstance(first, Feed):
                    self._commit()
                    _carry_out(first, second)
            self._commit()

    def _take(self) -> list[_Job]:
        """At least one job and at most about ROUND_BYTES; none when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            jobs: list[_Job] = []
            length = 0
            while self._jobs and length < ROUND_BYTES:
                job = self._jobs.popleft()
                length += len(job[1]) if isinstance(job[1], memoryview) else 0
                jobs.append(job)
            return jobs

    def _append(self, feed: Feed, message: memoryview) -> None:
        progress = self._progress.setdefault(feed, _Progress())
        progress.freed += len(message)
        if feed.failed:
            return
        frames = 0
        try:
            for index, frame in split_frames(message):
                if index >= len(feed.replicas):
                    raise ProtocolError(f"a frame for journal index {index} of {len(feed.replicas)}")
                replica = feed.replicas[index]
                replica.journal.append_frame(frame)
                self._dirty[id(replica)] = replica
                progress.touched.add(index)
                frames += 1
        except JlogdError as error:
            feed.failed = True
            progress.failure = (_reason(error), f"node {feed.name}: {error}")
        if self._metrics is not None:
            self._metrics.count(RECEIVED_FRAMES, frames)
            self._metrics.count(RECEIVED_BYTES, len(message))

    def _commit(self) -> None:
        """Commit every dirty replica, then tell each feed how far it is."""
        dirty, self._dirty = self._dirty, {}
        progress, self._progress = self._progress, {}
        failure = self._commit_archive(list(dirty.values())) if dirty else None
        for feed, done in progress.items():
            self._tell(feed, done, failure)
        if failure is not None:
            for replica in dirty.values():
                if replica.journal.append_end != replica.journal.end:
                    replica.journal.drop_pending()

    def _commit_archive(self, dirty: list[Replica]) -> StorageError | None:
        began_s = self._clock.monotonic_s()
        before = sum(replica.journal.end for replica in dirty)
        failure = None
        try:
            self._archive.commit(dirty)
        except StorageError as error:
            failure = error
        if self._metrics is not None:
            self._metrics.observe(ARCHIVE_COMMIT_SECONDS, self._clock.monotonic_s() - began_s)
            self._metrics.count(ARCHIVED_RECORDS, sum(replica.journal.end for replica in dirty) - before)
            if failure is not None:
                self._metrics.count(ARCHIVE_COMMIT_FAILURES, 1)
        return failure

    def _tell(self, feed: Feed, done: _Progress, failure: StorageError | None) -> None:
        ends = []
        for index in sorted(done.touched):
            journal = feed.replicas[index].journal
            ends.append((index, journal.end))
            if journal.append_end != journal.end and not feed.failed:
                feed.failed = True
                done.failure = (Reason.STORAGE, f"archive of node {feed.name} cannot be written: {failure}")
        feed.on_committed(tuple(ends), done.freed)
        if done.failure is not None:
            feed.on_failed(*done.failure)


def _carry_out(action: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(action())
    except JlogdError as error:
        future.set_exception(error)


def _reason(error: JlogdError) -> str:
    if isinstance(error, ProtocolError):
        return Reason.PROTOCOL
    if isinstance(error, ConflictError):
        return Reason.OFFSET
    return Reason.DAMAGE if isinstance(error, DamageError) else Reason.STORAGE
