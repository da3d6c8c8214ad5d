"""A node's side of the configuration without gRPC: a real repository, and managers that are called directly."""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jlogd.attach.messages import Listener, Report, Target
from jlogd.confrepo.model import Changes, Commit, CommitId, Scope, Serial
from jlogd.confrepo.replica import Policy, Replica
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import UnavailableError
from jlogd.runtime.fs import OS, FileSystem
from tests.support.revisions import commit, put

SCOPE = Scope("web", "web1")
DEADLINE_S = 20.0


class Origin:
    """The repository that a node follows."""

    def __init__(self, directory: Path) -> None:
        """An empty one."""
        self.repository = Repository.open(directory / "origin.git")

    def commit(self, changes: Changes) -> Commit:
        """A revision."""
        return commit(self.repository, changes)

    def put(self, path: str, text: str) -> Commit:
        """A revision with one changed file."""
        return self.commit(put(path, text))

    def target(self, revision: Commit, serial: int = 0, **more: Any) -> Target:
        """What a manager announces; ``serial`` 0: the revision's number."""
        root = self.repository.root()
        assert root is not None
        return Target(revision.revision, revision.id, Serial(serial or revision.revision), root, **more)

    def pack(self, want: CommitId, have: Sequence[CommitId] = ()) -> list[bytes]:
        """As a manager would send it."""
        return list(self.repository.pack([want], have, SCOPE))


def open_replica(directory: Path, fs: FileSystem = OS, **policy: Any) -> Replica:
    """The replica in ``directory``."""
    return Replica.open(directory, SCOPE, Policy(**policy), fs=fs)


def bring(replica: Replica, origin: Origin, revision: Commit) -> None:
    """Fetch and lay out, as the configurer does."""
    if not replica.has(revision.id):
        have = replica.have()
        replica.receive(revision.id, origin.pack(revision.id, have), have)
    replica.prepare(revision.id, revision.revision)


def run(replica: Replica, origin: Origin, revision: Commit) -> Path:
    """Bring it and make it current; the view."""
    bring(replica, origin, revision)
    replica.views.swap(revision.id)
    return replica.views.path(revision.id)


def content(view: Path) -> dict[str, bytes]:
    """Everything in a view: path → bytes, of a symlink its target."""
    return {
        str(path.relative_to(view)): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(view.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


class DirectManager:
    """A manager that is called directly: the ``Talk`` of its session with one node."""

    def __init__(self, name: str, origin: Origin, listener: Listener) -> None:
        """Not attached yet. ``answers``: it confirms reports; ``broken``: what its fetches fail with."""
        self.name = name
        self.answers = True
        self.broken: Exception | None = None
        self.fetches: list[tuple[CommitId, tuple[CommitId, ...]]] = []
        self.reports: list[Report] = []
        self._origin = origin
        self._listener = listener
        self._queue: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._session: DirectTalk | None = None

    def attach(self, target: Target | None = None) -> None:
        """Begin a session, and say what to run."""
        self._session = DirectTalk(self)
        self._listener.attached(self.name, self._session)
        if target is not None:
            self._listener.target(self.name, target)

    def detach(self) -> None:
        """End it."""
        if self._session is not None:
            self._session.over = True
            self._session = None
            self._listener.detached(self.name)

    def tell(self, target: Target) -> None:
        """What to run from now on."""
        self._listener.target(self.name, target)

    def pack(self, want: CommitId, have: Sequence[CommitId]) -> Iterator[bytes]:
        """A pack, or what ``broken`` says."""
        self.fetches.append((want, tuple(have)))
        if self.broken is not None:
            raise self.broken
        yield from self._origin.pack(want, have)

    def take(self, report: Report) -> int:
        """A report arrives."""
        self.reports.append(report)
        self._queue.put(report)
        number = len(self.reports)
        if self.answers:
            self._listener.reported(self.name, number)
        return number

    def wait(self, wanted: Callable[[Report], bool], timeout_s: float = DEADLINE_S) -> Report:
        """The next report of that kind; AssertionError when none comes."""
        end_s = time.monotonic() + timeout_s
        seen: list[Report] = []
        while True:
            try:
                report = self._queue.get(timeout=max(end_s - time.monotonic(), 0.0))
            except queue.Empty:
                raise AssertionError(f"not reported: {seen}") from None
            if wanted(report):
                return report
            seen.append(report)

    def wait_for(self, state: str, revision: Commit) -> Report:
        """The next report of that state about that revision."""
        return self.wait(lambda report: (report.state, report.id) == (state, revision.id))


class DirectTalk:
    """One session of a ``DirectManager``."""

    def __init__(self, manager: DirectManager) -> None:
        """It is up."""
        self.over = False
        self._manager = manager

    def fetch(self, want: CommitId, have: Sequence[CommitId], timeout_s: float) -> Iterator[bytes]:
        """See ``Talk``."""
        if self.over:
            raise UnavailableError(f"{self._manager.name}: the session is over")
        return self._manager.pack(want, have)

    def report(self, report: Report, *, patience_s: float = 0.0) -> int:
        """See ``Talk``."""
        return 0 if self.over else self._manager.take(report)
