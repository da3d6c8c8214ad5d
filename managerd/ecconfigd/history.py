"""Revisions and what each changed, as far as the caller may read it. In the store's reader threads.

What a commit changed never changes, so it is remembered: least recently used, bounded by the number of paths.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from jlogd.confrepo.model import Commit, CommitId, Revision
from jlogd.confrepo.repository import Repository
from managerd.ecconfigd.rights import Gate
from managerd.ecconfigd.wire import ANSWER_BYTES, PATHS_MAX, revision_of
from managerd.v1 import config_pb2 as pb

LIMIT: Final = 1000  # revisions of one answer
PATHS_KEPT: Final = 500_000  # 50 MB: ten bootstraps, or a hundred thousand ordinary commits

Signer = Callable[[Repository, Commit], str]


class History:
    """See the module. Thread-safe."""

    def __init__(self, signer: Signer = lambda _repository, _commit: "") -> None:
        """``signer``: who signed a commit, as an identity; empty: nobody, or badly."""
        self._signer = signer
        self._lock = threading.Lock()  # guards both below
        self._changed: OrderedDict[CommitId, tuple[str, ...]] = OrderedDict()
        self._kept = 0

    def changed(self, repository: Repository, commit: Commit) -> tuple[str, ...]:
        """Sorted paths that ``commit`` changed against its parent."""
        with self._lock:
            known = self._changed.get(commit.id)
            if known is not None:
                self._changed.move_to_end(commit.id)
                return known
        parent = repository.commit(commit.parent) if commit.parent is not None else None
        paths = tuple(sorted(path for path, _, _ in repository.diff(parent, commit)))
        self._keep(commit.id, paths)
        return paths

    def _keep(self, commit: CommitId, paths: tuple[str, ...]) -> None:
        with self._lock:
            if commit not in self._changed:
                self._changed[commit] = paths
                self._kept += len(paths) + 1
            while self._kept > PATHS_KEPT:
                _, dropped = self._changed.popitem(last=False)
                self._kept -= len(dropped) + 1

    def revision(self, repository: Repository, commit: Commit, gate: Gate, confirmed: Revision) -> pb.Revision:
        """A revision with those of its paths that the caller may read; of one without any, not who made it, and why."""
        readable = gate.readable(self.changed(repository, commit))
        words = gate.everything or bool(readable) or commit.author == gate.caller.identity
        shown = readable[:PATHS_MAX]
        signer = self._signer(repository, commit) if commit.signature else ""
        return revision_of(commit, confirmed=confirmed, paths=shown, count=len(readable), signer=signer, words=words)

    def log(self, repository: Repository, gate: Gate, request: pb.LogRequest, confirmed: Revision) -> pb.LogResponse:
        """Revisions, newest first, as many as are asked for and one answer holds."""
        answer = pb.LogResponse()
        if repository.head() is None:
            return answer
        until = repository.resolve(request.until)
        limit, size = min(request.limit or LIMIT, LIMIT), 0
        path = request.path.strip("/")
        if path and repository.entry(until, path) is not None:
            gate.require_read(path)
        for commit in self._commits(repository, gate, path, until):
            revision = self.revision(repository, commit, gate, confirmed)
            size += revision.ByteSize()
            if len(answer.revisions) >= limit or (size > ANSWER_BYTES and answer.revisions):
                answer.more = True
                break
            answer.revisions.append(revision)
        return answer

    def _commits(self, repository: Repository, gate: Gate, path: str, until: Commit) -> Iterator[Commit]:
        for commit in repository.log(path, until=until.id):
            if not path or gate.everything or self._touches(repository, commit, gate, path):
                yield commit

    def _touches(self, repository: Repository, commit: Commit, gate: Gate, path: str) -> bool:
        """Whether it changed anything at or below ``path`` that the caller may read."""
        below = (p for p in self.changed(repository, commit) if p == path or p.startswith(path + "/"))
        return bool(gate.readable(below))
