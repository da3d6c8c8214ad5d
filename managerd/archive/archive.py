"""The writer's side of the archive: replicas, opened when they are needed, committed together.

Always true: one thread owns an ``Archive`` and all its replicas; a replica's directory
and first segment are durable when ``begin`` returns; ``replica.journal`` is open, and
one that holds uncommitted frames is never closed to make room.

A ``Replica`` is a handle: its journal is closed when too many are open and nothing is
pending in it, and opened again by the next use of ``replica.journal``.
"""

import resource
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from jlogd.journal.journal import Journal
from jlogd.journal.model import Base, JournalOptions, Offset
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import DamageError, StorageError, UsageError
from jlogd.runtime.fs import OS, FileSystem
from managerd.archive.layout import (
    Incarnation,
    begun_incarnations,
    incarnation_dir,
    is_begun,
    list_incarnations,
    log_dir,
)

SYNC_EACH_MAX = 8  # above this many dirty journals one syncfs is cheaper: 15 ms for 2,000 small ones, 212 ms one by one
FILES_PER_JOURNAL = 4  # lock, committed mark, live segment, one for a reader or a roll
FILES_RESERVED = 256  # sockets, logs, libraries
# Here syncfs reaches a server or a user process whose answer proves little; each file is synced by itself.
_SYNCFS_UNSURE = ("fuse", "nfs", "cifs", "smb", "9p", "gluster", "ceph", "lustre")


class Replica:
    """One incarnation, for writing. Made by ``Archive``."""

    def __init__(self, archive: "Archive", node: str, name: str, incarnation: Incarnation) -> None:
        """``node`` and ``name`` (of the journal) were checked."""
        self.node = node
        self.name = name
        self.number = incarnation.number
        self.journal_id = incarnation.journal_id
        self.path = incarnation.path
        self._archive = archive

    @property
    def journal(self) -> Journal:
        """The journal, opened if it is not. StorageError, LockedError, DamageError, FormatError."""
        return self._archive._journal_of(self)  # noqa: SLF001 - the pair is one owner

    def __repr__(self) -> str:
        return f"Replica({self.node}/{self.name}/{self.path.name})"


