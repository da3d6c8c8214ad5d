"""What only another manager has comes here, before it is made equal to us. Nothing that was committed there is lost.

    common ── c1 ── c2              a line of the peer's that continues ours: taken as it is, ids kept

    common ── c1 ── c2              a line beside ours, of a second writer: each of its revisions
       └──── r4 ── r5 ── c1' ── c2'   is committed again on ours, three-way, by the ordinary way (rights
                                    aside, they were checked there), so merged per key and validated

* Files that conflict or do not pass are left out. The tip of the line stays reachable: below ``refs/heads/side/`` when
  something was left out (people see it), else below ``refs/jlogd/joined/``. What is reachable so counts as joined.
* Side branches are brought together; one that was settled anywhere is settled. Of two rollout lines the longer is
  taken if it continues the other one, else ours.

A join goes on where it ended: ``refs/jlogd/joining/PEER-done`` is the last revision that was committed again,
``PEER-left`` the last one of which something was left out; each moves right after main does. Dying between the two
means to commit the same revision again, which then changes nothing.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Final

from jlogd.confrepo.model import Commit, CommitId, Revision
from jlogd.confrepo.paths import check_path
from jlogd.confrepo.repository import MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.errors import DamageError, RefusedError
from managerd.ecconfigd import holding
from managerd.ecconfigd.committer import JOINED, Hold, Updates
from managerd.ecconfigd.lineage import back, beside, continues, joined, replicated, shared
from managerd.ecconfigd.peer import Known, Peer
from managerd.ecconfigd.store import Outcome, Store
from managerd.ecconfigd.transit import INFLATED_BYTES_MAX, PACK_BYTES_MAX, STEP_BYTES, TooLargeError, Transit

log = logging.getLogger(__name__)

JOINING: Final = "refs/jlogd/joining/"  # of this manager alone
REVISIONS_A_QUESTION: Final = 64


async def gather(store: Store, peer: Peer, theirs: Known, joining: asyncio.Lock) -> Revision | None:
    """Bring here what only the peer has; which revision of our line it has then, 0 for none.

    None: its main line is another one and must be left for ours, all of it is here. RefusedError: another repository.
    DamageError: what it sent is not what it said. ``joining``: one at a time.
    """
    wanted = await store.read(partial(_wanted, theirs=theirs))
    if wanted:
        await _fetch(store, peer, theirs, wanted)
    sides = await store.read(partial(_side_updates, theirs=theirs))
    if wanted or sides:
        async with joining:
            await store.write(partial(_take_sides, theirs=theirs))
            if not await store.write(partial(_take_over, theirs=theirs, hold=store.hold)):
                await _join(store, theirs)
    return await store.read(lambda repository: _on_ours(repository, theirs.refs.get(MAIN)))


def _on_ours(repository: Repository, tip: CommitId | None) -> Revision | None:
    if tip is None:
        return Revision(0)
    return repository.commit(tip).revision if repository.on_main(tip) else None


# ---------------------------------------------------------------------- objects


def _wanted(repository: Repository, theirs: Known) -> list[CommitId]:
    """Commits that refs of theirs name, and that are in no history of ours."""
    beside_us = joined(repository, repository.refs())
    wanted: dict[CommitId, None] = {}
    for name, tip in theirs.refs.items():
        if name == ROLLOUT:
            here = _on_rollout(repository, tip)
        elif name == MAIN or replicated(name):
            here = repository.on_main(tip) or tip in beside_us
        else:
            continue
        if not here:
            wanted[tip] = None
    return list(wanted)


def _on_rollout(repository: Repository, tip: CommitId) -> bool:
    ours = repository.ref(ROLLOUT)
    return ours is not None and tip in repository.store and continues(repository, ours, tip)


async def _fetch(store: Store, peer: Peer, theirs: Known, wanted: Sequence[CommitId]) -> None:
    """Objects of ``wanted``, in as many packs as it takes."""
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


# ---------------------------------------------------------------------- refs that people see, and rollouts


def _side_updates(repository: Repository, theirs: Known) -> Updates:
    """What of their side branches ours lack, by their tips: names may have been given twice."""
    ours = repository.refs()
    settled = {tip for name, tip in ours.items() if name.startswith(JOINED)}
    open_ = {tip: name for name, tip in ours.items() if name.startswith(SIDE)}
    updates: Updates = {}
    for name, tip in sorted(theirs.refs.items()):
        if name.startswith(JOINED) and tip not in settled:
            updates[_free(ours, updates, name, tip)] = (None, tip)
            settled.add(tip)
            if tip in open_:
                updates[open_[tip]] = (tip, None)
    for name, tip in sorted(theirs.refs.items()):
        if name.startswith(SIDE) and tip not in settled and tip not in open_:
            updates[_free(ours, updates, name, tip)] = (None, tip)
            open_[tip] = name
    return updates


def _take_sides(repository: Repository, theirs: Known) -> None:
    updates = _side_updates(repository, theirs)
    for _, tip in updates.values():
        if tip is not None:
            _check_line(repository, beside(repository, tip), theirs.manager)
    repository.advance(updates)


def _free(ours: dict[str, CommitId], updates: Updates, name: str, tip: CommitId) -> str:
    return name if name not in ours and name not in updates else f"{name}-{tip[:8]}"


def _take_over(repository: Repository, theirs: Known, hold: Hold | None) -> bool:
    """Their rollouts, and their main line, where they continue ours. False when main does not."""
    rollout, one_line = _rollout_update(repository, theirs.refs.get(ROLLOUT))
    tip, head = theirs.refs.get(MAIN), repository.head()
    common = shared(repository, tip) if tip is not None else None
    if tip is None or (common is not None and common.id == tip):
        repository.advance(rollout)
        return True
    if common != head:
        repository.advance(rollout)
        return False
    _check_line(repository, takewhile(lambda commit: commit != head, back(repository, tip)), theirs.manager)
    commit = repository.commit(tip)
    if hold is not None and not one_line:  # else it was decided by the manager that was the writer then
        hold(repository, commit, [path for path, _, _ in repository.diff(head, commit)])
        rollout = {}
    repository.advance({**rollout, MAIN: (head.id if head else None, tip)})
    log.info("manager %s is ahead: took over its revisions up to r%d", theirs.manager, commit.revision)
    return True


def _rollout_update(repository: Repository, tip: CommitId | None) -> tuple[Updates, bool]:
    """What takes their rollout line over, and whether theirs and ours are one line."""
    ours = repository.ref(ROLLOUT)
    if tip is None or tip == ours or (ours is not None and continues(repository, ours, tip)):
        return {}, True
    if not continues(repository, tip, ours):
        return {}, False
    holding.load(repository, tip)  # it can be read
    return {ROLLOUT: (ours, tip)}, True


def _check_line(repository: Repository, line: Iterable[Commit], manager: str) -> None:
    """Names that no commit brings in by the ordinary way. RefusedError."""
    for commit in line:
        before = repository.commit(commit.parent) if commit.parent is not None else None
        for path, _, new in repository.diff(before, commit):
            problem = check_path(path) if new is not None else None
            if problem is not None:
                raise RefusedError(f"manager {manager}: r{commit.revision} {commit.id[:8]}: {path[:200]!r} {problem}")


# ---------------------------------------------------------------------- two lines become one


@dataclass(frozen=True, slots=True)
class _Joining:
    """One join, as far as it is."""

    name: str  # of the line, below SIDE or JOINED
    tip: CommitId
    todo: Sequence[CommitId]  # the oldest first
    done_ref: str
    left_ref: str
    done: CommitId | None
    left: CommitId | None


async def _join(store: Store, theirs: Known) -> None:
    """Commit again on ours what only their main line has; then that line is joined."""
    at = await store.write(partial(_begin_join, tip=theirs.refs[MAIN], manager=theirs.manager))
    if at is None:
        return
    done, left, left_out = at.done, at.left, set[str]()
    for commit in at.todo:
        leaving = await _replay(store, at, commit, done, left, theirs.manager)
        done, left = commit, commit if leaving else left
        left_out |= leaving
    await store.write(partial(_end_join, at=at, done=done, left=left))
    log.warning(
        "manager %s took %d revisions beside ours: joined%s", theirs.manager, len(at.todo),
        f"; {len(left_out)} files could not be merged, see 'eccfg status': {', '.join(sorted(left_out)[:5])}"
        if left_out else "",
    )  # fmt: skip


def _begin_join(repository: Repository, tip: CommitId, manager: str) -> _Joining | None:
    """What is left to do; None when that line was joined meanwhile, with another manager's."""
    part = manager.replace("..", "--")  # the only names that cannot be part of a ref's
    done_ref, left_ref = f"{JOINING}{part}-done", f"{JOINING}{part}-left"
    _keep_marks(repository, part, done_ref, left_ref, tip)
    refs = repository.refs()
    was_joined = joined(repository, refs)
    if tip in was_joined:
        return None
    done, left = refs.get(done_ref), refs.get(left_ref)
    if done is not None:
        was_joined.update(commit.id for commit in beside(repository, done))
    line = [commit for commit in reversed(beside(repository, tip)) if commit.id not in was_joined]
    _check_line(repository, line, manager)
    name = f"{part}-r{repository.commit(tip).revision}"
    return _Joining(name, tip, [commit.id for commit in line], done_ref, left_ref, done, left)


