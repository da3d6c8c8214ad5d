"""What each node should run, and the packs that bring it there.

A *picture* is taken from the refs in one go: the confirmed revision, the rollout's document, the baseline that follows
from both, the serial. Every answer comes from one picture; the same refs give the same picture on every manager. The
rules are docs/configuration.md, "Rollouts".

Leaves to others: who may ask (attach.py), what a rollout does next (conductor.py), what is held back (holding.py), the
bytes of packs (packs.py). Lives on the loop, except ``hold``, which the store's owner thread calls.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jlogd.attach.messages import Gift, Target
from jlogd.confrepo.model import DEFAULT, RESERVED, Commit, CommitId, Revision, Scope, Serial
from jlogd.confrepo.repository import CONFIRMED, ROLLOUT, Repository
from jlogd.runtime.errors import JlogdError, RefusedError
from managerd.ecconfigd import holding
from managerd.ecconfigd.packs import Ask, Packs
from managerd.ecconfigd.rollout import Document, Point, Rollout

if TYPE_CHECKING:
    from managerd.ecconfigd.store import Store

log = logging.getLogger(__name__)

RECENT_MAX: Final = 64  # pictures: a node may still fetch what it was told some revisions ago
AGAIN_S: Final = 5.0  # after a picture that could not be taken


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that decides what nodes should run, at one moment."""

    repository: CommitId
    confirmed: Point
    baseline: Point  # confirmed itself, unless that is held back
    serial: Serial
    document: Document
    trial: Rollout | None  # the rollout that decides, if one does
    subclusters: Mapping[str, frozenset[str]]  # node → those that have a directory for it

    def target(self, node: str) -> Target:
        """What ``node`` should run."""
        trial = self.trial
        if trial is not None and trial.tries(node):
            return Target(
                trial.target.revision,
                trial.target.id,
                self.serial,
                self.repository,
                trial.health,
                trial.hold_s if trial.health else 0.0,
            )
        return Target(self.baseline.revision, self.baseline.id, self.serial, self.repository)


class Targets:
    """See the module. ``begin`` before the first question; the store calls us back whenever a ref moved."""

    def __init__(self, store: "Store") -> None:
        """Nothing is known yet."""
        self._store = store
        self._packs = Packs(store)
        self._recent: deque[Picture] = deque(maxlen=RECENT_MAX)  # the present one is the last
        self._callbacks: list[Callable[[], None]] = []
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Take the first picture and follow the store."""
        self._store.on_change.append(self._moved.set)
        await self._take()
        self._task = asyncio.create_task(self._follow())

    async def end(self) -> None:
        """Take no more."""
        with contextlib.suppress(ValueError):
            self._store.on_change.remove(self._moved.set)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def picture(self) -> Picture | None:
        """The present one; None while nothing is confirmed."""
        return self._recent[-1] if self._recent else None

    def target(self, node: str, subcluster: str) -> Target | None:  # noqa: ARG002 - a rollout knows no subclusters yet
        """What ``node`` should run; None while nothing is confirmed."""
        picture = self.picture
        return picture.target(node) if picture else None

    def subcluster_of(self, node: str) -> str | None:
        """The one subcluster that has a directory for ``node``; None when none has, or several have."""
        places = self._places(node)
        return next(iter(places)) if len(places) == 1 else None

    def may_be_of(self, node: str, subcluster: str) -> bool:
        """Whether ``node`` has a directory in ``subcluster``, or the rules of head let it be there without one."""
        return subcluster in self._places(node) or self._store.rules().may_be_of(node, subcluster)

    def _places(self, node: str) -> frozenset[str]:
        picture = self.picture
        return picture.subclusters.get(node, frozenset()) if picture else frozenset()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` on the loop after each new picture; returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def pack(
        self, scope: Scope, want: CommitId, have: Sequence[CommitId]
    ) -> Sequence[bytes] | AsyncGenerator[bytes, None]:
        """Pieces of the pack that brings ``scope.node`` from ``have`` to ``want``, at least one.

        RefusedError for a commit that the node was not told to run lately.
        """
        if not any(picture.target(scope.node).id == want for picture in reversed(self._recent)):
            raise RefusedError(f"node {scope.node} was not told to run {want[:8]}: it gets what its target says")
        return await self._packs.pack(scope, want, have)

    async def gifts(self, asks: Sequence[Ask]) -> list[Gift | None]:
        """What may go out beside targets; those who ask were just told them."""
        return await self._packs.gifts(asks)

    def hold(self, repository: Repository, commit: Commit, paths: Sequence[str]) -> str | None:
        """Decide whether nodes get ``commit`` at once; if not, say why, when that is on disk.

        In the store's owner thread, with the commit's objects in the object store, before the main line advances to it.
        ``paths``: what it changes against its parent.
        """
        return holding.hold(repository, commit, paths)

    async def _follow(self) -> None:
        while True:
            await self._moved.wait()
            if not await self._take():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await self._moved.wait()
                self._moved.set()

    async def _take(self) -> bool:
        """Whether a picture could be taken. Without one the last one counts: no node gets what may be held back."""
        self._moved.clear()
        before = self.picture
        try:
            picture = await self._store.read(lambda repository: take(repository, before))
        except (JlogdError, OSError) as error:
            log.error("nodes are told nothing new: %s", error)  # noqa: TRY400 - the message says it all
            return False
        if picture is not None and picture != before:
            self._recent.append(picture)
            for callback in list(self._callbacks):
                callback()
        return True


def take(repository: Repository, before: Picture | None = None) -> Picture | None:
    """The picture of the present refs; None while nothing is confirmed. In any thread."""
    refs = repository.refs()
    root, confirmed_id = repository.root(), refs.get(CONFIRMED)
    if root is None or confirmed_id is None or not repository.on_main(confirmed_id):
        return None  # the last: of a line that was just left for the writer's
    confirmed = repository.commit(confirmed_id)
    line = holding.load(repository, refs.get(ROLLOUT))
    document = line.document

    def id_at(revision: Revision) -> CommitId | None:
        return holding.id_at(repository, revision)

    held = document.in_force(id_at, confirmed.revision)
    newest = Point(confirmed.revision, confirmed.id)
    same_tree = before is not None and before.confirmed == newest
    return Picture(
        repository=root,
        confirmed=newest,
        baseline=min(newest, held.baseline, key=lambda point: point.revision) if held else newest,
        serial=Serial(confirmed.revision + line.length),
        document=document,
        trial=document.trial(id_at, confirmed.revision),
        subclusters=before.subclusters if before is not None and same_tree else _subclusters(repository, confirmed),
    )


def _subclusters(repository: Repository, commit: Commit) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for subcluster, is_directory in repository.names(commit).items():
        if not is_directory or subcluster in RESERVED:
            continue
        for node, inner in repository.names(commit, subcluster).items():
            if inner and node != DEFAULT:
                found[node] = found.get(node, frozenset()) | {subcluster}
    return found
