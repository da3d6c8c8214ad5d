"""Waking: directory events through watchdog, so that idle files cost nothing.

A directory is either **armed** (names and contents wake us) or watched for names only,
while its owner polls the contents: one event per write() would cost more than the
reading itself. An event never carries work, it only marks its directory.

Where the kernel has no watch left, or a file system sends no events, the caller's
polling and slow sweep find everything; that is said once.

Thread-safe: watchdog's threads mark, the owner takes.
"""

import logging
import os
import threading

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

_LOG = logging.getLogger(__name__)
# It reports an error when a watch ends while its thread waits, which is what unscheduling does.
logging.getLogger("watchdog.observers.inotify").setLevel(logging.CRITICAL)

_NAMES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]
_ALL = [*_NAMES, FileModifiedEvent]


class _Mark(FileSystemEventHandler):
    """Marks one directory."""

    def __init__(self, watcher: "Watcher", directory: bytes) -> None:
        self._watcher, self._directory = watcher, directory

    def dispatch(self, event: FileSystemEvent) -> None:
        self._watcher.mark(self._directory, names=event.event_type != "modified")


class Watcher:
    """Watches directories; ``wait`` returns when one was marked."""

    def __init__(self) -> None:
        """Start the observer; without inotify everything is left to polling."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._dirty: set[bytes] = set()  # guarded by _lock
        self._renamed: set[bytes] = set()  # guarded by _lock
        self._watches: dict[bytes, tuple[ObservedWatch, bool, tuple[int, int]]] = {}  # the owner's
        self._warned = False
        self._observer: BaseObserver | None = None
        try:
            self._observer = Observer()
            self._observer.start()
        except OSError as error:
            self._observer = None
            self._warn(error)

    def mark(self, directory: bytes, *, names: bool) -> None:
        """Something happened in ``directory``; ``names``: files came, went or moved."""
        with self._lock:
            self._dirty.add(directory)
            if names:
                self._renamed.add(directory)
        self._wake.set()

    def take(self) -> tuple[set[bytes], set[bytes]]:
        """Marked directories since the last call: all, and those whose names changed."""
        with self._lock:
            self._wake.clear()
            dirty, self._dirty = self._dirty, set()
            renamed, self._renamed = self._renamed, set()
        return dirty, renamed

    def wait(self, timeout_s: float) -> None:
        """Until a directory is marked, or the time is over."""
        self._wake.wait(timeout_s)

    def wake(self) -> None:
        """End a ``wait`` from another thread."""
        self._wake.set()

    def watched(self, directory: bytes) -> bool:
        """Whether events of ``directory`` arrive."""
        return directory in self._watches

    def set(self, directory: bytes, *, armed: bool) -> bool:
        """Watch ``directory``, with contents or for names only.

        True when the watch is new or changed: what happened before is not known, look once.
        """
        try:
            status = os.stat(directory)
        except OSError:
            self.drop(directory)
            return False
        inode = (status.st_dev, status.st_ino)
        before = self._watches.get(directory)
        if before and before[1:] == (armed, inode):
            return False
        self.drop(directory)
        if self._observer is None:
            return False
        try:
            real = os.fsdecode(os.path.realpath(directory))
            kinds = _ALL if armed else _NAMES
            watch = self._observer.schedule(_Mark(self, directory), real, recursive=False, event_filter=kinds)
        except OSError as error:
            self._warn(error)
            return False
        self._watches[directory] = (watch, armed, inode)
        return True

    def drop(self, directory: bytes) -> None:
        """Watch ``directory`` no more."""
        watch = self._watches.pop(directory, None)
        if watch and self._observer is not None:
            self._observer.unschedule(watch[0])

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("no file events (%s): files are polled instead; see fs.inotify.max_user_watches", error)

    def close(self) -> None:
        """Stop the observer and its threads."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
