"""What each node should run, and the packs that bring it there.

A *picture* is taken from the refs in one go: the confirmed revision, the rollout's document, the baseline that follows
from both, the serial. Every answer comes from one picture, and serials of pictures never go down. The rules are
docs/configuration.md, "Rollouts" and "Serial".

Leaves to others: who may ask (attach.py), what a rollout does next (conductor.py), the objects (repository).
Lives on the loop, except ``hold``, which the store's owner thread calls.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jlogd.attach.messages import Target
from jlogd.confrepo.model import Commit, CommitId, Scope, Serial
from managerd.ecconfigd.rollout import Document, Point

if TYPE_CHECKING:
    from jlogd.confrepo.repository import Repository
    from managerd.ecconfigd.store import Store


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that decides what nodes should run, at one moment."""

    repository: CommitId
    confirmed: Point
    baseline: Point  # confirmed itself, unless newer ones are held back
    serial: Serial
    document: Document  # its rollout is None when it does not fit the main line

    def target(self, node: str) -> Target:
        """What ``node`` should run."""
        raise NotImplementedError


class Targets:
    """See the module. ``begin`` before the first question; the store calls us back whenever a ref moved."""

    def __init__(self, store: "Store") -> None:
        """Nothing is known yet."""
        self._store = store

    async def begin(self) -> None:
        """Take the first picture and follow the store."""
        raise NotImplementedError

    async def end(self) -> None:
        """Take no more."""
        raise NotImplementedError

    @property
    def picture(self) -> Picture | None:
        """The present one; None while nothing is confirmed."""
        raise NotImplementedError

    def target(self, node: str, subcluster: str) -> Target | None:
        """What ``node`` should run; None while nothing is confirmed."""
        raise NotImplementedError

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` on the loop after each new picture; returns what ends that."""
        raise NotImplementedError

    async def pack(self, scope: Scope, want: CommitId, have: Sequence[CommitId]) -> Iterable[bytes]:
        """Pieces of the pack that brings ``scope.node`` from ``have`` to ``want``.

        RefusedError for a commit that the node was not told to run lately.
        """
        raise NotImplementedError

    def hold(self, repository: "Repository", commit: Commit, paths: Sequence[str]) -> str | None:
        """Decide whether nodes get ``commit`` at once; if not, say why, when that is on disk.

        In the store's owner thread, with the commit's objects in the object store, before the main line advances to it.
        ``paths``: what it changes against its parent.
        """
        raise NotImplementedError
