"""Two lines become one: what a second writer took is replayed onto ours, three-way, revision by revision.

    common ── c1 ── c2          the peer's line, that only it has
       └──── r4 ── r5 ── c1' ── c2'      ours

* nothing of ours after the common revision: its line continues ours, and is taken as it is;
* else each of its revisions is committed again by the ordinary way (rights aside, they were checked
  there), so merged per key and validated; files that conflict or do not pass are left out of it;
* its tip stays reachable: under ``refs/heads/side/`` when a file was left out (people see it),
  else under ``refs/jlogd/joined/``. Ids of its revisions change, nothing of their content is lost.

Dying in between and doing it again is fine: what was replayed already changes nothing.
"""

import logging
from functools import partial

from jlogd.confrepo.model import TREE_BYTES_MAX, CommitId, Revision
from jlogd.confrepo.repository import SIDE, Repository
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.peer import Peer
from managerd.ecconfigd.store import Outcome, Store

log = logging.getLogger(__name__)

REVISIONS_A_QUESTION = 64


async def join(store: Store, peer: Peer, tip: CommitId, tip_revision: Revision, *, peer_name: str) -> bool:
    """Bring the peer's line into ours; False when ours now continues it, True when the peer must leave its own."""
    common = await _common(store, peer, tip_revision)
    have = [common] if common else []
    pieces = await peer.fetch([tip], have)
    await store.write(lambda repository: repository.receive(pieces, bytes_max=TREE_BYTES_MAX))
    head = store.head()
    if (head.id if head else None) == common:
        await store.adopt(tip)
        log.info("manager %s is ahead: took over its revisions up to r%d", peer_name, tip_revision)
        return False
    if common is None:
        raise RefusedError(f"manager {peer_name} has another repository: its r1 is not ours; empty one of the two")
    theirs = await store.read(lambda repository: _after(repository, tip, common))
    left_out: set[str] = set()
    for commit in theirs:
        left_out |= await _replay(store, commit, peer_name)
    name = f"{SIDE if left_out else JOINED}{peer_name}-r{tip_revision}"
    await store.write(lambda repository: repository.advance({name: (repository.ref(name), tip)}))
    log.warning(
        "manager %s took %d revisions beside ours: joined%s", peer_name, len(theirs),
        f"; {len(left_out)} files could not be merged, see `eccfg status`: {', '.join(sorted(left_out)[:5])}"
        if left_out else "",
    )  # fmt: skip
    return True


async def _replay(store: Store, commit: CommitId, peer_name: str) -> set[str]:
    """Commit it again on our head; the paths that had to be left out."""
    left_out: set[str] = set()
    while True:  # each round leaves out at least one path more
        outcome = await store.replay(commit, left_out, note=f"Joined from manager {peer_name}")
        if outcome.outcome in {Outcome.COMMITTED, Outcome.NOTHING}:
            return left_out
        found = {conflict.path for conflict in outcome.conflicts} | {fault.path for fault in outcome.faults}
        changed = await store.read(lambda repository: _changed(repository, commit))
        fresh = (found & changed) - left_out
        left_out |= fresh or (changed - left_out)  # a fault elsewhere: none of it can go in


async def _common(store: Store, peer: Peer, tip_revision: Revision) -> CommitId | None:
    """The newest revision that both lines have: they share a beginning, so halving finds it."""
    head = store.head()
    low, high = 0, min(head.revision if head else 0, tip_revision) + 1  # low is common (0: none), high is not
    found: CommitId | None = None
    while high - low > 1:
        step = max((high - low) // REVISIONS_A_QUESTION, 1)
        asked = [Revision(number) for number in range(low + step, high, step)]
        theirs = await peer.history(asked)
        ours = await store.read(partial(_ids_at, asked))
        for revision, mine, other in zip(asked, ours, theirs, strict=True):
            if mine != other:
                high = revision
                break
            low, found = revision, mine
    return found


def _ids_at(asked: list[Revision], repository: Repository) -> list[CommitId]:
    return [repository.at(number).id for number in asked]


def _after(repository: Repository, tip: CommitId, common: CommitId) -> list[CommitId]:
    """The line from ``common``, exclusive, to ``tip``, oldest first."""
    line: list[CommitId] = []
    at: CommitId | None = tip
    while at is not None and at != common:
        line.append(at)
        at = repository.commit(at).parent
    return line[::-1]


def _changed(repository: Repository, commit: CommitId) -> set[str]:
    found = repository.commit(commit)
    parent = repository.commit(found.parent) if found.parent else None
    return {path for path, _, _ in repository.diff(parent, found)}