def _keep_marks(repository: Repository, part: str, done_ref: str, left_ref: str, tip: CommitId) -> None:
    """Marks of a join that this one does not go on with: what it did is remembered in the usual place."""
    refs = repository.refs()
    done, left = refs.get(done_ref), refs.get(left_ref)
    known = joined(repository, refs)
    updates: Updates = {}
    if done is not None and done not in known and not continues(repository, tip, done):
        kind = SIDE if left is not None and left not in known else JOINED
        name = _free(refs, {}, f"{kind}{part}-r{repository.commit(done).revision}", done)
        updates[name] = (None, done)
    for ref, mark in ((done_ref, done), (left_ref, left)):
        if mark is not None and (mark in known or not continues(repository, tip, mark)):
            updates[ref] = (mark, None)
    repository.advance(updates)


async def _replay(
    store: Store, at: _Joining, commit: CommitId, done: CommitId | None, left: CommitId | None, manager: str
) -> AbstractSet[str]:
    """Commit it again on our head; the paths that had to be left out."""
    left_out: set[str] = set()
    while True:  # each round leaves out at least one path more
        marks: Updates = {at.left_ref: (left, commit)} if left_out else {}
        marks[at.done_ref] = (done, commit)
        result = await store.replay(commit, left_out, note=f"Joined from manager {manager}", marks=marks)
        if result.outcome in {Outcome.COMMITTED, Outcome.NOTHING}:
            return left_out
        found = {conflict.path for conflict in result.conflicts} | {fault.path for fault in result.faults}
        changed = await store.read(lambda repository: _changed(repository, commit))
        left_out |= (found & changed) - left_out or changed - left_out  # a fault elsewhere: none of it can go in


def _changed(repository: Repository, commit_id: CommitId) -> set[str]:
    commit = repository.commit(commit_id)
    parent = repository.commit(commit.parent) if commit.parent else None
    return {path for path, _, _ in repository.diff(parent, commit)}


def _end_join(repository: Repository, at: _Joining, done: CommitId | None, left: CommitId | None) -> None:
    """The line is joined as soon as its name is there."""
    kind = SIDE if left is not None else JOINED
    updates: Updates = {_free(repository.refs(), {}, kind + at.name, at.tip): (None, at.tip)}
    for ref, mark in ((at.done_ref, done), (at.left_ref, left)):
        if mark is not None:
            updates[ref] = (mark, None)
    repository.advance(updates)
