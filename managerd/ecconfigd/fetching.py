"""Brings objects of another manager's history here, in as many packs as it takes; no ref moves.

Where the two histories part is found by asking for ids. What comes is stored when its bytes are sound, and a part of a
long history only counts when it continues the part before: nothing that a peer says makes this go on for ever.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from jlogd.confrepo.model import CommitId, Revision
from jlogd.confrepo.repository import MAIN, Repository
from jlogd.runtime.errors import DamageError, RefusedError
from managerd.ecconfigd.lineage import continues
from managerd.ecconfigd.peer import Known, Peer
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.transit import INFLATED_BYTES_MAX, PACK_BYTES_MAX, STEP_BYTES, TooLargeError, Transit

REVISIONS_A_QUESTION: Final = 64


async def fetch(store: Store, peer: Peer, theirs: Known, wanted: Sequence[CommitId]) -> None:
    """Store objects of ``wanted`` and all before them. RefusedError: another repository. DamageError: lies."""
    low, common = await _common(store, peer, theirs)
    head = store.head()
    if common is None and head is not None and MAIN in theirs.refs:
        raise RefusedError(
            f"manager {theirs.manager} has another repository, whose r1 is not ours: keep one of them, and move "
            "config.git away from the data directory of the other manager while it does not run"
        )
    have = await store.read(lambda repository: list(repository.refs().values()))
    have += [common] if common is not None else []
    while True:
        high, got = await _fetch_step(store, peer, theirs, wanted, have, low)
        if high == theirs.head:
            return
        await store.read(partial(_check_step, tip=got, revision=high, before=common))
        low, common = high, got
        have.append(got)


async def _fetch_step(
    store: Store, peer: Peer, theirs: Known, wanted: Sequence[CommitId], have: Sequence[CommitId], low: Revision
) -> tuple[Revision, CommitId]:
    """Up to the highest revision that one pack brings; which that is."""
    high, want = theirs.head, wanted
    while True:
        limit = STEP_BYTES if high - low > 1 else PACK_BYTES_MAX
        try:
            await _fetch_pack(store, peer, want, have, limit)
        except TooLargeError:
            if high - low <= 1:
                raise
            high = Revision((low + high) // 2)
            want = [await _id_at(peer, high)]
        else:
            return high, want[0]


def _check_step(repository: Repository, tip: CommitId, revision: Revision, before: CommitId | None) -> None:
    """A part of their line, or DamageError: who sends something else would never end."""
    if repository.commit(tip).revision != revision or not continues(repository, tip, before):
        raise DamageError(f"commit {tip} is not r{revision} of the line whose parts were sent before")


async def _fetch_pack(
    store: Store, peer: Peer, want: Sequence[CommitId], have: Sequence[CommitId], bytes_max: int
) -> None:
    with Transit(store.directory, bytes_max) as pack:
        await peer.fetch(want, have, pack)
        await store.write(lambda repository: repository.receive(pack.pieces(), bytes_max=INFLATED_BYTES_MAX))
    missing = await store.read(lambda repository: [tip for tip in want if tip not in repository.store])
    if missing:
        raise DamageError(f"the manager at {peer.address} did not send commit {missing[0]}, which it says it has")


async def _id_at(peer: Peer, revision: Revision) -> CommitId:
    (found,) = await peer.history([revision])
    if found is None:
        raise DamageError(f"the manager at {peer.address} has no r{revision}, and says that its head is newer")
    return found


async def _common(store: Store, peer: Peer, theirs: Known) -> tuple[Revision, CommitId | None]:
    """The newest revision that both lines have: they share a beginning, so halving finds it."""
    head = store.head()
    low, high = 0, min(head.revision if head else 0, theirs.head) + 1  # low is common (0: none), high is not
    found: CommitId | None = None
    while high - low > 1:
        step = max((high - low) // REVISIONS_A_QUESTION, 1)
        asked = [Revision(number) for number in range(low + step, high, step)]
        answered = await peer.history(asked)
        ours = await store.read(partial(_ids_at, asked))
        for revision, mine, other in zip(asked, ours, answered, strict=True):
            if mine != other:
                high = revision
                break
            low, found = revision, mine
    return Revision(low), found


def _ids_at(asked: Sequence[Revision], repository: Repository) -> list[CommitId]:
    return [repository.at(number).id for number in asked]
