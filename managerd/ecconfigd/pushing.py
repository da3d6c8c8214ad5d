"""One step that makes a peer's refs ours: which refs move, and the pack that they need. In a reader thread."""

from collections.abc import Mapping
from dataclasses import dataclass

from jlogd.confrepo.model import CommitId, Revision
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, Repository
from managerd.ecconfigd.committer import Updates
from managerd.ecconfigd.lineage import replicated, shared
from managerd.ecconfigd.transit import PACK_BYTES_MAX, STEP_BYTES, TooLargeError, Transit
from managerd.v1 import config_pb2 as pb


@dataclass(frozen=True, slots=True)
class Step:
    """``last``: the peer has everything then that we had when the step was made."""

    updates: Updates
    main: CommitId | None  # of the peer, after it
    revision: Revision  # of ``main``
    confirmed: Revision
    last: bool

    def header(self, manager: str, *, size: int, reset: bool) -> pb.PushHeader:
        """What announces it; ``size``: of the pack."""
        updates = [pb.RefUpdate(name=n, before=b or "", after=a or "") for n, (b, a) in self.updates.items()]
        return pb.PushHeader(updates=updates, confirmed=self.confirmed, reset=reset, size=size, manager=manager)


def next_step(repository: Repository, theirs: Mapping[str, CommitId], pack: Transit) -> Step:
    """From ``theirs`` as far as one ``pack``, which is filled, brings. What only they have must be here."""
    ours = repository.refs()
    low, high = _ends(repository, ours.get(MAIN), theirs.get(MAIN))
    while True:
        main = repository.at(high).id if high else None
        updates = _between({**ours, MAIN: main} if main is not None else ours, theirs)
        try:
            _fill(pack, repository, updates, theirs, STEP_BYTES if high - low > 1 else PACK_BYTES_MAX)
        except TooLargeError:
            if high - low <= 1:
                raise
            high = Revision((low + high) // 2)
            continue
        last = main == ours.get(MAIN)
        return Step(updates, main, high, _confirmed(repository, ours) if last else Revision(0), last)


def _ends(repository: Repository, ours: CommitId | None, theirs: CommitId | None) -> tuple[Revision, Revision]:
    """The revision of ours that they have, and our newest."""
    common = shared(repository, theirs) if theirs is not None else None
    newest = repository.commit(ours).revision if ours is not None else Revision(0)
    return (common.revision if common is not None else Revision(0)), newest


def _between(ours: Mapping[str, CommitId], theirs: Mapping[str, CommitId]) -> Updates:
    """What moves their refs to ours: name → (before, after)."""
    names = sorted(name for name in {*ours, *theirs} if name in {MAIN, ROLLOUT} or replicated(name))
    return {name: (theirs.get(name), ours.get(name)) for name in names if theirs.get(name) != ours.get(name)}


def _fill(
    pack: Transit, repository: Repository, updates: Updates, theirs: Mapping[str, CommitId], bytes_max: int
) -> None:
    want = [after for _, after in updates.values() if after is not None]
    have = [commit for commit in theirs.values() if commit in repository.store]
    pack.fill(repository.pack(want, have) if want else (), bytes_max)


def _confirmed(repository: Repository, refs: Mapping[str, CommitId]) -> Revision:
    commit = refs.get(CONFIRMED)
    if commit is None or not repository.on_main(commit):
        return Revision(0)
    return repository.commit(commit).revision