class Archive:
    """All replicas below ``<data>/archive``. See the module's text for who may call."""

    def __init__(
        self, data: Path, *, epoch: int, options: JournalOptions, open_max: int, fs: FileSystem, clock: Clock
    ) -> None:
        """Use ``Archive.open``."""
        self.data = data
        self._epoch = epoch
        self._options = options
        self._open_max = open_max
        self._fs = fs
        self._clock = clock
        self._current: dict[tuple[str, str, bytes | None], Replica] = {}  # None: the newest of all
        self._open: OrderedDict[Path, Journal] = OrderedDict()  # least recently used first
        self._syncfs = _syncfs_counts(data)

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        epoch: int,
        options: JournalOptions | None = None,
        open_max: int | None = None,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> "Archive":
        """The writer of ``data``'s archive; the caller holds the lock on ``<data>/owner``. Opens no journal yet.

        ``open_max``: journals kept open at most, but never fewer than hold uncommitted
        frames; default as many as the process may have files. StorageError.
        """
        try:
            fs.make_dirs(data / "archive")
        except OSError as error:
            raise StorageError(f"{data}: cannot make the archive: {error}") from error
        return cls(
            data,
            epoch=epoch,
            options=options or JournalOptions(),
            open_max=open_max or _open_max(),
            fs=fs,
            clock=clock,
        )

    def current(self, node: str, journal: str, journal_id: bytes | None = None) -> Replica | None:
        """The newest incarnation of a log, of that journal id if one is given; None when there is none.

        A node whose journal comes back (a spool that was not mounted for a while) goes on where its
        own incarnation ends, not where another one does. UsageError, FormatError, StorageError.
        """
        key = (node, journal, journal_id)
        if key not in self._current:
            log = log_dir(self.data, node, journal)
            try:
                begun = begun_incarnations(log, self._fs)
            except OSError as error:
                raise StorageError(f"{log}: cannot be read: {error}") from error
            fitting = [one for one in begun if journal_id in (None, one.journal_id)]
            if not fitting:
                return None
            self._current[key] = Replica(self, node, journal, fitting[-1])
        return self._current[key]

    def begin(self, node: str, journal: str, journal_id: bytes, *, first: Offset, base: Base | None = None) -> Replica:
        """A new incarnation that begins at ``first``; durable on return, and current from then on.

        ``base`` (of ``first``) carries chain and terms where they are known. What an
        interrupted ``begin`` left is used again. UsageError, StorageError.
        """
        if len(journal_id) != 16:
            raise UsageError(f"a journal id has 16 bytes, not {len(journal_id)}")
        if base is None:
            base = Base(first, bytes(16), [])
        elif base.first != first:
            raise UsageError(f"the base begins at {base.first}, the incarnation at {first}")
        log = log_dir(self.data, node, journal)
        try:
            self._fs.make_dirs(log)
            incarnation = self._next_incarnation(log, journal_id)
        except OSError as error:
            raise StorageError(f"{log}: cannot begin a replica: {error}") from error
        self._make_room()
        opened = Journal.open(
            incarnation.path,
            options=self._options,
            journal_id=journal_id,
            base=base,
            epoch=self._epoch,
            fs=self._fs,
            clock=self._clock,
        )
        self._open[incarnation.path] = opened
        replica = Replica(self, node, journal, incarnation)
        self._current[node, journal, None] = self._current[node, journal, journal_id] = replica
        return replica

    def commit(self, replicas: Iterable[Replica]) -> None:
        """Make everything appended to ``replicas`` durable. StorageError: nothing is lost, call again.

        Every journal gets its turn, also when another one fails; the first error is raised.
        """
        dirty = [journal for replica in replicas if (journal := self._dirty(replica)) is not None]
        synced = False
        if len(dirty) > SYNC_EACH_MAX and self._options.sync == "batch" and self._syncfs:
            synced = self._sync_all()
        failure: StorageError | None = None
        for journal in dirty:
            try:
                journal.commit(sync=not synced)
            except StorageError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        self._close_idle(self._open_max)

    def close(self) -> None:
        """Commit and close every open journal; the first StorageError is raised after all are closed."""
        failure: StorageError | None = None
        while self._open:
            _, journal = self._open.popitem()
            try:
                journal.close()
            except StorageError as error:
                failure = failure or error
        self._current.clear()
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        """Return the archive itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the archive."""
        self.close()

    # ------------------------------------------------------------------ open journals

    @property
    def open_journals(self) -> Sequence[Path]:
        """Directories of the journals that are open now, the least recently used first."""
        return list(self._open)

    def _journal_of(self, replica: Replica) -> Journal:
        journal = self._open.get(replica.path)
        if journal is None:
            self._make_room()
            journal = Journal.open(
                replica.path, options=self._options, epoch=self._epoch, fs=self._fs, clock=self._clock
            )
            if journal.id != replica.journal_id:
                journal.close()
                raise DamageError(f"{replica.path} holds journal {journal.id.hex()}: it was moved or renamed")
            self._open[replica.path] = journal
        self._open.move_to_end(replica.path)
        return journal

    def _dirty(self, replica: Replica) -> Journal | None:
        journal = self._open.get(replica.path)
        return journal if journal is not None and journal.append_end != journal.end else None

    def _make_room(self) -> None:
        self._close_idle(self._open_max - 1)

    def _close_idle(self, keep: int) -> None:
        surplus = len(self._open) - keep
        if surplus <= 0:
            return
        idle = [path for path, journal in self._open.items() if journal.append_end == journal.end]
        for path in idle[:surplus]:
            self._open.pop(path).close()

    def _next_incarnation(self, log: Path, journal_id: bytes) -> Incarnation:
        known = list_incarnations(log, self._fs)
        if known and known[-1].journal_id == journal_id and not is_begun(known[-1], self._fs):
            return known[-1]
        number = known[-1].number + 1 if known else 1
        return Incarnation(number, journal_id, incarnation_dir(log, number, journal_id))

    def _sync_all(self) -> bool:
        try:
            self._fs.sync_all(self.data)
        except OSError:
            # It does not say whose bytes failed; each file's own fdatasync does, once (errseq_t is per open file).
            return False
        return True


def _open_max() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 65_536 if soft == resource.RLIM_INFINITY else min(soft, 65_536)
    return max((files - FILES_RESERVED) // FILES_PER_JOURNAL, 16)


def _syncfs_counts(data: Path) -> bool:
    """Whether syncfs of the file system that holds ``data`` proves that its bytes are on a disk."""
    best, kind = -1, ""
    resolved = data.resolve()
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if len(point) >= best and resolved.is_relative_to(point):
            best, kind = len(point), found
    return not kind.startswith(_SYNCFS_UNSURE)
