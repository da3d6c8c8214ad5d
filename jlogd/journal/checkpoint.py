"""Subscribers: a durable named checkpoint each, in a two-slot file.

``<journal>/subscribers/<name>`` holds two slots, 512 bytes apart. A move writes the older
slot in place and syncs, so a torn write leaves the other slot, no space is needed on a full
disk, and the newest slot with a good checksum counts.

    0 4s "JLS1" │ 4 u32 flags (1 = something was acknowledged) │ 8 u64 sequence │ 16 u64 checkpoint
    24 u64 origin │ 32 u32 CRC32C of the first 32 bytes
"""

import struct
import threading
from pathlib import Path

from jlogd.journal.frame import crc32c
from jlogd.journal.model import Offset
from jlogd.runtime.errors import ConflictError, DamageError, StorageError, UsageError
from jlogd.runtime.fs import File, FileSystem
from jlogd.runtime.names import NAME_RULE, is_name

SLOT = struct.Struct("<4sIQQQI")
assert SLOT.size == 36
SLOT_DISTANCE = 512  # one sector: a torn sector spoils one slot only
MAGIC = b"JLS1"
ACKNOWLEDGED = 1


class Subscriber:
    """One named reader position. ``checkpoint`` is the next offset that the subscriber needs.

    ``origin`` is where it began; ``acknowledged`` tells whether it ever moved on by itself.
    Thread-safe; calls block for one small sync.
    """

    def __init__(self, file: File, name: str) -> None:
        """Read the slots of ``file``; DamageError when neither is sound."""
        self.name = name
        self._file = file
        self._lock = threading.Lock()  # guards all below
        best = None
        for slot in (0, 1):
            found = _unpack(file.pread(SLOT.size, slot * SLOT_DISTANCE))
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None:
            raise DamageError(f"{file.path}: both slots of the checkpoint are damaged: set it with `subscriber set`")
        self._sequence, flags, self._checkpoint, self._origin = best
        self._acknowledged = bool(flags & ACKNOWLEDGED)

    @property
    def checkpoint(self) -> Offset:
        """Next offset needed; everything below may go once all subscribers are past it."""
        return Offset(self._checkpoint)

    @property
    def origin(self) -> Offset:
        """Where the subscriber began, or was last set to."""
        return Offset(self._origin)

    @property
    def acknowledged(self) -> bool:
        """Whether the subscriber ever acknowledged anything since its origin was set."""
        return self._acknowledged

    def advance(self, offset: int) -> None:
        """Acknowledge everything below ``offset``; never moves back. Durable on return. StorageError."""
        with self._lock:
            if offset > self._checkpoint or not self._acknowledged:
                self._store(max(offset, self._checkpoint), self._origin, acknowledged=True)

    def rewind(self, offset: int) -> None:
        """Move back to ``offset``: the consumer lost what it had. Durable on return. StorageError."""
        with self._lock:
            if offset < self._checkpoint:
                self._store(offset, min(self._origin, offset), acknowledged=self._acknowledged)

    def move(self, offset: int) -> None:
        """An operator's decision: the subscriber begins anew at ``offset``. Durable on return. StorageError."""
        with self._lock:
            self._store(offset, offset, acknowledged=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _store(self, checkpoint: int, origin: int, *, acknowledged: bool) -> None:
        sequence = self._sequence + 1
        slot = _pack(sequence, checkpoint, origin, acknowledged=acknowledged)
        try:
            self._file.pwrite([slot], (sequence % 2) * SLOT_DISTANCE)
            self._file.datasync()
        except OSError as error:
            raise StorageError(f"{self._file.path}: cannot store the checkpoint: {error.strerror}") from error
        self._sequence, self._checkpoint, self._origin = sequence, checkpoint, origin
        self._acknowledged = acknowledged


def _pack(sequence: int, checkpoint: int, origin: int, *, acknowledged: bool) -> bytes:
    body = SLOT.pack(MAGIC, ACKNOWLEDGED if acknowledged else 0, sequence, checkpoint, origin, 0)[:32]
    return body + struct.pack("<I", crc32c(body))


def _unpack(slot: bytes) -> tuple[int, int, int, int] | None:
    if len(slot) < SLOT.size:
        return None
    magic, flags, sequence, checkpoint, origin, crc = SLOT.unpack(slot)
    if magic != MAGIC or crc32c(slot[:32]) != crc:
        return None
    return sequence, flags, checkpoint, origin


class SubscriberStore:
    """The ``subscribers/`` directory of one journal."""

    def __init__(self, fs: FileSystem, directory: Path) -> None:
        """Open every subscriber found in ``directory``."""
        self._fs = fs
        self._directory = directory
        self._lock = threading.Lock()  # guards _open
        self._open: dict[str, Subscriber] = {}
        for name in fs.list_dir(directory):
            if is_name(name):
                self._open[name] = Subscriber(fs.open_write(directory / name), name)

    def all(self) -> list[Subscriber]:
        """Every subscriber, by name."""
        with self._lock:
            return [self._open[name] for name in sorted(self._open)]

    def get(self, name: str) -> Subscriber | None:
        """The subscriber of that name."""
        with self._lock:
            return self._open.get(name)

    def add(self, name: str, at: Offset) -> Subscriber:
        """A new durable subscriber at ``at``. ConflictError when it exists, UsageError for a bad name."""
        if not is_name(name):
            raise UsageError(f"subscriber name {name!r} is not allowed: {NAME_RULE}")
        with self._lock:
            if name in self._open:
                raise ConflictError(f"subscriber {name} exists already")
            slot = _pack(1, at, at, acknowledged=False)
            path = self._directory / name
            try:
                self._fs.make_dirs(self._directory)
                self._fs.replace_bytes(path, bytes(SLOT_DISTANCE) + slot)
                subscriber = Subscriber(self._fs.open_write(path), name)
            except OSError as error:
                raise StorageError(f"{path}: cannot store the subscriber: {error.strerror}") from error
            self._open[name] = subscriber
            return subscriber

    def remove(self, name: str) -> None:
        """Forget a subscriber durably; nothing happens when it does not exist."""
        with self._lock:
            subscriber = self._open.pop(name, None)
        if subscriber is not None:
            subscriber.close()
            self._fs.unlink(self._directory / name, missing_ok=True)
            self._fs.sync_dir(self._directory)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for subscriber in self._open.values():
                subscriber.close()
            self._open.clear()


def read_checkpoints(fs: FileSystem, directory: Path) -> dict[str, Subscriber]:
    """For other processes: each subscriber as its file says now; files that are damaged are left out."""
    found = {}
    for name in fs.list_dir(directory):
        if is_name(name):
            with fs.open_read(directory / name) as file:
                try:
                    found[name] = Subscriber(file, name)
                except DamageError:
                    continue
    return found
