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
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd import holding
from managerd.ecconfigd.committer import JOINED, Hold, Updates
from managerd.ecconfigd.fetching import fetch
from managerd.ecconfigd.lineage import back, beside, continues, joined, replicated, shared
from managerd.ecconfigd.peer import Known, Peer
from managerd.ecconfigd.store import Outcome, Store

log = logging.getLogger(__name__)

JOINING: Final = "refs/jlogd/joining/"  # of this manager alone


async def gather(store: Store, peer: Peer, theirs: Known, joining: asyncio.Lock) -> Revision | None:
    """Bring here what only the peer has; which revision of our line it has then, 0 for none.

    None: its main line is another one and must be left for ours, all of it is here. RefusedError: another repository.
    DamageError: what it sent is not what it said. ``joining``: one at a time.
    """
    wanted = await store.read(partial(_wanted, theirs=theirs))
    if wanted:
        await fetch(store, peer, theirs, wanted)
    unsettled = await store.read(partial(_unsettled, theirs=theirs))
    if wanted or unsettled:
        async with joining:
            await store.write(partial(_take_sides, theirs=theirs))
            await store.write(partial(_keep_marks, theirs=theirs))
            if not await store.write(partial(_take_over, theirs=theirs, hold=store.hold)):
                await _join(store, theirs)
    return await store.read(lambda repository: _on_ours(repository, theirs.refs.get(MAIN)))


def _unsettled(repository: Repository, theirs: Known) -> bool:
    """Whether there is something to do though all objects are here."""
    marks = _marks(theirs.manager)
    return bool(_side_updates(repository, theirs)) or any(repository.ref(ref) is not None for ref in marks)


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
        "manager %s was a writer beside us: its line %s is joined%s", theirs.manager, at.name,
        f"; what could not be merged is seen by 'eccfg status': {', '.join(sorted(left_out)[:5])}" if left is not None
        else "",
    )  # fmt: skip


def _begin_join(repository: Repository, tip: CommitId, manager: str) -> _Joining | None:
    """What is left to do; None when that line was joined meanwhile, with another manager's."""
    refs = repository.refs()
    was_joined = joined(repository, refs)
    if tip in was_joined:
        return None
    done_ref, left_ref = _marks(manager)
    done, left = refs.get(done_ref), refs.get(left_ref)
    if done is not None:
        was_joined.update(commit.id for commit in beside(repository, done))
    line = [commit for commit in reversed(beside(repository, tip)) if commit.id not in was_joined]
    _check_line(repository, line, manager)
    name = f"{_part(manager)}-r{repository.commit(tip).revision}"
    return _Joining(name, tip, [commit.id for commit in line], done_ref, left_ref, done, left)


def _part(manager: str) -> str:
    """Of a ref's name: there are manager names that could not be one."""
    return manager.replace("..", "--")


def _marks(manager: str) -> tuple[str, str]:
    return f"{JOINING}{_part(manager)}-done", f"{JOINING}{_part(manager)}-left"


def _keep_marks(repository: Repository, theirs: Known) -> None:
    """Marks of a join that will not go on: it ended, or the peer has another line now. What it did stays known."""
    refs = repository.refs()
    done_ref, left_ref = _marks(theirs.manager)
    done, left, tip = refs.get(done_ref), refs.get(left_ref), theirs.refs.get(MAIN)
    was_joined = joined(repository, refs)

    def goes_on(mark: CommitId) -> bool:
        return mark not in was_joined and tip is not None and continues(repository, tip, mark)

    updates: Updates = {}
    if done is not None and done not in was_joined and not goes_on(done):
        kind = SIDE if left is not None and left not in was_joined else JOINED
        name = f"{kind}{_part(theirs.manager)}-r{repository.commit(done).revision}"
        updates[_free(refs, {}, name, done)] = (None, done)
    for ref, mark in ((done_ref, done), (left_ref, left)):
        if mark is not None and not goes_on(mark):
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
