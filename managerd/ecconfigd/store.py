"""The repository of one manager, for the loop: a thread that changes it, some that read, and what a commit must pass.

    edits on `base` ─▶ three-way with head ─▶ paths, limits ─▶ rights ─▶ validation ─▶ objects ─▶ hold ─▶ main advances

Invariant: what main points to has passed all of that (or came from the writer, where it did), and is on the disk before
anybody hears of it. Only the owner thread writes; ``head``, ``confirmed`` and ``serial`` are the loop's view of it,
moved after each write, and ``on_change`` is called when one of them moved.

Leaves to others: who calls (service.py), other managers (replication.py), what nodes get (targets.py).
"""

import enum
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from jlogd.confrepo.model import Commit, CommitId, Conflict, Fault, Revision, Scope, Serial
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles
from managerd.ecconfigd.edits import Edit

if TYPE_CHECKING:
    from jlogd.confrepo.repository import Repository
    from managerd.ecconfigd.access import Rules
    from managerd.ecconfigd.checks import Checks

T = TypeVar("T")

# Decides whether nodes get a commit at once (None), or why not; in the owner thread, before main advances to it.
Hold: TypeAlias = "Callable[[Repository, Commit, Sequence[str]], str | None]"


class NotWriterError(RefusedError):
    """This manager does not take commits: pass the call on to the writer."""


class Outcome(enum.IntEnum):
    """What became of a commit; the numbers are the protocol's."""

    COMMITTED = 1
    NOTHING = 2
    REFUSED = 3
    CONFLICT = 4
    GOOD = 5
    PREPARED = 6
    UNCONFIRMED = 7  # said by the service, when others do not have it in time


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One change. ``base``: a REV text, empty = head. ``settles``: names below refs/heads/side/."""

    message: str
    edits: Sequence[Edit] = ()
    base: str = ""
    dry_run: bool = False
    prepare: bool = False
    settles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it. ``commit``: the revision that was made, or head when none was needed. ``paths``: changed."""

    outcome: Outcome
    commit: Commit | None = None
    paths: Sequence[str] = ()
    faults: Sequence[Fault] = ()
    conflicts: Sequence[Conflict] = ()
    prepared: bytes = b""
    held: str = ""
    merged: bool = False


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
        checks: "Checks | None" = None,
        nodes: Callable[[], Sequence[Scope]] = tuple,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``path``: the bare repository. ``writer``: we are. ``nodes``: those that are known beside the tree's."""
        self.on_change: list[Callable[[], None]] = []
        self.hold: Hold | None = None

    async def begin(self) -> None:
        """Open the repository. StorageError, DamageError."""
        raise NotImplementedError

    async def end(self) -> None:
        """Finish what is under way, close the repository."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what is there

    def head(self) -> Commit | None:
        """The newest revision. Cheap."""
        raise NotImplementedError

    def confirmed(self) -> Commit | None:
        """The newest revision that enough managers have. Cheap."""
        raise NotImplementedError

    def serial(self) -> Serial:
        """Confirmed revision + number of rollout state commits. Cheap."""
        raise NotImplementedError

    def rules(self) -> "Rules":
        """The rights that head's ``global/access.toml`` gives. Cheap."""
        raise NotImplementedError

    async def read(self, fn: "Callable[[Repository], T]") -> T:
        """``fn`` in a reader thread."""
        raise NotImplementedError

    async def write(self, fn: "Callable[[Repository], T]") -> T:
        """``fn`` in the owner thread; then ``on_change`` if it moved a ref."""
        raise NotImplementedError

    # ------------------------------------------------------------------ commits

    async def commit(self, request: CommitRequest, author: str, scope: Scope | None = None) -> Result:
        """One revision more, or why not; durable on return. ``scope``: of an author that is a node.

        NotPermittedError names the right and the path; NotWriterError; RefusedError for words that make no sense.
        """
        raise NotImplementedError

    async def publish(self, prepared: bytes, signature: bytes, author: str) -> Result:
        """Make what ``commit`` prepared for ``author`` the head, signed.

        ConflictError: head moved meanwhile, or it was not prepared here: prepare again.
        """
        raise NotImplementedError

    async def replay(self, commit: CommitId, left_out: AbstractSet[str], *, note: str) -> Result:
        """Commit again what ``commit`` changed against its parent, without ``left_out``, three-way onto head.

        Author and message stay; ``note`` and the original's id are added; signed by this manager. No rights count.
        """
        raise NotImplementedError

    async def adopt(self, tip: CommitId) -> Result:
        """Make ``tip``, whose line continues head and is in the object store, the head, after validation."""
        raise NotImplementedError

    def sign_own(self, content: bytes) -> bytes:
        """This manager's signature of a commit's content; empty without TLS. Any thread."""
        raise NotImplementedError

    # ------------------------------------------------------------------ other managers

    async def confirm(self, revision: Revision) -> None:
        """Enough managers have ``revision``. Only ever forward."""
        raise NotImplementedError

    async def refresh(self, confirmed: Revision) -> None:
        """The writer moved our refs, and says that ``confirmed`` is what enough managers have."""
        raise NotImplementedError
