"""The repository of one manager, for the loop: a thread that changes it, some that read, and what a commit must pass.

    edits on `base` ─▶ three-way with head ─▶ paths, limits ─▶ rights ─▶ validation ─▶ objects ─▶ hold ─▶ main advances

Invariant: what main points to has passed all of that (or came from the writer, where it did), and is on the disk before
anybody hears of it. Only the owner thread writes; ``head``, ``confirmed`` and ``serial`` are the loop's view of it,
moved after each write, and ``on_change`` is called when one of them moved.

Leaves to others: who calls (service.py), other managers (replication.py), what nodes get (targets.py).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from jlogd.confrepo.model import ACCESS_FILE, Commit, CommitId, ObjectId, Revision, Scope, Serial
from jlogd.confrepo.repository import CONFIRMED, ROLLOUT, Repository
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import JlogdError, RefusedError, StorageError, UnavailableError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles
from managerd.ecconfigd import placement
from managerd.ecconfigd.access import Rules
from managerd.ecconfigd.change import CommitRequest, Outcome, Result
from managerd.ecconfigd.checks import Checks
from managerd.ecconfigd.committer import Committer, Hold, Updates
from managerd.ecconfigd.judge import Judge
from managerd.ecconfigd.signer import Signer

__all__ = ["CommitRequest", "NotWriterError", "Outcome", "Result", "Store"]

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS: Final = 4
WAITING_MAX: Final = 1000  # changes that wait for the owner thread
COMMITS_A_MAINTENANCE: Final = 500
QUIET_S: Final = 2.0


class NotWriterError(RefusedError):
    """This manager does not take commits: pass the call on to the writer."""


class Store:
    """See the module. ``begin`` and ``end`` once; all methods belong to the loop unless they say otherwise."""

    def __init__(
        self,
        path: Path,
        *,
        manager: str,
        writer: bool = True,
        replicas_min: int = 1,
        tls: TlsFiles | None = None,
        checks: Checks | None = None,
        nodes: Callable[[], Sequence[Scope]] = tuple,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``path``: the bare repository. ``writer``: we are. ``nodes``: those that are known beside the tree's."""
        self.on_change: list[Callable[[], None]] = []
        self.hold: Hold | None = None  # set before ``begin``
        self.directory = path.parent  # has room for files without a name
        self._path = path
        self._manager = manager
        self._writer = writer
        self._alone = writer and replicas_min == 1  # then what is on our disk is confirmed
        self._signer = Signer(tls, fs=fs)
        self._judge = Judge(nodes, checks)
        self._notes = partial(placement.notes, nodes=nodes)
        self._fs = fs
        self._clock = clock
        self._owner = ThreadPoolExecutor(1, "config-owner")
        self._readers = ThreadPoolExecutor(READERS, "config-read")
        self._waiting = 0  # writes that did not end yet
        self._commits = 0  # since the last maintenance
        self._quiet: asyncio.TimerHandle | None = None  # the next one, when no commit comes before
        self._known_rules: tuple[ObjectId | None, Rules] = (None, Rules.parse(None))
        self._state = _State({}, None, None, Serial(0), self._known_rules[1])  # the loop's
        self._seen = self._state  # the owner thread's

    async def begin(self) -> None:
        """Open the repository. StorageError, DamageError."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._loop.run_in_executor(self._owner, self._open)
        except BaseException:
            self._owner.shutdown(wait=True)  # it has nothing to do any more
            self._judge.close()
            raise
        self._state = self._seen
        self._owner.submit(self._pack_objects)  # what a process that was killed had no quiet moment for

    async def end(self) -> None:
        """Finish what is under way, close the repository."""
        if self._quiet is not None:
            self._quiet.cancel()
        await asyncio.to_thread(self._close)

    # ------------------------------------------------------------------ what is there

    def head(self) -> Commit | None:
        """The newest revision. Cheap."""
        return self._state.head

    def confirmed(self) -> Commit | None:
        """The newest revision that enough managers have. Cheap."""
        return self._state.confirmed

    def serial(self) -> Serial:
        """Confirmed revision + number of rollout state commits. Cheap."""
        return self._state.serial

    def rules(self) -> Rules:
        """The rights that head's ``global/access.toml`` gives. Cheap."""
        return self._state.rules

    async def read(self, fn: Callable[[Repository], T]) -> T:
        """``fn`` in a reader thread."""
        return await self._loop.run_in_executor(self._readers, fn, self._repository)

    async def write(self, fn: Callable[[Repository], T]) -> T:
        """``fn`` in the owner thread; then ``on_change`` if it moved a ref. UnavailableError when too many wait."""
        if self._waiting >= WAITING_MAX:
            raise UnavailableError(f"{WAITING_MAX} changes wait already: try again")
        self._waiting += 1
        future = self._owner.submit(self._work, fn)
        future.add_done_callback(lambda _: self._tell(self._done))
        return await asyncio.wrap_future(future)

    # ------------------------------------------------------------------ commits

    async def commit(self, request: CommitRequest, author: str, scope: Scope | None = None) -> Result:
        """One revision more, or why not; durable on return. ``scope``: of an author that is a node.

        NotPermittedError names the right and the path; NotWriterError; RefusedError for words that make no sense.
        """
        self._require_writer()
        if request.dry_run:
            return await self.read(lambda _: self._committer.commit(request, author, scope))
        return await self._commit(lambda _: self._committer.commit(request, author, scope))

    async def publish(self, prepared: bytes, signature: bytes, author: str) -> Result:
        """Make what ``commit`` prepared for ``author`` the head, signed.

        ConflictError: head moved meanwhile, or it was not prepared here: prepare again. RefusedError: a bad signature.
        """
        self._require_writer()
        return await self._commit(lambda _: self._committer.publish(prepared, signature, author))

    async def replay(
        self, commit: CommitId, left_out: AbstractSet[str], *, note: str, marks: "Updates | None" = None
    ) -> Result:
        """Commit again what ``commit`` changed against its parent, without ``left_out``, three-way onto head.

        Author and message stay; ``note`` and the original's id are added; signed by this manager. No rights count.
        ``marks``: refs that move right after main, also when it changes nothing.
        """
        self._require_writer()
        return await self._commit(lambda _: self._committer.replay(commit, left_out, note, marks or {}))

    async def adopt(self, tip: CommitId) -> Result:
        """Make ``tip``, whose line continues head and is in the object store, the head, after validation."""
        self._require_writer()
        return await self._commit(lambda _: self._committer.adopt(tip))

    def sign_own(self, content: bytes) -> bytes:
        """This manager's signature of a commit's content; empty without TLS. Any thread."""
        return self._signer.sign(content)

    # ------------------------------------------------------------------ other managers

    async def confirm(self, revision: Revision) -> None:
        """Enough managers have ``revision``. Only ever forward."""
        await self.write(lambda repository: _confirm(repository, revision))

    async def refresh(self, confirmed: Revision, take: Callable[[Repository], None] | None = None) -> None:
        """The writer moves our refs by ``take``, and says that ``confirmed`` is what enough managers have.

        Nobody here sees the one without the other.
        """

        def follow(repository: Repository) -> None:
            if take is not None:
                take(repository)
            _confirm(repository, confirmed)

        await self.write(follow)
        if take is not None:
            self._grown()

    # ------------------------------------------------------------------ the owner thread

    def _open(self) -> None:
        repository = self._repository = Repository.open(self._path, fs=self._fs)
        self._committer = Committer(
            repository,
            signer=self._signer,
            judge=self._judge,
            notes=self._notes,
            rules=self._rules_at,
            hold=self.hold,
            clock=self._clock,
        )
        self._look()

    def _work(self, fn: Callable[[Repository], T]) -> T:
        try:
            return fn(self._repository)
        finally:
            if self._look():
                self._tell(self._show, self._seen)  # before the answer is there

    def _look(self) -> bool:
        """Whether a ref moved since the last time; the state is made anew then."""
        repository = self._repository
        if self._alone:
            self._confirm_head()
        refs = repository.refs()
        if refs == self._seen.refs:
            return False
        head = repository.head()
        confirmed = _confirmed(repository, refs)
        steps = repository.commit(refs[ROLLOUT]).revision if ROLLOUT in refs else 0
        serial = Serial((confirmed.revision if confirmed is not None else 0) + steps)
        self._seen = _State(refs, head, confirmed, serial, self._rules_at(head))
        return True

    def _confirm_head(self) -> None:
        """Nobody else is asked. When the disk is full it is made up for by the next change."""
        try:
            head = self._repository.head()
            if head is not None:
                _confirm(self._repository, head.revision)
        except StorageError as error:
            log.warning("%s: head is not confirmed: %s", self._path, error)

    def _rules_at(self, head: Commit | None) -> Rules:
        """In any thread: what is remembered is replaced whole."""
        entry = self._repository.entry(head, ACCESS_FILE)
        blob = entry.id if entry is not None else None
        known = self._known_rules
        if known[0] != blob:
            known = blob, Rules.parse(self._repository.content(blob) if blob is not None else None)
            self._known_rules = known
        return known[1]

    def _pack_objects(self) -> None:
        try:
            self._repository.maintain()
        except JlogdError as error:
            log.warning("%s: not packed: %s", self._path, error)

    def _close(self) -> None:
        self._owner.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._repository.close()
        self._judge.close()

    def _tell(self, fn: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(fn, *arguments)

    # ------------------------------------------------------------------ the loop

    async def _commit(self, fn: Callable[[Repository], Result]) -> Result:
        result = await self.write(fn)
        if result.outcome is Outcome.COMMITTED:
            self._grown()
        return result

    def _grown(self) -> None:
        """Objects came, by a commit or from the writer: they are packed when it is quiet."""
        self._commits += 1
        if self._quiet is not None:
            self._quiet.cancel()
        wait_s = QUIET_S if self._commits < COMMITS_A_MAINTENANCE else 0.0
        self._quiet = self._loop.call_later(wait_s, self._maintain)

    def _maintain(self) -> None:
        """Pack objects, which takes a moment: when nobody commits, but not for ever later."""
        self._commits, self._quiet = 0, None
        self._owner.submit(self._pack_objects)

    def _show(self, state: "_State") -> None:
        self._state = state
        for callback in list(self.on_change):
            callback()

    def _done(self) -> None:
        self._waiting -= 1

    def _require_writer(self) -> None:
        if not self._writer:
            raise NotWriterError(f"manager {self._manager} is not the writer: it takes no commits")


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of the refs, at one moment."""

    refs: dict[str, CommitId]
    head: Commit | None
    confirmed: Commit | None
    serial: Serial
    rules: Rules


def _confirmed(repository: Repository, refs: Mapping[str, CommitId]) -> Commit | None:
    """What the ref says, if it is of the present line."""
    commit = refs.get(CONFIRMED)
    return repository.commit(commit) if commit is not None and repository.on_main(commit) else None


def _confirm(repository: Repository, revision: Revision) -> None:
    """Move the ref to ``revision``, or to head when that is older; never back on the present line."""
    refs = repository.refs()
    head, old = repository.head(), _confirmed(repository, refs)
    wanted = Revision(min(revision, head.revision if head is not None else 0))
    if wanted > (old.revision if old is not None else 0):
        repository.advance({CONFIRMED: (refs.get(CONFIRMED), repository.at(wanted).id)})
    elif old is None and CONFIRMED in refs:  # of a line that was left
        repository.advance({CONFIRMED: (refs[CONFIRMED], None)})
