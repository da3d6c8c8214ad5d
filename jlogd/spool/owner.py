"""The lock on a spool or a manager's data directory, with a record of who holds it.

One file, ``owner``, never renamed or removed, so that its inode is the lock (flock
by portalocker; the kernel frees it with its holder). In it the same record twice:

    position 0      CRC32C of the JSON, 8 hex digits, space, JSON, spaces, newline     (512 bytes)
    position 512    the same

Each acquire writes and syncs the first slot, then the second. So at any moment one
slot is whole, and no single bad slot can take the epoch back. The **epoch** grows with
each acquire and is never granted twice: it counts only once both slots are synced.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import google_crc32c
import portalocker

from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import DamageError, LockedError, StorageError
from jlogd.runtime.fs import OS, File, FileSystem, closing_on_error

OWNER_FILE = "owner"
SLOT_BYTES = 512  # one sector: the smallest piece that a disk writes
SLOTS = 2
_CRC_DIGITS = 8

_PROBES = 20  # `status` holds a shared lock for microseconds; a start must not fail because of it
_PROBE_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """Who holds the lock, or held it last. ``since`` is RFC 3339 UTC."""

    node: str
    host: str
    machine_id: str
    boot_id: str
    pid: int
    epoch: int
    since: str

    def encode(self) -> bytes:
        """One slot."""
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        slot = b"%08x %s" % (google_crc32c.value(text), text)
        if len(slot) >= SLOT_BYTES:
            raise ValueError(f"owner record of {len(slot)} bytes does not fit its slot")
        return slot.ljust(SLOT_BYTES - 1) + b"\n"

    @classmethod
    def decode(cls, slot: bytes) -> Self | None:
        """The record in ``slot``, or None when it is not whole."""
        text = slot[_CRC_DIGITS + 1 :].rstrip()
        if len(slot) != SLOT_BYTES or slot[:_CRC_DIGITS] != b"%08x" % google_crc32c.value(text):
            return None
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class OwnerStatus:
    """What ``read_owner`` saw: ``record`` is the holder when ``locked``, else who held it last."""

    locked: bool
    record: OwnerRecord | None


class Owner:
    """Holds the lock from ``acquire`` to ``release``; also a context manager."""

    def __init__(self, file: File, directory: Path, record: OwnerRecord) -> None:
        """Use ``acquire``."""
        self._file = file
        self.directory = directory
        self.record = record

    @classmethod
    def acquire(
        cls,
        directory: Path,
        node: str,
        *,
        seed: int = 0,
        what: str = "spool",
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> Self:
        """Create ``directory`` if needed and take its lock with a new epoch, without waiting.

        ``seed``: the epoch of a new directory is at least ``seed`` + 1. ``what`` stands in
        messages. ``LockedError`` names the holder; ``DamageError`` when both slots are
        bad; ``StorageError`` when the disk refuses.
        """
        path = directory / OWNER_FILE
        try:
            fs.make_dirs(directory)
            with closing_on_error(_open_or_create(fs, path)) as file:
                if not _lock(file, portalocker.LockFlags.EXCLUSIVE, attempts=_PROBES):
                    raise LockedError(_holder_message(what, directory, _newest(file)))
                record = _describe(node, _last_epoch(file, seed) + 1, clock)
                for slot in range(SLOTS):
                    file.pwrite([record.encode()], slot * SLOT_BYTES)
                    file.datasync()
                fs.sync_dir(directory)
                return cls(file, directory, record)
        except OSError as error:
            raise StorageError(f"{what} {directory} cannot be locked: {error.strerror}") from error

    @property
    def epoch(self) -> int:
        """The fencing number of this holder."""
        return self.record.epoch

    def release(self) -> None:
        """Give the lock up; the record stays. Further calls do nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the owner."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Release."""
        self.release()


def read_owner(directory: Path) -> OwnerStatus:
    """Who holds ``directory``, or who did last. Needs read permission only.

    ``StorageError`` when there is an owner file that cannot be read.
    """
    path = directory / OWNER_FILE
    try:
        with OS.open_read(path) as file:
            locked = not _lock(file, portalocker.LockFlags.SHARED, attempts=1)
            return OwnerStatus(locked, _newest(file))
    except FileNotFoundError:
        return OwnerStatus(locked=False, record=None)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def machine_id() -> str:
    """This machine's identity, empty when it has none."""
    return _first_line("/etc/machine-id")


def _open_or_create(fs: FileSystem, path: Path) -> File:
    try:
        return fs.open_write(path)
    except FileNotFoundError:
        try:
            return fs.create(path)
        except FileExistsError:  # somebody else was quicker; the lock decides
            return fs.open_write(path)


def _lock(file: File, kind: portalocker.LockFlags, *, attempts: int) -> bool:
    for attempt in range(attempts):
        try:
            portalocker.lock(file.fd, kind | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked:
            if attempt + 1 < attempts:
                time.sleep(_PROBE_PAUSE_S)  # flock with a time limit does not exist
        except portalocker.LockException as error:
            raise OSError(
                getattr(error.args[0], "errno", None) or 0, f"lock refused: {error}", str(file.path)
            ) from error
        else:
            return True
    return False


def _slots(file: File) -> list[bytes]:
    return [file.pread(SLOT_BYTES, slot * SLOT_BYTES) for slot in range(SLOTS)]


def _newest(file: File) -> OwnerRecord | None:
    records = [record for slot in _slots(file) if (record := OwnerRecord.decode(slot))]
    return max(records, key=lambda record: record.epoch, default=None)


def _last_epoch(file: File, seed: int) -> int:
    record = _newest(file)
    if record is not None:
        return max(record.epoch, seed)
    if _slots(file)[1].strip(b"\0"):
        raise DamageError(
            f"{file.path}: both records are damaged, so the last epoch is unknown; "
            "if no other process uses the directory, move the file away and start again"
        )
    return seed  # the very first acquire did not get to its end


def _describe(node: str, epoch: int, clock: Clock) -> OwnerRecord:
    since = datetime.fromtimestamp(clock.wall_ns() // 1_000_000_000, UTC)
    return OwnerRecord(
        node=node,
        host=socket.gethostname(),
        machine_id=machine_id(),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        pid=os.getpid(),
        epoch=epoch,
        since=since.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline(128).strip()
    except OSError:
        return ""


def _holder_message(what: str, directory: Path, holder: OwnerRecord | None) -> str:
    if holder is None:
        return f"{what} {directory} is locked by another process"
    return (
        f"{what} {directory} is locked by {holder.node!r} on host {holder.host}, pid {holder.pid}, since {holder.since}"
    )
